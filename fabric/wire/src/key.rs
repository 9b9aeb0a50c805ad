//! Keys: what tells two entities of one type apart.
//!
//! A key is a form byte and a payload. The payload of an integer is its 8 (or 16) little-endian
//! bytes, of a text its UTF-8, of a `Uuid` its 16 bytes; of a tuple, for each part, a form byte,
//! a two-byte length and the part's payload.
//!
//! # Invariants
//! - **W2** Equal typed keys have equal bytes, and different ones different bytes; never changes.
//! - **W3** A key holds at most [`KEY_BYTES_MAX`] bytes; a longer one is remembered as too long,
//!   equals nothing that fits, and is refused by every call.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::limits::{KEY_BYTES_MAX, KEY_DEPTH_MAX};

/// Bytes of a key that need no allocation.
const INLINE_MAX: usize = 22;

/// Which typed key the payload came from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
enum Form {
    TooLong = 0,
    Unsigned = 1,
    Signed = 2,
    Unsigned128 = 3,
    Signed128 = 4,
    Text = 5,
    Uuid = 6,
    Tuple = 7,
}

impl Form {
    fn parse(byte: u8) -> Option<Self> {
        let forms = [
            Self::Unsigned,
            Self::Signed,
            Self::Unsigned128,
            Self::Signed128,
            Self::Text,
            Self::Uuid,
            Self::Tuple,
        ];
        forms.into_iter().find(|form| *form as u8 == byte)
    }
}

/// An encoded key. Cheap to clone; a key of up to 22 bytes allocates nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    form: Form,
    bytes: Bytes,
}

#[derive(Clone)]
enum Bytes {
    Inline(u8, [u8; INLINE_MAX]),
    Shared(Arc<[u8]>),
}

impl PartialEq for Bytes {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            // The unused tail is always zero, so the whole array compares.
            (Self::Inline(a, x), Self::Inline(b, y)) => a == b && x == y,
            (Self::Shared(a), Self::Shared(b)) => a == b,
            (Self::Inline(..), Self::Shared(_)) | (Self::Shared(_), Self::Inline(..)) => false,
        }
    }
}

impl Eq for Bytes {}

impl Bytes {
    fn new(bytes: &[u8]) -> Self {
        let Ok(len) = u8::try_from(bytes.len()) else { return Self::Shared(bytes.into()) };
        let mut inline = [0; INLINE_MAX];
        match inline.get_mut(..bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                Self::Inline(len, inline)
            }
            None => Self::Shared(bytes.into()),
        }
    }

    fn get(&self) -> &[u8] {
        match self {
            Self::Inline(len, bytes) => &bytes[..usize::from(*len)],
            Self::Shared(bytes) => bytes,
        }
    }
}

impl Key {
    fn new(form: Form, payload: &[u8]) -> Self {
        if payload.len() > KEY_BYTES_MAX {
            return Self { form: Form::TooLong, bytes: Bytes::new(&[]) };
        }
        Self { form, bytes: Bytes::new(payload) }
    }

    /// The key that [`Key::form_byte`] and [`Key::payload`] came from; `None` if no typed key
    /// could have made them.
    #[must_use]
    pub fn parse(form: u8, payload: &[u8]) -> Option<Self> {
        let sound = Self::is_one(form, payload);
        Form::parse(form).filter(|_| sound).map(|form| Self::new(form, payload))
    }

    /// Whether [`Key::parse`] gives a key.
    pub(crate) fn is_one(form: u8, payload: &[u8]) -> bool {
        let sound = |form| payload.len() <= KEY_BYTES_MAX && well_formed(form, payload, 0);
        Form::parse(form).is_some_and(sound)
    }

    /// The byte that names the form of the payload.
    #[must_use]
    pub fn form_byte(&self) -> u8 {
        self.form as u8
    }

    /// The encoded key without its form.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.bytes.get()
    }

    /// Whether the typed key was longer than [`KEY_BYTES_MAX`] (**W3**).
    #[must_use]
    pub fn is_too_long(&self) -> bool {
        self.form == Form::TooLong
    }
}

fn well_formed(form: Form, payload: &[u8], depth: u32) -> bool {
    match form {
        Form::TooLong => false,
        Form::Unsigned | Form::Signed => payload.len() == 8,
        Form::Unsigned128 | Form::Signed128 | Form::Uuid => payload.len() == 16,
        Form::Text => std::str::from_utf8(payload).is_ok(),
        Form::Tuple => depth < KEY_DEPTH_MAX && tuple_is_well_formed(payload, depth + 1),
    }
}

