//! Calls: made by a method of a reference, recorded at once, redeemed by `.await`.
//!
//! # Invariants
//! - **C3** A call ends in one outcome, or is dropped.
//! - **C4** (I5) Errors inside a reply are crossed where the reply is handed over, here.
//!
//! # Not here
//! Where the callee is, and whether it may run now.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use epicserver_wire::{CallError, ChainId, ErrorKind, Ran, Time, Token};

use crate::cell::AnyCell;
use crate::desk::{Desk, Entry, Gateway, Pending, TurnId, current};
use crate::entity::{Method, Mode, typed_cell};
use crate::envelope::{Envelope, Request};
use crate::message::Message;
use crate::reference::Target;
use crate::running::Started;
use crate::syscall::Answer;
use crate::tickets::Terms;

/// A call that was made: await it for its outcome.
///
/// It leaves when it is awaited or dropped, when a call that was made after it does, or when the
/// method that made it waits for something else. So two calls that are made before either is
/// awaited run side by side. Dropping it gives up the answer, not the work.
#[must_use = "a call that is dropped runs, but nobody learns how it ended: await it, or say `.tell()`"]
pub struct Call<M: Method> {
    stage: Stage,
    method: PhantomData<fn() -> M>,
}

/// Where a call stands. Two words: the common one is written and read at each call.
enum Stage {
    /// Recorded at a desk: made, or under way.
    AtDesk { desk: u32, token: Token },
    /// Of a thread that runs no entities.
    Outside(Box<Outside>),
    /// Not even made.
    Refused(Box<CallError>),
    /// Its outcome was given.
    Over,
}

/// A call of a thread that runs no entities.
struct Outside {
    gateway: Arc<dyn Gateway>,
    /// Until it leaves.
    request: Option<Request>,
    timeout: Option<Duration>,
    /// Once it has left.
    pending: Option<Arc<dyn Pending>>,
}

impl Outside {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, CallError>> {
        if let Some(request) = self.request.take() {
            match self.gateway.submit(request, self.timeout, true) {
                Ok(pending) => self.pending = Some(pending),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        let Some(pending) = &self.pending else { panic!("a call is polled after it is over") };
        pending.poll(cx).map(Ok)
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        if let Some(request) = self.request.take() {
            // Nobody is there to be told; the node counts what it refuses.
            drop(self.gateway.submit(request, self.timeout, false));
        }
    }
}

impl<M: Method> Call<M> {
    /// The call of `target` with `args`.
    #[inline]
    pub fn new(target: &Target, args: M::Args) -> Self {
        Self { stage: Self::make(target, args), method: PhantomData }
    }

    fn make(target: &Target, args: M::Args) -> Stage {
        let refused = |kind| Stage::Refused(Box::new(CallError::refused(kind, ChainId::NONE)));
        if target.id().key().is_too_long() {
            return refused(ErrorKind::KeyTooLong);
        }
        if let Some(desk) = current() {
            let request = Request::new(Envelope::<M>::new(target, args));
            return match desk.make(request) {
                Ok(token) => Stage::AtDesk { desk: desk.id(), token },
                Err(request) => {
                    request.recycle();
                    refused(ErrorKind::Overloaded)
                }
            };
        }
        let Some(gateway) = target.gateway() else { return refused(ErrorKind::NotInAnEntity) };
        Stage::Outside(Box::new(Outside {
            gateway: Arc::clone(gateway),
            request: Some(Request::new(Envelope::<M>::new(target, args))),
            timeout: None,
            pending: None,
        }))
    }

    /// Gives up after `timeout`, if the caller's own deadline is not earlier. Without it a call
    /// takes at most [`limits::CALL_TIMEOUT`](epicserver_wire::limits::CALL_TIMEOUT).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        match &mut self.stage {
            Stage::AtDesk { token, .. } => {
                if let Some(desk) = current() {
                    desk.amend(*token, |terms| terms.set_timeout(timeout));
                }
            }
            Stage::Outside(outside) => outside.timeout = Some(timeout),
            Stage::Refused(_) | Stage::Over => {}
        }
        self
    }

    /// Asks for no answer. It leaves in its turn; whether it arrives is not told.
    pub fn tell(mut self) {
        if let Stage::AtDesk { desk, token } = self.stage
            && let Some(current) = current()
            && current.id() == desk
        {
            current.amend(token, |terms| terms.tell = true);
            self.stage = Stage::Over;
        }
        // From outside, being dropped is what a tell does.
    }

    #[inline]
    fn poll_at_desk(desk: u32, token: Token, cx: &mut Context<'_>) -> Poll<M::Output> {
        let Some(current) = current().filter(|current| current.id() == desk) else {
            let error = CallError::new(ErrorKind::NotInAnEntity, Ran::Unknown, ChainId::NONE);
            return Poll::Ready(M::output(Err(error)));
        };
        if let Some((request, terms)) = current.take_made(token)
            && let Some(outcome) = depart::<M>(&current, token, request, terms)
        {
            return Poll::Ready(M::output(outcome));
        }
        if let Some(request) = current.take_reply(token) {
            return Poll::Ready(M::output(typed::<M>(request)));
        }
        current.poll_answer(token, cx).map(outcome_of::<M>)
    }
}

