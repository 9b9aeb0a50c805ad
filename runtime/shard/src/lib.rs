//! The thread-per-core host of Epic Server's shards: pinned threads, rings, parking.
//!
//! `cpus` says which CPUs are ours and claims them, `ring` carries messages from one thread to
//! another, `park` puts a thread to sleep without losing a message, `idle` says when to.
//!
//! # Not here
//! Any protocol. Those are pure and live under `fabric/`.

pub mod cpus;
pub mod idle;
pub mod park;
#[expect(unsafe_code, reason = "a slot is written by one core and read by another without a lock")]
pub mod ring;
mod sync;
