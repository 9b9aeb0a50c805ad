//! The network between hosts: delay, loss, copies, and cuts that a message in one or both ways does not cross.
//!
//! # Not here
//! What is said.

use std::time::Duration;

use epicserver_wire::Time;

use super::scenario::{Net as Bounds, millis};
use crate::rng::Rng;

/// Hosts that cannot be reached by others for a while.
#[derive(Clone, Debug)]
pub(super) struct Cut {
    /// On which side each host is.
    pub(super) there: Vec<bool>,
    pub(super) one_way: bool,
    pub(super) until: Time,
}

impl Cut {
    fn stops(&self, from: usize, to: usize) -> bool {
        self.there[from] != self.there[to] && (!self.one_way || self.there[from])
    }
}

pub(super) struct Net {
    bounds: Bounds,
    rng: Rng,
    cuts: Vec<Cut>,
}

const SLOW: Duration = Duration::from_secs(1);

impl Net {
    pub(super) fn new(bounds: Bounds, rng: Rng) -> Self {
        Self { bounds, rng, cuts: Vec::new() }
    }

    pub(super) fn cut(&mut self, cut: Cut) {
        self.cuts.push(cut);
    }

    /// Nothing goes wrong any more.
    pub(super) fn calm(&mut self) {
        self.cuts.clear();
        self.bounds = Bounds { lost: 0.0, twice: 0.0, slow: 0.0, ..self.bounds };
    }

    /// When a message arrives; never, once or twice.
    pub(super) fn arrivals(&mut self, now: Time, from: usize, to: usize) -> [Option<Time>; 2] {
        self.cuts.retain(|cut| cut.until > now);
        if self.cuts.iter().any(|cut| cut.stops(from, to)) || self.rng.chance(self.bounds.lost) {
            return [None, None];
        }
        let first = now + self.delay();
        let second = self.rng.chance(self.bounds.twice).then(|| now + self.delay() + self.delay());
        [Some(first), second]
    }

    fn delay(&mut self) -> Duration {
        let usual = self.rng.up_to(millis(self.bounds.delay_ms));
        if self.rng.chance(self.bounds.slow) { usual + self.rng.up_to(SLOW) } else { usual }
    }
}
