//! The codec: how typed values become bytes and come back.
//!
//! One trait, and rkyv as its first form. Whoever sends or stores a value names the codec by its
//! id, so that another one can stand beside it.
//!
//! # Invariants
//! - **W6** Bytes are checked before any of them is trusted: hostile ones are `Malformed`, nothing else.
//!   Those that would nest deeper than [`VALUE_DEPTH_MAX`] are among them.
//!
//! # Not here
//! Frames, headers, schema versions.

use std::fmt;
use std::num::NonZeroUsize;

use rkyv::api::access_with_context;
use rkyv::api::high::{HighSerializer, HighValidator};
use rkyv::api::serialize_using;
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{self, Source as _};
use rkyv::ser::allocator::ArenaHandle;
use rkyv::ser::sharing::Share;
use rkyv::ser::{Positional, Serializer as Parts, Writer};
use rkyv::util::{AlignedVec, with_arena};
use rkyv::validation::Validator;
use rkyv::validation::archive::ArchiveValidator;
use rkyv::validation::shared::SharedValidator;
use rkyv::{Archive, Deserialize, Serialize};

use crate::frame::{FRAME_ALIGN, Frame, Part};
use crate::limits::VALUE_DEPTH_MAX;
use crate::view::{Reader, Source};

/// Bytes that are not the value they were said to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the bytes are not a valid value of the expected type")]
pub struct Malformed;

/// Why a value was not written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unwritten {
    /// There is not so much room.
    #[error("the value does not fit the slot")]
    Full,
    /// A hand-written implementation of the value refuses to be written.
    #[error("the value cannot be written")]
    Malformed,
}

/// Where a value is written to: the rest of a slot, memory that grows, or a window on some of its bytes.
///
/// Either begins at a multiple of 16, since rkyv aligns what it writes by its position.
pub struct Out<'a> {
    to: To<'a>,
    full: bool,
}

enum To<'a> {
    Slot(&'a mut [u8], usize),
    Heap(&'a mut AlignedVec<FRAME_ALIGN>),
    Window(Window<'a>),
}

/// The bytes from `start` on of what is written, as many as `room` has; the others are counted only.
struct Window<'a> {
    room: &'a mut [u8],
    start: usize,
    at: usize,
    writes: usize,
}

impl Window<'_> {
    fn write(&mut self, bytes: &[u8]) {
        let (first, end) = (self.at, self.at.saturating_add(bytes.len()));
        let from = first.max(self.start);
        let to = end.min(self.start.saturating_add(self.room.len()));
        if let Some(seen) = from.checked_sub(first).zip(to.checked_sub(first))
            && let Some(seen) = bytes.get(seen.0..seen.1)
            && let Some(room) = self.room.get_mut(from - self.start..to - self.start)
        {
            room.copy_from_slice(seen);
        }
        self.at = end;
        self.writes += 1;
    }
}

impl<'a> Out<'a> {
    /// Into `bytes`, as far as they go.
    #[must_use]
    pub fn slot(bytes: &'a mut [u8]) -> Self {
        Self { to: To::Slot(bytes, 0), full: false }
    }

    /// Behind what `bytes` holds, which is a multiple of 16 long.
    #[must_use]
    pub fn heap(bytes: &'a mut AlignedVec<FRAME_ALIGN>) -> Self {
        Self { to: To::Heap(bytes), full: false }
    }

    /// Into `room`, but only the bytes from `start` on of all that is written, as many as fit; the others
    /// are not copied. A value is written in pieces so, at the price of a walk through it for each.
    /// Without room, nothing is copied: that tells how long a value is.
    #[must_use]
    pub fn window(room: &'a mut [u8], start: usize) -> Self {
        Self { to: To::Window(Window { room, start, at: 0, writes: 0 }), full: false }
    }

    /// Bytes written, or passed by the window.
    #[must_use]
    pub fn written(&self) -> usize {
        self.pos()
    }

    /// In how many pieces a window was passed by what was written: what a walk through it costs.
    #[must_use]
    pub fn writes(&self) -> usize {
        match &self.to {
            To::Window(window) => window.writes,
            To::Slot(..) | To::Heap(_) => 0,
        }
    }

