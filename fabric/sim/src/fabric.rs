//! The control plane of whole fabrics, from one seed: the control machines of many nodes, their coordinator, their
//! network and clocks, a store, and shards as far as they hold slots.
//!
//! A scenario is a file: so many nodes, what goes wrong for a while, what happens at which time, and how soon
//! everything has to be as it should be again. First safety is looked at under faults; then the faults end, and the
//! fabric has to come to rest within a stated time.
//!
//! # Invariants
//! - **SF1** A run is a function of scenario, seed and mutant.
//! - **SF2** Checkers only look.
//!
//! # Not here
//! Calls and turns: those of real shards are simulated by `world`.

mod check;
mod clock;
mod coordinator;
mod faults;
mod fleet;
mod host;
mod net;
mod queue;
mod scenario;
mod store;
mod tally;
#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use scenario::{Scenario, ScenarioError};
pub use tally::{Phase, Tally};

use crate::log::Violation;
use crate::mutant::Mutant;
use crate::run::text_of;
use fleet::Fleet;

/// How one seed of a scenario went.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FabricTrial {
    /// What happened.
    pub tally: Tally,
    /// The run as one number.
    pub trace: u64,
    /// What a checker found, if one did.
    pub violation: Option<Violation>,
}

/// Runs `scenario` once, with all checkers.
#[must_use]
pub fn run_fabric(scenario: &Scenario, seed: u64, mutant: Option<Mutant>) -> FabricTrial {
    let mut fleet = Fleet::new(scenario, seed, mutant);
    let panic = catch_unwind(AssertUnwindSafe(|| fleet.run())).err();
    let what = panic.map(|panic| text_of(&*panic));
    let violation = fleet.take_violation();
    let violation = violation.or_else(|| what.map(|what| Violation { checker: "assertion", what }));
    FabricTrial { trace: fleet.trace(), violation, tally: fleet.into_tally() }
}

/// The same twice, which has to go the same way both times.
#[must_use]
pub fn check_fabric(scenario: &Scenario, seed: u64, mutant: Option<Mutant>) -> FabricTrial {
    let mut first = run_fabric(scenario, seed, mutant);
    let again = run_fabric(scenario, seed, mutant);
    if first.trace != again.trace || first.violation != again.violation {
        let what = format!("the traces are {:016x} and {:016x}", first.trace, again.trace);
        first.violation = Some(Violation { checker: "same_trace", what });
    }
    first
}
