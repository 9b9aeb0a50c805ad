//! What a shard knows of who owns what, and all that waits for that to become clear.
//!
//! # Not here
//! What is done with it: the caller's side (`ways`), the callee's (`holds`), that of a slot which is lost (`empty`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use epicserver_entity::Request;
use epicserver_proto::passage::Passage;
use epicserver_proto::{Epoch, Lines, Ownership, SlotId, Tenure, Trail};
use epicserver_wire::{LinkId, NodeId, ShardId, Time};

use crate::remote::Posted;

/// How calls find their way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Traffic {
    /// This node serves all there is.
    Alone,
    /// Each slot is where the view says.
    Calm,
    /// Some are on the move.
    Busy,
}

/// A shard that says something to this one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Lane {
    /// A shard of this node.
    Here(ShardId),
    /// A shard of another node.
    There(LinkId, ShardId),
}

/// A call that waits for its slot to be served.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) request: Request,
    pub(crate) since: Time,
    /// The view that it was made under.
    pub(crate) said: u64,
}

/// How far a lost slot has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Stage {
    /// Chains that began before it was lost are let in.
    First,
    /// Those alone that somebody there waits for.
    Last,
    /// Whatever still runs is ended.
    Over,
}

/// A slot that is lost and has activations.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drain {
    /// The epoch under which they began.
    pub(crate) epoch: Epoch,
    /// The view by which it was lost.
    pub(crate) view: u64,
    pub(crate) since: Time,
    pub(crate) stage: Stage,
    /// What has not begun has been given back, as far as the stage wants it.
    pub(crate) swept: bool,
    /// It was so in the stage before, when what was kept was kept for turns.
    pub(crate) kept: bool,
}

/// What a shard knows of who owns what, and what waits there.
#[derive(Debug)]
pub(crate) struct Realm {
    pub(crate) ownership: Option<Arc<Ownership>>,
    /// When this shard learned of the view.
    pub(crate) since: Time,
    /// The number of the first one: what is said under an earlier one, a shard of this node has said before it was
    /// evicted.
    pub(crate) first: u64,
    pub(crate) trail: Trail,
    pub(crate) tenure: Tenure,
    /// The ways to the shards of this node, itself among them.
    pub(crate) ways: Vec<Passage>,
    /// Something was tried where a slot is emptied, and not all have been asked since what became of it.
    pub(crate) tried: bool,
    /// Slots of which calls have gone on although one who lost them, by the view of that number, could not be reached.
    pub(crate) bypassed: BTreeMap<(SlotId, NodeId), u64>,
    /// What waits for a view, or for answers to flushes.
    pub(crate) lines: Lines<Lane, Posted>,
    /// Somebody has what may go on do so, now or as soon as a new view is announced.
    pub(crate) goes_on: bool,
    /// The highest view that the host was asked for.
    pub(crate) asked_for: u64,
    /// Passages that wait for an answer.
    pub(crate) pending: usize,

    /// The views that the other shards of this node have announced.
    pub(crate) views: Vec<u64>,
    /// Calls that wait for their slot to be served, or for a view.
    pub(crate) held: BTreeMap<SlotId, VecDeque<Held>>,
    pub(crate) held_count: usize,
    /// Flushes that are to be answered, with their view.
    pub(crate) flushes: Vec<(Lane, u64)>,

    pub(crate) drains: BTreeMap<SlotId, Drain>,
    /// Slots to be looked through.
    pub(crate) sweeps: VecDeque<SlotId>,
    /// The one that is being looked through.
    pub(crate) sweeping: Option<SlotId>,
    /// Slots that are empty, of which the host does not know.
    pub(crate) drained: Vec<SlotId>,
    /// The host is to be told how emptying goes.
    pub(crate) reports: bool,
}

impl Realm {
    pub(crate) fn new(shards: u16) -> Self {
        Self {
            ownership: None,
            since: Time::ZERO,
            first: 0,
            trail: Trail::default(),
            tenure: Tenure::default(),
            ways: (0..shards).map(|_| Passage::default()).collect(),
            tried: false,
            bypassed: BTreeMap::new(),
            lines: Lines::default(),
            goes_on: false,
            asked_for: 0,
            pending: 0,
            views: vec![0; usize::from(shards)],
            held: BTreeMap::new(),
            held_count: 0,
            flushes: Vec::new(),
            drains: BTreeMap::new(),
            sweeps: VecDeque::new(),
            sweeping: None,
            drained: Vec::new(),
            reports: false,
        }
    }

    /// The number of the view; 0 if there is none.
    pub(crate) fn number(&self) -> u64 {
        self.ownership.as_ref().map_or(0, |ownership| ownership.number())
    }

    /// Whether lost slots are still to be looked through.
    pub(crate) fn is_sweeping(&self) -> bool {
        self.sweeping.is_some() || !self.sweeps.is_empty()
    }
}
