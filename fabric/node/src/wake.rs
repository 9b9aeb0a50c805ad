//! Ordinary wakers, for futures that something outside of the shard wakes.
//!
//! # Invariants
//! - **N4** A task that was woken is reported until it runs, and reported once between two runs: so
//!   a host's queue of woken tasks never holds more than there are turns.
//!
//! # Not here
//! Tokens: a task that waits for its shard's own answers needs no waker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use epicserver_entity::TurnId;

/// Who is told when a task is woken, from any thread.
pub trait WakeSink: Send + Sync {
    /// The task of `turn` is to be polled: give the shard an [`Event::Woken`](crate::Event::Woken).
    fn wake(&self, turn: TurnId);
}

/// The waker of one place in the table of turns. Places are reused, so that a stale waker wakes
/// another task in vain, which every future has to stand.
struct TurnWaker {
    turn: TurnId,
    woken: AtomicBool,
    sink: Arc<dyn WakeSink>,
}

impl Wake for TurnWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            self.sink.wake(self.turn);
        }
    }
}

/// The wakers of all places.
pub(crate) struct Wakers {
    sink: Arc<dyn WakeSink>,
    wakers: Vec<(Arc<TurnWaker>, Waker)>,
}

impl Wakers {
    pub(crate) fn new(sink: Arc<dyn WakeSink>) -> Self {
        Self { sink, wakers: Vec::new() }
    }

    /// Lends the waker of a turn while it is polled; a wake from now on is reported.
    pub(crate) fn lend(&mut self, turn: u32) -> Waker {
        let index = turn as usize;
        while self.wakers.len() <= index {
            let turn = TurnId::new(u32::try_from(self.wakers.len()).unwrap_or(u32::MAX));
            let waker = Arc::new(TurnWaker {
                turn,
                woken: AtomicBool::new(false),
                sink: self.sink.clone(),
            });
            self.wakers.push((Arc::clone(&waker), Waker::from(waker)));
        }
        let (state, waker) = &mut self.wakers[index];
        if state.woken.load(Ordering::Relaxed) {
            state.woken.swap(false, Ordering::AcqRel);
        }
        std::mem::replace(waker, Waker::noop().clone())
    }

    pub(crate) fn give_back(&mut self, turn: u32, waker: Waker) {
        if let Some((_, place)) = self.wakers.get_mut(turn as usize) {
            *place = waker;
        }
    }
}
