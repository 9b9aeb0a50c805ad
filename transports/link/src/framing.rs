//! Framing: whole messages out of a stream that comes in pieces.
//!
//! # Invariants
//! - **F1** Messages that lie whole and aligned in one piece are passed on where they lie; only a message
//!   that straddles two pieces, or lies unaligned, is copied, once.
//! - **F2** Memory for a straddling message is taken as its bytes come, if it is longer than a slot, and
//!   never more than a message may have.
//!
//! # Not here
//! Sockets.

use std::ops::Add;

use epicserver_wire::frame::FrameMut;
use epicserver_wire::frame::{FRAME_ALIGN, Frame};
use epicserver_wire::header::{Violation, extent};
use epicserver_wire::rkyv::util::AlignedVec;

use crate::pool::SLOT_BYTES;

/// What framing has done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Counters {
    /// Frames passed on.
    pub frames: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Messages, or runs of them, that were copied.
    pub copied: u64,
    /// Bytes of those.
    pub copied_bytes: u64,
}

impl Add for Counters {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            frames: self.frames + other.frames,
            bytes: self.bytes + other.bytes,
            copied: self.copied + other.copied,
            copied_bytes: self.copied_bytes + other.copied_bytes,
        }
    }
}

/// What has come of a message whose end has not.
#[derive(Debug, Default)]
pub struct Framing {
    begun: AlignedVec<FRAME_ALIGN>,
    counters: Counters,
}

impl Framing {
    /// What it has done so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Whether nothing has come yet.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.counters.frames == 0 && self.begun.is_empty()
    }

    /// A piece of the stream has come: `give` gets the whole messages.
    ///
    /// # Errors
    /// [`Violation`] if no message begins where one should.
    pub fn piece(&mut self, piece: &Frame, mut give: impl FnMut(Frame)) -> Result<(), Violation> {
        let mut at = 0;
        while at < piece.len() && !self.begun.is_empty() {
            at = self.complete(piece, at, &mut give)?;
        }
        let rest = piece.slice(at, piece.len()).ok_or(Violation::Truncated)?;
        if !rest.is_empty() && rest.is_aligned() {
            at += self.pass(&rest, &mut give)?;
        } else {
            at += self.copy(&rest, &mut give)?;
        }
        self.begin(piece.bytes().get(at..).unwrap_or(&[]))
    }

    /// Passes on the whole messages at the beginning of `rest` (**F1**), and says how long they are.
    fn pass(&mut self, rest: &Frame, give: &mut impl FnMut(Frame)) -> Result<usize, Violation> {
        let end = whole(rest.bytes())?;
        if let Some(frame) = rest.slice(0, end).filter(|frame| !frame.is_empty()) {
            self.counters.frames += 1;
            self.counters.bytes += end as u64;
            give(frame);
        }
        Ok(end)
    }

    /// The same for messages that lie unaligned: a copy is passed on.
    fn copy(&mut self, rest: &Frame, give: &mut impl FnMut(Frame)) -> Result<usize, Violation> {
        let end = whole(rest.bytes())?;
        if end > 0 {
            self.copied(end);
            give(Frame::copy_of(rest.bytes().get(..end).unwrap_or(&[])));
        }
        Ok(end)
    }

    /// Keeps the beginning of a message that goes on in the next piece.
    fn begin(&mut self, rest: &[u8]) -> Result<(), Violation> {
        // F2: for a message of the usual length, all its memory at once.
        let extent = extent(rest)?.filter(|extent| *extent <= SLOT_BYTES);
        self.begun.reserve_exact(extent.unwrap_or(rest.len()));
        self.begun.extend_from_slice(rest);
        Ok(())
    }

    fn copied(&mut self, bytes: usize) {
        self.counters.frames += 1;
        self.counters.bytes += bytes as u64;
        self.counters.copied += 1;
        self.counters.copied_bytes += bytes as u64;
    }

    /// Adds what the message that has begun lacks, as far as the piece has it. Says how far it was used.
    fn complete(
        &mut self,
        piece: &Frame,
        at: usize,
        give: &mut impl FnMut(Frame),
    ) -> Result<usize, Violation> {
        let rest = piece.bytes().get(at..).unwrap_or(&[]);
        let wanted = match extent(&self.begun)? {
            Some(extent) => extent - self.begun.len(),
            // So little tells how long the message is that byte by byte is no burden.
            None => FRAME_ALIGN - self.begun.len() % FRAME_ALIGN,
        };
        let taken = wanted.min(rest.len());
        self.begun.extend_from_slice(rest.get(..taken).unwrap_or(&[]));
        if extent(&self.begun)?.is_some_and(|extent| extent == self.begun.len()) {
            let whole = std::mem::take(&mut self.begun);
            self.copied(whole.len());
            give(FrameMut::holding(whole).freeze());
        }
        Ok(at + taken)
    }
}

