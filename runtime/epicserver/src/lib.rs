//! Virtual actors for machines that must talk fast.
//!
//! Epic Server runs *entities*: values that are addressed by type and key, need no explicit
//! creation, are alive in one place at a time, and leave memory when idle. A call to an entity
//! looks like a method call. User code is ordinary async Rust in which the signature of a method
//! states how it shares its entity:
//!
//! | signature | means |
//! | --- | --- |
//! | `fn f(&self)`, `fn f(&mut self)` | one turn: nothing can come between |
//! | `async fn f(cx: Cx<Self>)` | other methods run at each `.await`; state by `cx.with` |
//! | `#[exclusive] async fn f(&mut self)` | no other method runs until it returns |
//!
//! ```
//! use epicserver::prelude::*;
//!
//! #[entity]
//! #[derive(Default)]
//! pub struct Counter { count: u64 }
//!
//! #[entity]
//! impl Counter {
//!     pub fn add(&mut self, by: u64) -> u64 { self.count += by; self.count }
//! }
//!
//! #[epicserver::main(entities(Counter))]
//! async fn setup(pool: Pool) -> Result<()> {
//!     let counter = pool.get::<Counter>("visits");
//!     counter.add(1).await?;
//!     assert_eq!(counter.add(2).await?, 3);
//!     Ok(())
//! }
//! ```
//!
//! A program made by [`main`](macro@main) is a node with one pinned execution thread a core.
//! [`Node::builder`] embeds one in any other program, and a [`Client`] calls its entities from any
//! thread, those of tokio included. [`Script`] tests an entity's methods with no runtime at all.
//!
//! # Not here
//! Stores: in this version, what is collected is forgotten.

mod client;
pub mod config;
#[doc(hidden)]
pub mod discovery;
mod doctor;
mod fabric;
mod golden;
mod node;
mod program;
mod store;

pub use client::Client;
pub use config::Config;
pub use epicserver_entity::{
    Answer, Ask, Asked, At, Call, Cx, Due, Event, Interval, Lock, LockGuard, Message, Pool, Queue,
    Ref, Registry, RegistryError, Reminder, Reminding, Request, Run, Script, Syscall,
};
/// ```
/// use epicserver::prelude::*;
///
/// #[entity]
/// #[derive(Default)]
/// pub struct Counter { count: u64 }
///
/// #[entity]
/// impl Counter {
///     pub fn add(&mut self) -> u64 { self.count += 1; self.count }
/// }
///
/// #[epicserver::test(entities(Counter), nodes = 4, seeds = 100, faults(crash, leave))]
/// async fn no_call_counts_twice(pool: Pool) {
///     let counter = pool.get::<Counter>("visits");
///     for made in 1..=20 {
///         match counter.add().await {
///             // Less, where the counter has begun anew on another node.
///             Ok(count) => assert!(count <= made),
///             Err(error) => assert_eq!(error.kind(), ErrorKind::NodeLost),
///         }
///     }
/// }
/// ```
#[cfg(feature = "test")]
pub use epicserver_macros::test;
pub use epicserver_macros::{
    activate, deactivate, entity, exclusive, loaded, main, memory, message, reminded,
};
pub use epicserver_shard::StartError;
pub use epicserver_shard::idle::Mode as IdleMode;
pub use epicserver_wire::uuid::Uuid;
pub use epicserver_wire::view::View;
pub use epicserver_wire::{
    CallError, ChainId, EntityId, ErrorKind, NodeId, Progress, Ran, Time, limits,
};
pub use fabric::FabricError;
pub use golden::golden;
pub use node::{Builder, Node, NodeError};
pub use store::StoreError;

/// The result of a call, or of anything that makes calls.
pub type Result<T, E = CallError> = std::result::Result<T, E>;

/// What a program needs: `use epicserver::prelude::*;`.
pub mod prelude {
    pub use crate::{
        At, CallError, Client, Cx, ErrorKind, Node, Pool, Ran, Ref, Reminder, Result, Uuid, View,
        activate, deactivate, entity, exclusive, loaded, memory, message, reminded,
    };
}

/// What generated code names. Not for anybody else: it changes without notice.
#[doc(hidden)]
pub mod __private {
    pub use epicserver_entity::*;
    #[cfg(feature = "test")]
    pub use epicserver_sim::{TestFault, TestOptions, test};
    pub use epicserver_wire::{self as wire, rkyv};
    #[cfg(feature = "serde")]
    pub use serde;

    pub use crate::program::{Outcome, epic, main};

    /// What `#[entity(serde)]` shows its states by.
    #[cfg(feature = "serde")]
    pub fn to_json<T: serde::Serialize>(state: &T) -> Shown {
        serde_json::to_string(state).map_err(|error| error.to_string())
    }
}
