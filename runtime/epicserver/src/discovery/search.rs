//! Whom to dial: what all sources offer, without those who are linked already.
//!
//! In: candidates of sources, what became of links and dials   Out: addresses to be dialled now
//!
//! # Invariants
//! - **FA1** Of two nodes that find each other by their ids, the one with the smaller id dials; the other one
//!   only after [`PATIENCE`], for it may be the only one that has found the other.
//! - **FA9** Nobody to whom there is a link is dialled, nor this node itself, as far as it is known whose an
//!   address is; and of one node only one address at a time.
//! - **FA10** What a source says that is not trusted hides nothing that others say.
//!
//! # Not here
//! When a node may be dialled again: that is `dials`. Which of a node's addresses is its best. Dialling.

mod dials;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use epicserver_link::Address;
use epicserver_proto::link::Refusal;
use epicserver_wire::NodeId;

use super::ADDRESSES_MAX;
use super::source::{CANDIDATES_MAX, Candidate, Source};
use dials::{Dials, REDIAL};

/// How long the node with the larger id waits for the other one to dial.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// How long the node that leads may be gone before the others have no reason to be there.
pub const LEADER_GRACE: Duration = Duration::from_secs(30);
/// How long they wait for it to come at all.
pub const LEADER_AWAITED: Duration = Duration::from_secs(300);

/// What was sought and found, since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SearchCounts {
    /// Addresses that are offered now.
    pub offered: u64,
    /// Dials.
    pub dialled: u64,
    /// Dials that have led to a node of the fabric.
    pub linked: u64,
    /// Dials that have led to nobody.
    pub unreachable: u64,
    /// Dials that have led to somebody who is not wanted, or does not want this node.
    pub refused: u64,
    /// Candidates and addresses beyond [`CANDIDATES_MAX`] and [`ADDRESSES_MAX`].
    pub beyond: u64,
}

/// What one source said last.
#[derive(Debug)]
struct Heard {
    name: &'static str,
    trusted: bool,
    candidates: Vec<Candidate>,
}

/// The search for the nodes of a fabric.
#[derive(Debug)]
pub struct Search {
    me: NodeId,
    sources: Vec<Box<dyn Source>>,
    /// What each source said last, in the order in which it counts.
    heard: Vec<Heard>,
    linked: BTreeSet<NodeId>,
    /// Whose an address is, as nodes have proved and trusted sources say (**FA10**).
    whose: BTreeMap<Address, NodeId>,
    /// Since when others are waited for (**FA1**).
    awaited: BTreeMap<NodeId, Instant>,
    dials: Dials,
    /// When the candidates were gone through last, if somebody was missing then.
    missing: Option<Instant>,
    leader: Leader,
    counts: SearchCounts,
}

/// What became of the node that leads.
#[derive(Debug, Default)]
struct Leader {
    /// Whether it was ever linked.
    came: bool,
    left: bool,
    /// Since when it should be linked and is not.
    missing: Option<Instant>,
}

impl Search {
    /// A search on behalf of the node `me`, by `sources` and by what else it will hear.
    #[must_use]
    pub fn new(me: NodeId, sources: Vec<Box<dyn Source>>) -> Self {
        Self {
            me,
            sources,
            heard: Vec::new(),
            linked: BTreeSet::new(),
            whose: BTreeMap::new(),
            awaited: BTreeMap::new(),
            dials: Dials::new(me.as_u64()),
            missing: None,
            leader: Leader::default(),
            counts: SearchCounts::default(),
        }
    }

    /// This node listens there: others shall know, and it does not dial itself.
    pub fn listening(&mut self, addresses: &[Address]) {
        self.whose.extend(addresses.iter().map(|address| (address.clone(), self.me)));
        for source in &mut self.sources {
            source.announce(self.me, addresses);
        }
    }

    /// This node, which listens at `addresses`, is another one from now on, and has no links yet.
    pub fn is_now(&mut self, me: NodeId, addresses: &[Address]) {
        self.me = me;
        self.linked.clear();
        self.listening(addresses);
    }

