//! Known nodes: those of which a handle has said that they are renewed.
//!
//! # Not here
//! Why that matters: **CN4**, in the head of the crate.

use std::collections::VecDeque;

use epicserver_wire::NodeId;

/// Nodes that one handle knows. A process is one node after another, seldom more than a few in its life.
const KNOWN_MAX: usize = 64;

/// The nodes that one handle has renewed, the last ones of them (**CN4**).
#[derive(Debug, Default)]
pub struct Known(VecDeque<NodeId>);

impl Known {
    /// Whether this handle has said of `node` that it is renewed.
    #[must_use]
    pub fn contains(&self, node: NodeId) -> bool {
        self.0.contains(&node)
    }

    /// To be called when this handle says so.
    pub fn insert(&mut self, node: NodeId) {
        if self.contains(node) {
            return;
        }
        if self.0.len() == KNOWN_MAX {
            self.0.pop_front();
        }
        self.0.push_back(node);
    }
}
