//! A control plane that is quick: the coordinator and the control threads of all nodes in one, as simple as can be.
//!
//! It knows all there is, but each node learns what concerns it after a while: leases are renewed, views change, slots
//! are served once nobody can hold them any more. Nothing has to take longer than its pace, so views follow each other
//! while shards still have to do with the one before.
//!
//! # Invariants
//! - **S10** No two nodes may have a slot at one time, and its epochs grow from one to the next: that is asserted,
//!   not checked, since a plane that is wrong shows nothing about shards.
//! - **S11** A lease is ended only after the time until which its node acts by it.
//!
//! # Not here
//! The machines that agree on views in earnest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use epicserver_proto::view::{HISTORY_MAX, Share};
use epicserver_proto::{Directory, Epoch, Ownership, SLOTS, Site, SlotId};
use epicserver_wire::{ClassId, NodeId, Time};

use super::{LINGER, Order, Plane};
use crate::mutant::Mutant;
use crate::rng::Rng;

const CLASS: ClassId = ClassId::DEFAULT;
/// How long a lease lasts from the moment at which the coordinator renews it.
const TTL: Duration = Duration::from_secs(3);
/// How much earlier a node ends by its own account.
const MARGIN: Duration = Duration::from_millis(500);
/// How often a node renews.
const RENEWAL: Duration = Duration::from_millis(750);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// It has no lease.
    Out,
    /// It has one, and wants to be a member.
    Joins,
    Member,
    /// It wants to be none any more, and holds what it holds.
    Leaves,
    /// It is none any more.
    Left,
    /// Its lease was ended, of which it may not know.
    Ended,
}

struct Node {
    id: NodeId,
    phase: Phase,
    leaves: bool,
    /// The end of its lease by the coordinator's clock.
    lease: Time,
    /// The view that it knows.
    seen: u64,
    shown: Option<Arc<Ownership>>,
    /// Slots that it owns by that view, and may not serve yet.
    awaits: Vec<u16>,
    /// For each slot, the shards that have not said that it is empty.
    emptying: Vec<u64>,
    shards: u16,
    /// The view of which each shard holds nothing that it does not give.
    acked: Vec<u64>,
    /// It does nothing before, and nobody hears of it.
    paused: Time,
    /// The coordinator cannot be reached.
    cut_off: bool,
}

impl Node {
    fn lives(&self) -> bool {
        matches!(self.phase, Phase::Joins | Phase::Member | Phase::Leaves)
    }

    fn settled(&self) -> u64 {
        self.acked.iter().copied().min().unwrap_or(0)
    }

