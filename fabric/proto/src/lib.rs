//! Pure decision machines: who may run on which activation, who is collected, who owns what, what time it is for.
//!
//! # Not here
//! User code, futures, messages' contents, clocks: machines see ids, paths and times.

mod activations;
mod atlas;
pub mod control;
pub mod coordinator;
mod directory;
mod draw;
mod fields;
pub mod link;
mod ownership;
pub mod session;
mod slab;
pub mod spares;
mod suspicion;
pub mod transfers;
pub mod view;
pub mod wheel;

pub use activations::{Activations, Admission, NoRoom, Waiting};
pub use atlas::Atlas;
pub use directory::{Directory, SLOTS};
pub use ownership::{Epoch, Ownership, Standing};
pub use slab::Slab;
