//! Values that are read where the wire left them.
//!
//! On the wire a `View<T>` is a `T`. Whoever reads it gets a share of the frame and the place of the
//! value in it, checked with the rest of the message; whoever is called on the same node gets the value
//! itself, as it was given.
//!
//! # Invariants
//! - **W16** The bytes behind a view were checked as a `T` at the place that it names, in a frame that it
//!   shares, whose memory nobody writes before the last share is gone (**W10**, **W11**).
//!
//! # Not here
//! The check itself: that is the codec's, for the whole message at once.

use std::cell::OnceCell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{self, Fallible};
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Place, Portable, Serialize};

use super::reader::{InFrame, Reader, Source};
use crate::codec::{Encode, Malformed, Out};
use crate::frame::{Frame, FrameMut, Part};

/// Messages up to this size are copied out of their frame, so that a slow reader of a few bytes does not
/// keep a whole slot from being used again.
pub const COPIED_BYTES_MAX: usize = 256;

/// An argument that is read where it lies: no copy is made of what came from another node.
///
/// It dereferences to the archived form of `T` ([`rkyv::Archive::Archived`]): `[u8]`-like for a
/// `Vec<u8>`, `str`-like for a `String`, and a struct `ArchivedName` with the same fields for a message.
/// As long as it lives, the receive buffer that it lies in is not used again, unless the message is
/// shorter than [`COPIED_BYTES_MAX`]. A view that was made on this node holds the value itself, and
/// writes it once when it is first looked into.
pub struct View<T: Archive>(Form<T>);

enum Form<T: Archive> {
    Value {
        value: T,
        written: OnceCell<Checked<T>>,
    },
    /// And the value, once it had to be read to be sent on.
    InFrame {
        checked: Checked<T>,
        read: OnceCell<T>,
    },
}

/// A place in a frame where a `T` lies (**W16**).
struct Checked<T> {
    frame: Frame,
    at: usize,
    of: PhantomData<fn() -> T>,
}

impl<T: Archive> Checked<T> {
    fn get(&self) -> &T::Archived {
        // SAFETY: W16: a `T::Archived` was checked at this place of these very bytes.
        unsafe { rkyv::api::access_pos_unchecked(self.frame.bytes(), self.at) }
    }
}

impl<T> Clone for Checked<T> {
    fn clone(&self) -> Self {
        Self { frame: self.frame.clone(), at: self.at, of: PhantomData }
    }
}

impl<T: Archive> View<T> {
    /// A view of `value`, which it holds.
    #[must_use]
    pub fn new(value: T) -> Self {
        Self(Form::Value { value, written: OnceCell::new() })
    }

    /// Whether it reads from the frame that it came in, not from a value of this node.
    #[must_use]
    pub fn is_in_frame(&self) -> bool {
        matches!(self.0, Form::InFrame { .. })
    }
}

impl<T: Archive> View<T>
where
    T::Archived: for<'a> Deserialize<T, Reader<'a>>,
{
    /// The value: as it was given, or read out of the frame.
    ///
    /// # Errors
    /// [`Malformed`] if a hand-written implementation of the value refuses what it reads.
    pub fn into_value(self) -> Result<T, Malformed> {
        match self.0 {
            Form::Value { value, .. } => Ok(value),
            Form::InFrame { checked, read } => read.into_inner().map_or_else(|| checked.read(), Ok),
        }
    }

    /// The value, to be changed. From now on the view holds it.
    ///
    /// # Errors
    /// As [`into_value`](Self::into_value).
    pub fn value_mut(&mut self) -> Result<&mut T, Malformed> {
        if let Form::InFrame { checked, read } = &mut self.0 {
            let value = read.take().map_or_else(|| checked.read(), Ok)?;
            self.0 = Form::Value { value, written: OnceCell::new() };
        }
        match &mut self.0 {
            Form::Value { value, written } => {
                // What was written of it says what it was before.
                written.take();
                Ok(value)
            }
            Form::InFrame { .. } => Err(Malformed),
        }
    }
}

impl<T: Archive> Checked<T>
where
    T::Archived: for<'a> Deserialize<T, Reader<'a>>,
{
    fn read(&self) -> Result<T, Malformed> {
        let mut source = Source::new(Some(Part::all(&self.frame)));
        self.get().deserialize(Reader::wrap(&mut source)).map_err(|_| Malformed)
    }
}

