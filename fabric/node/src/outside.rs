//! What comes from threads that run no entities: calls of a client, and the root task.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use epicserver_entity::{Answer, Caller, Desk, Pending, Request, Waiter};
use epicserver_wire::{CallError, ErrorKind, Path, Time, limits};

use crate::core::Core;

/// A call of a thread that runs no entities.
pub struct Inlet {
    /// The call.
    pub request: Request,
    /// How long it may take.
    pub timeout: Option<Duration>,
    /// Who waits; nobody does for a tell.
    pub pending: Option<Arc<dyn Pending>>,
}

impl fmt::Debug for Inlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Inlet({:?})", self.request)
    }
}

/// A future, once it is on its shard's thread.
type Started = Pin<Box<dyn Future<Output = ()>>>;

/// A task that belongs to no entity, not yet started: it is made on the shard's own thread, since
/// its future need not be `Send`.
pub struct RootTask(Box<dyn FnOnce() -> Started + Send>);

impl RootTask {
    /// The task that `make` gives.
    pub fn new<F: Future<Output = ()> + 'static>(
        make: impl FnOnce() -> F + Send + 'static,
    ) -> Self {
        Self(Box::new(move || Box::pin(make())))
    }

    pub(crate) fn start(self) -> Started {
        (self.0)()
    }
}

impl fmt::Debug for RootTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RootTask")
    }
}

impl Core {
    /// A thread outside calls an entity of this shard.
    pub(crate) fn outside(&self, desk: &Desk, inlet: Inlet) {
        let Inlet { mut request, timeout, pending } = inlet;
        let path = Path::new(desk.new_chain());
        let deadline = self.time() + timeout.unwrap_or(limits::CALL_TIMEOUT);
        let refuse = |kind, request: Request, pending: Option<Arc<dyn Pending>>| {
            let error = CallError::refused(kind, path.chain());
            request.recycle();
            match pending {
                Some(pending) => pending.answer(Answer::Failed(error)),
                None => self.tell_refused(error),
            }
        };
        if self.is_stopping() {
            return refuse(ErrorKind::Stopping, request, pending);
        }
        let head = request.head_mut();
        head.path = path.clone();
        head.caller = Caller::Nobody;
        head.deadline = if pending.is_some() { deadline } else { Time::MAX };
        if let Some(pending) = pending {
            let Some(token) = desk.tickets().borrow_mut().send(false) else {
                return refuse(ErrorKind::Overloaded, request, Some(pending));
            };
            let before = desk.tickets().borrow_mut().set_waiter(token, Waiter::Outside(pending));
            drop(before);
            request.head_mut().caller = Caller::Token { shard: self.shard_id(), token };
            self.arm_call(token, deadline, None);
        }
        self.route(desk, request, true);
    }
}
