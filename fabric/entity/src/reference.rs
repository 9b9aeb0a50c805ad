//! References to entities, and the pool that gives them.
//!
//! # Invariants
//! - **E5** A reference is stored and sent as the pinned form of its entity's id, nothing else.
//!
//! # Not here
//! Where the entity is: a reference remembers at most where it once was.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use epicserver_wire::rkyv::rancor::{Fallible, ResultExt as _, Source};
use epicserver_wire::rkyv::ser::{Allocator, Writer};
use epicserver_wire::rkyv::vec::VecResolver;
use epicserver_wire::rkyv::{Archive, Deserialize, Place as Out, Serialize};
use epicserver_wire::view::{OfType, Pinned};
use epicserver_wire::{EntityId, IntoKey, Malformed, TypeId};

use crate::cell::Place;
use crate::desk::Gateway;
use crate::entity::{Calls, Entity, entity_id};
use crate::form::Form;
use crate::message::Message;

/// Whom a reference names: the id, a hint where its activation was, and for references that a
/// client gave, the way into the fabric.
pub struct Target {
    id: EntityId,
    place: AtomicU32,
    via: Option<Arc<dyn Gateway>>,
}

impl Target {
    /// The entity of `id`.
    #[must_use]
    pub fn new(id: EntityId) -> Self {
        Self { id, place: AtomicU32::new(Place::NONE.index()), via: None }
    }

    /// The entity of `id`, reached from outside of any entity through `gateway`.
    #[must_use]
    pub fn through(gateway: Arc<dyn Gateway>, id: EntityId) -> Self {
        Self { via: Some(gateway), ..Self::new(id) }
    }

    /// The entity's id.
    #[must_use]
    pub fn id(&self) -> &EntityId {
        &self.id
    }

    pub(crate) fn gateway(&self) -> Option<&Arc<dyn Gateway>> {
        self.via.as_ref()
    }

    pub(crate) fn place(&self) -> Place {
        Place::new(self.place.load(Ordering::Relaxed))
    }

    pub(crate) fn remember(&self, place: Place) {
        self.place.store(place.index(), Ordering::Relaxed);
    }
}

impl Clone for Target {
    fn clone(&self) -> Self {
        let place = AtomicU32::new(self.place().index());
        Self { id: self.id.clone(), place, via: self.via.clone() }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}

/// A reference to the entity of type `T` with some key.
///
/// Its methods are those of the entity. Cheap to clone, may be sent, saved, and held by entities
/// of the same type. It does not keep the entity in memory, and never dangles.
pub struct Ref<T: Entity> {
    calls: T::Calls,
}

impl<T: Entity> Ref<T> {
    /// The entity with `key`.
    #[must_use]
    pub fn of(key: impl IntoKey<T::Key>) -> Self {
        Self::to(Target::new(entity_id::<T>(key.into_key())))
    }

    /// The reference to `target`.
    #[must_use]
    pub fn to(target: Target) -> Self {
        Self { calls: T::Calls::of(target) }
    }

    /// The id of the entity that `this` names.
    #[must_use]
    pub fn id(this: &Self) -> &EntityId {
        this.calls.target().id()
    }
}

impl<T: Entity> Deref for Ref<T> {
    type Target = T::Calls;

    fn deref(&self) -> &T::Calls {
        &self.calls
    }
}

impl<T: Entity> Clone for Ref<T> {
    fn clone(&self) -> Self {
        Self::to(self.calls.target().clone())
    }
}

impl<T: Entity> PartialEq for Ref<T> {
    fn eq(&self, other: &Self) -> bool {
        Self::id(self) == Self::id(other)
    }
}

impl<T: Entity> Eq for Ref<T> {}

impl<T: Entity> Hash for Ref<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Hash::hash(Self::id(self), state);
    }
}

impl<T: Entity> fmt::Debug for Ref<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:?}", T::NAME, Self::id(self).key())
    }
}

impl<T: Entity> Message for Ref<T> {
    fn form(form: &mut Form) {
        form.word("Ref ");
        form.word(T::NAME);
    }
}

impl<T: Entity> OfType for Ref<T> {
    const TYPE_ID: TypeId = T::TYPE_ID;
}

impl<T: Entity> Archive for Ref<T> {
    type Archived = Pinned<Self>;
    type Resolver = VecResolver;

    fn resolve(&self, resolver: Self::Resolver, out: Out<Self::Archived>) {
        Pinned::resolve(Self::id(self), resolver, out);
    }
}

impl<T: Entity, S: Fallible + Allocator + Writer + ?Sized> Serialize<S> for Ref<T> {
    fn serialize(&self, serializer: &mut S) -> Result<Self::Resolver, S::Error> {
        Pinned::<Self>::serialize(Self::id(self), serializer)
    }
}

impl<T: Entity, D: Fallible<Error: Source> + ?Sized> Deserialize<Ref<T>, D> for Pinned<Ref<T>> {
    fn deserialize(&self, _: &mut D) -> Result<Ref<T>, D::Error> {
        let id = self.id().ok_or(Malformed).into_error()?;
        Ok(Ref::to(Target::new(id)))
    }
}

/// Where references come from: every entity there could be.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pool {
    _later: (),
}

impl Pool {
    /// The pool of the fabric that the caller runs in.
    #[must_use]
    pub const fn new() -> Self {
        Self { _later: () }
    }

    /// The entity of type `T` with `key`. Nothing is created, asked or sent before it is called.
    #[must_use]
    pub fn get<T: Entity>(&self, key: impl IntoKey<T::Key>) -> Ref<T> {
        Ref::of(key)
    }
}
