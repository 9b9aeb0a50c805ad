//! Where the state of one activation lives.
//!
//! # Invariants
//! - **E1** A cell holds the state of the entity type that its id names.
//! - **E2** No borrow of the state outlives a turn, but that of an exclusive section; while one
//!   lasts, the host runs no other turn on the cell.
//!
//! # Not here
//! Who may run next: the host decides that before it comes here.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

use epicserver_wire::{EntityId, Out};

use crate::At;
use crate::desk::current;
use crate::entity::Entity;
use crate::running::Activation;
use crate::saving::{Stored, Unreadable, Unsaved};

/// Where an activation stands in its shard's table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Place(u32);

impl Place {
    /// In no table.
    pub const NONE: Self = Self(u32::MAX);

    /// The place numbered `index`.
    #[must_use]
    pub const fn new(index: u32) -> Self {
        Self(index)
    }

    /// Its number.
    #[must_use]
    pub const fn index(self) -> u32 {
        self.0
    }
}

/// The state of one activation, with the id of its entity.
pub struct StateCell<T> {
    id: EntityId,
    place: Cell<Place>,
    /// Whether whoever hosts it is told of changes.
    watched: Cell<bool>,
    /// It has changed since it was watched; true where nobody watches.
    changed: Cell<bool>,
    state: RefCell<Option<T>>,
}

impl<T: Entity> StateCell<T> {
    /// A cell without a state.
    pub(crate) fn new(id: EntityId) -> Self {
        Self {
            id,
            place: Cell::new(Place::NONE),
            watched: Cell::new(false),
            changed: Cell::new(true),
            state: RefCell::new(None),
        }
    }

    /// A cell with `state`.
    pub(crate) fn with_state(id: EntityId, state: T) -> Self {
        let cell = Self::new(id);
        cell.set_state(state);
        cell
    }

    pub(crate) fn id(&self) -> &EntityId {
        &self.id
    }

    pub(crate) fn place(&self) -> Place {
        self.place.get()
    }

    pub(crate) fn set_state(&self, state: T) {
        *self.state.borrow_mut() = Some(state);
    }

    /// Runs `turn` on the state.
    pub(crate) fn with<R>(&self, turn: impl FnOnce(&mut T) -> R) -> R {
        let Ok(mut state) = self.state.try_borrow_mut() else {
            panic!("`with` was called inside `with`, or while `exclusive` runs, on {:?}", self.id)
        };
        let Some(state) = state.as_mut() else { self.is_early() };
        if !self.changed.replace(true) {
            self.tell();
        }
        turn(state)
    }

    /// Runs `turn` on the state, which it does not change.
    pub(crate) fn look<R>(&self, turn: impl FnOnce(&T) -> R) -> R {
        let Ok(state) = self.state.try_borrow() else {
            panic!("`with` was called inside `with`, or while `exclusive` runs, on {:?}", self.id)
        };
        let Some(state) = state.as_ref() else { self.is_early() };
        turn(state)
    }

    #[cold]
    fn is_early(&self) -> ! {
        panic!("the state of {:?} is used before its activate hook has returned it", self.id)
    }

    /// The host is told of a change.
    #[cold]
    fn tell(&self) {
        if let Some(desk) = current() {
            desk.host().changed(self.place());
        }
    }

    /// Runs `section` with the state borrowed until it ends (**E2**).
    #[expect(
        clippy::await_holding_refcell_ref,
        reason = "E2: admission keeps every other turn out"
    )]
    pub(crate) async fn hold<R>(&self, section: impl AsyncFnOnce(&mut T) -> R) -> R {
        let _told_when_the_state_is_free = EndOfSection(self);
        let Ok(mut state) = self.state.try_borrow_mut() else {
            panic!("`exclusive` was called inside `with` on {:?}", self.id)
        };
        let Some(state) = state.as_mut() else { self.is_early() };
        section(state).await
    }
}