fn tuple_is_well_formed(mut rest: &[u8], depth: u32) -> bool {
    while !rest.is_empty() {
        let Some((form, part, tail)) = split_part(rest) else { return false };
        if !well_formed(form, part, depth) {
            return false;
        }
        rest = tail;
    }
    true
}

/// Form and payload of a tuple's first part, and what follows it.
fn split_part(bytes: &[u8]) -> Option<(Form, &[u8], &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<3>()?;
    let len = usize::from(u16::from_le_bytes([head[1], head[2]]));
    let (part, tail) = rest.split_at_checked(len)?;
    Some((Form::parse(head[0])?, part, tail))
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, self.form, self.payload())
    }
}

fn show(f: &mut fmt::Formatter<'_>, form: Form, payload: &[u8]) -> fmt::Result {
    let wide = |bytes: &[u8]| bytes.try_into().unwrap_or([0; 16]);
    let narrow = |bytes: &[u8]| bytes.try_into().unwrap_or([0; 8]);
    match form {
        Form::TooLong => f.write_str("<key too long>"),
        Form::Unsigned => write!(f, "{}", u64::from_le_bytes(narrow(payload))),
        Form::Signed => write!(f, "{}", i64::from_le_bytes(narrow(payload))),
        Form::Unsigned128 => write!(f, "{}", u128::from_le_bytes(wide(payload))),
        Form::Signed128 => write!(f, "{}", i128::from_le_bytes(wide(payload))),
        Form::Text => f.write_str(&String::from_utf8_lossy(payload)),
        Form::Uuid => write!(f, "{}", uuid::Uuid::from_bytes(wide(payload))),
        Form::Tuple => {
            f.write_str("(")?;
            let mut rest = payload;
            let mut between = "";
            while let Some((form, part, tail)) = split_part(rest) {
                f.write_str(between)?;
                show(f, form, part)?;
                between = ", ";
                rest = tail;
            }
            f.write_str(")")
        }
    }
}

/// A type whose values are keys of entities: integers, `String`, `Uuid`, and tuples of up to four
/// of them.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the key of an entity",
    note = "keys are integers, `String`, `Uuid`, or tuples of them: write `#[entity(key = u64)]`"
)]
pub trait EntityKey: Sized + Clone + Send + Sync + fmt::Debug + 'static {
    /// The encoded key.
    fn to_key(&self) -> Key;
    /// The typed key; `None` if `key` is of another form.
    fn from_key(key: &Key) -> Option<Self>;
}

/// What `get::<T>(…)` takes: the key itself, or for a `String` key also a `&str`.
pub trait IntoKey<K> {
    /// The encoded key.
    fn into_key(self) -> Key;
}

impl<K: EntityKey> IntoKey<K> for K {
    fn into_key(self) -> Key {
        self.to_key()
    }
}

impl IntoKey<String> for &str {
    fn into_key(self) -> Key {
        Key::new(Form::Text, self.as_bytes())
    }
}

impl IntoKey<String> for &String {
    fn into_key(self) -> Key {
        self.as_str().into_key()
    }
}

impl IntoKey<String> for Cow<'_, str> {
    fn into_key(self) -> Key {
        self.as_ref().into_key()
    }
}

macro_rules! integer_keys {
    ($form:expr, $wide:ty: $($int:ty),*) => {$(
        impl EntityKey for $int {
            fn to_key(&self) -> Key {
                Key::new($form, &<$wide>::from(*self).to_le_bytes())
            }
            fn from_key(key: &Key) -> Option<Self> {
                if key.form != $form {
                    return None;
                }
                <$wide>::from_le_bytes(key.payload().try_into().ok()?).try_into().ok()
            }
        }
    )*};
}

integer_keys!(Form::Unsigned, u64: u8, u16, u32, u64);
integer_keys!(Form::Signed, i64: i8, i16, i32, i64);
integer_keys!(Form::Unsigned128, u128: u128);
integer_keys!(Form::Signed128, i128: i128);

impl EntityKey for String {
    fn to_key(&self) -> Key {
        Key::new(Form::Text, self.as_bytes())
    }

    fn from_key(key: &Key) -> Option<Self> {
        if key.form != Form::Text {
            return None;
        }
        Self::from_utf8(key.payload().to_vec()).ok()
    }
}

impl EntityKey for uuid::Uuid {
    fn to_key(&self) -> Key {
        Key::new(Form::Uuid, self.as_bytes())
    }

