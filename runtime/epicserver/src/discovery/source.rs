//! What all sources of addresses have in common.
//!
//! # Not here
//! Any source; what is done with what they offer.

use std::fmt;
use std::time::Instant;

use epicserver_link::Address;
use epicserver_wire::NodeId;

/// Candidates that are taken of one source.
pub const CANDIDATES_MAX: usize = 4096;

/// Somebody who might be a node of this fabric.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// Which node it is, where the source knows.
    pub node: Option<NodeId>,
    /// The ways to it; at most [`ADDRESSES_MAX`](super::ADDRESSES_MAX) are taken.
    pub addresses: Vec<Address>,
    /// Whether it is the one on whose account the others are there: rank 0 of a Slurm step.
    pub leads: bool,
    /// Until when it is not dialled, since there may be a better way to it.
    pub not_before: Option<Instant>,
}

impl Candidate {
    /// A node that is known by its id.
    #[must_use]
    pub fn node(node: NodeId, addresses: Vec<Address>) -> Self {
        Self { node: Some(node), addresses, leads: false, not_before: None }
    }

    /// Whoever listens there.
    #[must_use]
    pub fn at(address: Address) -> Self {
        Self { node: None, addresses: vec![address], leads: false, not_before: None }
    }
}

/// Something that knows addresses at which nodes might be.
///
/// It is polled from the control thread, some fifty times a second, so none of its methods may wait.
pub trait Source: fmt::Debug + Send {
    /// What log lines call it.
    fn name(&self) -> &'static str;

    /// Whether only those who are of the fabric can put something into it. What others may say must not hide
    /// what these do.
    fn is_trusted(&self) -> bool {
        true
    }

    /// This node can be reached there: for sources by which others find it.
    fn announce(&mut self, node: NodeId, addresses: &[Address]) {
        let _for_others = (node, addresses);
    }

    /// All that it knows now, if that differs from what it said last.
    fn poll(&mut self, now: Instant) -> Option<Vec<Candidate>>;

    /// What it has counted since the start, by name.
    fn counts(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

/// Addresses that do not change.
#[derive(Debug)]
pub struct Fixed {
    name: &'static str,
    unsaid: Option<Vec<Candidate>>,
}

impl Fixed {
    /// A source of that name, which always has these.
    #[must_use]
    pub fn new(name: &'static str, addresses: impl IntoIterator<Item = Address>) -> Self {
        Self { name, unsaid: Some(addresses.into_iter().map(Candidate::at).collect()) }
    }
}

impl Source for Fixed {
    fn name(&self) -> &'static str {
        self.name
    }

    fn poll(&mut self, _: Instant) -> Option<Vec<Candidate>> {
        self.unsaid.take()
    }
}
