//! One direction of a link: the end that fills it and the end that empties it.
//!
//! A parcel is one piece, or several if it is long. Each piece takes a cell, which says how long it
//! is; a short one lies in the cell itself, beside its stamp, so that a small message costs the
//! transfer of a line or two of the cache and neither end reads the other's position. A longer one
//! lies in the byte ring, where the last one ended.
//!
//! The receiver says how much it has taken once a quarter of a lap, not once a batch: that is still
//! long before the sender runs out of room, and saves the fence that stands before a look at the
//! sender's sleeping flag.
//!
//! # Invariants
//! - **G1** The cell of position `p` is filled if and only if its stamp is the low half of `p + 1`.
//!   The sender writes it last, with release; the receiver reads it first, with acquire.
//! - **G2** The sender fills only what its receiver has said to have taken; what it is told that
//!   cannot be ends the link.
//! - **G3** Each word that the peer can write is read once and checked before it is used; payloads
//!   are copied, then checked.
//! - **G4** One look takes a bounded number of pieces, and memory for a parcel in several pieces is
//!   taken as they come.
//!
//! # Not here
//! Sleeping and waking. Atomics and copies: that is `map`.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use epicserver_link::Parcel;
use epicserver_link::buffers::Buffers;
use epicserver_link::pool::SLOT_BYTES;
use epicserver_wire::frame::{FRAME_ALIGN, Frame, FrameMut, Shared};
use epicserver_wire::header::{Violation, extent};
use epicserver_wire::limits::MESSAGE_BYTES_MAX;
use epicserver_wire::rkyv::util::AlignedVec;

use crate::layout::{CELL_HEAD, CELLS, End, INLINE_MAX, PIECE_MAX, RING_BYTES, ring_offset};
use crate::map::Map;

/// Parcels that may wait for room in the ring. Few, since the ring is long: each that waits keeps a
/// slot, and slots that come round seldom have left the cache (measured on two busy CPUs with
/// 64 KiB each, best of many runs: 16 that wait, 18 GB/s; 256, 12 to 14).
pub(crate) const WAITING_MAX: usize = 16;
/// Cells that are taken in one look.
const BATCH_CELLS: usize = 256;
/// Bytes after which a look takes no further cell.
const BATCH_BYTES: usize = 256 << 10;
/// The longest parcel: messages in a slot, and a body.
const PARCEL_MAX: usize = SLOT_BYTES + MESSAGE_BYTES_MAX;
/// The bit of a cell's length that says that the parcel goes on in the next one.
const MORE: u32 = 1 << 31;

/// What a cell begins with: the stamp in the low half, the length and [`MORE`] in the high one.
fn head(position: u64, len: u32) -> u64 {
    u64::from(len) << 32 | u64::from(stamp(position))
}

/// The stamp of a position (**G1**). Memory begins as zeros, and position 0 has the stamp 1; in a cell,
/// the stamp of one lap is none of the lap before, also where the low half wraps.
fn stamp(position: u64) -> u32 {
    low_half(position.wrapping_add(1))
}