fn outcome_of<M: Method>(answer: Answer) -> M::Output {
    M::output(match answer {
        Answer::Reply(request) => typed::<M>(request),
        Answer::Failed(error) => Err(error),
        Answer::Done | Answer::Wall(_) | Answer::Bytes(_) | Answer::Section(_) => Err(malformed()),
    })
}

fn malformed() -> CallError {
    CallError::new(ErrorKind::Malformed, Ran::Unknown, ChainId::NONE)
}

fn typed<M: Method>(request: Request) -> Result<M::Reply, CallError> {
    request.typed::<M>().ok_or_else(malformed)?.into_outcome()
}

/// The call leaves: straight into the callee's first turn where the host lets it, and through
/// the host's queues otherwise. `None` means that its answer is still to come.
#[inline]
fn depart<M: Method>(
    desk: &Rc<Desk>,
    token: Token,
    mut request: Request,
    terms: Terms,
) -> Option<Result<M::Reply, CallError>> {
    if M::MODE == Mode::Turn {
        if desk.nest() {
            if let Some(cell) = desk.host().open(desk, request.head_mut()) {
                let outcome = one_turn::<M>(desk, request, desk.deadline(terms), cell);
                desk.end_token(token);
                return Some(outcome);
            }
            desk.unnest();
        }
        desk.address(&mut request, terms, Some(token));
    } else {
        desk.address(&mut request, terms, Some(token));
        if let Some(entry) = desk.host().enter(desk, request.head(), M::INFO) {
            return polled::<M>(desk, token, request, entry);
        }
    }
    desk.host().call(desk, Some(token), request);
    None
}

/// Runs a method of one turn on top of its caller's turn.
#[inline]
fn one_turn<M: Method>(
    desk: &Desk,
    request: Request,
    deadline: Time,
    cell: Rc<dyn AnyCell>,
) -> Result<M::Reply, CallError> {
    let cell = typed_cell::<M::Entity>(cell);
    let place = cell.place();
    let call = request.typed::<M>().ok_or_else(malformed)?;
    let outer = desk.begin(TurnId::NONE, place, deadline, 0);
    let started = catch_unwind(AssertUnwindSafe(|| M::start(call, cell)));
    desk.end(outer);
    desk.unnest();
    match started {
        Ok(Started::Ready(call, mut reply)) => {
            call.recycle();
            reply.crossed();
            Ok(reply)
        }
        Ok(Started::Running(_)) => Err(malformed()),
        Err(_) => {
            desk.host().panicked(desk, place, M::INFO);
            Err(CallError::new(ErrorKind::Panicked, Ran::Yes, desk.path().chain()))
        }
    }
}

/// Polls a longer method once on top of its caller's turn.
fn polled<M: Method>(
    desk: &Rc<Desk>,
    token: Token,
    request: Request,
    entry: Entry,
) -> Option<Result<M::Reply, CallError>> {
    let chain = request.head().path.chain();
    let cell = typed_cell::<M::Entity>(Rc::clone(&entry.cell));
    let call = request.typed::<M>()?;
    let outcome = match catch_unwind(AssertUnwindSafe(|| M::start(call, cell))) {
        Ok(Started::Ready(..)) => unreachable!("E4: only a method of one turn is ready at once"),
        Ok(Started::Running(running)) => match desk.host().adopt(desk, entry, running, token) {
            Ok(None) => None,
            Ok(Some(request)) => Some(typed::<M>(request)),
            Err(error) => Some(Err(error)),
        },
        Err(_) => {
            desk.host().leave(desk, entry);
            Some(Err(CallError::new(ErrorKind::Panicked, Ran::Yes, chain)))
        }
    };
    if outcome.is_some() {
        desk.end_token(token);
    }
    outcome
}

impl<M: Method> Future for Call<M> {
    type Output = M::Output;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = match &mut self.stage {
            Stage::AtDesk { desk, token } => Self::poll_at_desk(*desk, *token, cx),
            Stage::Outside(outside) => outside.poll(cx).map(|answer| match answer {
                Ok(answer) => outcome_of::<M>(answer),
                Err(error) => M::output(Err(error)),
            }),
            Stage::Refused(error) => Poll::Ready(M::output(Err(**error))),
            Stage::Over => panic!("a call is polled after it is over"),
        };
        if outcome.is_ready() {
            self.stage = Stage::Over;
        }
        outcome
    }
}

impl<M: Method> Drop for Call<M> {
    #[inline]
    fn drop(&mut self) {
        if let Stage::AtDesk { desk, token } = self.stage
            && let Some(current) = current().filter(|current| current.id() == desk)
        {
            current.give_up(token);
        }
    }
}

impl<M: Method> fmt::Debug for Call<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match &self.stage {
            Stage::AtDesk { token, .. } => return write!(f, "Call({:?}, {token:?})", M::INFO),
            Stage::Outside(_) => "outside",
            Stage::Refused(_) => "refused",
            Stage::Over => "over",
        };
        write!(f, "Call({:?}, {stage})", M::INFO)
    }
}
