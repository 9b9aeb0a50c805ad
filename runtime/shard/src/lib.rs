//! The thread-per-core host of Epic Server's shards: pinned threads, rings, parking.
//!
//! `cpus` says which CPUs are ours and claims them, `ring` carries messages from one thread to
//! another, `park` puts a thread to sleep without losing a message, `idle` says when to; `host`
//! starts a thread for each shard and runs its loop.
//!
//! # Not here
//! Any protocol. Those are pure and live under `fabric/`.

pub mod cpus;
#[cfg(not(loom))]
mod depot;
#[cfg(not(loom))]
pub mod driver;
#[cfg(not(loom))]
mod host;
pub mod idle;
#[cfg(not(loom))]
mod inlet;
#[cfg(not(loom))]
mod io;
pub mod park;
#[expect(unsafe_code, reason = "a slot is written by one core and read by another without a lock")]
pub mod ring;
mod sync;
#[cfg(not(loom))]
mod telling;
#[cfg(not(loom))]
mod worker;

#[cfg(not(loom))]
pub use epicserver_node::RootTask;
#[cfg(not(loom))]
pub use host::{Host, Options, StartError, StopOnPanic};
#[cfg(not(loom))]
pub use inlet::Inlets;
#[cfg(not(loom))]
pub use io::{IoError, IoMode, IoOptions, MakeTransports, Order, Report, Wires};
#[cfg(not(loom))]
pub use telling::Told;
#[cfg(not(loom))]
pub use worker::now;