    /// Asks every source that was given at the start. Says whether it is time for [`due`](Self::due).
    pub fn poll(&mut self, now: Instant) -> bool {
        let mut sources = std::mem::take(&mut self.sources);
        let mut changed = false;
        for source in &mut sources {
            changed |= self.ask(source.as_mut(), now);
        }
        self.sources = sources;
        changed || self.missing.is_some_and(|looked| now.duration_since(looked) >= REDIAL)
    }

    /// Asks one source. Says whether it had something to say.
    pub fn ask(&mut self, source: &mut dyn Source, now: Instant) -> bool {
        let Some(candidates) = source.poll(now) else { return false };
        self.hear(source.name(), source.is_trusted(), candidates);
        true
    }

    /// The source of that name has these candidates now, and no others. What is trusted is as for
    /// [`Source::is_trusted`].
    pub fn hear(&mut self, name: &'static str, trusted: bool, mut candidates: Vec<Candidate>) {
        let known = self.heard.iter().position(|heard| heard.name == name);
        if known.is_some_and(|at| self.heard[at].candidates == candidates) {
            return;
        }
        let beyond = candidates.len().saturating_sub(CANDIDATES_MAX);
        candidates.truncate(CANDIDATES_MAX);
        self.counts.beyond += beyond as u64;
        for candidate in &mut candidates {
            let beyond = candidate.addresses.len().saturating_sub(ADDRESSES_MAX);
            candidate.addresses.truncate(ADDRESSES_MAX);
            self.counts.beyond += beyond as u64;
        }
        tracing::debug!(source = name, candidates = candidates.len(), "nodes that might be there");
        match known {
            Some(at) => self.heard[at].candidates = candidates,
            None => self.heard.push(Heard { name, trusted, candidates }),
        }
        // FA10: what others say comes after what the fabric's own people do.
        self.heard.sort_by_key(|heard| !heard.trusted);
        self.learn();
    }

    /// Keeps what is known of addresses to those that are of use.
    fn learn(&mut self) {
        let offered = || self.heard.iter().flat_map(|heard| &heard.candidates);
        let used: BTreeSet<&Address> = offered().flat_map(|of| &of.addresses).collect();
        self.counts.offered = used.len() as u64;
        let known = |node: &NodeId| *node == self.me || self.linked.contains(node);
        self.whose.retain(|address, node| used.contains(address) || known(node));
        let named: BTreeSet<NodeId> = offered().filter_map(|of| of.node).collect();
        self.awaited.retain(|node, _| named.contains(node));
        for heard in self.heard.iter().filter(|heard| heard.trusted) {
            for candidate in &heard.candidates {
                let Some(node) = candidate.node else { continue };
                let own = candidate.addresses.iter().map(|address| (address.clone(), node));
                self.whose.extend(own);
            }
        }
    }

    /// The addresses that are to be dialled now, which then count as being dialled. `best` picks one of those
    /// of one node, or none.
    pub fn due(
        &mut self,
        now: Instant,
        mut best: impl FnMut(&[Address]) -> Option<Address>,
    ) -> Vec<Address> {
        self.dials.prune(now);
        let heard = std::mem::take(&mut self.heard);
        let mut due = Vec::new();
        let mut missing = false;
        let mut reached = self.dials.nodes();
        for Heard { name, candidates, .. } in &heard {
            for candidate in candidates {
                let node = self.node_of(candidate);
                if node.is_some_and(|node| node == self.me || self.linked.contains(&node)) {
                    continue;
                }
                missing = true;
                // FA1, FA9.
                let waits = candidate.not_before.is_some_and(|time| now < time)
                    || candidate.node.is_some_and(|node| self.is_awaited(node, now))
                    || node.is_some_and(|node| reached.contains(&node));
                let address = if waits { None } else { best(&candidate.addresses) };
                let may = |address: &Address| self.dials.may_begin(address, name, now);
                if let Some(address) = address.filter(may) {
                    self.dials.begin(address.clone(), (name, node), now);
                    reached.extend(node);
                    due.push(address);
                }
            }
        }
        self.heard = heard;
        self.follow_leader(now);
        self.missing = missing.then_some(now);
        self.counts.dialled += due.len() as u64;
        due
    }