    fn serves(&self, slot: SlotId) -> bool {
        self.shown.as_ref().is_some_and(|shown| shown.site_of(slot) == Site::Served)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Task {
    /// A node sends for its lease.
    Renew(usize),
    /// The coordinator hears of it; it was sent then.
    Hear(usize, Time),
    /// The node hears of that: so long may it act, or not at all any more.
    Answer(usize, Option<Time>),
    /// A node learns of the view.
    Learn(usize),
    /// A node looks which slots it may serve by now.
    Serve(usize),
    /// Somebody looks whether the view has to change.
    Look,
}

/// The quick control plane.
pub(crate) struct Quick {
    rng: Rng,
    tasks: BTreeSet<(Time, u64, Task)>,
    serial: u64,
    nodes: Vec<Node>,
    number: u64,
    members: Vec<usize>,
    directories: BTreeMap<u64, Arc<Directory>>,
    history: Vec<u64>,
    /// How long things take.
    pace: Duration,
    mutant: Option<Mutant>,
    /// The epoch and the node of each slot that entities of the world are in.
    epochs: BTreeMap<SlotId, (u64, usize)>,
    views: u64,
    /// Nodes that have left, of which the world does not know.
    left: Vec<usize>,
}

impl Quick {
    /// A plane that takes about `pace` for each thing, and watches over `slots`.
    pub(crate) fn new(
        rng: Rng,
        pace: Duration,
        slots: impl IntoIterator<Item = SlotId>,
        mutant: Option<Mutant>,
    ) -> Self {
        Self {
            rng,
            tasks: BTreeSet::new(),
            serial: 0,
            nodes: Vec::new(),
            number: 0,
            members: Vec::new(),
            directories: BTreeMap::new(),
            history: Vec::new(),
            pace,
            mutant,
            epochs: slots.into_iter().map(|slot| (slot, (0, usize::MAX))).collect(),
            views: 0,
            left: Vec::new(),
        }
    }

    fn after(&mut self, now: Time, delay: Duration, task: Task) {
        self.serial += 1;
        self.tasks.insert((now + delay, self.serial, task));
    }

    fn later(&mut self, now: Time, task: Task) {
        let most = u64::try_from(self.pace.as_nanos()).unwrap_or(u64::MAX);
        let delay = Duration::from_nanos(self.rng.below(most));
        let listed = self.tasks.iter().any(|(at, _, other)| *other == task && *at <= now + delay);
        if !listed {
            self.after(now, delay, task);
        }
    }

    /// When the node of a task can do it, if it cannot now. Those of nodes that are no more are forgotten.
    fn asleep(&mut self, now: Time, task: Task) -> Option<Time> {
        let node = match task {
            Task::Renew(node) | Task::Answer(node, _) | Task::Learn(node) | Task::Serve(node) => {
                node
            }
            Task::Hear(..) | Task::Look => return None,
        };
        let paused = self.nodes[node].paused;
        (paused > now && paused != Time::MAX).then_some(paused)
    }

    fn do_one(&mut self, now: Time, task: Task, orders: &mut Vec<Order>) {
        match task {
            Task::Renew(node) => self.renew(now, node),
            Task::Hear(node, sent) => self.hear(now, node, sent),
            Task::Answer(node, until) => self.answer(now, node, until, orders),
            Task::Learn(node) => self.learn(now, node, orders),
            Task::Serve(node) => self.serve(node, orders),
            Task::Look => self.look(now, orders),
        }
    }

    fn renew(&mut self, now: Time, node: usize) {
        let entry = &self.nodes[node];
        if entry.paused == Time::MAX || entry.phase == Phase::Left {
            return;
        }
        if !entry.cut_off {
            self.later(now, Task::Hear(node, now));
        }
        if !self.tasks.iter().any(|(_, _, task)| *task == Task::Renew(node)) {
            self.after(now, RENEWAL, Task::Renew(node));
        }
    }

    fn hear(&mut self, now: Time, node: usize, sent: Time) {
        let entry = &mut self.nodes[node];
        if entry.cut_off || entry.phase == Phase::Left {
            return;
        }
        if entry.phase == Phase::Ended {
            return self.later(now, Task::Answer(node, None));
        }
        if entry.phase == Phase::Out {
            entry.phase = Phase::Joins;
        }
        entry.lease = now + TTL;
        self.later(now, Task::Answer(node, Some(sent + (TTL - MARGIN))));
        self.later(now, Task::Look);
    }

    fn answer(&mut self, now: Time, node: usize, until: Option<Time>, orders: &mut Vec<Order>) {
        let entry = &self.nodes[node];
        if entry.cut_off || entry.paused == Time::MAX {
            return;
        }
        match until {
            Some(until) if entry.lives() => {
                orders.push(Order::Lease(node, until));
                if entry.seen < self.number {
                    self.later(now, Task::Learn(node));
                }
            }
            // An answer to what it was before.
            Some(_) => {}
            None if entry.phase == Phase::Ended => orders.push(Order::Evict(node)),
            None => {}
        }
    }

    fn owner(&self, number: u64, slot: SlotId) -> Option<NodeId> {
        self.directories.get(&number)?.owner_of(slot.class, slot.index)
    }

    fn learn(&mut self, now: Time, node: usize, orders: &mut Vec<Order>) {
        let entry = &self.nodes[node];
        let dead = !entry.lives() || entry.paused == Time::MAX || entry.cut_off;
        if dead || entry.seen == self.number {
            return;
        }
        let gone = self.nodes.iter().filter(|other| other.phase == Phase::Ended);
        orders.extend(gone.map(|other| Order::HangUp(node, other.id)));
        let before = self.nodes[node].shown.clone();
        let directory = Arc::clone(&self.directories[&self.number]);
        let past = self.history.iter().map(|view| (*view, Arc::clone(&self.directories[view])));
        let mut shown = Ownership::new(self.number, self.nodes[node].id, directory);
        shown = shown.after(past.collect());
        if let Some(before) = &before {
            keep(before, &mut shown);
        }
        self.nodes[node].awaits = awaited(&shown);
        self.may_serve(node, &mut shown);
        let entry = &mut self.nodes[node];
        entry.seen = self.number;
        if let Some(before) = &before {
            let all = (1_u64 << entry.shards) - 1;
            for (slot, _) in shown.lost_since(before) {
                entry.emptying[usize::from(slot.index)] |= all;
            }
        }
        self.show(node, shown, orders);
        for other in 0..self.nodes.len() {
            self.later(now, Task::Serve(other));
        }
    }

    fn show(&mut self, node: usize, shown: Ownership, orders: &mut Vec<Order>) {
        let shown = Arc::new(shown);
        self.nodes[node].shown = Some(Arc::clone(&shown));
        self.watch(node, &shown);
        orders.push(Order::Show(node, shown));
    }

    /// **S10**.
    fn watch(&mut self, node: usize, shown: &Ownership) {
        if self.mutant.is_some() {
            return;
        }
        for (slot, (last, whose)) in &mut self.epochs {
            let Some(Epoch(epoch)) = shown.epoch_of(slot.class, slot.index) else { continue };
            assert!(epoch >= *last, "S10: the epochs of a slot grow");
            assert!(epoch > *last || *whose == node, "S10: an epoch is of one node");
            (*last, *whose) = (epoch, node);
        }
    }

    /// Marks what a node serves from now on, beside what it serves already. Says whether that is anything.
    fn may_serve(&mut self, node: usize, shown: &mut Ownership) -> bool {
        let view = shown.number();
        let awaits = std::mem::take(&mut self.nodes[node].awaits);
        let held = |index: &u16| self.is_held(node, view, SlotId { class: CLASS, index: *index });
        let (awaits, free): (Vec<u16>, Vec<u16>) = awaits.into_iter().partition(held);
        self.nodes[node].awaits = awaits;
        let any = !free.is_empty();
        shown.serve(CLASS, free, Epoch(view));
        any
    }

    /// Whether anybody could hold `slot`, which `node` owns by `view`.
    fn is_held(&self, node: usize, view: u64, slot: SlotId) -> bool {
        if self.mutant == Some(Mutant::ServeWhileDraining) {
            return false;
        }
        let emptying = |node: &Node| node.emptying[usize::from(slot.index)] != 0;
        if emptying(&self.nodes[node]) {
            return true;
        }
        let earlier = self.history.iter().filter(|past| **past < view);
        earlier.filter_map(|past| self.owner(*past, slot)).any(|owner| {
            let holds = |(at, other): (usize, &Node)| {
                let may = other.seen < view || other.serves(slot) || emptying(other);
                at != node && other.id == owner && other.lives() && may
            };
            self.nodes.iter().enumerate().any(holds)
        })
    }

    fn serve(&mut self, node: usize, orders: &mut Vec<Order>) {
        let entry = &self.nodes[node];
        let Some(shown) = entry.shown.clone().filter(|_| entry.lives() && !entry.cut_off) else {
            return;
        };
        // A node asks those whom it knows to be concerned, so it has to know the view.
        if shown.number() < self.number || entry.awaits.is_empty() {
            return;
        }
        let mut shown = (*shown).clone();
        if self.may_serve(node, &mut shown) {
            self.show(node, shown, orders);
        }
    }

    /// Changes the view if it has to be.
    fn look(&mut self, now: Time, orders: &mut Vec<Order>) {
        let expired = |node: &Node| node.lives() && node.lease <= now;
        let ends: Vec<usize> =
            (0..self.nodes.len()).filter(|node| expired(&self.nodes[*node])).collect();
        let listed = self.tasks.iter().any(|(_, _, task)| *task == Task::Look);
        if let Some(next) = self.nodes.iter().filter(|n| n.lives()).map(|n| n.lease).min()
            && next > now
            && !listed
        {
            self.after(now, next.since(now), Task::Look);
        }
        let joins = |node: &Node| node.phase == Phase::Joins && !expired(node);
        let leaves = |node: &Node| node.phase == Phase::Member && node.leaves;
        let changes = !ends.is_empty() || self.nodes.iter().any(|n| joins(n) || leaves(n));
        let living = || self.nodes.iter().filter(|node| node.lives() && !expired(node));
        let settled = living().filter(|n| n.phase != Phase::Joins).map(Node::settled).min();
        let settled = settled.unwrap_or(self.number);
        let prunes = !self.history.is_empty() && settled >= self.number;
        self.release(now, orders);
        if !(changes || prunes) || (self.history.len() >= HISTORY_MAX && ends.is_empty() && !prunes)
        {
            return;
        }
        for node in ends {
            self.nodes[node].phase = Phase::Ended;
        }
        for node in &mut self.nodes {
            match node.phase {
                Phase::Joins => node.phase = Phase::Member,
                Phase::Member if node.leaves => node.phase = Phase::Leaves,
                Phase::Out | Phase::Member | Phase::Leaves | Phase::Left | Phase::Ended => {}
            }
        }
        self.change(now, settled);
    }

    fn change(&mut self, now: Time, settled: u64) {
        let before = std::mem::take(&mut self.members);
        let is_member = |node: &usize| self.nodes[*node].phase == Phase::Member;
        self.members = (0..self.nodes.len()).filter(is_member).collect();
        let same = before == self.members && self.number > 0;
        if self.number > 0 {
            self.history.push(self.number);
            self.history.retain(|view| *view >= settled && !(same && settled >= self.number));
        }
        let directory = match self.directories.get(&self.number).filter(|_| same) {
            Some(directory) => Arc::clone(directory),
            None => {
                let shares = self.members.iter().map(|node| Share::of(self.nodes[*node].id));
                Arc::new(Directory::of(shares))
            }
        };
        self.number += 1;
        self.views += 1;
        self.directories.insert(self.number, directory);
        let (now_used, history) = (self.number, &self.history);
        self.directories.retain(|view, _| *view == now_used || history.contains(view));
        for node in 0..self.nodes.len() {
            self.later(now, Task::Learn(node));
        }
    }

    /// Those who have left and hold nothing any more give up their leases. Others may have said something to them
    /// before they knew, as long as not all have settled: so long they stay.
    fn release(&mut self, now: Time, orders: &mut Vec<Order>) {
        let is_empty = |node: &Node| {
            let knows = node.seen == self.number && node.settled() == self.number;
            node.phase == Phase::Leaves && knows && self.history.is_empty()
        };
        let empty = self.nodes.iter().enumerate().filter(|(_, node)| is_empty(node));
        let before = orders.len();
        orders.extend(empty.map(|(at, _)| Order::HandedOver(at)));
        if orders.len() > before {
            self.after(now, LINGER, Task::Look);
        }
    }
}

impl Plane for Quick {
    fn add(&mut self, shards: u16) {
        let node = Node {
            id: NodeId::new(0),
            phase: Phase::Out,
            leaves: false,
            lease: Time::ZERO,
            seen: 0,
            shown: None,
            awaits: Vec::new(),
            emptying: vec![0; SLOTS],
            shards,
            acked: vec![0; usize::from(shards)],
            paused: Time::ZERO,
            cut_off: false,
        };
        self.nodes.push(node);
    }

    fn join(&mut self, now: Time, node: usize, id: NodeId) {
        let entry = &mut self.nodes[node];
        (entry.id, entry.seen, entry.shown, entry.leaves) = (id, 0, None, false);
        entry.acked.fill(0);
        entry.emptying.fill(0);
        entry.phase = Phase::Out;
        self.later(now, Task::Renew(node));
    }

    fn leave(&mut self, now: Time, node: usize) {
        self.nodes[node].leaves = true;
        self.later(now, Task::Look);
    }

    fn crash(&mut self, _now: Time, node: usize) {
        self.nodes[node].paused = Time::MAX;
    }

    fn pause(&mut self, node: usize, until: Time) {
        self.nodes[node].paused = until;
    }

    fn cut_off(&mut self, node: usize, is: bool) {
        self.nodes[node].cut_off = is;
    }

    fn is_settled(&self) -> bool {
        let settled = |node: &Node| {
            let knows = node.seen == self.number && node.settled() == self.number;
            let quiet = node.phase != Phase::Joins && !node.leaves;
            !node.lives() || (knows && quiet)
        };
        // It will find out that it is none, and join.
        let joins = |node: &Node| matches!(node.phase, Phase::Out | Phase::Ended);
        let waits = |node: &Node| joins(node) && node.paused != Time::MAX;
        self.history.is_empty() && self.nodes.iter().all(|node| settled(node) && !waits(node))
    }

    fn is_member(&self, node: usize) -> bool {
        self.nodes[node].phase == Phase::Member && !self.nodes[node].leaves
    }

    fn lease_of(&self, _now: Time, node: usize) -> Time {
        let node = &self.nodes[node];
        if node.lives() { node.lease } else { Time::ZERO }
    }

    fn may_have(&self, node: usize, shard: u16, slot: SlotId) -> bool {
        let node = &self.nodes[node];
        let emptying = node.emptying[usize::from(slot.index)] >> shard & 1 == 1;
        slot.class == CLASS && (node.serves(slot) || emptying)
    }

    fn drained(
        &mut self,
        now: Time,
        (node, shard): (usize, u16),
        (view, slots, left): (u64, &[SlotId], u32),
    ) {
        let entry = &mut self.nodes[node];
        for slot in slots {
            entry.emptying[usize::from(slot.index)] &= !(1 << shard);
        }
        if left == 0 {
            entry.acked[usize::from(shard)] = view;
        }
        for other in 0..self.nodes.len() {
            self.later(now, Task::Serve(other));
        }
        self.later(now, Task::Look);
    }

    fn behind(&mut self, now: Time, node: usize, _view: u64) {
        self.later(now, Task::Learn(node));
    }

    fn deadline(&self) -> Option<Time> {
        self.tasks.first().map(|(at, _, _)| *at)
    }

    fn run(&mut self, now: Time) -> Vec<Order> {
        let mut orders: Vec<Order> = self.left.drain(..).map(Order::Left).collect();
        while let Some((at, serial, task)) = self.tasks.first().copied() {
            if at > now {
                break;
            }
            self.tasks.remove(&(at, serial, task));
            if let Some(wakes) = self.asleep(now, task) {
                self.serial += 1;
                self.tasks.insert((wakes, self.serial, task));
                continue;
            }
            self.do_one(now, task, &mut orders);
        }
        orders
    }

    fn quiet(&mut self, now: Time, node: usize) {
        self.left.push(node);
        self.nodes[node].phase = Phase::Left;
        self.nodes[node].shown = None;
        self.nodes[node].leaves = false;
        self.later(now, Task::Look);
    }

    fn views(&self) -> u64 {
        self.views
    }
}

/// The slots that a node owns and does not serve.
fn awaited(shown: &Ownership) -> Vec<u16> {
    let site = |index: &u16| shown.site_of(SlotId { class: CLASS, index: *index });
    (0..=u16::MAX).filter(|index| site(index) == Site::Awaited).collect()
}

/// What was served by `before` is by `now`, if it still belongs to the node.
fn keep(before: &Ownership, now: &mut Ownership) {
    let mut kept: BTreeMap<u64, Vec<u16>> = BTreeMap::new();
    for slot in 0..=u16::MAX {
        if let Some(Epoch(epoch)) = before.epoch_of(CLASS, slot) {
            kept.entry(epoch).or_default().push(slot);
        }
    }
    for (epoch, slots) in kept {
        now.serve(CLASS, slots, Epoch(epoch));
    }
}
