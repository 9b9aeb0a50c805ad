//! Control planes: what decides which node of a world serves what, and until when.
//!
//! Two of them drive the same shards: one that is as quick as can be ([`Quick`]), and one that is made of the control
//! machines of the runtime ([`Machines`]).
//!
//! # Not here
//! What happens to nodes (`world`).

mod machines;
mod quick;

use std::sync::Arc;
use std::time::Duration;

use epicserver_proto::{Ownership, SlotId};
use epicserver_wire::{NodeId, Time};

use crate::fabric::clock::Clock;
pub(crate) use machines::Machines;
pub(crate) use quick::Quick;

/// What the world has to do.
pub(crate) enum Order {
    /// The shards of a node are given a snapshot.
    Show(usize, Arc<Ownership>),
    /// A node may act until then.
    Lease(usize, Time),
    /// A node is told that it is none any more.
    Evict(usize),
    /// A node learns that another one is none any more, and hangs up.
    HangUp(usize, NodeId),
    /// A node that leaves holds nothing any more; said again until it is [quiet](Plane::quiet).
    HandedOver(usize),
    /// A node has left.
    Left(usize),
    /// There is a view that nobody knows of yet.
    Changed,
}

/// A control plane. Nodes have the numbers that the world gives them.
pub(crate) trait Plane {
    /// A node more, which is not in the fabric yet.
    fn add(&mut self, shards: u16);
    /// The clock by which a node's shards go.
    fn clock(&self, _node: usize) -> Clock {
        Clock::true_time()
    }
    /// A node wants to join as `id`.
    fn join(&mut self, now: Time, node: usize, id: NodeId);
    /// A node wants to leave.
    fn leave(&mut self, now: Time, node: usize);
    /// A node is no more.
    fn crash(&mut self, now: Time, node: usize);
    /// A node does nothing until then.
    fn pause(&mut self, node: usize, until: Time);
    /// A node can, or cannot, reach the coordinator.
    fn cut_off(&mut self, node: usize, is: bool);
    /// Whoever is on different sides cannot be heard by the other: the nodes whose bits are set are on one. One way, these
    /// hear the others all the same.
    fn part(&mut self, (_side, _one_way): (u64, bool)) {}
    /// The coordinator does what it is asked or does not, and says nothing, until then.
    fn muddle(&mut self, _until: Time) {}
    /// Nothing goes wrong any more.
    fn calm_down(&mut self) {}
    /// Two nodes are linked.
    fn linked(&mut self, _now: Time, _nodes: [usize; 2]) {}
    /// Whether all nodes know all that there is to know, and nobody waits for anything.
    fn is_settled(&self) -> bool;
    /// Whether a node is a member, and wants to be.
    fn is_member(&self, node: usize) -> bool;
    /// Until when the coordinator holds a node's lease to last: at least so long if it lasts now.
    fn lease_of(&self, now: Time, node: usize) -> Time;
    /// Whether shard number `shard` of a node may have turns in `slot`.
    fn may_have(&self, node: usize, shard: u16, slot: SlotId) -> bool;
    /// What a node is about, in a word.
    fn stage(&self, _node: usize) -> String {
        String::new()
    }
    /// A shard says that slots are empty, and how many are not yet.
    fn drained(&mut self, now: Time, of: (usize, u16), what: (u64, &[SlotId], u32));
    /// A shard knows that there is a later view than its own.
    fn behind(&mut self, now: Time, node: usize, view: u64);
    /// When something is to be done.
    fn deadline(&self) -> Option<Time>;
    /// Does what is due.
    fn run(&mut self, now: Time) -> Vec<Order>;
    /// A node that leaves has nothing under way any more, or is not waited for any longer.
    fn quiet(&mut self, now: Time, node: usize);
    /// How many views there were.
    fn views(&self) -> u64;
    /// What happened there, by name.
    fn counts(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

/// How long a node that has left looks whether it has anything left to do.
const LINGER: Duration = Duration::from_millis(20);
