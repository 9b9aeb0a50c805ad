//! The side of Epic Server that user code touches: references, calls, syscalls, the test kit.
//!
//! User code never does I/O. It makes *syscalls* (plain data, each with a token) on the [`Desk`] of
//! whoever hosts it, and is told their answers. A shard is one host; a [`Script`] in a unit test is
//! another. Nothing here decides who may run: hosts do.
//!
//! # Not here
//! Admission, chains, timers, threads, the wire.

mod ask;
mod call;
mod cell;
mod cx;
mod desk;
mod entity;
mod envelope;
mod form;
mod message;
mod reference;
#[cfg(feature = "serde")]
mod reference_serde;
mod registry;
mod remind;
mod running;
mod saving;
mod script;
mod sync;
mod syscall;
mod tickets;
mod watch;

pub use ask::{Ask, Interval};
pub use call::Call;
pub use cell::{AnyCell, Place, StateCell};
pub use cx::{At, Cx};
pub use desk::{Desk, Entry, Gateway, Host, OnDesk, Pending, Turn, TurnId};
pub use entity::{
    Calls, Entity, EntityType, EveryTurn, Method, MethodInfo, Mode, NewState, ReadCall, Repeatable,
    Shown, TypeInfo, entity_id,
};
pub use envelope::{Caller, Envelope, Head, Pool as MethodPool, Request};
pub use form::{Form, Part, UnknownPart};
pub use message::{Coded, Message};
pub use reference::{Pool, Ref, Target};
pub use registry::{Registry, RegistryError};
pub use remind::{
    Args as RemindArgs, Reminded, Reminder, Reminding, Reminds, remind_shared, remind_turn,
};
pub use running::{Activation, ActivationFailed, AnyStarted, Running, Started, detached, run};
pub use saving::{Policy, Stored, Unreadable, Unsaved, fields_of, layout_of};
pub use script::{Asked, Run, Script};
pub use sync::{Event, Lock, LockGuard, Queue};
pub use syscall::{Answer, Due, Syscall};
pub use tickets::{Remains, Tickets, Waiter};
pub use watch::NodeWatch;
