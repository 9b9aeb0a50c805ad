//! Memory of long messages that were read, used again for the next ones: 64 MiB of fresh pages take the
//! kernel longer than the bytes take to come.
//!
//! # Invariants
//! - **X4** At most [`KEPT_BYTES`] are kept, in at most [`KEPT_MAX`] pieces.
//!
//! # Not here
//! Memory that is in use: who takes it bounds it (X3).

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex};

use epicserver_wire::frame::{FRAME_ALIGN, Frame, FrameMut, Slots};
use epicserver_wire::limits::MESSAGE_BYTES_MAX;
use epicserver_wire::rkyv::util::AlignedVec;
use epicserver_wire::view::Slot;

/// Bytes that one shard keeps: a message as long as they come, or many shorter ones.
pub const KEPT_BYTES: usize = MESSAGE_BYTES_MAX;
/// Pieces of memory that one shard keeps.
pub const KEPT_MAX: usize = 64;
/// How many times as long as its message the memory may be: a short one shall not hold a long piece.
const WASTE: usize = 2;

type Memory = AlignedVec<FRAME_ALIGN>;

/// Memory of messages, empty now.
///
/// A frame that holds some of it gives it back from whichever thread drops it last.
#[derive(Default)]
pub struct Spares {
    kept: Mutex<Vec<Memory>>,
}

impl Spares {
    /// Memory for a message of `len` bytes, the least that suffices; without capacity if none is kept.
    #[must_use]
    pub fn take(&self, len: usize) -> Memory {
        let fits = |kept: &Memory| (len..=len.saturating_mul(WASTE)).contains(&kept.capacity());
        let Ok(mut kept) = self.kept.lock() else { return Memory::new() };
        let fitting = kept.iter().enumerate().filter(|(_, memory)| fits(memory));
        let least = fitting.min_by_key(|(_, memory)| memory.capacity()).map(|(at, _)| at);
        least.map_or_else(Memory::new, |at| kept.swap_remove(at))
    }

    /// What `memory` holds, as a frame that gives it back here.
    #[must_use]
    pub fn frame(self: &Arc<Self>, memory: Memory) -> Frame {
        let len = memory.len();
        let mut frame = FrameMut::new(Box::new(memory), Arc::clone(self) as Arc<dyn Slots>);
        frame.set_len(len);
        frame.freeze()
    }

    /// Bytes that are kept now.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.kept.lock().map_or(0, |kept| kept.iter().map(AlignedVec::capacity).sum())
    }

    fn keep(&self, mut memory: Memory) {
        let Ok(mut kept) = self.kept.lock() else { return };
        let bytes: usize = kept.iter().map(AlignedVec::capacity).sum();
        // X4.
        if kept.len() < KEPT_MAX && bytes + memory.capacity() <= KEPT_BYTES {
            memory.clear();
            kept.push(memory);
        }
    }
}

impl Slots for Spares {
    fn slot_bytes(&self) -> usize {
        0
    }

    fn reserve(self: Arc<Self>) -> Option<FrameMut> {
        // It lends memory as long as a message, not slots.
        None
    }

    fn give_back(&self, slot: Box<dyn Slot>) {
        let slot: Box<dyn Any> = slot;
        if let Ok(memory) = slot.downcast::<Memory>() {
            self.keep(*memory);
        }
    }
}

impl fmt::Debug for Spares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Spares({} bytes)", self.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(len: usize) -> Memory {
        let mut memory = Memory::new();
        memory.reserve_exact(len);
        memory
    }

    #[test]
    fn memory_of_a_message_that_was_read_is_there_for_the_next_of_its_length() {
        let spares = Arc::new(Spares::default());
        let mut first = memory(1 << 20);
        first.extend_from_slice(&[1; 64]);
        let address = first.as_ptr();
        let frame = spares.frame(first);
        assert_eq!(spares.take(1 << 20).capacity(), 0, "it is in use");
        assert_eq!(frame.bytes(), &[1; 64]);
        drop(frame);
        assert_eq!(spares.take(1 << 10).capacity(), 0, "it is too long");
        let again = spares.take(1 << 20);
        assert_eq!((again.as_ptr(), again.len()), (address, 0));
        assert_eq!(spares.bytes(), 0);
    }

    #[test]
    fn x4_what_is_over_the_bound_is_freed() {
        let spares = Arc::new(Spares::default());
        for len in [KEPT_BYTES / 2, KEPT_BYTES / 2, 4096] {
            drop(spares.frame(memory(len)));
        }
        assert_eq!(spares.bytes(), KEPT_BYTES);
        let many = Arc::new(Spares::default());
        for _ in 0..=KEPT_MAX {
            drop(many.frame(memory(16)));
        }
        assert_eq!(many.bytes(), 16 * KEPT_MAX);
    }
}
