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
mod lines;
pub mod link;
mod ownership;
pub mod passage;
pub mod session;
mod slab;
pub mod spares;
mod suspicion;
mod tenure;
mod trail;
pub mod transfers;
pub mod view;
pub mod wheel;

pub use activations::{Activations, Admission, NoRoom, Open, Seen, Waiting};
pub use atlas::Atlas;
pub use directory::{Directory, SLOTS};
pub use lines::Lines;
pub use ownership::{Epoch, Ownership, Site, SlotId, Standing};
pub use slab::Slab;
pub use tenure::Tenure;
pub use trail::{Lost, STEPS_MAX, Trail};
