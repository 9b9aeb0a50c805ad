//! The codec: how typed values become bytes and come back.
//!
//! One trait, and rkyv as its first form. Whoever sends or stores a value names the codec by its
//! id, so that another one can stand beside it.
//!
//! # Invariants
//! - **W6** Bytes are checked before any of them is trusted: hostile ones are `Malformed`, nothing else.
//!
//! # Not here
//! Frames, headers, schema versions.

use rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize, rancor};

/// Bytes that are not the value they were said to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the bytes are not a valid value of the expected type")]
pub struct Malformed;

/// A way to write values of type `T` and to read them back.
pub trait Codec<T> {
    /// Which codec this is, as the wire and stores name it.
    const ID: u8;

    /// The bytes of `value`.
    ///
    /// # Errors
    /// [`Malformed`] if a hand-written implementation of the value refuses to be written.
    fn encode(value: &T) -> Result<Vec<u8>, Malformed>;

    /// The value of `bytes`, which may come from anywhere (**W6**).
    ///
    /// # Errors
    /// [`Malformed`] if they are not the bytes of a `T`.
    fn decode(bytes: &[u8]) -> Result<T, Malformed>;
}

/// [rkyv](https://rkyv.org), little-endian, 32-bit pointers, aligned.
#[derive(Clone, Copy, Debug)]
pub struct Rkyv;

impl<T> Codec<T> for Rkyv
where
    T: Archive + for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, rancor::Error>>,
    T::Archived: for<'a> CheckBytes<HighValidator<'a, rancor::Error>>
        + Deserialize<T, HighDeserializer<rancor::Error>>,
{
    const ID: u8 = 1;

    fn encode(value: &T) -> Result<Vec<u8>, Malformed> {
        rkyv::to_bytes::<rancor::Error>(value).map(AlignedVec::into_vec).map_err(|_| Malformed)
    }

    fn decode(bytes: &[u8]) -> Result<T, Malformed> {
        let mut aligned = AlignedVec::<16>::with_capacity(bytes.len());
        aligned.extend_from_slice(bytes);
        rkyv::from_bytes::<T, rancor::Error>(&aligned).map_err(|_| Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Sample = (u32, Vec<(String, Option<u64>)>);

    proptest! {
        #[test]
        fn values_return_as_they_were(value: Sample) {
            let bytes = <Rkyv as Codec<Sample>>::encode(&value).unwrap();
            prop_assert_eq!(<Rkyv as Codec<Sample>>::decode(&bytes), Ok(value));
        }

        #[test]
        fn w6_hostile_bytes_are_refused_or_a_value(bytes: Vec<u8>) {
            drop::<Result<Sample, _>>(Rkyv::decode(&bytes));
        }
    }
}
