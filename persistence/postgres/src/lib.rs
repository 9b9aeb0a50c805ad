//! PostgreSQL, for what a fabric keeps outside of its nodes.
//!
//! Whatever is kept lies in the schema `epicserver`, in parts that each have a version of their own, and is told apart
//! by the name of the fabric. All of it is reached by a runtime on a thread of its own; nothing else sees that.
//!
//! # Not here
//! What the bytes say that are kept.

pub mod coordinator;
mod part;
mod server;
pub mod store;

pub use server::{Server, ServerError};
