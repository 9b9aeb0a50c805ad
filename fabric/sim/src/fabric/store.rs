//! A store that refuses the writes of older owners.
//!
//! # Not here
//! What is written.

use epicserver_wire::NodeId;

use crate::mutant::Mutant;

/// The newest owner of a slot that the store knows.
#[derive(Clone, Copy, Default)]
struct Fence {
    epoch: u64,
    node: u64,
}

/// What comes of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Written {
    Accepted,
    Refused,
    /// It was accepted, though a newer owner is known.
    Wrong,
}

pub(super) struct Store {
    fences: Vec<Fence>,
    mutant: Option<Mutant>,
}

impl Store {
    pub(super) fn new(places: usize, mutant: Option<Mutant>) -> Self {
        Self { fences: vec![Fence::default(); places], mutant }
    }

    /// The owner of a slot claims it before it loads anything. Says whether it is the newest.
    pub(super) fn claim(&mut self, place: usize, epoch: u64, node: NodeId) -> bool {
        let fence = &mut self.fences[place];
        let same = fence.epoch == epoch && fence.node == node.as_u64();
        if epoch > fence.epoch {
            *fence = Fence { epoch, node: node.as_u64() };
        }
        same || fence.epoch == epoch && fence.node == node.as_u64()
    }

    pub(super) fn write(&mut self, place: usize, epoch: u64, node: NodeId) -> Written {
        let fence = self.fences[place];
        if fence.epoch == epoch && fence.node == node.as_u64() {
            Written::Accepted
        } else if self.mutant == Some(Mutant::NoStoreFence) {
            Written::Wrong
        } else {
            Written::Refused
        }
    }
}