impl<T: Encode> Deref for View<T> {
    type Target = T::Archived;

    /// # Panics
    /// If a hand-written implementation of the value refuses to be written.
    fn deref(&self) -> &T::Archived {
        match &self.0 {
            Form::InFrame { checked, .. } => checked.get(),
            Form::Value { value, written } => written.get_or_init(|| write(value)).get(),
        }
    }
}

fn write<T: Encode>(value: &T) -> Checked<T> {
    let mut bytes = AlignedVec::new();
    let written = Out::heap(&mut bytes).put(value);
    assert!(written.is_ok(), "the value of a view refuses to be written");
    // The root of what rkyv writes is its end.
    let at = bytes.len() - size_of::<T::Archived>();
    Checked { frame: FrameMut::holding(bytes).freeze(), at, of: PhantomData }
}

impl<T: Archive> From<T> for View<T> {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

impl<T: Archive + Clone> Clone for View<T> {
    fn clone(&self) -> Self {
        match &self.0 {
            Form::Value { value, .. } => Self::new(value.clone()),
            Form::InFrame { checked, .. } => {
                Self(Form::InFrame { checked: checked.clone(), read: OnceCell::new() })
            }
        }
    }
}

impl<T: Archive> fmt::Debug for View<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.is_in_frame() { "in a frame" } else { "a value" };
        write!(f, "View<{}>({place})", std::any::type_name::<T>())
    }
}

/// A view as it lies on the wire: just as the value.
#[repr(transparent)]
pub struct ArchivedView<T: Archive>(T::Archived);

impl<T: Archive> fmt::Debug for ArchivedView<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ArchivedView")
    }
}

// SAFETY: W16: it is the archived value, which is portable.
unsafe impl<T: Archive> Portable for ArchivedView<T> {}

// SAFETY: W16: it is valid exactly if the archived value is.
unsafe impl<T, C> CheckBytes<C> for ArchivedView<T>
where
    T: Archive,
    T::Archived: CheckBytes<C>,
    C: Fallible + ?Sized,
{
    unsafe fn check_bytes(value: *const Self, context: &mut C) -> Result<(), C::Error> {
        // SAFETY: W16: the pointer is the archived value's, and the caller promises the rest.
        unsafe { T::Archived::check_bytes(value.cast(), context) }
    }
}

/// What is kept of a view between writing what it refers to and writing itself.
pub struct ViewResolver<T: Archive>(T::Resolver);

impl<T: Archive> fmt::Debug for ViewResolver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ViewResolver")
    }
}

impl<T: Archive> Archive for View<T> {
    type Archived = ArchivedView<T>;
    type Resolver = ViewResolver<T>;

    fn resolve(&self, resolver: Self::Resolver, out: Place<Self::Archived>) {
        // SAFETY: W16: an archived view is the archived value and nothing else.
        let out = unsafe { out.cast_unchecked::<T::Archived>() };
        let value = match &self.0 {
            Form::Value { value, .. } => Some(value),
            Form::InFrame { read, .. } => read.get(),
        };
        let Some(value) = value else { unreachable!("W16: what is in a frame is read first") };
        value.resolve(resolver.0, out);
    }
}

impl<T, S> Serialize<S> for View<T>
where
    T: Serialize<S>,
    T::Archived: for<'a> Deserialize<T, Reader<'a>>,
    S: Fallible<Error: rancor::Source> + ?Sized,
{
    fn serialize(&self, serializer: &mut S) -> Result<Self::Resolver, S::Error> {
        let value = match &self.0 {
            Form::Value { value, .. } => value,
            // Its pointers are good only where it lies. A long one is written in pieces, and read once.
            Form::InFrame { checked, read } => match read.get() {
                Some(value) => value,
                None => {
                    let value = checked.read().map_err(rancor::Source::new)?;
                    read.get_or_init(|| value)
                }
            },
        };
        Ok(ViewResolver(value.serialize(serializer)?))
    }
}

