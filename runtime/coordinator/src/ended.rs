//! Ended nodes: whose leases were ended or released, and who so never gets one again.
//!
//! # Invariants
//! - **EN1** The last [`ENDED_MAX`] that were added are there, each once.
//!
//! # Not here
//! Where they are kept.

use epicserver_wire::NodeId;

use crate::ENDED_MAX;

/// Bytes that a node takes where this is stored.
const NODE_BYTES: usize = 8;

/// The nodes that ended last (**EN1**).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ended(Vec<NodeId>);

impl Ended {
    /// Whether `node` is among them.
    #[must_use]
    pub fn contains(&self, node: NodeId) -> bool {
        self.0.contains(&node)
    }

    /// Adds `nodes`, and forgets the oldest ones beyond the bound.
    pub fn extend(&mut self, nodes: impl IntoIterator<Item = NodeId>) {
        for node in nodes {
            if !self.contains(node) {
                self.0.push(node);
            }
        }
        self.0.drain(..self.0.len().saturating_sub(ENDED_MAX));
    }

    #[cfg(test)]
    pub(crate) fn forget(&mut self, node: NodeId) {
        self.0.retain(|there| *there != node);
    }

    /// All of them, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = NodeId> {
        self.0.iter().copied()
    }

    /// The bytes by which they are stored, 8 for each.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.iter().flat_map(|node| node.as_u64().to_le_bytes()).collect()
    }

    /// What was stored as `bytes`; `None` if that is none of this.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (nodes, rest) = bytes.as_chunks::<NODE_BYTES>();
        let sound = rest.is_empty() && nodes.len() <= ENDED_MAX;
        let nodes = nodes.iter().map(|node| NodeId::new(u64::from_le_bytes(*node)));
        sound.then(|| Self(nodes.collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten_beyond_the_bound() {
        let most = u64::try_from(ENDED_MAX).unwrap();
        let mut ended = Ended::default();
        ended.extend((0..most + 2).map(NodeId::new));
        ended.extend([NodeId::new(2)]);
        assert!(!ended.contains(NodeId::new(1)));
        assert!(ended.contains(NodeId::new(2)));
        assert_eq!(ended.iter().count(), ENDED_MAX, "EN1: one that is there is not added again");
        assert_eq!(Ended::from_bytes(&ended.to_bytes()), Some(ended));
    }

    #[test]
    fn bytes_that_are_none_are_refused() {
        assert_eq!(Ended::from_bytes(&[1; 7]), None);
        assert_eq!(Ended::from_bytes(&vec![0; (ENDED_MAX + 1) * NODE_BYTES]), None);
    }
}
