//! What is kept of entities: the names and envelopes of rows, what a store is asked and answers, and how one decides.
//!
//! All of it is plain data and pure: a shard that saves, every store, and the simulator speak of the same things.
//!
//! # Not here
//! Where rows lie, threads, files. When to save. What a state says.

pub mod agenda;
mod envelope;
pub mod judge;
pub mod limits;
mod name;
mod op;
mod page;
mod world;

pub use agenda::Agenda;
pub use envelope::{Corrupt, Envelope, Flaw, Record, TooLong, checksum};
pub use name::{Kind, Name, Range};
pub use op::{Answer, Done, Found, Op, OpId, Outcome, Owner, Row, Save, Slot, Trouble, check};
pub use page::{Page, Verify};
pub use world::World;
