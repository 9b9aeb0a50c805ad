//! The links of a node.
//!
//! # Not here
//! What is done with them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use epicserver_link::{Address, Parcel};
use epicserver_proto::link as machine;
use epicserver_wire::frame::{FrameMut, Slots};
use epicserver_wire::header::{self, Header, Kind};
use epicserver_wire::{LinkId, NodeId, ShardId, Time};

/// One link.
pub(crate) struct Link {
    /// Which transport it is of.
    pub(crate) transport: usize,
    pub(crate) machine: machine::Link,
    /// Where it leads, once that is proved, and as long as the shards use it.
    pub(crate) node: Option<NodeId>,
    pub(crate) slots: Arc<dyn Slots>,
    /// What the transport did not take.
    pub(crate) unsent: VecDeque<Parcel>,
    /// Why its machine closed it.
    pub(crate) why: Option<machine::Closed>,
}

impl Link {
    pub(crate) fn new(transport: usize, machine: machine::Link, slots: Arc<dyn Slots>) -> Self {
        Self { transport, machine, node: None, slots, unsent: VecDeque::new(), why: None }
    }

    /// A message of the link's own.
    pub(crate) fn message(&self, kind: Kind, payload: &[u8]) -> Option<Parcel> {
        let header = Header::new(kind, ShardId::new(0), ShardId::new(0));
        let bytes = header::CORE_BYTES + payload.len() + 16;
        let slot = Arc::clone(&self.slots).reserve().filter(|slot| slot.capacity() >= bytes);
        // What keeps a link alive must not depend on its slots; and a hello that lists many methods is longer
        // than some transports' slots are.
        let mut frame = slot.unwrap_or_else(|| FrameMut::detached(bytes));
        header::append(&mut frame, &header, payload).then(|| Parcel::of(frame))
    }
}

/// Nodes that are over and that are remembered: those that were last. A node that is forgotten and comes back meets
/// its own coordinator sooner or later, which ends it for good.
const BANNED_MAX: usize = 4096;

/// Nodes that make no link any more.
#[derive(Default)]
pub(crate) struct Banned(VecDeque<NodeId>);

impl Banned {
    pub(crate) fn has(&self, node: NodeId) -> bool {
        self.0.contains(&node)
    }

    pub(crate) fn add(&mut self, node: NodeId) {
        if self.has(node) {
            return;
        }
        if self.0.len() >= BANNED_MAX {
            self.0.pop_front();
        }
        self.0.push_back(node);
    }
}

/// The links of a node, and the addresses that it dials.
#[derive(Default)]
pub(crate) struct Links {
    links: BTreeMap<LinkId, Link>,
    dialling: BTreeMap<LinkId, Address>,
}

impl Links {
    pub(crate) fn dialling(&mut self, link: LinkId, address: Address) {
        self.dialling.insert(link, address);
    }

    /// The address that was dialled for a link, unless the peer has dialled it.
    pub(crate) fn dialled(&self, link: LinkId) -> Option<Address> {
        self.dialling.get(&link).cloned()
    }

    pub(crate) fn insert(&mut self, id: LinkId, link: Link) {
        self.links.insert(id, link);
    }

    pub(crate) fn get_mut(&mut self, link: LinkId) -> Option<&mut Link> {
        self.links.get_mut(&link)
    }

    /// The link is gone. Gives the address that was dialled for it.
    pub(crate) fn remove(&mut self, link: LinkId) -> Option<Address> {
        self.links.remove(&link);
        self.dialling.remove(&link)
    }

    /// The link by which the shards reach `node`.
    pub(crate) fn of_node(&self, node: NodeId) -> Option<LinkId> {
        self.links.iter().find(|(_, link)| link.node == Some(node)).map(|(id, _)| *id)
    }

    /// The nodes that the shards reach.
    pub(crate) fn nodes(&self) -> Vec<NodeId> {
        self.links.values().filter_map(|link| link.node).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    pub(crate) fn ids(&self) -> Vec<LinkId> {
        self.links.keys().copied().collect()
    }

    /// When the next machine wants to be told the time.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.links.values().filter_map(|link| link.machine.deadline()).min()
    }

    /// A link whose machine wants to be told the time now.
    pub(crate) fn due(&self, now: Time) -> Option<LinkId> {
        let due = |link: &Link| link.machine.deadline().is_some_and(|deadline| deadline <= now);
        self.links.iter().find(|(_, link)| due(link)).map(|(id, _)| *id)
    }
}