fn low_half(word: u64) -> u32 {
    let [a, b, c, d, ..] = word.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

fn high_half(word: u64) -> u32 {
    low_half(word >> 32)
}

/// The end that fills one direction.
#[derive(Debug)]
pub(crate) struct Outgoing {
    map: Rc<Map>,
    end: End,
    /// The positions of the next cell and of the next byte of the ring.
    next: [u64; 2],
    /// How far the receiver had taken both when that was looked at last.
    taken: [u64; 2],
    waiting: VecDeque<Parcel>,
    /// Bytes of the first one that waits which are filled in.
    gone: usize,
    /// Something was filled in since this was asked last.
    fresh: bool,
    /// What the receiver told cannot be.
    pub(crate) broken: Option<Violation>,
}

impl Outgoing {
    /// The direction that `end` fills.
    pub(crate) fn new(map: Rc<Map>, end: End) -> Self {
        let (waiting, next, taken) = (VecDeque::new(), [0; 2], [0; 2]);
        Self { map, end, next, taken, waiting, gone: 0, fresh: false, broken: None }
    }

    /// Takes `parcel` to be sent, unless so many wait that no more may.
    pub(crate) fn push(&mut self, parcel: Parcel) -> Result<(), Parcel> {
        if self.waiting.len() >= WAITING_MAX {
            return Err(parcel);
        }
        self.waiting.push_back(parcel);
        self.pump();
        Ok(())
    }

    /// Whether so few parcels wait that it is worth telling who was refused.
    pub(crate) fn has_room_again(&self) -> bool {
        self.waiting.len() <= WAITING_MAX / 2
    }

    /// Whether something was filled in since this was asked last.
    pub(crate) fn take_fresh(&mut self) -> bool {
        std::mem::take(&mut self.fresh)
    }

    /// Whether parcels wait for room.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Fills in of what waits as much as there is room for. Says whether that was anything.
    pub(crate) fn pump(&mut self) -> bool {
        let before = self.next;
        while let Some(parcel) = self.waiting.pop_front() {
            if !self.fill_all(&parcel) {
                self.waiting.push_front(parcel);
                break;
            }
            self.gone = 0;
        }
        self.next != before
    }

    /// Whether pumping would do anything now: the re-check before a sleep.
    pub(crate) fn may_pump(&mut self) -> bool {
        let Some(len) = self.waiting.front().map(Parcel::len) else { return false };
        self.room_for((len - self.gone).min(PIECE_MAX)) || self.broken.is_some()
    }

    /// Fills in what is left of the first parcel, if there is room for all.
    fn fill_all(&mut self, parcel: &Parcel) -> bool {
        while self.gone < parcel.len() {
            let left = parcel.len() - self.gone;
            let len = left.min(PIECE_MAX);
            if !self.room_for(len) {
                return false;
            }
            self.fill(parcel, len, len < left);
            self.gone += len;
        }
        true
    }

    /// Whether a piece of `len` bytes can be filled in (**G2**).
    fn room_for(&mut self, len: usize) -> bool {
        let bytes = if len > INLINE_MAX { len as u64 } else { 0 };
        self.has_taken(bytes) || (self.look() && self.has_taken(bytes))
    }

    fn has_taken(&self, bytes: u64) -> bool {
        self.next[0] - self.taken[0] < CELLS as u64
            && self.next[1] + bytes - self.taken[1] <= RING_BYTES as u64
    }

    /// Looks how far the receiver is (**G2**, **G3**). Says `false` if that cannot be.
    fn look(&mut self) -> bool {
        let at = self.end.other().taken();
        for index in 0..2 {
            let told = self.map.u64_at(at + 8 * index).load(Ordering::Acquire);
            if !(self.taken[index]..=self.next[index]).contains(&told) {
                self.broken = Some(Violation::Unexpected("more was taken than was sent"));
            }
            self.taken[index] = told.clamp(self.taken[index], self.next[index]);
        }
        self.broken.is_none()
    }

    /// Fills in the next `len` bytes of `parcel`, for which there is room.
    fn fill(&mut self, parcel: &Parcel, len: usize, more: bool) {
        let body = parcel.body.as_ref().map_or(&[][..], Frame::bytes);
        let [head_bytes, body] = cut(parcel.head.bytes(), body, self.gone, len);
        let cell = self.end.cell(self.next[0]);
        if len <= INLINE_MAX {
            self.map.copy_in(cell + CELL_HEAD, head_bytes);
            self.map.copy_in(cell + CELL_HEAD + head_bytes.len(), body);
        } else {
            self.put(head_bytes);
            self.put(body);
        }
        // A piece is far shorter than 2 to the 31.
        let word = u32::try_from(len).unwrap_or(0) | if more { MORE } else { 0 };
        self.map.u64_at(cell).store(head(self.next[0], word), Ordering::Release);
        self.next[0] += 1;
        self.fresh = true;
    }

    /// Appends `bytes` to the byte ring.
    fn put(&mut self, bytes: &[u8]) {
        let offset = ring_offset(self.next[1]);
        let (first, rest) = bytes.split_at(bytes.len().min(RING_BYTES - offset));
        self.map.copy_in(self.end.ring() + offset, first);
        self.map.copy_in(self.end.ring(), rest);
        self.next[1] += bytes.len() as u64;
    }
}

/// The `len` bytes that begin at `from` of `head` and `body`, which lie one after the other.
fn cut<'a>(head: &'a [u8], body: &'a [u8], from: usize, len: usize) -> [&'a [u8]; 2] {
    let part = |bytes: &'a [u8], before: usize| {
        let start = from.saturating_sub(before).min(bytes.len());
        let end = (from + len).saturating_sub(before).min(bytes.len());
        bytes.get(start..end).unwrap_or(&[])
    };
    [part(head, 0), part(body, head.len())]
}

/// The end that empties one direction.
#[derive(Debug)]
pub(crate) struct Incoming {
    map: Rc<Map>,
    /// The end that fills it.
    end: End,
    /// The positions of the next cell and of the next byte of the ring.
    next: [u64; 2],
    /// What of them the sender was told.
    told: [u64; 2],
    /// What has come of a parcel in several pieces.
    long: AlignedVec<FRAME_ALIGN>,
    /// The sender was told something since this was asked last.
    fresh: bool,
}

/// A piece that has come.
#[derive(Clone, Copy)]
struct Piece {
    len: usize,
    more: bool,
}

impl Incoming {
    /// The direction that `end` fills.
    pub(crate) fn new(map: Rc<Map>, end: End) -> Self {
        let (next, told, long) = ([0; 2], [0; 2], AlignedVec::new());
        Self { map, end, next, told, long, fresh: false }
    }

