//! The nodes of a world: how they begin, end, and are linked.
//!
//! # Not here
//! When they do: `weather` and `plane` say so.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use epicserver_node::{Config, Event, Saves, Shard, WakeSink};
use epicserver_wire::{NodeId, ShardId, Time};

use super::{Member, Woken, World, knob};
use crate::fabric::clock::Clock;
use crate::net::Party;

/// Milliseconds since 1970 at the beginning of time.
const BEGAN_MS: u64 = 1_700_000_000_000;

/// A node, one run of its process.
pub(crate) struct Node {
    /// Who it is now: another one after each eviction.
    pub(crate) id: NodeId,
    /// Its first shard among those of the world.
    pub(crate) first: usize,
    pub(crate) shards: u16,
    pub(crate) lives: bool,
    /// By which its shards go.
    pub(crate) clock: Clock,
    /// It does nothing before.
    pub(crate) paused: Time,
    /// Until when it may act.
    pub(crate) lease: Time,
    /// How often it was evicted.
    pub(crate) evicted: u64,
    /// Since when it holds nothing any more, and has left.
    pub(crate) left: Option<Time>,
    /// Since when it has nothing to do any more.
    pub(crate) idle_since: Option<Time>,
}

impl Node {
    pub(crate) fn members(&self) -> Range<usize> {
        self.first..self.first + usize::from(self.shards)
    }
}

impl World {
    /// A node more, which wants to join.
    pub(super) fn add_node(&mut self, shards: u16) {
        let (node, first) = (self.nodes.len(), self.members.len());
        let registry = Arc::new(self.plan.registry.clone());
        let id = self.fresh_id(node, 0);
        if let Some(plane) = &mut self.plane {
            plane.add(shards);
        }
        let clock = self.plane.as_ref().map_or_else(Clock::true_time, |plane| plane.clock(node));
        // All agree on what time of day it is, as nearly as their clocks keep it.
        let ahead_ms = clock.shows(Time::ZERO).as_nanos() / 1_000_000;
        let saves = Saves {
            node: id,
            epoch: 1,
            began_ms: BEGAN_MS.saturating_sub(ahead_ms),
            unsaved_bytes_max: self.plan.unsaved_bytes_max,
        };
        let saves = self.store.is_some().then_some(saves);
        for shard in 0..shards {
            let woken = Arc::new(Woken::default());
            let origin = u32::try_from(self.members.len()).unwrap_or(u32::MAX);
            let config = Config {
                shard: ShardId::new(shard),
                shards,
                fabric: self.plane.is_some() || self.plan.nodes > 1,
                origin,
                registry: Arc::clone(&registry),
                memory_bytes_max: self.plan.memory_bytes_max,
                idle: self.plan.idle,
                direct: self.plan.direct,
                seed: self.rng.next(),
                wakes: Arc::clone(&woken) as Arc<dyn WakeSink>,
                saves,
                clock: None,
                fault: knob(self.plan.mutant),
            };
            let mut made = Shard::new(config);
            if self.plane.is_some() {
                made.lease(0, Time::ZERO);
            }
            let (inbox, stalled) = (VecDeque::new(), Time::ZERO);
            self.members.push(Member { node, shard: Some(made), woken, inbox, stalled });
        }
        self.nodes.push(Node {
            id,
            first,
            shards,
            lives: true,
            clock,
            paused: Time::ZERO,
            lease: Time::ZERO,
            evicted: 0,
            left: None,
            idle_since: None,
        });
        self.net.open();
        if let Some(plane) = &mut self.plane {
            plane.join(self.now, node, id);
        }
    }

    /// The number of a node, which shows how often it was evicted.
    fn fresh_id(&self, node: usize, evicted: u64) -> NodeId {
        NodeId::new(node as u64 + 1 + 1000 * evicted)
    }

    /// A node is told that it is none any more, and wants to be another one.
    pub(super) fn evict(&mut self, node: usize) {
        self.note(11, node);
        self.hang_up_all(node);
        self.lease(node, Time::ZERO);
        self.tell(node, || Event::Evicted);
        self.nodes[node].evicted += 1;
        self.nodes[node].id = self.fresh_id(node, self.nodes[node].evicted);
        let id = self.nodes[node].id;
        if let Some(plane) = &mut self.plane {
            plane.join(self.now, node, id);
        }
    }

    /// A node may act until then. Each shard sees that when it looks.
    pub(super) fn lease(&mut self, node: usize, until: Time) {
        self.nodes[node].lease = until;
        let Node { evicted, clock, .. } = self.nodes[node];
        let until = clock.shows(until);
        for member in self.nodes[node].members() {
            let shard = self.members[member].shard.as_mut();
            shard.into_iter().for_each(|shard| shard.lease(evicted, until));
        }
    }

    fn hang_up_all(&mut self, node: usize) {
        for link in self.net.links_of(node) {
            self.net.cut(self.now, node, link);
            self.tell(node, || Event::LinkDown(link));
        }
    }

    /// A node gives up its link to another one, if it has one.
    pub(super) fn hang_up(&mut self, node: usize, other: usize) {
        if let Some(link) = self.net.link_between(node, other) {
            self.net.cut(self.now, node, link);
            self.tell(node, || Event::LinkDown(link));
        }
    }

    /// A node is no more. What its tasks hold is dropped.
    pub(super) fn kill(&mut self, node: usize) {
        self.net.kill(self.now, node);
        self.end(node);
    }

    /// A node ends.
    pub(super) fn end(&mut self, node: usize) {
        self.note(12, node);
        self.nodes[node].lives = false;
        let members = self.nodes[node].members();
        self.post.kill(&members);
        for member in members {
            let member = &mut self.members[member];
            member.inbox.clear();
            self.past.extend(member.shard.as_ref().map(Shard::counters));
            member.shard = None;
        }
        if let Some(plane) = &mut self.plane {
            plane.crash(self.now, node);
        }
    }

    /// Each two nodes that can reach each other are linked.
    pub(super) fn link_all(&mut self) {
        for a in 0..self.nodes.len() {
            for b in a + 1..self.nodes.len() {
                let live = self.nodes[a].lives && self.nodes[b].lives;
                if live && !self.net.are_linked(a, b) && !self.weather.parts(a, b) {
                    self.link(a, b);
                }
            }
        }
    }

    fn link(&mut self, a: usize, b: usize) {
        let party = |node: usize| {
            let Node { id, shards, .. } = self.nodes[node];
            Party { node, id, shards }
        };
        let ups = self.net.connect(self.now, [party(a), party(b)]);
        let Some([near, far]) = ups else { return };
        self.tell(a, || Event::LinkUp(near.clone()));
        self.tell(b, || Event::LinkUp(far.clone()));
        if let Some(plane) = &mut self.plane {
            plane.linked(self.now, [a, b]);
        }
    }
}
