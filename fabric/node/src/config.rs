//! What a shard is told when it is made.

use std::sync::Arc;
use std::time::Duration;

use epicserver_entity::Registry;
use epicserver_wire::{NodeId, ShardId, Time};

use crate::WakeSink;

/// What a shard is told when it is made.
#[derive(Clone)]
pub struct Config {
    /// Which shard of its node it is.
    pub shard: ShardId,
    /// How many shards the node has.
    pub shards: u16,
    /// Whether there may be other nodes: then a call waits until there is a view.
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
    /// If there is a store, what the shard has to know to save entities there.
    pub saves: Option<Saves>,
    /// Asked before each turn, where the node has a lease: the process may be stopped between any two of them, and go
    /// on when it has ended. Without it the time of the event counts.
    pub clock: Option<fn() -> Time>,
    /// A way to be wrong, for the simulator, which has to find it.
    pub fault: Option<Fault>,
}

/// What a shard has to know to save entities.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Saves {
    /// Which node it is of, where that is in no fabric.
    pub node: NodeId,
    /// As which epoch it owns all there is, where its node is in no fabric: milliseconds since 1970 when it began, so that
    /// the next one has a greater one.
    pub epoch: u64,
    /// Milliseconds since 1970 at [`Time::ZERO`].
    pub began_ms: u64,
    /// Bytes of states that may be changed and not saved before changes wait.
    pub unsaved_bytes_max: u64,
}

/// A known way for a shard to be wrong, that no fault of the world around it could show.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Fault {
    /// A call goes to the new owner of its slot though the old one has not said that all is decided.
    ResendBeforeFlushed,
    /// A call that is given back has run.
    MovedButRan,
    /// Turns run past the lease.
    NoLeaseCheck,
    /// Calls that wait for their slot to be served are forgotten.
    DropHeldCalls,
    /// A tell that is to be given back is forgotten.
    ReturnedTellLost,
    /// No chain but those that wait there is let in where a slot is emptied.
    OldChainsTurnedAway,
    /// A slot is said to be empty as soon as it is lost.
    DrainedTooSoon,
    /// A reply does not wait for what it tells of to be durable.
    ReplyBeforeSave,
    /// An activation ends and its state is not saved.
    EndsUnsaved,
    /// What was replied to a request is not kept.
    AnswerForgotten,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config").field("shard", &self.shard).finish_non_exhaustive()
    }
}