    /// Writes `value`, with nothing allocated in steady state if this is a slot.
    ///
    /// # Errors
    /// [`Unwritten`]; what was written until then is of no use.
    pub fn put<T: Encode>(&mut self, value: &T) -> Result<(), Unwritten> {
        let to = match &mut self.to {
            To::Slot(bytes, at) => To::Slot(bytes, *at),
            To::Heap(bytes) => To::Heap(bytes),
            To::Window(Window { room, start, at, writes }) => {
                To::Window(Window { room, start: *start, at: *at, writes: *writes })
            }
        };
        let (written, out) = with_arena(|arena| {
            let out = Out { to, full: false };
            let mut parts = Parts::new(out, arena.acquire(), Share::new());
            let written = serialize_using::<_, rancor::Error>(value, &mut parts);
            let out = parts.into_writer();
            (written.map(drop), (out.pos(), out.writes(), out.full))
        });
        match &mut self.to {
            To::Slot(_, at) => *at = out.0,
            To::Heap(_) => {}
            To::Window(window) => (window.at, window.writes) = (out.0, out.1),
        }
        self.full |= out.2;
        match written {
            Ok(()) => Ok(()),
            Err(_) if out.2 => Err(Unwritten::Full),
            Err(_) => Err(Unwritten::Malformed),
        }
    }
}

impl Positional for Out<'_> {
    fn pos(&self) -> usize {
        match &self.to {
            To::Slot(_, at) => *at,
            To::Heap(bytes) => bytes.len(),
            To::Window(window) => window.at,
        }
    }
}

impl Writer<rancor::Error> for Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), rancor::Error> {
        match &mut self.to {
            To::Slot(slot, at) => {
                let end = at.saturating_add(bytes.len());
                let Some(room) = slot.get_mut(*at..end) else {
                    self.full = true;
                    return Err(rancor::Error::new(Unwritten::Full));
                };
                room.copy_from_slice(bytes);
                *at = end;
            }
            To::Heap(heap) => heap.extend_from_slice(bytes),
            To::Window(window) => window.write(bytes),
        }
        Ok(())
    }
}

impl fmt::Debug for Out<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Out({} bytes)", self.pos())
    }
}

/// What values are written with.
pub type Serializer<'a> = HighSerializer<Out<'a>, ArenaHandle<'a>, rancor::Error>;

/// A value that can be written.
pub trait Encode: Archive + for<'a> Serialize<Serializer<'a>> {}

impl<T: Archive + for<'a> Serialize<Serializer<'a>>> Encode for T {}

/// A way to write values of type `T` and to read them back.
pub trait Codec<T> {
    /// Which codec this is, as the wire and stores name it.
    const ID: u8;

