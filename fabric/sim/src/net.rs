//! The network between nodes: frames in order, with delays, and slots that run out.
//!
//! # Invariants
//! - **S6** Frames of one shard to another node arrive in the order in which they were sent, as they do
//!   by any link.
//!
//! # Not here
//! What a message means; who is connected (everybody is).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use epicserver_node::LinkUp;
use epicserver_proto::session::Window;
use epicserver_wire::frame::{Frame, FrameMut, Slots, heap_slot};
use epicserver_wire::header::Credit;
use epicserver_wire::view::Slot;
use epicserver_wire::{LinkId, NodeId, Time};

use crate::rng::Rng;

/// Slots of one pair of nodes.
#[derive(Debug)]
struct Pool {
    bytes: usize,
    free: AtomicU32,
}

impl Slots for Pool {
    fn slot_bytes(&self) -> usize {
        self.bytes
    }

    fn reserve(self: Arc<Self>) -> Option<FrameMut> {
        let free = self.free.load(Ordering::Relaxed);
        self.free.store(free.checked_sub(1)?, Ordering::Relaxed);
        Some(FrameMut::new(heap_slot(self.bytes), self))
    }

    fn give_back(&self, slot: Box<dyn Slot>) {
        drop(slot);
        self.free.fetch_add(1, Ordering::Relaxed);
    }
}

struct Packet {
    at: Time,
    head: FrameMut,
    body: Option<Frame>,
}

/// Frames on their way from each shard to each other node.
pub(crate) struct Net {
    rng: Rng,
    nodes: usize,
    shards: u16,
    routes: Vec<VecDeque<Packet>>,
    slow: u64,
    slot_bytes: usize,
    slots: u32,
    window: Window,
}

/// A frame that has arrived.
pub(crate) struct Arrival {
    /// The node that sent it, and the one that gets it.
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) frame: Frame,
}

impl Net {
    pub(crate) fn new(mut rng: Rng, nodes: usize, shards: u16) -> Self {
        let slot_bytes = if rng.one_in(2) { 512 } else { 4096 };
        let slot_units = u16::try_from(Credit::units_of(slot_bytes)).unwrap_or(0);
        let units = 2 * slot_units + u16::try_from(rng.below(48)).unwrap_or(0);
        let messages = 1 + u16::try_from(rng.below(16)).unwrap_or(0);
        Self {
            nodes,
            shards,
            routes: (0..nodes * usize::from(shards) * nodes).map(|_| VecDeque::new()).collect(),
            slow: 1 << (10 + rng.below(14)),
            slot_bytes,
            slots: 1 + u32::try_from(rng.below(32)).unwrap_or(0),
            window: Window { messages, units },
            rng,
        }
    }

    /// The id of the node numbered `at`.
    pub(crate) fn id(at: usize) -> NodeId {
        NodeId::new(at as u64 + 1)
    }

    /// The link between two nodes.
    pub(crate) fn link(a: usize, b: usize) -> LinkId {
        let (low, high) = (a.min(b), a.max(b));
        LinkId::new(u32::try_from(low * 1000 + high).unwrap_or(u32::MAX))
    }

    /// What the shards of `from` are told of `to`.
    pub(crate) fn up(&self, from: usize, to: usize) -> LinkUp {
        LinkUp {
            link: Self::link(from, to),
            node: Self::id(to),
            shards: self.shards,
            theirs: self.window,
            ours: self.window,
            slots: Arc::new(Pool { bytes: self.slot_bytes, free: AtomicU32::new(self.slots) }),
            differing: Arc::new([]),
            bulk_bytes: usize::MAX,
        }
    }

    /// The node at the other end of `link`, seen from `node`.
    pub(crate) fn other(&self, node: usize, link: LinkId) -> usize {
        (0..self.nodes)
            .find(|other| *other != node && Self::link(node, *other) == link)
            .unwrap_or(node)
    }

    pub(crate) fn send(
        &mut self,
        now: Time,
        (from, to): (usize, usize),
        head: FrameMut,
        body: Option<Frame>,
    ) {
        let delay = self.rng.below(self.slow);
        let route = &mut self.routes[from * self.nodes + to];
        let last = route.back().map_or(Time::ZERO, |packet| packet.at);
        let at = last.max(now + Duration::from_nanos(delay));
        route.push_back(Packet { at, head, body });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.routes.iter().all(VecDeque::is_empty)
    }

    /// The routes whose first frame has arrived.
    pub(crate) fn arrived(&self, now: Time) -> impl Iterator<Item = usize> + '_ {
        let due = move |route: &VecDeque<Packet>| route.front().is_some_and(|p| p.at <= now);
        self.routes.iter().enumerate().filter(move |(_, route)| due(route)).map(|(index, _)| index)
    }

    /// When the next frame arrives.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.routes.iter().filter_map(|route| route.front()).map(|packet| packet.at).min()
    }

    /// Takes the first frame of a route; its slot is free from now on.
    pub(crate) fn take(&mut self, route: usize) -> Option<Arrival> {
        let Packet { head, body, .. } = self.routes.get_mut(route)?.pop_front()?;
        let mut bytes = head.bytes().to_vec();
        bytes.extend_from_slice(body.as_ref().map_or(&[], Frame::bytes));
        let from = route / self.nodes / usize::from(self.shards);
        Some(Arrival { from, to: route % self.nodes, frame: Frame::copy_of(&bytes) })
    }
}