    /// Which node a candidate is, if that is known.
    fn node_of(&self, candidate: &Candidate) -> Option<NodeId> {
        let whose = || candidate.addresses.iter().find_map(|address| self.whose.get(address));
        candidate.node.or_else(|| whose().copied())
    }

    /// Whether it is for `node` to dial this one, and it still may (**FA1**).
    fn is_awaited(&mut self, node: NodeId, now: Instant) -> bool {
        if self.me < node {
            return false;
        }
        let since = *self.awaited.entry(node).or_insert(now);
        now.duration_since(since) < PATIENCE
    }

    /// There is a link to `node`, for which this node has dialled the address, or the other one has.
    pub fn linked(&mut self, node: NodeId, dialled: Option<&Address>, now: Instant) {
        self.linked.insert(node);
        self.awaited.remove(&node);
        if let Some(address) = dialled {
            self.dials.succeeded(address, now);
            self.whose.insert(address.clone(), node);
            self.counts.linked += 1;
        }
        self.follow_leader(now);
    }

    /// The link to `node` is gone; it said goodbye if it has `left`.
    pub fn unlinked(&mut self, node: NodeId, left: bool, now: Instant) {
        self.linked.remove(&node);
        self.dials.node_lost(now);
        self.leader.left |= left && self.leader() == Some(node);
        self.follow_leader(now);
    }

    /// An address was dialled in vain; `refused` if it has led to somebody.
    pub fn unreachable(&mut self, address: &Address, refused: Option<Refusal>, now: Instant) {
        match refused {
            Some(_) => self.counts.refused += 1,
            None => self.counts.unreachable += 1,
        }
        let Some(failure) = self.dials.failed(address, refused, now) else { return };
        let source = failure.source;
        if !failure.news {
            tracing::debug!(%address, source, ?refused, "dialled in vain");
        } else if let Some(why @ (Refusal::Fabric | Refusal::Key | Refusal::Version)) = refused {
            tracing::warn!(%address, source, %why, "an address leads to a stranger; it is tried rarely");
        } else if let Some(why) = refused {
            tracing::debug!(%address, source, %why, "an address leads to nobody who is missing");
        } else {
            tracing::info!(%address, source, "nobody is reached there yet; it is tried again");
        }
    }

    /// Whether there is a link to `node`.
    #[must_use]
    pub fn is_linked(&self, node: NodeId) -> bool {
        self.linked.contains(&node)
    }

    fn leading(&self) -> impl Iterator<Item = &Candidate> {
        let candidates = self.heard.iter().flat_map(|heard| &heard.candidates);
        candidates.filter(|candidate| candidate.leads)
    }

    /// The node that leads, once it is known which that is.
    fn leader(&self) -> Option<NodeId> {
        self.leading().find_map(|candidate| self.node_of(candidate))
    }

    /// Notes whether the node that leads is there.
    fn follow_leader(&mut self, now: Instant) {
        if self.leader().is_some_and(|node| self.linked.contains(&node)) {
            self.leader = Leader { came: true, missing: None, ..self.leader };
        } else if self.leading().next().is_some() {
            self.leader.missing.get_or_insert(now);
        }
    }

    /// Whether the node on whose account this one is there has left, was lost for [`LEADER_GRACE`], or did
    /// not come for [`LEADER_AWAITED`].
    #[must_use]
    pub fn is_job_over(&self, now: Instant) -> bool {
        let patience = if self.leader.came { LEADER_GRACE } else { LEADER_AWAITED };
        let missing = |since: Instant| now.duration_since(since) >= patience;
        self.leader.left || self.leader.missing.is_some_and(missing)
    }

    /// What each source that was given at the start has counted: the source, what, how often.
    #[must_use]
    pub fn source_counts(&self) -> Vec<(&'static str, &'static str, u64)> {
        let mut counts = Vec::new();
        for source in &self.sources {
            let named =
                source.counts().into_iter().map(|(what, count)| (source.name(), what, count));
            counts.extend(named);
        }
        counts
    }

    /// What was sought and found.
    #[must_use]
    pub fn counts(&self) -> SearchCounts {
        self.counts
    }
}
