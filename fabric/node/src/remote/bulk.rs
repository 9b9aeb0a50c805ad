//! Messages that leave in chunks: what each is made of, and the bytes of any part of it.
//!
//! A value that is written in few pieces, as a long vector of bytes is, is written chunk by chunk,
//! straight into the slots that leave, or into memory that the transport takes them from: it never lies
//! anywhere as a whole unless one chunk holds it, and the shard does other work between. Any other one is
//! written at once, into memory of its own.
//!
//! # Invariants
//! - **R5** The parts of a message together are as long as its first chunk said, whatever its value is
//!   like when they are written.
//!
//! # Not here
//! When a chunk leaves: that is `epicserver_proto::transfers`'.

use std::sync::Arc;

use epicserver_entity::Request;
use epicserver_proto::spares::Spares;
use epicserver_proto::transfers::Chunk;
use epicserver_wire::frame::{Frame, FrameMut, padded};
use epicserver_wire::header::{Address, Header, Opened};
use epicserver_wire::limits::{KEY_BYTES_MAX, MESSAGE_BYTES_MAX};
use epicserver_wire::{Out, Unwritten};

use super::leave::Encode;
use super::link::{Outcome, Posted};

/// In how many pieces a value may be written that is walked through for each chunk.
const WRITES_MAX: usize = 64;
/// Room for the longest head: a core, a callee with its key, and the sections of a chain.
const HEAD_BYTES: usize = KEY_BYTES_MAX + 512;

/// Where the bytes of a message come from.
#[derive(Debug)]
pub(crate) enum Text {
    /// They have been written.
    Whole(Frame),
    /// The head has been; the payload, so many bytes, is written as it leaves.
    Value { head: FrameMut, len: usize },
}

impl Text {
    /// The message `header` to `callee` with the payload that `encode` writes; `None` if it cannot be
    /// written, or is longer than a message may be.
    pub(crate) fn new(
        header: &Header,
        callee: Option<Address<'_>>,
        encode: &Encode<'_>,
    ) -> Option<Self> {
        let mut head = FrameMut::detached(HEAD_BYTES);
        let opened = Opened::new(&mut head, header, callee)?;
        let mut count = Out::window(&mut [], 0);
        encode(&mut count).ok()?;
        let (len, writes) = (count.written(), count.writes());
        if opened.payload() + padded(len) > MESSAGE_BYTES_MAX {
            return None;
        }
        if writes > WRITES_MAX {
            return opened.grow(&mut head, encode).ok().map(FrameMut::freeze).map(Self::Whole);
        }
        opened.close_head(&mut head, len).then_some(Self::Value { head, len })
    }

    /// How long the message is, padding included.
    pub(crate) fn total(&self) -> u32 {
        let total = match self {
            Self::Whole(frame) => frame.len(),
            Self::Value { head, len } => head.len() + padded(*len),
        };
        u32::try_from(total).unwrap_or(u32::MAX)
    }
}

/// A message of which some bytes have not left.
#[derive(Debug)]
pub(crate) struct Bulk {
    text: Text,
    pub(crate) of: Source,
}

/// What a message says. It is kept until the last chunk is cut.
#[derive(Debug)]
pub(crate) enum Source {
    Call(Posted),
    Answer(Outcome),
    /// A call that goes back whole.
    Returned(Request),
}

impl Bulk {
    pub(crate) fn new(text: Text, of: Source) -> Self {
        Self { text, of }
    }

    /// Completes the chunk of which `frame` holds the head: with the bytes themselves, unless they lie
    /// in memory of their own, which is given. It is from `spares` if the transport takes bodies.
    pub(crate) fn fill(
        &self,
        chunk: &Chunk,
        frame: &mut FrameMut,
        spares: Option<&Arc<Spares>>,
    ) -> Option<Frame> {
        let (offset, len) = (chunk.offset as usize, chunk.len as usize);
        let (start, end) = (frame.len(), frame.len() + len);
        match (&self.text, spares) {
            (Text::Whole(message), _) => message.slice(offset, offset + len),
            (Text::Value { head, .. }, Some(spares)) => {
                let mut memory = spares.take(len);
                memory.reserve_exact(len);
                memory.resize(len, 0);
                self.of.write(head.bytes(), offset, &mut memory);
                Some(spares.frame(memory))
            }
            (Text::Value { head, .. }, None) => {
                let room = frame.slot_mut().get_mut(start..end)?;
                self.of.write(head.bytes(), offset, room);
                frame.set_len(end);
                None
            }
        }
    }
}

impl Source {
    fn encode(&self, out: &mut Out<'_>) -> Result<(), Unwritten> {
        match self {
            Self::Call(posted) => posted.request.encode_args_to(out),
            Self::Answer(outcome) => outcome.encode(out),
            Self::Returned(request) => request.encode_args_to(out),
        }
    }

    /// Writes what follows the first `offset` bytes of a message that begins with `head` into `room`.
    fn write(&self, head: &[u8], offset: usize, room: &mut [u8]) {
        let rest = head.get(offset..).unwrap_or_default();
        let (first, room) = room.split_at_mut(rest.len().min(room.len()));
        first.iter_mut().zip(rest).for_each(|(to, byte)| *to = *byte);
        let start = (offset + first.len()).saturating_sub(head.len());
        let mut out = Out::window(room, start);
        let _refused = self.encode(&mut out);
        // R5: what is not written any more is zeroes, as padding is. The receiver finds that out.
        let written = out.written().saturating_sub(start);
        room.get_mut(written..).unwrap_or_default().fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use epicserver_wire::{CallError, ChainId, Codec, ErrorKind, Rkyv};

    #[test]
    fn r5_the_parts_of_a_message_are_its_head_its_value_and_zeroes() {
        let error = CallError::refused(ErrorKind::Overloaded, ChainId::NONE);
        let value = <Rkyv as Codec<CallError>>::encode(&error).unwrap();
        let source = Source::Answer(Outcome::Failed(error));
        let head = [7; 48];
        let whole = [&head[..], &value, &[0; 40]].concat();
        for size in [1, 16, 20, 48, 64, whole.len()] {
            let mut message = vec![0xee; whole.len()];
            for (index, room) in message.chunks_mut(size).enumerate() {
                source.write(&head, index * size, room);
            }
            assert_eq!(message, whole, "in parts of {size}");
        }
    }
}
