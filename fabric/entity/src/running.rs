//! Methods under way: futures in reused slots, and the ways in which a method can start.
//!
//! # Invariants
//! - **E3** A slot is given back empty: no future and no envelope outlives its method.
//!
//! # Not here
//! When a method is polled, and what becomes of its reply.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::cell::StateCell;
use crate::entity::Method;
use crate::envelope::{Envelope, Request};
use crate::{At, Cx};

/// A task that its host polls until it is done.
pub trait Running {
    /// Polls it once. Panics of user code pass through.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()>;
    /// Drops the future, done or not, and gives back the call that it served, if it served one.
    /// The reply is in it if the method was done.
    fn finish(self: Box<Self>) -> Option<Request>;
}

/// How a method started.
pub enum Started<M: Method> {
    /// It was one turn, and is done.
    Ready(Box<Envelope<M>>, M::Reply),
    /// It has to be polled.
    Running(Box<dyn Running>),
}

impl<M: Method> fmt::Debug for Started<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready(..) => "Ready",
            Self::Running(_) => "Running",
        })
    }
}

/// How a method started whose types are not known at compile time.
pub enum AnyStarted {
    /// It was one turn; its reply is in the request.
    Ready(Request),
    /// It has to be polled.
    Running(Box<dyn Running>),
}

impl fmt::Debug for AnyStarted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready(_) => "Ready",
            Self::Running(_) => "Running",
        })
    }
}

/// An `#[activate]` hook returned an error. The hook itself may say which.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ActivationFailed;

/// What an `#[activate]` hook gives.
pub enum Activation<T> {
    /// The state.
    Ready(T),
    /// The state once the future is done.
    Running(Pin<Box<dyn Future<Output = Result<T, ActivationFailed>>>>),
    /// No state: every call that waits for it fails, and the next one tries again.
    Failed(ActivationFailed),
}

impl<T> fmt::Debug for Activation<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready(_) => "Ready",
            Self::Running(_) => "Running",
            Self::Failed(_) => "Failed",
        })
    }
}

/// A task that serves no call: `spawn`, a timer, `setup`.
struct Detached<F>(Pin<Box<F>>);

impl<F: Future<Output = ()>> Running for Detached<F> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }

    fn finish(self: Box<Self>) -> Option<Request> {
        None
    }
}

/// The task of a future that serves no call.
pub fn detached(future: impl Future<Output = ()> + 'static) -> Box<dyn Running> {
    Box::new(Detached(Box::pin(future)))
}

/// A reusable place for the future of a method, and the call that it serves.
///
/// The inner box is made once and its content replaced, so that a method in steady state allocates
/// nothing and no pinning has to be argued about.
struct Slot<M: Method, F> {
    call: Option<Box<Envelope<M>>>,
    future: Pin<Box<Option<F>>>,
}

impl<M: Method, F: Future<Output = M::Reply> + 'static> Slot<M, F> {
    fn start(call: Box<Envelope<M>>, future: F) -> Box<dyn Running> {
        let spare = M::pool().with(|pool| pool.take_slot());
        // One method has one type of future, so the downcast only fails on an empty pool.
        let Some(Ok(mut slot)) = spare.map(<Box<dyn Any>>::downcast::<Self>) else {
            return Box::new(Self { call: Some(call), future: Box::pin(Some(future)) });
        };
        slot.call = Some(call);
        slot.future.set(Some(future));
        slot
    }
}

impl<M: Method, F: Future<Output = M::Reply> + 'static> Running for Slot<M, F> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(future) = self.future.as_mut().as_pin_mut() else { return Poll::Ready(()) };
        let Poll::Ready(reply) = future.poll(cx) else { return Poll::Pending };
        if let Some(call) = &mut self.call {
            call.set_reply(reply);
        }
        Poll::Ready(())
    }

    fn finish(mut self: Box<Self>) -> Option<Request> {
        self.future.set(None);
        let call = self.call.take();
        M::pool().with(|pool| pool.keep_slot(self));
        call.map(|call| Request::new(call))
    }
}

/// The three ways in which generated code starts a method.
pub mod run {
    use super::*;

    /// A method of one turn.
    #[inline]
    pub fn turn<M: Method>(
        mut call: Box<Envelope<M>>,
        cell: &Rc<StateCell<M::Entity>>,
        body: impl FnOnce(&mut M::Entity, &Rc<StateCell<M::Entity>>, M::Args) -> M::Reply,
    ) -> Started<M> {
        let args = call.take_args();
        let reply = cell.with(|state| body(state, cell, args));
        Started::Ready(call, reply)
    }

    /// A method of one turn that changes nothing.
    #[inline]
    pub fn look<M: Method>(
        mut call: Box<Envelope<M>>,
        cell: &Rc<StateCell<M::Entity>>,
        body: impl FnOnce(&M::Entity, &Rc<StateCell<M::Entity>>, M::Args) -> M::Reply,
    ) -> Started<M> {
        let args = call.take_args();
        let reply = cell.look(|state| body(state, cell, args));
        Started::Ready(call, reply)
    }

    /// A method during whose waits others run.
    #[inline]
    pub fn shared<M: Method, F: Future<Output = M::Reply> + 'static>(
        mut call: Box<Envelope<M>>,
        cell: Rc<StateCell<M::Entity>>,
        body: impl FnOnce(Cx<M::Entity>, M::Args) -> F,
    ) -> Started<M> {
        let args = call.take_args();
        let future = body(Cx::new(cell), args);
        Started::Running(Slot::start(call, future))
    }

    /// A method during which no other runs.
    pub fn exclusive<M: Method>(
        mut call: Box<Envelope<M>>,
        cell: Rc<StateCell<M::Entity>>,
        body: impl AsyncFnOnce(&mut M::Entity, At<M::Entity>, M::Args) -> M::Reply + 'static,
    ) -> Started<M> {
        let args = call.take_args();
        let at = At::new(Rc::clone(&cell));
        let future = async move { cell.hold(async |state| body(state, at, args).await).await };
        Started::Running(Slot::start(call, future))
    }
}
