//! The network: lines between ends in virtual time, and what the nodes of a world have of it.
//!
//! [`Lines`] is of use outside of worlds too: whatever wants a network that one number determines has links
//! with a life there, and passes the time itself.
//!
//! # Invariants
//! - **S6** Frames of one shard to another node arrive in the order in which they were sent, as they do
//!   by any link.
//! - **S13** Of a link that is closed in order each line is heard to its end before the link is down: of any link all
//!   shards' frames go one way, and its end comes behind them.
//!
//! # Not here
//! What a message means. Who is linked with whom, and until when: the world says so.

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

/// Lines that there may be at one time.
const LINES_MAX: usize = 4096;

/// The links of a world's nodes: each is a line for each shard, since no order is promised among shards.
pub(crate) struct Net {
    lines: Lines,
    /// The end of each node; none of one that is no more.
    ends: Vec<Option<EndId>>,
    links: BTreeMap<LinkId, Link>,
    sides: BTreeMap<Tip, LinkId>,
    next: u32,
    window: Window,
    bulk_bytes: usize,
    delay_max: Duration,
}

/// A link between two nodes.
struct Link {
    /// The nodes; the first one dialled.
    nodes: [usize; 2],
    /// For each shard, the lines as the first node names them.
    tips: Vec<Tip>,
    /// Which node has been told that it is down.
    told: [bool; 2],
}

impl Link {
    fn side_of(&self, node: usize) -> usize {
        usize::from(self.nodes[1] == node)
    }
}

/// A node, as the other side of a link is told of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Party {
    pub(crate) node: usize,
    pub(crate) id: NodeId,
    pub(crate) shards: u16,
}

/// What has arrived at a node.
pub(crate) enum Arrival {
    /// A frame.
    Frame { at: usize, link: LinkId, frame: Frame },
    /// There is room on the link again.
    Room { at: usize, link: LinkId },
    /// The link is down.
    Down { at: usize, link: LinkId },
}

impl Net {
    pub(crate) fn new(mut rng: Rng) -> Self {
        let slot_bytes = if rng.one_in(2) { 512 } else { 4096 };
        let slot_units = u16::try_from(Credit::units_of(slot_bytes)).unwrap_or(0);
        let units = 2 * slot_units + u16::try_from(rng.below(48)).unwrap_or(0);
        let messages = 1 + u16::try_from(rng.below(16)).unwrap_or(0);
        let delay_max = Duration::from_nanos(1 << (10 + rng.below(14)));
        let slots = 1 + u32::try_from(rng.below(32)).unwrap_or(0);
        // A frame has a slot, so no line is ever full.
        let frames_max = slots as usize;
        // Half of all transports take bodies from where they lie.
        let body_bytes = if slots.is_multiple_of(2) { 1 << 20 } else { 0 };
        let lines_max = LINES_MAX;
        let options = Options { delay_max, frames_max, slots, slot_bytes, body_bytes, lines_max };
        Self {
            lines: Lines::new(rng.next(), options),
            ends: Vec::new(),
            links: BTreeMap::new(),
            sides: BTreeMap::new(),
            next: 0,
            window: Window { messages, units },
            bulk_bytes: if rng.one_in(2) { usize::MAX } else { 256 },
            delay_max,
        }
    }

    /// From now on whatever is said is heard in less than that; `None` for as it was at first.
    pub(crate) fn slow_down(&mut self, delay_max: Option<Duration>) {
        self.lines.set_delay_max(delay_max.unwrap_or(self.delay_max));
    }

    /// A node more.
    pub(crate) fn open(&mut self) {
        self.ends.push(Some(self.lines.open()));
    }

    /// Whether two nodes are linked, as far as either knows.
    pub(crate) fn are_linked(&self, a: usize, b: usize) -> bool {
        self.links.values().any(|link| link.nodes == [a, b] || link.nodes == [b, a])
    }

    /// Links two nodes, and gives what the shards of each are told. Both know of it at once.
    pub(crate) fn connect(&mut self, now: Time, [a, b]: [Party; 2]) -> Option<[LinkUp; 2]> {
        let (near, far) = (self.ends[a.node]?, self.ends[b.node]?);
        let id = LinkId::new(self.next);
        self.next += 1;
        let mut tips = Vec::new();
        let mut pools = Vec::new();
        for _ in 0..a.shards.max(b.shards) {
            let tip = self.lines.dial(now, near, far)?;
            pools.push([self.come_up(tip.other())?, self.come_up(tip)?]);
            self.sides.extend([(tip, id), (tip.other(), id)]);
            tips.push(tip);
        }
        // The shards of a node share the slots of one line, since a link has no more.
        let [theirs, ours] = pools.swap_remove(0);
        let up = |to: Party, slots: &Arc<dyn Slots>| LinkUp {
            link: id,
            node: to.id,
            shards: to.shards,
            theirs: self.window,
            ours: self.window,
            slots: Arc::clone(slots),
            differing: Arc::new([]),
            bulk_bytes: self.bulk_bytes,
        };
        let ups = [up(b, &ours), up(a, &theirs)];
        let link = Link { nodes: [a.node, b.node], tips, told: [false; 2] };
        self.links.insert(id, link);
        Some(ups)
    }

