//! Slots of one side of a line: so many, and no more.
//!
//! # Invariants
//! - **S7** A pool lends at most its number of slots; who was refused one is told of room once one is free.
//!
//! # Not here
//! What is written into a slot. Threads: a simulation has one, and the atomics are there because whoever
//! lends slots can be shared.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use epicserver_wire::frame::{FrameMut, Slots, heap_slot};
use epicserver_wire::view::Slot;

#[derive(Debug)]
pub(super) struct Pool {
    bytes: usize,
    body_bytes: usize,
    free: AtomicU32,
    /// Somebody was refused since room was said last.
    starved: AtomicBool,
}

impl Pool {
    pub(super) fn new(slots: u32, (bytes, body_bytes): (usize, usize)) -> Arc<Self> {
        let (free, starved) = (AtomicU32::new(slots), AtomicBool::new(false));
        Arc::new(Self { bytes, body_bytes, free, starved })
    }

    /// Whether somebody was refused, and would not be now.
    pub(super) fn has_room_again(&self) -> bool {
        self.starved.load(Ordering::Relaxed) && self.free.load(Ordering::Relaxed) > 0
    }

    /// Whoever was refused is told now.
    pub(super) fn say_room(&self) {
        self.starved.store(false, Ordering::Relaxed);
    }
}

impl Slots for Pool {
    fn slot_bytes(&self) -> usize {
        self.bytes
    }

    fn reserve(self: Arc<Self>) -> Option<FrameMut> {
        let Some(left) = self.free.load(Ordering::Relaxed).checked_sub(1) else {
            self.starved.store(true, Ordering::Relaxed);
            return None;
        };
        self.free.store(left, Ordering::Relaxed);
        Some(FrameMut::new(heap_slot(self.bytes), self))
    }

    fn give_back(&self, slot: Box<dyn Slot>) {
        drop(slot);
        self.free.fetch_add(1, Ordering::Relaxed);
    }

    fn body_bytes(&self) -> usize {
        self.body_bytes
    }
}
