//! What a shard is told when it is made.

use std::sync::Arc;
use std::time::Duration;

use epicserver_entity::Registry;
use epicserver_wire::ShardId;

use crate::WakeSink;

/// What a shard is told when it is made.
#[derive(Clone)]
pub struct Config {
    /// Which shard of its node it is.
    pub shard: ShardId,
    /// How many shards the node has.
    pub shards: u16,
    /// Whether there may be other nodes: then a call waits until the members are known.
    pub fabric: bool,
    /// Its number in the fabric, of 24 bits, which is drawn such that hardly any other shard has it.
    pub origin: u32,
    /// The entity types that it serves.
    pub registry: Arc<Registry>,
    /// Bytes that its activations may take.
    pub memory_bytes_max: u64,
    /// How long an activation may be idle where its type does not say; `None` is for ever.
    pub idle: Option<Duration>,
    /// Whether a call to an entity of the same shard may run inside its caller's turn.
    pub direct: bool,
    /// What random numbers begin with.
    pub seed: u64,
    /// Told when a task is woken by a waker that left the shard.
    pub wakes: Arc<dyn WakeSink>,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config").field("shard", &self.shard).finish_non_exhaustive()
    }
}
