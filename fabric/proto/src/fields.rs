//! Fields: the form of what nodes write for one another into leases, views and messages of the control thread.
//!
//! Little-endian. A list of fields, each its tag (2 bytes), the bytes of its value (4), and the value. Tags rise, so
//! none comes twice. A field that the reader does not know is passed over, unless the highest bit of its tag says that
//! it must be known. A known field of fixed size may grow at its end.
//!
//! # Invariants
//! - **FI1** Bytes of any kind are read or refused: nothing is taken from beyond their end, and no more memory than they
//!   account for.
//!
//! # Not here
//! What the fields mean. The hello of a link, whose form is older and has shorter lengths.

/// The bit of a tag that whoever does not know the field must not pass over.
pub(crate) const MUST_KNOW: u16 = 1 << 15;

/// Why bytes were not read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unread {
    /// They are of a later version, which this one must not guess at.
    #[error("it is of a version that this one does not know")]
    Version,
    /// No version writes them.
    #[error("it is malformed")]
    Malformed,
}

/// Appends a field.
pub(crate) fn put(out: &mut Vec<u8>, tag: u16, value: &[u8]) {
    out.extend(tag.to_le_bytes());
    put_part(out, value);
}

/// Appends bytes behind their length.
pub(crate) fn put_part(out: &mut Vec<u8>, value: &[u8]) {
    let len = u32::try_from(value.len());
    assert!(len.is_ok(), "FI1: a field is too long");
    out.extend(len.unwrap_or(0).to_le_bytes());
    out.extend_from_slice(value);
}

/// What is left to be read.
#[derive(Clone, Copy)]
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn take<const N: usize>(&mut self) -> Result<[u8; N], Unread> {
        let (first, rest) = self.0.split_first_chunk::<N>().ok_or(Unread::Malformed)?;
        self.0 = rest;
        Ok(*first)
    }

    pub(crate) fn slice(&mut self, len: usize) -> Result<&'a [u8], Unread> {
        let (first, rest) = self.0.split_at_checked(len).ok_or(Unread::Malformed)?;
        self.0 = rest;
        Ok(first)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Unread> {
        self.take().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Unread> {
        self.take().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Unread> {
        self.take().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Unread> {
        self.take().map(u64::from_le_bytes)
    }

    /// What [`put_part`] has written.
    pub(crate) fn part(&mut self) -> Result<&'a [u8], Unread> {
        let len = usize::try_from(self.u32()?).map_err(|_| Unread::Malformed)?;
        self.slice(len)
    }

    /// A text of at most `max` bytes.
    pub(crate) fn text(&mut self, len: usize, max: usize) -> Result<String, Unread> {
        if len > max {
            return Err(Unread::Malformed);
        }
        let text = std::str::from_utf8(self.slice(len)?).map_err(|_| Unread::Malformed)?;
        Ok(text.to_owned())
    }
}

/// One field.
#[derive(Clone, Copy)]
pub(crate) struct Field<'a> {
    pub(crate) tag: u16,
    pub(crate) value: Bytes<'a>,
    /// Tag, length and value, as they came.
    pub(crate) whole: &'a [u8],
}

impl Field<'_> {
    /// Nothing is known of this field: whether it may be passed over.
    pub(crate) fn unknown(&self) -> Result<(), Unread> {
        if self.tag & MUST_KNOW == 0 { Ok(()) } else { Err(Unread::Version) }
    }
}

/// The fields of a list, in their order.
pub(crate) struct Fields<'a> {
    rest: Bytes<'a>,
    last: Option<u16>,
}

impl<'a> Fields<'a> {
    pub(crate) fn of(bytes: &'a [u8]) -> Self {
        Self { rest: Bytes(bytes), last: None }
    }

    /// The next one.
    pub(crate) fn take(&mut self) -> Result<Option<Field<'a>>, Unread> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let began = self.rest.0;
        let tag = self.rest.u16()?;
        let value = Bytes(self.rest.part()?);
        // Whether it must be known plays no part in the order.
        if self.last.replace(tag & !MUST_KNOW) >= Some(tag & !MUST_KNOW) {
            return Err(Unread::Malformed);
        }
        let whole = began.get(..began.len() - self.rest.0.len()).ok_or(Unread::Malformed)?;
        Ok(Some(Field { tag, value, whole }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Vec<(u16, Vec<u8>)>, Unread> {
        let mut fields = Fields::of(bytes);
        let mut all = Vec::new();
        while let Some(field) = fields.take()? {
            all.push((field.tag, field.value.0.to_vec()));
        }
        Ok(all)
    }

    #[test]
    fn fields_are_read_as_they_were_written() {
        let mut bytes = Vec::new();
        put(&mut bytes, 1, b"one");
        put(&mut bytes, 7 | MUST_KNOW, b"");
        assert_eq!(read(&bytes), Ok(vec![(1, b"one".to_vec()), (7 | MUST_KNOW, Vec::new())]));
    }

    #[test]
    fn fi1_what_ends_within_a_field_or_repeats_one_is_refused() {
        let mut bytes = Vec::new();
        put(&mut bytes, 2, b"two");
        for len in 1..bytes.len() {
            assert_eq!(read(&bytes[..len]), Err(Unread::Malformed), "{len}");
        }
        let mut again = bytes.clone();
        put(&mut again, 2 | MUST_KNOW, b"");
        assert_eq!(read(&again), Err(Unread::Malformed));
        put(&mut bytes, 1, b"");
        assert_eq!(read(&bytes), Err(Unread::Malformed));
        assert_eq!(read(&[1, 0, 0xff, 0xff, 0xff, 0xff]), Err(Unread::Malformed));
    }

    #[test]
    fn only_a_field_that_need_not_be_known_is_passed_over() {
        let mut bytes = Vec::new();
        put(&mut bytes, 1, b"");
        put(&mut bytes, 2 | MUST_KNOW, b"");
        let mut fields = Fields::of(&bytes);
        let mut next = || fields.take().unwrap().unwrap().unknown();
        assert_eq!(next(), Ok(()));
        assert_eq!(next(), Err(Unread::Version));
    }
}
