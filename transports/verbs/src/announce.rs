//! Announcements: where the receiver finds a piece of a body, to be read from its sender's memory.
//!
//! | bytes | what, little-endian |
//! | --- | --- |
//! | 0..8 | the address |
//! | 8..12 | its key |
//! | 12..16 | bytes of the piece |
//! | 16..20 | bytes of the body that follow in further pieces |
//! | 20..32 | zeroes |
//!
//! It stands at the end of its message. Before that stands, if the piece is the first of its body, the head:
//! messages, of which the last lacks what the body has.
//!
//! # Invariants
//! - **A1** The last message of a head, and all pieces of the body, together are one whole message.
//!
//! # Not here
//! The reading.

use epicserver_wire::frame::FRAME_ALIGN;
use epicserver_wire::header::{Violation, extent};

/// Bytes of an announcement.
pub(crate) const ANNOUNCEMENT_BYTES: usize = 32;
/// What a slot has more than its messages may take, so that an announcement fits behind them.
pub(crate) const ANNOUNCEMENT_ROOM: usize = 64;

/// An announcement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Announcement {
    pub(crate) address: u64,
    pub(crate) rkey: u32,
    pub(crate) len: u32,
    pub(crate) left: u32,
}

impl Announcement {
    pub(crate) fn to_bytes(self) -> [u8; ANNOUNCEMENT_BYTES] {
        let mut bytes = [0; ANNOUNCEMENT_BYTES];
        bytes[..8].copy_from_slice(&self.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.rkey.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.len.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.left.to_le_bytes());
        bytes
    }

    /// The announcement at the end of `message`, and what stands before it.
    ///
    /// # Errors
    /// If no sound peer writes it.
    pub(crate) fn split(message: &[u8]) -> Result<(&[u8], Self), Violation> {
        let split = message.split_last_chunk::<ANNOUNCEMENT_BYTES>();
        let (head, bytes) = split.ok_or(Violation::Truncated)?;
        let half = |at: usize| {
            bytes.get(at..).and_then(<[u8]>::first_chunk).copied().map_or(0, u32::from_le_bytes)
        };
        let address = bytes.first_chunk().copied().map_or(0, u64::from_le_bytes);
        let (rkey, len, left) = (half(8), half(12), half(16));
        let announcement = Self { address, rkey, len, left };
        let aligned = |len: u32| (len as usize).is_multiple_of(FRAME_ALIGN);
        if announcement.to_bytes() != *bytes || len == 0 || !aligned(len) || !aligned(left) {
            return Err(Violation::Unexpected("a malformed announcement"));
        }
        Ok((head, announcement))
    }
}

/// Where the last message of `head` begins, which lacks `body` bytes (**A1**), and how long it is with them.
///
/// # Errors
/// If the messages are not so.
pub(crate) fn unfinished(head: &[u8], body: usize) -> Result<(usize, usize), Violation> {
    let mut at = 0;
    while at < head.len() {
        let rest = head.get(at..).unwrap_or_default();
        let extent = extent(rest)?.ok_or(Violation::Truncated)?;
        if extent > rest.len() {
            return match extent == rest.len() + body {
                true => Ok((at, extent)),
                false => Err(Violation::Unexpected("a body that does not fit its head")),
            };
        }
        at += extent;
    }
    Err(Violation::Unexpected("a body without a head"))
}

/// Whether `bytes` are whole messages and nothing else.
///
/// # Errors
/// If they are not.
pub(crate) fn only_whole(bytes: &[u8]) -> Result<(), Violation> {
    let mut at = 0;
    while at < bytes.len() {
        let rest = bytes.get(at..).unwrap_or_default();
        at += extent(rest)?.filter(|extent| *extent <= rest.len()).ok_or(Violation::Truncated)?;
    }
    if bytes.is_empty() { Err(Violation::Unexpected("a message of nothing")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use epicserver_wire::ShardId;
    use epicserver_wire::frame::FrameMut;
    use epicserver_wire::header::{Header, Kind, append, append_head};

    const ONE: Announcement =
        Announcement { address: 0x1234_5678_9abc, rkey: 7, len: 64, left: 32 };

    #[test]
    fn an_announcement_is_read_as_it_was_written_and_nothing_else_is() {
        let message = [&[1, 2, 3][..], &ONE.to_bytes()].concat();
        assert_eq!(Announcement::split(&message), Ok((&[1, 2, 3][..], ONE)));
        for at in 0..ANNOUNCEMENT_BYTES {
            let mut wrong = ONE.to_bytes();
            wrong[at] ^= 0x85;
            assert_ne!(Announcement::split(&wrong), Ok((&[][..], ONE)), "byte {at}");
        }
        assert!(Announcement::split(&message[4..]).is_err(), "too short");
        for wrong in [Announcement { len: 0, ..ONE }, Announcement { left: 8, ..ONE }] {
            assert!(Announcement::split(&wrong.to_bytes()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a1_a_body_completes_the_last_message_of_its_head_and_no_other() {
        let header = Header::new(Kind::Reply, ShardId::new(0), ShardId::new(0));
        let mut frame = FrameMut::detached(256);
        assert!(append(&mut frame, &header, &[1; 10]));
        let whole = frame.len();
        assert!(only_whole(frame.bytes()).is_ok());
        assert!(unfinished(frame.bytes(), 16).is_err(), "nothing is unfinished");
        assert!(append_head(&mut frame, &header, 100));
        assert_eq!(unfinished(frame.bytes(), 112), Ok((whole, 32 + 112)));
        assert!(unfinished(frame.bytes(), 96).is_err());
        assert!(unfinished(&frame.bytes()[..whole + 16], 128).is_err());
        assert!(only_whole(frame.bytes()).is_err());
        assert!(only_whole(&[]).is_err());
    }
}
