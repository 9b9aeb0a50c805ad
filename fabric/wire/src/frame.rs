//! Frames: bytes between nodes, in memory that whoever lent it gets back.
//!
//! A sender reserves a slot, encodes whole messages into it, and gives the [`FrameMut`] to a link. A
//! receiver shares what came as [`Frame`]s, which are cut, cloned and sent between threads without
//! copying; a slot is free again once the last of them is dropped.
//!
//! # Invariants
//! - **W9** A frame begins at a multiple of [`FRAME_ALIGN`] in memory, and so does each of its
//!   messages, so that payloads are read in place.
//! - **W10** A slot that was lent goes back to its lender, or stays with it, exactly once.
//!
//! # Not here
//! Pools, sockets, rings: a transport lends slots. What the bytes mean is `header`'s.

use std::fmt;
use std::sync::Arc;

use rkyv::util::AlignedVec;

use crate::view::Slot;

/// How frames and the messages in them are aligned, in bytes.
pub const FRAME_ALIGN: usize = 16;

/// `len` rounded up to a multiple of [`FRAME_ALIGN`].
#[must_use]
pub const fn padded(len: usize) -> usize {
    len.next_multiple_of(FRAME_ALIGN)
}

/// Who lends slots, and takes them back.
pub trait Slots: fmt::Debug + Send + Sync {
    /// Bytes of each slot; a multiple of [`FRAME_ALIGN`].
    fn slot_bytes(&self) -> usize;
    /// An empty slot; `None` if all are lent. Does not block.
    fn reserve(self: Arc<Self>) -> Option<FrameMut>;
    /// A slot comes back (**W10**).
    fn give_back(&self, slot: Box<dyn Slot>);
    /// The longest body of a parcel that the transport takes from where it lies and brings to where it is read, in
    /// bytes: for such bodies slots would only be copies. 0 where the transport copies anyway.
    fn body_bytes(&self) -> usize {
        0
    }
}

/// A slot that is being filled, or was filled and is on its way out.
pub struct FrameMut {
    slot: Option<Box<dyn Slot>>,
    len: usize,
    home: Option<Arc<dyn Slots>>,
}

impl FrameMut {
    /// An empty frame in `slot`, which goes back to `home`.
    #[must_use]
    pub fn new(slot: Box<dyn Slot>, home: Arc<dyn Slots>) -> Self {
        Self { slot: Some(slot), len: 0, home: Some(home) }
    }

    /// An empty frame in memory of its own, freed when the frame is dropped.
    #[must_use]
    pub fn detached(capacity: usize) -> Self {
        Self { slot: Some(heap_slot(capacity)), len: 0, home: None }
    }

    /// What `bytes` holds.
    #[must_use]
    pub fn holding(bytes: AlignedVec<FRAME_ALIGN>) -> Self {
        let len = bytes.len();
        Self { slot: Some(Box::new(bytes)), len, home: None }
    }

    /// Bytes filled.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is filled.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that it can hold.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.slot.as_ref().map_or(0, |slot| slot.bytes().len())
    }

    /// What is filled.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.slot.as_ref().and_then(|slot| slot.bytes().get(..self.len)).unwrap_or(&[])
    }

    /// All of the slot, filled or not.
    pub fn slot_mut(&mut self) -> &mut [u8] {
        self.slot.as_mut().map_or(&mut [], |slot| slot.bytes_mut())
    }

    /// The first `len` bytes are filled now; cut to what the slot has.
    pub fn set_len(&mut self, len: usize) {
        self.len = len.min(self.capacity());
    }

    /// Appends `bytes` if they fit. Says whether they did.
    #[must_use]
    pub fn extend(&mut self, bytes: &[u8]) -> bool {
        let (start, end) = (self.len, self.len.saturating_add(bytes.len()));
        let Some(room) = self.slot_mut().get_mut(start..end) else { return false };
        room.copy_from_slice(bytes);
        self.len = end;
        true
    }

    /// What was filled, to be shared. The slot goes back when the last share is dropped.
    #[must_use]
    pub fn freeze(mut self) -> Frame {
        let (slot, home) = (self.slot.take(), self.home.take());
        let end = u32::try_from(self.len).unwrap_or(u32::MAX);
        Frame { shared: Arc::new(Shared { slot, home }), start: 0, end }
    }
}

impl Drop for FrameMut {
    fn drop(&mut self) {
        if let (Some(slot), Some(home)) = (self.slot.take(), self.home.take()) {
            home.give_back(slot);
        }
    }
}

impl fmt::Debug for FrameMut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FrameMut({} of {} bytes)", self.len, self.capacity())
    }
}

/// A slot that frames share.
pub struct Shared {
    slot: Option<Box<dyn Slot>>,
    home: Option<Arc<dyn Slots>>,
}

