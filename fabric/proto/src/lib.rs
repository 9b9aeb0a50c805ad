//! Pure decision machines: who may run on which activation, who is collected, what time it is for.
//!
//! # Not here
//! User code, futures, messages' contents, clocks: machines see ids, paths and times.

mod activations;
mod directory;
pub mod link;
pub mod session;
mod slab;
pub mod spares;
pub mod transfers;
pub mod wheel;

pub use activations::{Activations, Admission, NoRoom, Waiting};
pub use directory::{Directory, SLOTS};
pub use slab::Slab;
