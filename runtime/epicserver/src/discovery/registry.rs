//! The coordinator's own registry: where the nodes of views and leases say that they are.
//!
//! # Not here
//! Asking the coordinator. Whoever does hands over what it found.

use std::collections::BTreeMap;
use std::time::Instant;

use epicserver_link::Address;
use epicserver_wire::NodeId;

use super::source::{CANDIDATES_MAX, Candidate, Source};

/// The addresses of the nodes that a coordinator knows.
#[derive(Debug, Default)]
pub struct Registry {
    nodes: BTreeMap<NodeId, Vec<Address>>,
    changed: bool,
}

impl Registry {
    /// These are all the nodes that views and leases name, in place of those of before. Of more than
    /// [`CANDIDATES_MAX`] those with the smallest ids are taken.
    pub fn set(&mut self, nodes: impl IntoIterator<Item = (NodeId, Vec<Address>)>) {
        let mut nodes: BTreeMap<NodeId, Vec<Address>> = nodes.into_iter().collect();
        while nodes.len() > CANDIDATES_MAX {
            nodes.pop_last();
        }
        self.changed |= nodes != self.nodes;
        self.nodes = nodes;
    }
}

impl Source for Registry {
    fn name(&self) -> &'static str {
        "registry"
    }

    fn poll(&mut self, _: Instant) -> Option<Vec<Candidate>> {
        let candidate =
            |(node, addresses): (&NodeId, &Vec<Address>)| Candidate::node(*node, addresses.clone());
        std::mem::take(&mut self.changed).then(|| self.nodes.iter().map(candidate).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(registry: &mut Registry) -> Option<Vec<u64>> {
        let candidates = registry.poll(Instant::now())?;
        Some(candidates.iter().filter_map(|of| of.node).map(NodeId::as_u64).collect())
    }

    fn node(id: u64) -> (NodeId, Vec<Address>) {
        (NodeId::new(id), vec![Address::new("tcp", &format!("127.0.0.1:{id}"))])
    }

    #[test]
    fn what_the_coordinator_knows_is_offered_once_and_again_when_it_changes() {
        let mut registry = Registry::default();
        assert_eq!(said(&mut registry), None);
        registry.set([node(2), node(1)]);
        assert_eq!(said(&mut registry), Some(vec![1, 2]));
        registry.set([node(1), node(2)]);
        assert_eq!(said(&mut registry), None, "nothing is new");
        registry.set([node(1)]);
        registry.set([node(1)]);
        assert_eq!(said(&mut registry), Some(vec![1]));
        registry.set([(NodeId::new(1), vec![])]);
        assert_eq!(said(&mut registry), Some(vec![1]));
        registry.set([]);
        assert_eq!(said(&mut registry), Some(vec![]));
    }

    #[test]
    fn more_nodes_than_are_taken_are_left_out() {
        let mut registry = Registry::default();
        registry.set((0..=CANDIDATES_MAX as u64).map(node));
        assert_eq!(said(&mut registry).unwrap().len(), CANDIDATES_MAX);
    }
}
