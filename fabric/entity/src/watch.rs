//! A watch on the nodes of the fabric.
//!
//! # Not here
//! How it is known that a node is gone: its lease has ended.

use epicserver_wire::{CallError, NodeId};

use crate::ask::Ask;
use crate::syscall::{Answer, Syscall};

/// The nodes that are gone since it was made, one after another: see [`At::watch_nodes`](crate::At::watch_nodes).
#[derive(Debug)]
pub struct NodeWatch {
    seen: u64,
}

impl NodeWatch {
    pub(crate) fn new(seen: u64) -> Self {
        Self { seen }
    }

    /// Waits until one more node is gone, and says which. Of those that went while nobody waited, the last
    /// [`DEPARTURES_MAX`](epicserver_wire::limits::DEPARTURES_MAX) are told one by one.
    ///
    /// # Errors
    /// If the shard has no room for another token, or it is awaited off its shard.
    pub async fn next(&mut self) -> Result<NodeId, CallError> {
        let gone = Ask::new(Syscall::Watch { seen: self.seen }, |answer| {
            if let Answer::Gone { number, node } = answer { Some((number, node)) } else { None }
        });
        let (number, node) = gone.await?;
        self.seen = number;
        Ok(node)
    }
}