/// The end of a section, however it comes: what it has changed can be saved from now on.
struct EndOfSection<'a, T: Entity>(&'a StateCell<T>);

impl<T: Entity> Drop for EndOfSection<'_, T> {
    fn drop(&mut self) {
        if self.0.watched.get() {
            self.0.changed.set(true);
            self.0.tell();
        }
    }
}

impl<T> fmt::Debug for StateCell<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateCell").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A cell whose entity type is not known at compile time.
pub trait AnyCell: Any + fmt::Debug {
    /// The entity's id.
    fn id(&self) -> &EntityId;
    /// Where the activation stands in its shard's table.
    fn place(&self) -> Place;
    /// Says where it stands.
    fn set_place(&self, place: Place);
    /// Makes the state: at once, or by a task that has to run first.
    fn activate(self: Rc<Self>) -> Activation<()>;
    /// Whether the state is there.
    fn has_state(&self) -> bool;
    /// Runs the `#[deactivate]` hook, if there is a state.
    fn deactivate(self: Rc<Self>);
    /// Puts in the state that was stored, and runs the `#[loaded]` hook.
    ///
    /// # Errors
    /// [`Unreadable`]; there is no state then.
    fn load(self: Rc<Self>, stored: Stored<'_>) -> Result<(), Unreadable>;
    /// Writes the state as the schema version `schema`, one of those that its type writes.
    ///
    /// # Errors
    /// [`Unsaved`].
    fn write(&self, schema: u32, out: &mut Out<'_>) -> Result<(), Unsaved>;
    /// The host is told of the next change from now on.
    fn watch(&self);
    /// Whether an exclusive section has the state.
    fn is_held(&self) -> bool;
    /// Whether the state may have changed since it was watched.
    fn has_changed(&self) -> bool;
    /// Bytes of the activation that the memory budget counts, the state's heap included.
    fn bytes(&self) -> usize;
}

impl<T: Entity> AnyCell for StateCell<T> {
    fn id(&self) -> &EntityId {
        &self.id
    }

    fn place(&self) -> Place {
        self.place.get()
    }

    fn set_place(&self, place: Place) {
        self.place.set(place);
    }

    fn activate(self: Rc<Self>) -> Activation<()> {
        match T::activate(At::new(Rc::clone(&self))) {
            Activation::Ready(state) => {
                self.set_state(state);
                Activation::Ready(())
            }
            Activation::Running(make) => Activation::Running(Box::pin(async move {
                self.set_state(make.await?);
                Ok(())
            })),
            Activation::Failed(failed) => Activation::Failed(failed),
        }
    }

    fn has_state(&self) -> bool {
        self.state.try_borrow().is_ok_and(|state| state.is_some())
    }

    fn deactivate(self: Rc<Self>) {
        if self.state.borrow().is_some() {
            let at = At::new(Rc::clone(&self));
            self.with(|state| state.deactivate(at));
        }
    }

    fn load(self: Rc<Self>, stored: Stored<'_>) -> Result<(), Unreadable> {
        let mut state = T::read(stored)?;
        state.loaded(At::new(Rc::clone(&self)));
        self.set_state(state);
        Ok(())
    }

    fn write(&self, schema: u32, out: &mut Out<'_>) -> Result<(), Unsaved> {
        let state = self.state.try_borrow().map_err(|_| Unsaved::Held)?;
        let state = state.as_ref().ok_or(Unsaved::Nothing)?;
        state.write(schema, out).map_err(|_| Unsaved::Malformed)
    }

    fn watch(&self) {
        self.watched.set(true);
        self.changed.set(false);
    }

    fn is_held(&self) -> bool {
        self.state.try_borrow().is_err()
    }

    fn has_changed(&self) -> bool {
        self.changed.get()
    }

    fn bytes(&self) -> usize {
        let heap = self.state.try_borrow().ok().and_then(|s| s.as_ref().map(Entity::heap_bytes));
        size_of::<Self>().saturating_add(heap.unwrap_or(0))
    }
}
