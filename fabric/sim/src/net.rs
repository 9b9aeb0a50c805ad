//! The network: lines between ends in virtual time, and what the nodes of a world have of it.
//!
//! [`Lines`] is of use outside of worlds too: whatever wants a network that one number determines has links
//! with a life there, and passes the time itself.
//!
//! # Invariants
//! - **S6** Frames of one shard to another node arrive in the order in which they were sent, as they do
//!   by any link.
//!
//! # Not here
//! What a message means. Links of a world that begin or end: all nodes are connected before it begins.

mod line;
mod lines;
mod pool;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use epicserver_node::LinkUp;
use epicserver_proto::session::Window;
use epicserver_wire::frame::{Frame, FrameMut, Slots};
use epicserver_wire::header::Credit;
use epicserver_wire::{LinkId, NodeId, Time};

pub use lines::{EndId, Lines, News, Options, Packet, Tip, Why};

use crate::rng::Rng;

/// The nodes of a world: the link of each two is a line for each shard, since no order is promised
/// among shards.
pub(crate) struct Net {
    lines: Lines,
    nodes: usize,
    shards: u16,
    /// By the shard that has it, of all nodes, and the node at its other side.
    tips: BTreeMap<(usize, usize), Tip>,
    routes: BTreeMap<Tip, Route>,
    window: Window,
}

/// One side of a line.
struct Route {
    /// The node that has it, and the one at the other side.
    of: usize,
    to: usize,
    slots: Arc<dyn Slots>,
}

/// What has arrived at a node.
pub(crate) enum Arrival {
    /// A frame.
    Frame {
        /// The node that sent it, and the one that gets it.
        from: usize,
        to: usize,
        frame: Frame,
    },
    /// There is room on the way from `from` to `to`.
    Room { from: usize, to: usize },
}

impl Net {
    pub(crate) fn new(mut rng: Rng, nodes: usize, shards: u16) -> Self {
        let slot_bytes = if rng.one_in(2) { 512 } else { 4096 };
        let slot_units = u16::try_from(Credit::units_of(slot_bytes)).unwrap_or(0);
        let units = 2 * slot_units + u16::try_from(rng.below(48)).unwrap_or(0);
        let messages = 1 + u16::try_from(rng.below(16)).unwrap_or(0);
        let delay_max = Duration::from_nanos(1 << (10 + rng.below(14)));
        let slots = 1 + u32::try_from(rng.below(32)).unwrap_or(0);
        // A frame has a slot, so no line is ever full.
        let frames_max = slots as usize;
        let lines_max = nodes * nodes * usize::from(shards);
        // Half of all transports take bodies from where they lie.
        let body_bytes = if slots.is_multiple_of(2) { 1 << 20 } else { 0 };
        let options = Options { delay_max, frames_max, slots, slot_bytes, body_bytes, lines_max };
        let lines = Lines::new(rng.next(), options);
        let window = Window { messages, units };
        let (tips, routes) = (BTreeMap::new(), BTreeMap::new());
        let mut net = Self { lines, nodes, shards, tips, routes, window };
        net.join();
        net
    }

    /// Each two nodes get to know each other, before anything else happens.
    fn join(&mut self) {
        let ends: Vec<EndId> = (0..self.nodes).map(|_| self.lines.open()).collect();
        let numbered = || ends.iter().copied().enumerate();
        for (a, near) in numbered() {
            for (b, far) in numbered().skip(a + 1) {
                self.dial((a, near), (b, far));
            }
        }
        while let Some(now) = self.deadline() {
            let arrived: Vec<Tip> = self.arrived(now).collect();
            for tip in arrived {
                self.come_up(now, tip);
            }
        }
    }

    fn dial(&mut self, (a, near): (usize, EndId), (b, far): (usize, EndId)) {
        let shards = usize::from(self.shards);
        for shard in 0..shards {
            let Some(tip) = self.lines.dial(Time::ZERO, near, far) else { return };
            self.tips.insert((a * shards + shard, b), tip);
            self.tips.insert((b * shards + shard, a), tip.other());
        }
    }

    fn come_up(&mut self, now: Time, tip: Tip) {
        let Some(News::Up { slots, .. }) = self.lines.take(now, tip) else { return };
        let shards = usize::from(self.shards);
        let key = self.tips.iter().find(|(_, known)| **known == tip).map(|(key, _)| *key);
        let route = key.map(|(shard, to)| Route { of: shard / shards, to, slots });
        self.routes.extend(route.map(|route| (tip, route)));
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

    /// What the shards of `from` are told of `to`. They share the slots of one line: a link has no more.
    pub(crate) fn up(&self, from: usize, to: usize) -> LinkUp {
        let mut routes = self.routes.values();
        let Some(route) = routes.find(|route| (route.of, route.to) == (from, to)) else {
            panic!("S6: node {from} is not connected with node {to}");
        };
        LinkUp {
            link: Self::link(from, to),
            node: Self::id(to),
            shards: self.shards,
            theirs: self.window,
            ours: self.window,
            slots: Arc::clone(&route.slots),
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

    /// A shard sends to a node.
    pub(crate) fn send(
        &mut self,
        now: Time,
        (from, to): (usize, usize),
        head: FrameMut,
        body: Option<Frame>,
    ) {
        let tip = self.tips.get(&(from, to));
        let sent = tip.map(|tip| self.lines.send(now, *tip, Packet { head, body }));
        assert!(matches!(sent, Some(Ok(()))), "S9: a frame of shard {from} has a slot and no room");
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lines.upcoming().next().is_none()
    }

    /// Where something has arrived.
    pub(crate) fn arrived(&self, now: Time) -> impl Iterator<Item = Tip> + '_ {
        self.lines.upcoming().filter(move |(_, _, at)| *at <= now).map(|(_, tip, _)| tip)
    }

    /// When something arrives next.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.lines.upcoming().map(|(_, _, at)| at).min()
    }

    /// Takes what has arrived first.
    pub(crate) fn take(&mut self, now: Time, tip: Tip) -> Option<Arrival> {
        let news = self.lines.take(now, tip)?;
        let Route { of, to, .. } = self.routes.get(&tip)?;
        match news {
            News::Frame(frame) => Some(Arrival::Frame { from: *to, to: *of, frame }),
            News::Room => Some(Arrival::Room { from: *of, to: *to }),
            News::Up { .. } | News::Over(_) => panic!("S8: a line of a world begins or ends"),
        }
    }
}