    /// Whether there is nothing to take.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        let word = self.map.u64_at(self.end.cell(self.next[0])).load(Ordering::Acquire);
        low_half(word) != stamp(self.next[0])
    }

    /// Whether the sender was told of room since this was asked last.
    pub(crate) fn take_fresh(&mut self) -> bool {
        std::mem::take(&mut self.fresh)
    }

    /// Takes pieces, at most `most`, and gives the whole messages (**G4**). Says how many it took:
    /// none, too, if all buffers are in use.
    pub(crate) fn take(
        &mut self,
        buffers: &mut Buffers,
        most: usize,
        mut give: impl FnMut(Frame),
    ) -> Result<usize, Violation> {
        if self.is_empty() {
            return Ok(0);
        }
        let Some(mut buffer) = buffers.take() else { return Ok(0) };
        let memory = Arc::get_mut(&mut buffer).map(Shared::bytes_mut);
        let filled = self.take_into(memory.unwrap_or_default(), most, &mut give);
        let frame =
            filled.as_ref().ok().and_then(|(len, _)| Frame::new(Arc::clone(&buffer), 0, *len));
        buffers.give(buffer);
        let (_, count) = filled?;
        if let Some(frame) = frame.filter(|frame| !frame.is_empty()) {
            only_whole(frame.bytes())?;
            give(frame);
        }
        self.tell();
        Ok(count)
    }

    /// Copies pieces to `memory`, which they then fill as far as is said; a parcel in several pieces
    /// is given at once. Says, too, how many they were.
    fn take_into(
        &mut self,
        memory: &mut [u8],
        most: usize,
        give: &mut impl FnMut(Frame),
    ) -> Result<(usize, usize), Violation> {
        let (mut at, mut count, mut bytes) = (0, 0, 0);
        while count < most.min(BATCH_CELLS) && bytes < BATCH_BYTES {
            let Some(piece) = self.peek()? else { break };
            if piece.more || !self.long.is_empty() {
                if at > 0 {
                    // What lies in the memory comes first.
                    break;
                }
                self.lengthen(piece, give)?;
            } else {
                let Some(room) = memory.get_mut(at..at + piece.len) else { break };
                self.copy(room);
                at += piece.len;
            }
            count += 1;
            bytes += piece.len;
        }
        Ok((at, count))
    }

    /// The next piece, if it is there (**G1**, **G3**).
    fn peek(&self) -> Result<Option<Piece>, Violation> {
        let word = self.map.u64_at(self.end.cell(self.next[0])).load(Ordering::Acquire);
        if low_half(word) != stamp(self.next[0]) {
            return Ok(None);
        }
        let len = (high_half(word) & !MORE) as usize;
        if len == 0 || len > PIECE_MAX || !len.is_multiple_of(FRAME_ALIGN) {
            return Err(Violation::Unexpected("a piece of a length that none has"));
        }
        Ok(Some(Piece { len, more: high_half(word) & MORE != 0 }))
    }

    /// Takes the next piece, as long as `room`.
    fn copy(&mut self, room: &mut [u8]) {
        let cell = self.end.cell(self.next[0]);
        if room.len() <= INLINE_MAX {
            self.map.copy_out(cell + CELL_HEAD, room);
        } else {
            let offset = ring_offset(self.next[1]);
            self.next[1] += room.len() as u64;
            let (first, rest) = room.split_at_mut(room.len().min(RING_BYTES - offset));
            self.map.copy_out(self.end.ring() + offset, first);
            self.map.copy_out(self.end.ring(), rest);
        }
        self.next[0] += 1;
    }

    /// Takes a piece of a parcel in several, which is given once it is whole (**G4**).
    fn lengthen(&mut self, piece: Piece, give: &mut impl FnMut(Frame)) -> Result<(), Violation> {
        let mut long = std::mem::take(&mut self.long);
        let start = long.len();
        let end = start + piece.len;
        if end > PARCEL_MAX {
            return Err(Violation::TooLong(end));
        }
        long.resize(end, 0);
        self.copy(long.get_mut(start..).unwrap_or_default());
        if piece.more {
            self.long = long;
            return Ok(());
        }
        only_whole(&long)?;
        give(FrameMut::holding(long).freeze());
        Ok(())
    }

    /// Tells the sender what was taken, once it is a quarter of a lap.
    fn tell(&mut self) {
        let untold = |index: usize| self.next[index] - self.told[index];
        if untold(0) < CELLS as u64 / 4 && untold(1) < RING_BYTES as u64 / 4 {
            return;
        }
        let at = self.end.other().taken();
        for index in 0..2 {
            self.map.u64_at(at + 8 * index).store(self.next[index], Ordering::Release);
        }
        self.told = self.next;
        self.fresh = true;
    }
}

/// Whether `bytes` are whole messages and nothing else.
fn only_whole(bytes: &[u8]) -> Result<(), Violation> {
    let mut at = 0;
    while at < bytes.len() {
        let rest = bytes.get(at..).unwrap_or(&[]);
        at += extent(rest)?.filter(|extent| *extent <= rest.len()).ok_or(Violation::Truncated)?;
    }
    Ok(())
}

const _: () = assert!(PARCEL_MAX < MORE as usize, "a length leaves the bit alone");
