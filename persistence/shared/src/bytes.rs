//! Values as bytes: numbers, texts, lists and choices, little-endian, each behind what tells its length.
//!
//! # Invariants
//! - **BY1** Any bytes are a value or are refused; none costs more memory than a small multiple of their number.
//!
//! # Not here
//! What the values mean: `code`.

use crate::limits::LIST_MAX;

/// Bytes that are not what they should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0} cannot be read")]
pub(crate) struct Malformed(pub(crate) &'static str);

/// A value that crosses from one process to another.
pub(crate) trait Coded: Sized {
    /// Appends it.
    fn put(&self, out: &mut Vec<u8>);

    /// Reads it.
    fn take(from: &mut Parser<'_>) -> Result<Self, Malformed>;
}

/// Bytes that are being read.
pub(crate) struct Parser<'a>(&'a [u8]);

impl<'a> Parser<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed("a number"))?;
        self.0 = rest;
        Ok(*head)
    }

    /// The next `len` bytes.
    pub(crate) fn raw(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(Malformed("a run of bytes"))?;
        self.0 = rest;
        Ok(head)
    }

    /// Bytes behind their length.
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let len = self.take::<u32>()?;
        self.raw(usize::try_from(len).map_err(|_| Malformed("a length"))?)
    }

    pub(crate) fn take<T: Coded>(&mut self) -> Result<T, Malformed> {
        T::take(self)
    }

    /// Sees to it that nothing is left.
    pub(crate) fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("what follows the end")) }
    }
}

/// Appends `bytes` behind their length.
pub(crate) fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_len(bytes.len(), out);
    out.extend_from_slice(bytes);
}

/// A longer one has no frame either, and is refused there.
fn put_len(len: usize, out: &mut Vec<u8>) {
    u32::try_from(len).unwrap_or(u32::MAX).put(out);
}

macro_rules! numbers {
    ($($number:ty)*) => {
        $(impl Coded for $number {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }

            fn take(from: &mut Parser<'_>) -> Result<Self, Malformed> {
                from.array().map(Self::from_le_bytes)
            }
        })*
    };
}

numbers!(u8 u16 u32 u64);

impl Coded for usize {
    fn put(&self, out: &mut Vec<u8>) {
        u64::try_from(*self).unwrap_or(u64::MAX).put(out);
    }

    fn take(from: &mut Parser<'_>) -> Result<Self, Malformed> {
        Self::try_from(from.take::<u64>()?).map_err(|_| Malformed("a count"))
    }
}

impl Coded for bool {
    fn put(&self, out: &mut Vec<u8>) {
        u8::from(*self).put(out);
    }

    fn take(from: &mut Parser<'_>) -> Result<Self, Malformed> {
        match from.take::<u8>()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("a yes or no")),
        }
    }
}

impl Coded for String {
    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(self.as_bytes(), out);
    }

    fn take(from: &mut Parser<'_>) -> Result<Self, Malformed> {
        let text = std::str::from_utf8(from.bytes()?).map_err(|_| Malformed("a text"))?;
        Ok(text.to_owned())
    }
}

impl<T: Coded> Coded for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }

    fn take(from: &mut Parser<'_>) -> Result<Self, Malformed> {
        if from.take()? { from.take().map(Some) } else { Ok(None) }
    }
}

impl<T: Coded, E: Coded> Coded for Result<T, E> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_ok().put(out);
        match self {
            Ok(value) => value.put(out),
            Err(error) => error.put(out),
        }
    }

    fn take(from: &mut Parser<'_>) -> Result<Self, Malformed> {
        if from.take()? { from.take().map(Ok) } else { from.take().map(Err) }
    }
}

/// At most [`LIST_MAX`]. Each takes a byte at the least, so that a number of them that is too large ends with the bytes (**BY1**).
impl<T: Coded> Coded for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        put_len(self.len(), out);
        self.iter().for_each(|value| value.put(out));
    }

    fn take(from: &mut Parser<'_>) -> Result<Self, Malformed> {
        let len = from.take::<u32>()?;
        if usize::try_from(len).map_or(true, |len| len > LIST_MAX) {
            return Err(Malformed("a list"));
        }
        let mut all = Self::new();
        for _ in 0..len {
            all.push(from.take()?);
        }
        Ok(all)
    }
}

impl<A: Coded, B: Coded> Coded for (A, B) {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }

    fn take(from: &mut Parser<'_>) -> Result<Self, Malformed> {
        Ok((from.take()?, from.take()?))
    }
}
