//! What was drawn, what was met, and what it cost.
//!
//! # Not here
//! How it is printed.

use std::collections::BTreeMap;
use std::time::Duration;

/// What the time after one entry of a timeline, or after the faults, came to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Phase {
    /// What began it.
    pub name: String,
    /// How long it took until all was as it should be.
    pub took: Duration,
    /// How long it may take.
    pub within: Duration,
    /// Nodes.
    pub nodes: usize,
    /// Views that were made.
    pub views: u64,
    /// Messages that control threads sent, for each node, and their bytes.
    pub messages: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Questions to the coordinator, for each node.
    pub asks: u64,
    /// Bytes of those and of their answers.
    pub ask_bytes: u64,
    /// The largest share of the slots of a class beside the mean, in hundredths.
    pub largest_share: u64,
}

/// What happened in one run or several.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Tally {
    /// Runs.
    pub runs: u64,
    /// Time that passed in them.
    pub virtual_nanos: u64,
    /// What was drawn, in order; of one run.
    pub drawn: Vec<String>,
    /// What happened how often, by name.
    pub counts: BTreeMap<String, u64>,
    /// Which fault met a node in which state, how often.
    pub met: BTreeMap<String, u64>,
    /// What each phase came to; of several runs the slowest.
    pub phases: Vec<Phase>,
}

impl Tally {
    /// Adds what another one counted.
    pub fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.virtual_nanos += other.virtual_nanos;
        self.drawn.clone_from(&other.drawn);
        for (into, from) in [(&mut self.counts, &other.counts), (&mut self.met, &other.met)] {
            for (name, count) in from {
                *into.entry(name.clone()).or_default() += count;
            }
        }
        for phase in &other.phases {
            match self.phases.iter_mut().find(|known| known.name == phase.name) {
                Some(known) if known.took >= phase.took => {}
                Some(known) => known.clone_from(phase),
                None => self.phases.push(phase.clone()),
            }
        }
    }

    pub(super) fn count(&mut self, name: &str, by: u64) {
        match self.counts.get_mut(name) {
            Some(count) => *count += by,
            None => drop(self.counts.insert(name.to_owned(), by)),
        }
    }

    pub(super) fn meet(&mut self, fault: &str, stage: &str) {
        *self.met.entry(format!("{fault} met {stage}")).or_default() += 1;
    }
}
