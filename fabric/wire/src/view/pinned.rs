//! Ids of entities where they lie among other archived values.
//!
//! # Invariants
//! - **W14** An id that was checked is an id of the wanted type: reading it cannot fail. The codec frees
//!   nothing of a list or a box whose reading fails half-way, so whatever can be wrong is found before.
//!
//! # Not here
//! The form of an id: that is `entity_id`'s.

use std::marker::PhantomData;

use rkyv::bytecheck::{CheckBytes, Verify};
use rkyv::munge::munge;
use rkyv::rancor::{Fallible, Source};
use rkyv::ser::{Allocator, Writer};
use rkyv::vec::{ArchivedVec, VecResolver};
use rkyv::{Place, Portable};

use crate::{EntityId, Malformed, TypeId};

/// What names entities of one type.
pub trait OfType {
    /// The type.
    const TYPE_ID: TypeId;
}

/// The archived form of what names an entity of the type that `T` says: its pinned id as a list of
/// bytes.
#[derive(Portable, CheckBytes)]
#[bytecheck(crate = rkyv::bytecheck, verify)]
#[rkyv(crate = rkyv)]
#[repr(transparent)]
pub struct Pinned<T> {
    bytes: ArchivedVec<u8>,
    of: PhantomData<T>,
}

impl<T: OfType> Pinned<T> {
    /// The id; `None` only if it was never checked.
    #[must_use]
    pub fn id(&self) -> Option<EntityId> {
        EntityId::from_bytes(&self.bytes).filter(|id| id.type_id() == T::TYPE_ID)
    }

    /// Writes the bytes of `id`, to which [`Pinned::resolve`] points afterwards.
    ///
    /// # Errors
    /// What the serializer says.
    pub fn serialize<S: Fallible + Allocator + Writer + ?Sized>(
        id: &EntityId,
        serializer: &mut S,
    ) -> Result<VecResolver, S::Error> {
        ArchivedVec::serialize_from_slice(&id.to_bytes(), serializer)
    }

    /// Points `out` to the bytes of `id` that were written.
    pub fn resolve(id: &EntityId, resolver: VecResolver, out: Place<Self>) {
        munge!(let Self { bytes, .. } = out);
        ArchivedVec::resolve_from_len(id.pinned_len(), resolver, bytes);
    }
}

impl<T> std::fmt::Debug for Pinned<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.bytes.fmt(f)
    }
}

// SAFETY: W14: whether the bytes are an id of the type is looked at and nothing else; no memory is read
// but theirs, which were checked before.
unsafe impl<T: OfType, C: Fallible<Error: Source> + ?Sized> Verify<C> for Pinned<T> {
    fn verify(&self, _: &mut C) -> Result<(), C::Error> {
        if EntityId::type_of(&self.bytes) == Some(T::TYPE_ID) {
            Ok(())
        } else {
            Err(C::Error::new(Malformed))
        }
    }
}
