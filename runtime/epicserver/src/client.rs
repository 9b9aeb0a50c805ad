//! Calling entities from threads that run none.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use epicserver_entity::{Entity, Gateway, Ref, Target, entity_id};
use epicserver_wire::IntoKey;

/// A handle with which any thread can call entities: axum handlers, tokio tasks, plain threads.
///
/// `Send`, `Sync`, cheap to clone. It may outlive its node: then its calls fail.
#[derive(Clone)]
pub struct Client {
    gateway: Arc<dyn Gateway>,
}

impl Client {
    pub(crate) fn new(gateway: Arc<dyn Gateway>) -> Self {
        Self { gateway }
    }

    /// The entity of type `T` with `key`. Its calls leave when they are first polled or dropped.
    #[must_use]
    pub fn get<T: Entity>(&self, key: impl IntoKey<T::Key>) -> Ref<T> {
        let id = entity_id::<T>(key.into_key());
        Ref::to(Target::through(Arc::clone(&self.gateway), id))
    }

    /// Blocks the thread until `future` is done: for programs without an async runtime.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        struct Unpark(Thread);
        impl Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut cx = Context::from_waker(&waker);
        let mut future = pin!(future);
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
                return output;
            }
            std::thread::park();
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}
