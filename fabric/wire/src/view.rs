//! Memory that is read where it lies: the one place of this crate with `unsafe`, with the modules below.
//!
//! # Invariants
//! - **W11** The bytes of a slot stay at their address, and only their owner writes them, until
//!   the slot is dropped.
//! - **W15** What is promised to rkyv of a pointer is what rkyv itself promised of it.
//!
//! # Not here
//! Who owns a slot at which time.

#![expect(unsafe_code, reason = "memory that kernels fill, and values that lie in it")]

mod archived;
mod reader;

mod pinned;

pub use pinned::{OfType, Pinned};

use std::any::Any;

use rkyv::util::AlignedVec;

pub use archived::{ArchivedView, COPIED_BYTES_MAX, View, ViewResolver};
pub use reader::{InFrame, Reader, Source};

/// Memory that a kernel or a device may read or fill while its owner holds on to it.
///
/// # Safety
/// **W11**: as long as the value lives, [`bytes`](Self::bytes) and [`bytes_mut`](Self::bytes_mut)
/// give the same memory, wherever the value itself is moved, aligned to
/// [`FRAME_ALIGN`](crate::frame::FRAME_ALIGN), and nobody but its owner writes there.
pub unsafe trait Slot: Any + Send + Sync {
    /// The memory.
    fn bytes(&self) -> &[u8];
    /// The memory, to be filled.
    fn bytes_mut(&mut self) -> &mut [u8];
}

// SAFETY: W11: a vector that is never resized behind `Slot` keeps its heap memory when it is moved,
// nobody else has a reference into it, and `AlignedVec<16>` is aligned as asked.
unsafe impl Slot for AlignedVec<16> {
    fn bytes(&self) -> &[u8] {
        self.as_slice()
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.as_mut_slice()
    }
}
