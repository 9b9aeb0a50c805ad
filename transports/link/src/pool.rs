//! A pool of slots for what is sent: filled by any thread, freed by the I/O thread.
//!
//! # Invariants
//! - **P1** A pool makes at most its number of slots, and each is either in it or lent.
//! - **P2** Who is refused is told of room: either it finds a slot at a second look, or the one that came
//!   home since then finds that somebody was refused.
//!
//! # Not here
//! Memory that a device must know: a transport that needs it makes the slots, and gives them to the pool.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

use crossbeam_queue::ArrayQueue;
use epicserver_wire::frame::{FrameMut, Slots, heap_slot};
use epicserver_wire::view::Slot;

/// Bytes of a slot, where nothing says otherwise.
pub const SLOT_BYTES: usize = 64 << 10;

/// Slots on the heap, made when they are first needed and kept from then on; or those of somebody else.
pub struct HeapPool {
    free: ArrayQueue<Box<dyn Slot>>,
    slot_bytes: usize,
    made: AtomicUsize,
    starved: AtomicBool,
}

impl HeapPool {
    /// A pool of at most `slots` slots of `slot_bytes` each.
    #[must_use]
    pub fn new(slots: usize, slot_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            free: ArrayQueue::new(slots.max(1)),
            slot_bytes,
            made: AtomicUsize::new(0),
            starved: AtomicBool::new(false),
        })
    }

    /// A pool of these slots, of `slot_bytes` each, which are in memory of their maker's choice.
    #[must_use]
    pub fn holding(slots: Vec<Box<dyn Slot>>, slot_bytes: usize) -> Arc<Self> {
        let pool = Self::new(slots.len(), slot_bytes);
        pool.made.store(slots.len(), Ordering::Relaxed);
        // P1: there is room for each of them.
        slots.into_iter().for_each(|slot| drop(pool.free.push(slot)));
        pool
    }

    /// Slots that are lent now.
    #[must_use]
    pub fn lent(&self) -> usize {
        self.made.load(Ordering::Relaxed).saturating_sub(self.free.len())
    }

    /// Whether somebody was refused since this was asked last, and would not be now.
    pub fn has_room_again(&self) -> bool {
        self.starved.load(Ordering::Relaxed)
            && !self.free.is_empty()
            && self.starved.swap(false, Ordering::Relaxed)
    }
}

impl Slots for HeapPool {
    fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    fn reserve(self: Arc<Self>) -> Option<FrameMut> {
        if let Some(slot) = self.free.pop() {
            return Some(FrameMut::new(slot, self));
        }
        let made = self.made.fetch_add(1, Ordering::Relaxed);
        if made >= self.free.capacity() {
            self.made.fetch_sub(1, Ordering::Relaxed);
            self.starved.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            // P2: a slot that came home before this was said is seen here; of a later one, others will hear.
            return self.free.pop().map(|slot| FrameMut::new(slot, self));
        }
        let slot = heap_slot(self.slot_bytes);
        Some(FrameMut::new(slot, self))
    }

    fn give_back(&self, slot: Box<dyn Slot>) {
        // P1: there is room for each slot that was made.
        drop(self.free.push(slot));
        // P2: whoever asks from now on whether somebody was refused sees those who did not find it.
        fence(Ordering::SeqCst);
    }
}

impl fmt::Debug for HeapPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HeapPool({} of {} lent)", self.lent(), self.free.capacity())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reserve(pool: &Arc<HeapPool>) -> Option<FrameMut> {
        (Arc::clone(pool) as Arc<dyn Slots>).reserve()
    }

    #[test]
    fn p1_an_empty_pool_refuses_and_says_when_it_has_room_again() {
        let pool = HeapPool::new(2, 64);
        let (first, _second) = (reserve(&pool).unwrap(), reserve(&pool).unwrap());
        assert!(reserve(&pool).is_none());
        assert!(!pool.has_room_again());
        drop(first.freeze());
        assert!(pool.has_room_again());
        assert!(!pool.has_room_again());
        assert_eq!(pool.lent(), 1);
    }
}
