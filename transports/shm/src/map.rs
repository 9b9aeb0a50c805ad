//! Memory that two processes have mapped: the one place that touches it.
//!
//! The peer may write anywhere in it, at any time, whatever it was told. So nothing here lends a
//! reference to plain bytes of it: single words are atomics, each read once by whoever asks, and
//! payloads are copied out before anybody looks at them.
//!
//! # Invariants
//! - **M1** Nothing outside of the mapping is touched: each access is checked against its size,
//!   whoever asks.
//! - **M2** The file is as long as the mapping and cannot shrink, since its seals were seen before it
//!   was mapped: no access lies beyond its end. A peer can still give pages back to the kernel; the
//!   next access gets new ones, and faults only where the host has none left.
//!
//! # Not here
//! What lies where: that is `layout`.

use std::ffi::c_void;
use std::io;
use std::os::fd::AsFd;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicU32, AtomicU64};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::layout::MAP_BYTES;

/// One mapping of the memory of one link.
#[derive(Debug)]
pub(crate) struct Map {
    base: NonNull<c_void>,
}

impl Map {
    /// Maps `file`, of which `greeting` has seen seals and size (**M2**).
    pub(crate) fn of(file: &impl AsFd) -> io::Result<Self> {
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: the kernel chooses a place where nothing of ours lies.
        let base = unsafe { mmap(null_mut(), MAP_BYTES, access, flags, file, 0) }?;
        let base = NonNull::new(base).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base })
    }

    /// Where `len` bytes lie `offset` from the beginning, aligned to `align` (**M1**).
    fn place(&self, offset: usize, len: usize, align: usize) -> *mut u8 {
        let end = offset.checked_add(len);
        assert!(end.is_some_and(|end| end <= MAP_BYTES), "M1: an access beyond the mapping");
        assert!(offset.is_multiple_of(align), "M1: a word that is not aligned");
        self.base.as_ptr().cast::<u8>().wrapping_add(offset)
    }

    /// A word of 32 bits.
    #[inline]
    pub(crate) fn u32_at(&self, offset: usize) -> &AtomicU32 {
        let place = self.place(offset, 4, 4);
        // SAFETY: M1, it lies in the mapping, aligned as the mapping begins at a page; it stays there
        // as long as the borrow of `self`; and each word is accessed as an atomic by both ends.
        unsafe { AtomicU32::from_ptr(place.cast()) }
    }

    /// A word of 64 bits.
    #[inline]
    pub(crate) fn u64_at(&self, offset: usize) -> &AtomicU64 {
        let place = self.place(offset, 8, 8);
        // SAFETY: as in `u32_at`.
        unsafe { AtomicU64::from_ptr(place.cast()) }
    }

    /// Copies `bytes` to `offset`.
    #[inline]
    pub(crate) fn copy_in(&self, offset: usize, bytes: &[u8]) {
        let place = self.place(offset, bytes.len(), 1);
        // SAFETY: M1 and M2, the mapping has so many bytes there and they may be written; `bytes` is
        // this process's own. A peer that keeps to the protocol does not read them before it sees their
        // stamp; one that does not reads some bytes, as it could of memory that it wrote itself.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len()) }
    }

    /// Copies what lies at `offset` to all of `bytes`.
    #[inline]
    pub(crate) fn copy_out(&self, offset: usize, bytes: &mut [u8]) {
        let place = self.place(offset, bytes.len(), 1);
        // SAFETY: M1 and M2, the mapping has so many bytes there; `bytes` is this process's own. Whatever
        // a peer writes meanwhile, what is copied are some bytes, of which any are valid, and they are
        // looked at only in the copy.
        unsafe { std::ptr::copy_nonoverlapping(place, bytes.as_mut_ptr(), bytes.len()) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this size, and no reference into it outlives `self`.
        let unmapped = unsafe { munmap(self.base.as_ptr(), MAP_BYTES) };
        debug_assert!(unmapped.is_ok(), "M1: the mapping is there");
    }
}