impl Shared {
    /// Memory of `capacity` bytes whose lender keeps a share of its own: when [`Arc::get_mut`]
    /// succeeds, nobody else has a frame in it, and it may be filled again.
    #[must_use]
    pub fn kept(capacity: usize) -> Arc<Self> {
        Self::of(heap_slot(capacity))
    }

    /// The same in memory of the lender's choice.
    #[must_use]
    pub fn of(slot: Box<dyn Slot>) -> Arc<Self> {
        Arc::new(Self { slot: Some(slot), home: None })
    }

    fn bytes(&self) -> &[u8] {
        self.slot.as_ref().map_or(&[], |slot| slot.bytes())
    }

    /// The memory, while nobody shares it.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.slot.as_mut().map_or(&mut [], |slot| slot.bytes_mut())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let (Some(slot), Some(home)) = (self.slot.take(), self.home.take()) {
            home.give_back(slot);
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shared({} bytes)", self.bytes().len())
    }
}

/// Bytes that came, shared with whoever else has a part of the same slot.
#[derive(Clone)]
pub struct Frame {
    shared: Arc<Shared>,
    start: u32,
    end: u32,
}

impl Frame {
    /// The bytes from `start` to `end` of `shared`; `None` if it has fewer.
    #[must_use]
    pub fn new(shared: Arc<Shared>, start: usize, end: usize) -> Option<Self> {
        shared.bytes().get(start..end)?;
        let (start, end) = (u32::try_from(start).ok()?, u32::try_from(end).ok()?);
        Some(Self { shared, start, end })
    }

    /// A copy of `bytes` in memory of its own.
    #[must_use]
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut frame = FrameMut::detached(padded(bytes.len()));
        let fits = frame.extend(bytes);
        debug_assert!(fits, "W9: the slot was made for these bytes");
        frame.freeze()
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.shared.bytes().get(self.start as usize..self.end as usize).unwrap_or(&[])
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// A part of it that shares its slot; `None` if it is not that long.
    #[must_use]
    pub fn slice(&self, start: usize, end: usize) -> Option<Self> {
        if start > end || end > self.len() {
            return None;
        }
        let first = self.start as usize;
        Self::new(Arc::clone(&self.shared), first + start, first + end)
    }

    /// Whether its first byte lies at a multiple of [`FRAME_ALIGN`] in memory.
    #[must_use]
    pub fn is_aligned(&self) -> bool {
        self.bytes().as_ptr().addr().is_multiple_of(FRAME_ALIGN)
    }
}

/// A part of a frame that takes no share of it before somebody wants to keep it.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    frame: &'a Frame,
    start: usize,
    end: usize,
}

impl<'a> Part<'a> {
    /// The bytes from `start` to `end` of `frame`, cut to what it has.
    #[must_use]
    pub fn new(frame: &'a Frame, start: usize, end: usize) -> Self {
        let end = end.min(frame.len());
        Self { frame, start: start.min(end), end }
    }

    /// All of `frame`.
    #[must_use]
    pub fn all(frame: &'a Frame) -> Self {
        Self::new(frame, 0, frame.len())
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(self) -> &'a [u8] {
        self.frame.bytes().get(self.start..self.end).unwrap_or(&[])
    }

    /// A share of it.
    #[must_use]
    pub fn share(self) -> Frame {
        self.frame.slice(self.start, self.end).unwrap_or_else(|| Frame::copy_of(&[]))
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({} bytes)", self.len())
    }
}

/// Zeroed memory of the heap, aligned.
#[must_use]
pub fn heap_slot(capacity: usize) -> Box<dyn Slot> {
    let mut bytes = AlignedVec::<FRAME_ALIGN>::new();
    bytes.resize(capacity, 0);
    Box::new(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w9_frames_of_the_heap_are_aligned() {
        assert!(Frame::copy_of(&[7; 33]).is_aligned());
        assert_eq!(padded(33), 48);
    }

    #[test]
    fn what_does_not_fit_leaves_the_frame_as_it_was() {
        let mut frame = FrameMut::detached(16);
        assert!(frame.extend(&[1; 10]));
        assert!(!frame.extend(&[2; 7]));
        assert_eq!(frame.bytes(), &[1; 10]);
    }

    #[test]
    fn a_slice_shares_the_slot_until_it_is_dropped() {
        let mut shared = Shared::kept(64);
        let frame = Frame::new(Arc::clone(&shared), 16, 48).unwrap();
        let part = frame.slice(16, 32).unwrap();
        drop(frame);
        assert!(Arc::get_mut(&mut shared).is_none());
        assert_eq!(part.bytes().len(), 16);
        assert!(part.slice(0, 17).is_none());
        drop(part);
        assert!(Arc::get_mut(&mut shared).is_some());
    }
}
