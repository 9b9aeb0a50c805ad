//! References in formats of serde: the pinned form of the id, in hexadecimal digits.
//!
//! # Not here
//! The form that entities themselves send and store: that is the codec's.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use epicserver_wire::EntityId;

use crate::entity::Entity;
use crate::reference::{Ref, Target};

impl<T: Entity> Serialize for Ref<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let digits: String =
            Self::id(self).to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        serializer.serialize_str(&digits)
    }
}

impl<'de, T: Entity> Deserialize<'de> for Ref<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let digits = String::deserialize(deserializer)?;
        let id = bytes_of(&digits).and_then(|bytes| EntityId::from_bytes(&bytes));
        match id.filter(|id| id.type_id() == T::TYPE_ID) {
            Some(id) => Ok(Self::to(Target::new(id))),
            None => Err(D::Error::custom(format!("`{digits}` is no reference to a {}", T::NAME))),
        }
    }
}

/// The bytes that `digits` name, two for each.
fn bytes_of(digits: &str) -> Option<Vec<u8>> {
    let (pairs, []) = digits.as_bytes().as_chunks::<2>() else { return None };
    let byte = |pair: &[u8; 2]| {
        // `from_str_radix` would take a sign.
        let text = std::str::from_utf8(pair).ok().filter(|_| pair[0] != b'+')?;
        u8::from_str_radix(text, 16).ok()
    };
    pairs.iter().map(byte).collect()
}