    fn from_key(key: &Key) -> Option<Self> {
        if key.form != Form::Uuid {
            return None;
        }
        Some(Self::from_bytes(key.payload().try_into().ok()?))
    }
}

fn push_part(tuple: &mut Vec<u8>, part: &Key) {
    // A part that is too long makes the whole too long (W3): the cap is below the length's range.
    let len = if part.is_too_long() { KEY_BYTES_MAX + 1 } else { part.payload().len() };
    tuple.push(part.form_byte());
    tuple.extend_from_slice(&u16::try_from(len).unwrap_or(u16::MAX).to_le_bytes());
    tuple.extend_from_slice(part.payload());
    tuple.resize(tuple.len() + len - part.payload().len(), 0);
}

fn take_part<K: EntityKey>(rest: &mut &[u8]) -> Option<K> {
    let (form, part, tail) = split_part(rest)?;
    *rest = tail;
    K::from_key(&Key::new(form, part))
}

macro_rules! tuple_keys {
    ($($name:ident . $index:tt),*) => {
        impl<$($name: EntityKey),*> EntityKey for ($($name,)*) {
            fn to_key(&self) -> Key {
                let mut bytes = Vec::new();
                $(push_part(&mut bytes, &self.$index.to_key());)*
                Key::new(Form::Tuple, &bytes)
            }
            fn from_key(key: &Key) -> Option<Self> {
                if key.form != Form::Tuple {
                    return None;
                }
                let mut rest = key.payload();
                let typed = ($(take_part::<$name>(&mut rest)?,)*);
                rest.is_empty().then_some(typed)
            }
        }
    };
}

tuple_keys!(A.0);
tuple_keys!(A.0, B.1);
tuple_keys!(A.0, B.1, C.2);
tuple_keys!(A.0, B.1, C.2, D.3);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn returns<K: EntityKey + PartialEq>(key: &K) {
        let encoded = key.to_key();
        assert_eq!(K::from_key(&encoded).as_ref(), Some(key));
        let parsed = Key::parse(encoded.form_byte(), encoded.payload());
        assert_eq!(parsed.as_ref(), Some(&encoded));
    }

    proptest! {
        #[test]
        fn w2_keys_return_as_they_were(a: u64, b: i64, s in "\\PC{0,40}", c: u128) {
            returns(&a);
            returns(&b);
            returns(&c);
            returns(&s);
            returns(&uuid::Uuid::from_u128(c));
            returns(&(a, s, (b, c)));
        }

        #[test]
        fn hostile_bytes_parse_to_a_key_that_prints_or_to_nothing(form: u8, bytes: Vec<u8>) {
            if let Some(key) = Key::parse(form, &bytes) {
                let printed = format!("{key:?}");
                prop_assert!(!printed.is_empty() || bytes.is_empty());
            }
        }
    }

    #[test]
    fn an_integer_of_another_width_is_the_same_key_and_of_another_sign_is_not() {
        assert_eq!(7_u8.to_key(), 7_u64.to_key());
        assert_ne!(7_u64.to_key(), 7_i64.to_key());
        assert_eq!(u8::from_key(&300_u64.to_key()), None);
    }

    #[test]
    fn w3_a_key_over_the_cap_is_too_long_and_one_at_the_cap_is_not() {
        assert!(!"x".repeat(KEY_BYTES_MAX).to_key().is_too_long());
        assert!("x".repeat(KEY_BYTES_MAX + 1).to_key().is_too_long());
        assert!((1_u64, "x".repeat(KEY_BYTES_MAX)).to_key().is_too_long());
        assert!(("x".repeat(KEY_BYTES_MAX + 1), 1_u8).to_key().is_too_long());
    }

    #[test]
    fn tuples_nested_beyond_the_bound_do_not_parse() {
        let mut key = (1_u64,).to_key();
        for _ in 0..KEY_DEPTH_MAX {
            let mut bytes = Vec::new();
            push_part(&mut bytes, &key);
            key = Key::new(Form::Tuple, &bytes);
        }
        assert_eq!(Key::parse(key.form_byte(), key.payload()), None);
    }

    #[test]
    fn keys_print_as_their_users_wrote_them() {
        assert_eq!(format!("{:?}", "bob".to_key_of()), "bob");
        assert_eq!(format!("{:?}", (3_u64, "x".to_owned()).to_key()), "(3, x)");
    }

    trait ToKeyOf {
        fn to_key_of(self) -> Key;
    }
    impl ToKeyOf for &str {
        fn to_key_of(self) -> Key {
            IntoKey::<String>::into_key(self)
        }
    }
}