    /// A side hears that its line is up, as if it had waited for that.
    fn come_up(&mut self, tip: Tip) -> Option<Arc<dyn Slots>> {
        let (_, _, at) = self.lines.upcoming().find(|(_, side, _)| *side == tip)?;
        match self.lines.take(at, tip)? {
            News::Up { slots, .. } => Some(slots),
            News::Frame(_) | News::Room | News::Over(_) => None,
        }
    }

    /// A node loses a link, or gives it up; the other one hears of it.
    pub(crate) fn cut(&mut self, now: Time, node: usize, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let side = link.side_of(node);
        if std::mem::replace(&mut link.told[side], true) {
            return;
        }
        for tip in link.tips.clone() {
            self.lines.cut(now, if side == 0 { tip } else { tip.other() });
        }
        self.forget(id);
    }

    /// A node is no more.
    pub(crate) fn kill(&mut self, now: Time, node: usize) {
        for id in self.links_of(node) {
            self.cut(now, node, id);
        }
        if let Some(end) = self.ends.get_mut(node).and_then(Option::take) {
            self.lines.kill(now, end);
        }
    }

    /// A node ends in order: what it has sent arrives.
    pub(crate) fn close(&mut self, now: Time, node: usize) {
        for id in self.links_of(node) {
            let Some(link) = self.links.get_mut(&id) else { continue };
            let side = link.side_of(node);
            link.told[side] = true;
            for tip in link.tips.clone() {
                self.lines.close(now, if side == 0 { tip } else { tip.other() });
            }
            self.forget(id);
        }
        self.ends[node] = None;
    }

    /// The links that a node has not lost.
    pub(crate) fn links_of(&self, node: usize) -> Vec<LinkId> {
        let its = |link: &Link| link.nodes.contains(&node) && !link.told[link.side_of(node)];
        self.links.iter().filter(|(_, link)| its(link)).map(|(id, _)| *id).collect()
    }

    /// The link between two nodes, if the first one has it.
    pub(crate) fn link_between(&self, from: usize, to: usize) -> Option<LinkId> {
        let between = |link: &Link| link.nodes.contains(&to);
        self.links_of(from).into_iter().find(|id| between(&self.links[id]))
    }

    fn forget(&mut self, id: LinkId) {
        if self.links.get(&id).is_some_and(|link| link.told == [true; 2]) {
            self.links.remove(&id);
            self.sides.retain(|_, link| *link != id);
        }
    }

    /// A shard sends by a link.
    pub(crate) fn send(
        &mut self,
        now: Time,
        (node, shard, id): (usize, usize, LinkId),
        (head, body): (FrameMut, Option<Frame>),
    ) {
        let Some(link) = self.links.get(&id) else { return };
        let side = link.side_of(node);
        if link.told[side] {
            return;
        }
        let tip = if side == 0 { link.tips[shard] } else { link.tips[shard].other() };
        if self.lines.has_ended(tip) {
            // S13: what was sent to this side is not all here yet, but nobody hears it any more.
            return;
        }
        let sent = self.lines.send(now, tip, Packet { head, body });
        assert!(sent.is_ok(), "S9: a frame of node {node} has a slot and no room");
    }

    /// Whether a side of a link has heard the end of each of its lines.
    fn all_ended(&self, link: LinkId, side: usize) -> bool {
        let mine = |tip: &Tip| if side == 0 { *tip } else { tip.other() };
        self.links[&link].tips.iter().all(|tip| self.lines.has_ended(mine(tip)))
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
        let link = *self.sides.get(&tip)?;
        let known = self.links.get(&link)?;
        let side = usize::from(!known.tips.contains(&tip));
        let at = known.nodes[side];
        if known.told[side] {
            // It is down already; this has come by another line.
            return None;
        }
        match news {
            News::Frame(frame) => Some(Arrival::Frame { at, link, frame }),
            News::Room => Some(Arrival::Room { at, link }),
            News::Over(Why::Closed) if !self.all_ended(link, side) => None,
            News::Over(_) => {
                self.cut(now, at, link);
                Some(Arrival::Down { at, link })
            }
            News::Up { .. } => panic!("S8: a line that is up comes up"),
        }
    }
}
