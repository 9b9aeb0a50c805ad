//! What the macros say of a type: its name and key, its methods, its hooks.
//!
//! Users do not write these traits: `#[entity]` on the type gives [`EntityType`], `#[entity]` on
//! its `impl` gives [`Entity`] and one [`Method`] for each `pub` method.
//!
//! # Not here
//! Activations: a type knows nothing of its instances.

use std::any::Any;
use std::fmt;
use std::rc::Rc;
use std::thread::LocalKey;
use std::time::Duration;

use epicserver_wire::frame::Part;
use epicserver_wire::{
    CallError, ClassId, EntityId, EntityKey, Key, MethodId, Out, TypeId, Unwritten,
};

use crate::At;
use crate::cell::{AnyCell, StateCell};
use crate::envelope::{Envelope, Pool, Request};
use crate::form::Form;
use crate::message::{Coded, Message};
use crate::reference::Target;
use crate::remind::Reminds;
use crate::running::{Activation, Started};
use crate::saving::{Policy, Stored, Unreadable, layout_of};

/// A state as JSON, or why it cannot be written so.
pub type Shown = Result<String, String>;

/// What `#[entity]` on a struct or enum says.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an entity",
    note = "put `#[entity]` on its definition"
)]
pub trait EntityType: Coded + 'static {
    /// Its key.
    type Key: EntityKey;
    /// Its name: the id of the type is a function of it.
    const NAME: &'static str;
    /// Its id.
    const TYPE_ID: TypeId = TypeId::of(Self::NAME);
    /// Where its entities may be placed.
    const CLASS: ClassId = ClassId::DEFAULT;
    /// How long an activation may be idle before it is collected; `None` leaves that to the node.
    const IDLE: Option<Duration> = None;

    /// When its state is saved.
    const SAVED: Policy = Policy::DEFAULT;
    /// The version of its fields, from 1.
    const SCHEMA: u32 = 1;
    /// The version that its states are written as, where what is stored is of no later one.
    const WRITES: u32 = Self::SCHEMA;

    /// Its state as JSON, where the type has a way to write that, or why not.
    const SHOWS: Option<fn(&Self) -> Shown> = None;

    /// What its bytes are made of.
    fn form(form: &mut Form) {
        form.unknown();
    }

    /// The state that was stored, of whatever version.
    ///
    /// # Errors
    /// [`Unreadable`].
    fn read(stored: Stored<'_>) -> Result<Self, Unreadable> {
        stored.current()
    }

    /// The hash of the fields of [`WRITES`](Self::WRITES).
    #[must_use]
    fn written_layout() -> u64 {
        layout_of(Self::form)
    }

    /// Writes the state as `schema`, which is [`WRITES`](Self::WRITES) or [`SCHEMA`](Self::SCHEMA).
    ///
    /// # Errors
    /// [`Unwritten`].
    fn write(&self, schema: u32, out: &mut Out<'_>) -> Result<(), Unwritten> {
        let _present = schema;
        out.put(self)
    }

    /// The placement group of the entity with `key`, as [`EntityId::group_of`] numbers it.
    fn group(key: &Self::Key) -> Option<u64> {
        let _ = key;
        None
    }
}

/// The id of the entity of type `T` with `key`.
pub fn entity_id<T: EntityType>(key: Key) -> EntityId {
    let group = T::Key::from_key(&key).and_then(|key| T::group(&key));
    EntityId::new(T::TYPE_ID, T::CLASS, group, key)
}

/// What `#[entity]` on an `impl` says.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no methods that can be called",
    note = "put `#[entity]` on one `impl {Self}` in the same module"
)]
pub trait Entity: EntityType {
    /// The generated calls, to which `Ref<Self>` derefs.
    type Calls: Calls;
    /// Every method that can be called.
    const METHODS: &'static [MethodInfo];

    /// Whether an `#[activate]` hook makes new states; they are saved before they change.
    const MAKES: bool = false;

    /// How its `#[reminded]` hook is called, if it has one.
    const REMINDS: Option<Reminds> = None;

    /// Makes the state of a new activation: by the `#[activate]` hook, or `Default`.
    fn activate(at: At<Self>) -> Activation<Self>;

    /// The `#[loaded]` hook: the first turn of an activation whose state comes from a store.
    fn loaded(&mut self, at: At<Self>) {
        drop(at);
    }

    /// The `#[deactivate]` hook: the last turn of an activation that is collected.
    fn deactivate(&mut self, at: At<Self>) {
        drop(at);
    }

    /// The `#[memory]` hook: bytes that the state holds on the heap, for the memory budget.
    fn heap_bytes(&self) -> usize {
        0
    }
}

/// The generated type of an entity's calls.
pub trait Calls: fmt::Debug + Send + Sync + 'static {
    /// The calls of `target`.
    fn of(target: Target) -> Self;
    /// Whom they call.
    fn target(&self) -> &Target;
}

/// How a method shares its entity with others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// `fn f(&self)`, `fn f(&mut self)`: one turn.
    Turn,
    /// `async fn f(cx: Cx<Self>)`: others run while it is parked.
    Shared,
    /// `#[exclusive] async fn f(&mut self)`: no other runs until it is done.
    Exclusive,
}

