//! The deterministic simulator of Epic Server: a whole fabric from one seed.
//!
//! The shards are those of the runtime ([`epicserver_node::Shard`]); clock, queues and scheduling
//! are ours and follow from one number. A run that fails is repeated by its seed.
//!
//! The network alone, [`net`], is of use without a world: whatever runs on links can run on its lines.
//!
//! # Invariants
//! - **S1** A run is a function of its seed and mutant: the same trace every time (`same_trace`).
//! - **S2** Checkers only look: no run goes another way because it is checked.
//!
//! # Not here
//! Disks: stores have suites of their own, with power losses. What a world has is what all of them promise (`store`).

mod book;
mod fabric;
mod knot;
mod log;
mod mutant;
pub mod net;
mod plane;
mod post;
mod program;

mod rng;
mod run;
mod seed;
mod store;
mod storm;
mod trouble;
mod world;

pub use fabric::{FabricTrial, Phase, Scenario, ScenarioError, Tally, check_fabric, run_fabric};
pub use log::{Stats, Violation};
pub use mutant::Mutant;
pub use program::{TestOptions, TestOutcome, test};

pub use run::{Trial, check, replay_line, run};
pub use seed::fresh_seed;
pub use trouble::{NODES_MAX, SHARDS_MAX, TestFault};

/// What the code of the built-in entities names, as that of users names the façade's.
#[doc(hidden)]
pub mod __private {
    pub use epicserver_entity::*;
    pub use epicserver_wire::{self as wire, rkyv};
}

#[cfg(test)]
mod for_tests {
    pub(crate) use crate::{TestOptions, test};
}
