//! The checkers of a fabric.
//!
//! `past_no_lease` (I1): no turn runs after the lease of its node has expired or ended by the coordinator's clock.
//! `one_owner`: no two nodes hold a slot while both may run turns.
//! `epochs_grow`: the epochs under which a slot has turns only grow, and each is of one node.
//! `store_fence` (I2): the store accepts nothing of an older owner once it knows a newer one.
//! `one_view`: of each number there is one view.
//! `convergence`: in time after the faults all nodes go by one view without a history, and serve all slots.
//! `leaves`: who is told to leave has left in time.
//!
//! # Not here
//! `same_trace`: it takes two runs.

use epicserver_wire::NodeId;

use crate::log::Violation;

/// Who holds a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Held {
    pub(super) host: u32,
    /// How many of its shards do.
    pub(super) shards: u16,
    pub(super) epoch: u64,
}

/// What the checkers know.
pub(super) struct Check {
    /// By place: class and slot.
    holders: Vec<Vec<Held>>,
    /// The last owner that had a turn.
    last: Vec<(u64, u64)>,
    pub(super) violation: Option<Violation>,
}

impl Check {
    pub(super) fn new(places: usize) -> Self {
        Self { holders: vec![Vec::new(); places], last: vec![(0, 0); places], violation: None }
    }

    pub(super) fn violate(&mut self, checker: &'static str, what: String) {
        self.violation.get_or_insert(Violation { checker, what });
    }

    pub(super) fn holders(&self, place: usize) -> &[Held] {
        &self.holders[place]
    }

    /// A shard of `host` begins to serve. Says whether it is the first of its host.
    pub(super) fn begin(&mut self, place: usize, host: usize, epoch: u64) -> bool {
        let host = u32::try_from(host).unwrap_or(u32::MAX);
        let holders = &mut self.holders[place];
        if let Some(held) = holders.iter_mut().find(|held| held.host == host) {
            held.shards += 1;
            held.epoch = held.epoch.max(epoch);
            return false;
        }
        holders.push(Held { host, shards: 1, epoch });
        true
    }

    /// A shard of `host` holds nothing of it any more.
    pub(super) fn cease(&mut self, place: usize, host: usize) {
        let holders = &mut self.holders[place];
        if let Some(at) = holders.iter().position(|held| held.host as usize == host) {
            holders[at].shards -= 1;
            if holders[at].shards == 0 {
                holders.swap_remove(at);
            }
        }
    }

    /// `host` is over.
    pub(super) fn drop_host(&mut self, host: usize) {
        for holders in &mut self.holders {
            if !holders.is_empty() {
                holders.retain(|held| held.host as usize != host);
            }
        }
    }

    /// A turn runs in `epoch` of `node`.
    pub(super) fn turn(&mut self, place: usize, epoch: u64, node: NodeId) {
        let (last, by) = self.last[place];
        if epoch < last || epoch == last && by != node.as_u64() {
            let what = format!(
                "{node} runs a turn on place {place} in epoch {epoch}, after {by:016x} in epoch {last}"
            );
            self.violate("epochs_grow", what);
        }
        self.last[place] = (epoch, node.as_u64());
    }
}