impl<T, D> Deserialize<View<T>, D> for ArchivedView<T>
where
    T: Archive,
    T::Archived: Deserialize<T, D>,
    D: Fallible + InFrame + ?Sized,
{
    fn deserialize(&self, reader: &mut D) -> Result<View<T>, D::Error> {
        if let Some(part) = reader.part()
            && let Some(at) = place_in(part.bytes(), &self.0)
        {
            let frame = match part.bytes().len() <= COPIED_BYTES_MAX {
                true => Frame::copy_of(part.bytes()),
                false => part.share(),
            };
            let checked = Checked { frame, at, of: PhantomData };
            return Ok(View(Form::InFrame { checked, read: OnceCell::new() }));
        }
        self.0.deserialize(reader).map(View::new)
    }
}

/// Where `value` lies in `bytes`, if all of it does.
fn place_in<A>(bytes: &[u8], value: &A) -> Option<usize> {
    let first = bytes.as_ptr().addr();
    let at = std::ptr::from_ref(value).addr().checked_sub(first)?;
    (at.checked_add(size_of::<A>())? <= bytes.len()).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Codec, Rkyv};

    type Arguments = (u32, View<Vec<u8>>, View<String>);

    fn frame_of(arguments: &Arguments) -> Frame {
        let bytes = <Rkyv as Codec<Arguments>>::encode(arguments).unwrap();
        Frame::copy_of(&bytes)
    }

    fn sample(len: usize) -> Arguments {
        (7, vec![5; len].into(), "a name".to_owned().into())
    }

    #[test]
    fn w16_a_view_reads_the_bytes_of_the_frame_it_came_in() {
        let frame = frame_of(&sample(1_000));
        let (number, bytes, name): Arguments = Rkyv::decode_in(Part::all(&frame)).unwrap();
        let range = frame.bytes().as_ptr_range();
        assert!(range.contains(&bytes.as_ptr()));
        assert!(bytes.is_in_frame() && name.is_in_frame());
        drop(frame);
        assert_eq!((number, &bytes[..], &**name), (7, &[5; 1_000][..], "a name"));
    }

    #[test]
    fn a_view_is_on_the_wire_what_its_value_is() {
        let plain = (7_u32, vec![5_u8; 40], "a name".to_owned());
        let viewed = <Rkyv as Codec<Arguments>>::encode(&sample(40)).unwrap();
        assert_eq!(<Rkyv as Codec<(u32, Vec<u8>, String)>>::encode(&plain).unwrap(), viewed);
    }

    #[test]
    fn a_short_message_is_copied_so_that_its_slot_is_free() {
        let frame = frame_of(&sample(10));
        let (_, bytes, _): Arguments = Rkyv::decode_in(Part::all(&frame)).unwrap();
        assert!(!frame.bytes().as_ptr_range().contains(&bytes.as_ptr()));
        assert_eq!(&bytes[..], &[5; 10]);
    }

    #[test]
    fn a_view_that_came_in_a_frame_can_be_sent_on() {
        let frame = frame_of(&sample(500));
        let arguments: Arguments = Rkyv::decode_in(Part::all(&frame)).unwrap();
        let again = frame_of(&arguments);
        assert_eq!(again.bytes(), frame.bytes());
    }

    #[test]
    fn a_view_of_a_value_shows_what_the_value_is_now() {
        let mut view = View::new(vec![1_u32, 2]);
        assert_eq!(view.iter().map(|n| n.to_native()).collect::<Vec<_>>(), [1, 2]);
        view.value_mut().unwrap().push(3);
        assert_eq!(view.len(), 3);
        assert_eq!(view.into_value().unwrap(), [1, 2, 3]);
    }

    #[test]
    fn what_is_in_no_frame_is_read_as_a_value() {
        let bytes = <Rkyv as Codec<Arguments>>::encode(&sample(500)).unwrap();
        let (_, view, _): Arguments = Rkyv::decode(&bytes).unwrap();
        assert!(!view.is_in_frame());
        assert_eq!(view.into_value().unwrap(), vec![5; 500]);
    }

    #[test]
    fn w6_a_frame_with_a_flipped_bit_is_refused_or_reads_as_some_value() {
        let frame = frame_of(&sample(300));
        for bit in 0..frame.len() * 8 {
            let mut bytes = frame.bytes().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let flipped = Frame::copy_of(&bytes);
            if let Ok((_, view, name)) = <Rkyv as Codec<Arguments>>::decode_in(Part::all(&flipped))
            {
                let _sum: u64 = view.iter().map(|byte| u64::from(*byte)).sum();
                assert!(name.len() <= flipped.len());
            }
        }
    }
}
