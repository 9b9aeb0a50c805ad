//! When a state is saved, and how one that was saved is read again.
//!
//! # Invariants
//! - **E8** A state is read only as what it was written as: of the schema version and the layout that its reader knows.
//!
//! # Not here
//! Where states are kept, and who decides that one is written now.

use std::time::Duration;

use epicserver_wire::form_hash;

use crate::entity::EntityType;
use crate::form::Form;
use crate::message::Message;

/// When a changed state is saved. Whatever the policy but [`Never`](Self::Never), what has changed is saved when the
/// activation is collected, its slot goes to another node, or the node stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// Durable within `lag` of the change, or of the end of the exclusive section that made it. Calls do not wait.
    WriteBehind {
        /// How long.
        lag: Duration,
    },
    /// Each reply waits until the state that its method has seen is durable.
    EveryTurn,
    /// When the entity asks for it by `save`.
    Manual,
    /// Not at all: a new activation begins anew.
    Never,
}

impl Policy {
    /// That of a type that says nothing: write-behind within a second.
    pub const DEFAULT: Self = Self::WriteBehind { lag: Duration::from_secs(1) };
}

/// Why a stored state was not read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Unreadable {
    /// It is of a schema version that this program does not know.
    Schema {
        /// Which.
        stored: u32,
        /// That of the type.
        known: u32,
    },
    /// Its schema version is known, but had other fields when it was written: the type was changed without a new one.
    Layout {
        /// Which version.
        schema: u32,
    },
    /// It is not a value of its type.
    Malformed,
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Schema { stored, known } => {
                write!(f, "it has schema version {stored}, and this program reads up to {known}")
            }
            Self::Layout { schema } => write!(
                f,
                "its fields are not those of schema version {schema}: give the changed type a new version"
            ),
            Self::Malformed => f.write_str("it is not a value of its type"),
        }
    }
}

impl std::error::Error for Unreadable {}

/// A state as it was stored.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    /// The version of its type's schema.
    pub schema: u32,
    /// The hash of the fields that the type had.
    pub layout: u64,
    /// That of the fields that it has now.
    pub known: u64,
    /// Its bytes.
    pub payload: &'a [u8],
}

impl Stored<'_> {
    /// Reads it as the type is now.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn current<T: EntityType>(&self) -> Result<T, Unreadable> {
        if self.schema != T::SCHEMA {
            return Err(Unreadable::Schema { stored: self.schema, known: T::SCHEMA });
        }
        self.check(self.known)?;
        T::decode(self.payload).map_err(|_| Unreadable::Malformed)
    }

    /// Reads it as `T`, which the type was once.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn older<T: Message>(&self) -> Result<T, Unreadable> {
        self.check(layout_of(T::form))?;
        T::decode(self.payload).map_err(|_| Unreadable::Malformed)
    }

    fn check(&self, layout: u64) -> Result<(), Unreadable> {
        if self.layout == layout {
            return Ok(());
        }
        Err(Unreadable::Layout { schema: self.schema })
    }
}

/// The hash of what a state is made of, whatever its type and those in it are called.
#[must_use]
pub fn layout_of(form: fn(&mut Form)) -> u64 {
    form_hash(&fields_of(form))
}

/// The same to be read.
#[must_use]
pub fn fields_of(form: fn(&mut Form)) -> String {
    Form::bare_by(form)
}

/// Why a state was not written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unsaved {
    /// An exclusive section has it.
    Held,
    /// There is none.
    Nothing,
    /// A hand-written implementation refuses to be written.
    Malformed,
    /// What makes an earlier version of it has panicked.
    Panicked,
}