/// How many bytes the whole messages at the beginning of `bytes` have.
fn whole(bytes: &[u8]) -> Result<usize, Violation> {
    let mut end = 0;
    while let Some(extent) = extent(bytes.get(end..).unwrap_or(&[]))? {
        if end + extent > bytes.len() {
            break;
        }
        end += extent;
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use epicserver_wire::ShardId;
    use epicserver_wire::header::{Header, Kind, append};
    use proptest::prelude::*;

    fn stream(lens: &[usize]) -> Vec<u8> {
        let mut frame = FrameMut::detached(lens.iter().map(|len| len + 64).sum());
        for len in lens {
            let header = Header::new(Kind::Reply, ShardId::new(0), ShardId::new(1));
            assert!(append(&mut frame, &header, &vec![7; *len]));
        }
        frame.bytes().to_vec()
    }

    #[test]
    fn f1_messages_that_came_whole_are_not_copied() {
        let bytes = stream(&[100, 0, 300]);
        let piece = Frame::copy_of(&bytes);
        let (mut framing, mut frames) = (Framing::default(), Vec::new());
        framing.piece(&piece, |frame| frames.push(frame)).unwrap();
        assert_eq!(frames.len(), 1);
        assert_eq!(frames[0].bytes().as_ptr(), piece.bytes().as_ptr());
        assert_eq!(framing.counters.copied, 0);
    }

    #[test]
    fn f1_only_the_message_that_straddles_two_pieces_is_copied() {
        let bytes = stream(&[100, 200, 300]);
        let cut = 208;
        let (mut framing, mut frames) = (Framing::default(), Vec::new());
        for piece in [&bytes[..cut], &bytes[cut..]] {
            framing.piece(&Frame::copy_of(piece), |frame| frames.push(frame)).unwrap();
        }
        assert_eq!(frames.len(), 3);
        assert_eq!(framing.counters.copied_bytes, frames[1].len() as u64);
    }

    #[test]
    fn garbage_is_a_violation() {
        let mut framing = Framing::default();
        let garbage = Frame::copy_of(&[0xab; 64]);
        assert!(framing.piece(&garbage, |_| unreachable!("nothing whole came")).is_err());
    }

    proptest! {
        #[test]
        fn t2_however_a_stream_is_cut_its_messages_come_out_whole(
            lens in prop::collection::vec(0_usize..2000, 1..12),
            cuts in prop::collection::vec(1_usize..700, 1..60),
        ) {
            let bytes = stream(&lens);
            let (mut framing, mut out, mut at) = (Framing::default(), Vec::new(), 0);
            let mut sizes = cuts.into_iter().cycle();
            while at < bytes.len() {
                let end = (at + sizes.next().unwrap_or(1)).min(bytes.len());
                framing.piece(&Frame::copy_of(&bytes[at..end]), |frame| {
                    assert!(frame.is_aligned());
                    assert_eq!(whole(frame.bytes()), Ok(frame.len()));
                    out.extend_from_slice(frame.bytes());
                }).unwrap();
                at = end;
            }
            prop_assert_eq!(out, bytes);
        }
    }
}