/// Reads the arguments of a call that came as bytes.
pub type ReadCall = fn(Target, Part<'_>) -> Result<Request, epicserver_wire::Malformed>;

/// What is known of a method without its types.
#[derive(Clone, Copy)]
pub struct MethodInfo {
    /// The name of its entity type.
    pub entity: &'static str,
    /// Its own name.
    pub name: &'static str,
    /// Its id.
    pub id: MethodId,
    /// How it shares its entity.
    pub mode: Mode,
    /// Whether it is one turn by `&self`, which changes nothing.
    pub looks: bool,
    /// Makes a call of bytes.
    pub read: ReadCall,
    /// The hash of what it takes and gives.
    pub form: fn() -> u64,
}

impl MethodInfo {
    /// What is known of `M`.
    #[must_use]
    pub const fn of<M: Method>() -> Self {
        let entity = <M::Entity as EntityType>::NAME;
        Self {
            entity,
            name: M::NAME,
            id: M::ID,
            mode: M::MODE,
            looks: M::LOOKS,
            read: Envelope::<M>::read,
            form: Form::of_method::<M::Args, M::Reply>,
        }
    }
}

impl fmt::Debug for MethodInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}::{}", self.entity, self.name)
    }
}

/// One method, as a type.
pub trait Method: Sized + 'static {
    /// Whose method it is.
    type Entity: Entity;
    /// Its arguments, as a tuple.
    type Args: Message;
    /// What its body returns.
    type Reply: Message;
    /// What a caller gets: `Result<Reply, CallError>`, or for a method that returns
    /// `Result<T, E>` that one `Result`.
    type Output;
    /// Its name.
    const NAME: &'static str;
    /// Its id.
    const ID: MethodId = MethodId::of(<Self::Entity as EntityType>::NAME, Self::NAME);
    /// How it shares its entity.
    const MODE: Mode;
    /// Whether it is one turn by `&self`.
    const LOOKS: bool = false;
    /// What is known of it without its types.
    const INFO: &'static MethodInfo = &MethodInfo::of::<Self>();

    /// What the caller gets for an outcome.
    fn output(outcome: Result<Self::Reply, CallError>) -> Self::Output;
    /// Runs the method's first turn on `cell`, or makes it ready to run.
    fn start(call: Box<Envelope<Self>>, cell: Rc<StateCell<Self::Entity>>) -> Started<Self>;
    /// Emptied envelopes and task slots of this method on this thread.
    fn pool() -> &'static LocalKey<Pool<Self>>;
}

/// A state that comes from `Default`: what an entity without an `#[activate]` hook has to have.
#[diagnostic::on_unimplemented(
    message = "a new `{Self}` cannot be made",
    note = "derive `Default` for it, or write `#[activate] fn new(at: At<Self>) -> Self`"
)]
pub trait NewState: Sized {
    /// The state of a new entity.
    fn new_state() -> Self;
}

impl<T: Default> NewState for T {
    fn new_state() -> Self {
        Self::default()
    }
}

/// A method of one turn, or an `#[exclusive]` one: a call of it may be a request that is sent again.
#[diagnostic::on_unimplemented(
    message = "a method during whose waits others run has no requests with ids",
    label = "a method with `cx: Cx<Self>`",
    note = "make it one turn, or `#[exclusive]`: only then is what it has changed and what it has answered saved in one piece"
)]
pub trait Repeatable: Method {}

/// An entity whose replies wait until it is saved.
#[diagnostic::on_unimplemented(
    message = "requests to `{Self}` cannot have ids, since its replies do not wait until it is saved",
    note = "write `#[entity(saved = \"every_turn\")]`"
)]
pub trait EveryTurn: EntityType {}

/// An entity type as a node knows it.
#[derive(Clone, Copy)]
pub struct TypeInfo {
    /// Its name.
    pub name: &'static str,
    /// Its id.
    pub id: TypeId,
    /// Where its entities may be placed.
    pub class: ClassId,
    /// How long its activations may be idle.
    pub idle: Option<Duration>,
    /// Every method that can be called.
    pub methods: &'static [MethodInfo],
    /// When its states are saved.
    pub saved: Policy,
    /// Whether its new states are saved before they change.
    pub makes: bool,
    /// The version of its fields.
    pub schema: u32,
    /// The hash of its fields.
    pub layout: fn() -> u64,
    /// How its entities are reminded, if they can be.
    pub reminds: Option<Reminds>,
    /// The version that its states are written as, where what is stored is of no later one.
    pub writes: u32,
    /// The hash of the fields of that.
    pub written_layout: fn() -> u64,
    /// What was stored, as JSON, or why not; `None` where the type has no way to write that.
    pub show: Option<fn(Stored<'_>) -> Shown>,
    /// Makes the cell of a new activation, its state not yet in it.
    pub new_cell: fn(EntityId) -> Rc<dyn AnyCell>,
}

fn show<T: Entity>(stored: Stored<'_>) -> Shown {
    let state = T::read(stored).map_err(|why| why.to_string())?;
    T::SHOWS.map_or_else(|| Err("it has no way to be shown".to_owned()), |shows| shows(&state))
}

impl TypeInfo {
    /// What a node has to know of `T`.
    #[must_use]
    pub fn of<T: Entity>() -> Self {
        Self {
            name: T::NAME,
            id: T::TYPE_ID,
            class: T::CLASS,
            idle: T::IDLE,
            methods: T::METHODS,
            saved: T::SAVED,
            makes: T::MAKES,
            reminds: T::REMINDS,
            schema: T::SCHEMA,
            layout: || layout_of(T::form),
            writes: T::WRITES,
            written_layout: T::written_layout,
            show: T::SHOWS.is_some().then_some(show::<T>),
            new_cell: |id| Rc::new(StateCell::<T>::new(id)),
        }
    }
}

impl fmt::Debug for TypeInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypeInfo").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The concrete cell behind `cell`.
///
/// # Panics
/// If it is not of type `T`: only a broken registry could cause that.
pub(crate) fn typed_cell<T: Entity>(cell: Rc<dyn AnyCell>) -> Rc<StateCell<T>> {
    let any: Rc<dyn Any> = cell;
    any.downcast().unwrap_or_else(|_| panic!("E1: the cell of a {} is of another type", T::NAME))
}
