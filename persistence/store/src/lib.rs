//! Stores: where the states of entities are kept while nobody needs them in memory.
//!
//! In:  [`Op`]   Out: [`Done`]
//!
//! Whoever opens a store has a [`Keeper`], which gives each shard a handle of its own, a [`Store`]. It is submitted to and polled
//! and never blocks, so that an execution thread can drive it. What blocks, or lives in a runtime of its own, does so on threads
//! behind a [`Near`], which make durable together what all shards have submitted meanwhile.
//!
//! # Invariants
//! - **SO1** Each op that is taken gets exactly one answer.
//! - **SO2** What is answered as saved, claimed, purged or restored is durable.
//! - **SO3** Commits and claims of one handle take effect in the order in which they were submitted, but for those that ended as
//!   [`Trouble::Unknown`]: what becomes of them may show later. A read may pass what was submitted before it and is not answered
//!   yet; it never misses what was answered before it was submitted.
//! - **SO4** Once a claim was answered, no save of an earlier owner of that slot is ever done.
//! - **SO5** A save is done as a whole or not at all, whatever crashes.
//! - **SO6** What is not what was written is never served: it is named, and harms no other row.
//! - **SO7** A handle has at most [`OPS_MAX`](limits::OPS_MAX) unanswered ops, and about
//!   [`OPS_BYTES_MAX`](limits::OPS_BYTES_MAX) in them; further ones are given back.
//!
//! # Not here
//! When to save, and what follows from an answer. What a state says. Which store a fabric has.

pub mod archive;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod lane;
pub mod memory;
mod near;
mod wake;

use std::fmt;

pub use epicserver_record::{
    Agenda, Answer, Corrupt, Done, Envelope, Flaw, Found, Kind, Name, Op, OpId, Outcome, Owner,
    Page, Range, Record, Row, Save, Slot, TooLong, Trouble, Verify, World, check, checksum, judge,
    limits,
};
pub use lane::{Door, Fit, Job, Lane, Ticket};
pub use memory::Memory;
pub use near::{Lanes, Near};
pub use wake::Wake;

/// An opened store. To drop it waits for what is being done, at the most; what its handles still wait for ends as
/// [`Trouble::Unknown`], and what they ask later as [`Trouble::Unavailable`].
pub trait Keeper: fmt::Debug + Send + Sync {
    /// What this kind of store is called, in configuration and logs.
    fn name(&self) -> &'static str;

    /// A handle of its own for whoever is woken by `wake`.
    ///
    /// # Errors
    /// [`TooMany`] if there are [`HANDLES_MAX`](limits::HANDLES_MAX) already.
    fn handle(&self, wake: Wake) -> Result<Box<dyn Store>, TooMany>;
}

/// There are too many handles.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the store has {} handles already", limits::HANDLES_MAX)]
pub struct TooMany;

/// One shard's way to a store. To drop it does not wait: what was submitted is done or not, and nobody is told.
pub trait Store: fmt::Debug + Send {
    /// Submits `op`. Does not block.
    ///
    /// # Errors
    /// Gives it back if too many wait (**SO7**): poll, or wait to be woken.
    fn submit(&mut self, id: OpId, op: Op) -> Result<(), Op>;

    /// Appends the answers that have come, in no order that means anything. Does not block. To be called when the handle's
    /// [`Wake`] was rung, which it is whenever there are answers after a poll that had left none.
    fn poll(&mut self, done: &mut Vec<Done>);

    /// Ops that are not answered.
    fn unanswered(&self) -> usize;
}