    /// Writes `value` where it is to lie.
    ///
    /// # Errors
    /// [`Unwritten`].
    fn encode_to(value: &T, out: &mut Out<'_>) -> Result<(), Unwritten>;

    /// The bytes of `value`.
    ///
    /// # Errors
    /// [`Malformed`] if a hand-written implementation of the value refuses to be written.
    fn encode(value: &T) -> Result<Vec<u8>, Malformed>;

    /// The value of `bytes`, which may come from anywhere (**W6**). Bytes that begin at a multiple of 16
    /// are read where they lie.
    ///
    /// # Errors
    /// [`Malformed`] if they are not the bytes of a `T`.
    fn decode(bytes: &[u8]) -> Result<T, Malformed>;

    /// The same for bytes that lie in a frame, of which the value may keep a share.
    ///
    /// # Errors
    /// [`Malformed`] if they are not the bytes of a `T`.
    fn decode_in(part: Part<'_>) -> Result<T, Malformed>;
}

/// [rkyv](https://rkyv.org), little-endian, 32-bit pointers, aligned.
#[derive(Clone, Copy, Debug)]
pub struct Rkyv;

impl<T> Codec<T> for Rkyv
where
    T: Encode,
    T::Archived:
        for<'a> CheckBytes<HighValidator<'a, rancor::Error>> + for<'a> Deserialize<T, Reader<'a>>,
{
    const ID: u8 = 1;

    fn encode_to(value: &T, out: &mut Out<'_>) -> Result<(), Unwritten> {
        out.put(value)
    }

    fn encode(value: &T) -> Result<Vec<u8>, Malformed> {
        let mut bytes = AlignedVec::new();
        Out::heap(&mut bytes).put(value).map_err(|_| Malformed)?;
        Ok(bytes.into_vec())
    }

    fn decode(bytes: &[u8]) -> Result<T, Malformed> {
        if bytes.as_ptr().addr().is_multiple_of(FRAME_ALIGN) {
            return read(bytes, None);
        }
        let mut aligned = AlignedVec::<FRAME_ALIGN>::with_capacity(bytes.len());
        aligned.extend_from_slice(bytes);
        read(&aligned, None)
    }

    fn decode_in(part: Part<'_>) -> Result<T, Malformed> {
        if part.bytes().as_ptr().addr().is_multiple_of(FRAME_ALIGN) {
            return read(part.bytes(), Some(part));
        }
        let copy = Frame::copy_of(part.bytes());
        read(copy.bytes(), Some(Part::all(&copy)))
    }
}

/// Checks `bytes`, then reads them. Both descend the stack, so the check bounds the depth (**W6**).
fn read<T>(bytes: &[u8], part: Option<Part<'_>>) -> Result<T, Malformed>
where
    T: Archive,
    T::Archived:
        for<'a> CheckBytes<HighValidator<'a, rancor::Error>> + for<'a> Deserialize<T, Reader<'a>>,
{
    // rkyv counts the root as well, and lets the count only come down to one.
    let levels = NonZeroUsize::new(VALUE_DEPTH_MAX + 2);
    let archive = ArchiveValidator::with_max_depth(bytes, levels);
    let mut validator = Validator::new(archive, SharedValidator::new());
    let archived = access_with_context::<T::Archived, _, rancor::Error>(bytes, &mut validator);
    let archived = archived.map_err(|_| Malformed)?;
    let mut source = Source::new(part);
    archived.deserialize(Reader::wrap(&mut source)).map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Sample = (u32, Vec<(String, Option<u64>)>);

    #[test]
    fn a_value_that_does_not_fit_its_slot_says_so() {
        let value: Sample = (7, vec![("a key that is long".to_owned(), Some(1))]);
        let mut slot = AlignedVec::<FRAME_ALIGN>::new();
        slot.resize(32, 0);
        assert_eq!(Out::slot(&mut slot).put(&value), Err(Unwritten::Full));
        slot.resize(256, 0);
        let mut out = Out::slot(&mut slot);
        out.put(&value).unwrap();
        let len = out.pos();
        assert_eq!(<Rkyv as Codec<Sample>>::decode(&slot[..len]), Ok(value));
    }

    /// `value` written through windows of `size` bytes.
    fn in_pieces(value: &Sample, size: usize) -> Vec<u8> {
        let mut count = Out::window(&mut [], 0);
        count.put(value).unwrap();
        let len = count.written();
        let mut bytes = vec![0xee; len];
        for (index, room) in bytes.chunks_mut(size).enumerate() {
            let mut out = Out::window(room, index * size);
            out.put(value).unwrap();
            assert_eq!((out.written(), out.writes()), (len, count.writes()));
        }
        bytes
    }

    #[derive(Debug, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
    #[rkyv(
        serialize_bounds(__S: Writer),
        deserialize_bounds(__D::Error: rancor::Source),
        bytecheck(bounds(__C: rkyv::validation::ArchiveContext, __C::Error: rancor::Source)),
    )]
    struct Nested {
        #[rkyv(omit_bounds)]
        inner: Option<Box<Self>>,
    }

    /// The bytes of boxes in boxes, so many: an option's tag, and where the one inside lies from there.
    fn nested(boxes: usize) -> Vec<u8> {
        let innermost = [0; 8];
        let around = [1, 0, 0, 0, 0xf4, 0xff, 0xff, 0xff];
        [innermost].into_iter().chain(std::iter::repeat_n(around, boxes)).flatten().collect()
    }

    #[test]
    fn w6_values_within_values_are_refused_before_they_exhaust_the_stack() {
        let mut value = Nested { inner: None };
        for _ in 0..VALUE_DEPTH_MAX {
            value = Nested { inner: Some(Box::new(value)) };
        }
        let bytes = <Rkyv as Codec<Nested>>::encode(&value).unwrap();
        assert_eq!(bytes, nested(VALUE_DEPTH_MAX), "the sample is what the codec writes");
        assert!(<Rkyv as Codec<Nested>>::decode(&bytes).is_ok());
        for boxes in [VALUE_DEPTH_MAX + 1, 1_000_000] {
            let decoded = <Rkyv as Codec<Nested>>::decode(&nested(boxes));
            assert_eq!(decoded.err(), Some(Malformed));
        }
    }

    proptest! {
        #[test]
        fn values_return_as_they_were(value: Sample) {
            let bytes = <Rkyv as Codec<Sample>>::encode(&value).unwrap();
            prop_assert_eq!(<Rkyv as Codec<Sample>>::decode(&bytes), Ok(value));
        }

        #[test]
        fn a_value_written_in_pieces_is_the_same_as_written_at_once(value: Sample, size in 1_usize..70) {
            let bytes = <Rkyv as Codec<Sample>>::encode(&value).unwrap();
            prop_assert_eq!(in_pieces(&value, size), bytes);
        }

        #[test]
        fn w6_hostile_bytes_are_refused_or_a_value(bytes: Vec<u8>) {
            drop::<Result<Sample, _>>(Rkyv::decode(&bytes));
        }
    }
}
