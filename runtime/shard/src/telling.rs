//! What shards tell the node's control thread, and until when it lets them run.
//!
//! # Invariants
//! - **H14** What a shard tells is not lost: what finds no room waits at the shard, in order.
//! - **H15** The lease that shards see never lasts longer than the control thread said last.
//!
//! # Not here
//! What follows from it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crossbeam_queue::ArrayQueue;
use epicserver_wire::{ClassId, ShardId, Time};

/// What may wait for the control thread.
const TOLD_MAX: usize = 1024;

/// What a shard tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    /// It holds nothing more of slots that it had to give up.
    Drained {
        /// Which shard.
        shard: ShardId,
        /// The number of the view by which it had to.
        view: u64,
        /// Which slots.
        slots: Vec<(ClassId, Vec<u16>)>,
    },
    /// It has met a view of this number, which it does not know.
    Behind {
        /// The number.
        view: u64,
    },
}

type Bell = Box<dyn Fn() + Send + Sync>;

/// What shards and the control thread share.
pub(crate) struct Telling {
    told: ArrayQueue<Told>,
    bell: OnceLock<Bell>,
    lease: AtomicU64,
}

impl Telling {
    pub(crate) fn new() -> Arc<Self> {
        let told = ArrayQueue::new(TOLD_MAX);
        Arc::new(Self { told, bell: OnceLock::new(), lease: AtomicU64::new(0) })
    }

    /// Tells; gives it back if there is no room (**H14**).
    pub(crate) fn tell(&self, told: Told) -> Result<(), Told> {
        self.told.push(told)?;
        if let Some(bell) = self.bell.get() {
            bell();
        }
        Ok(())
    }

    pub(crate) fn take(&self) -> Option<Told> {
        self.told.pop()
    }

    pub(crate) fn on_told(&self, ring: impl Fn() + Send + Sync + 'static) {
        drop(self.bell.set(Box::new(ring)));
    }

    /// Until when shards may run turns and send messages.
    pub(crate) fn lease(&self) -> Time {
        // It guards no other memory: a shard that sees it late stops early.
        Time::from_nanos(self.lease.load(Ordering::Relaxed))
    }

    pub(crate) fn set_lease(&self, until: Time) {
        self.lease.store(until.as_nanos(), Ordering::Relaxed);
    }
}

impl fmt::Debug for Telling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telling").field("lease", &self.lease()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h14_what_finds_no_room_is_given_back() {
        let telling = Telling::new();
        for view in 0..TOLD_MAX as u64 {
            assert!(telling.tell(Told::Behind { view }).is_ok());
        }
        let last = Told::Behind { view: 7 };
        assert_eq!(telling.tell(last.clone()), Err(last.clone()));
        assert_eq!(telling.take(), Some(Told::Behind { view: 0 }));
        assert_eq!(telling.tell(last), Ok(()));
    }

    #[test]
    fn the_bell_is_rung_for_each_thing_that_is_told() {
        let telling = Telling::new();
        let rung = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&rung);
        telling.on_told(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        telling.tell(Told::Behind { view: 1 }).unwrap();
        assert_eq!(rung.load(Ordering::Relaxed), 1);
    }
}
