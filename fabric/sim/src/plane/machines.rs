//! A control plane of control machines: those of the runtime, their coordinator, and what they say to each other.
//!
//! # Invariants
//! - **S12** The epochs of a slot grow, and each is of one node: that is asserted of the slots of the world's entities.
//!
//! # Not here
//! The same for fabrics of any size, without shards: `fabric`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use epicserver_proto::control::{AskId, Config, Control, Effect, Event, Stage};
use epicserver_proto::coordinator::{ASK_MAX, Answer, Ask};
use epicserver_proto::view::{Member, Record};
use epicserver_proto::{Atlas, Epoch, Ownership, SlotId};
use epicserver_wire::{ClassId, NodeId, ShardId, Time};

use super::{LINGER, Order, Plane};
use crate::fabric::clock::Clock;
use crate::fabric::coordinator::Coordinator;
use crate::fabric::scenario::{Scenario, millis};
use crate::mutant::Mutant;
use crate::rng::Rng;

/// How long a shard takes at most to be heard by its control thread.
const RING: Duration = Duration::from_millis(1);
/// How much longer a slow message takes at most.
const SLOW: Duration = Duration::from_secs(1);

/// A node, and which of its lives: what was on its way to an earlier one is nothing to the next.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Whom {
    node: usize,
    life: u32,
}

enum Happening {
    Begin(Whom),
    /// A question arrives at the coordinator; its answer arrives then, if anybody waits for it.
    Asked(Whom, AskId, Ask, Option<Time>),
    Answered(Whom, AskId, Answer),
    Said(Whom, NodeId, Vec<u8>),
    Linked(Whom, NodeId),
    Drained(Whom, u64, ShardId, Vec<SlotId>),
    Behind(Whom, u64),
    Leave(Whom),
    HandedOver(Whom),
}

impl Happening {
    fn whom(&self) -> Whom {
        match self {
            Self::Begin(whom)
            | Self::Asked(whom, ..)
            | Self::Answered(whom, ..)
            | Self::Said(whom, ..)
            | Self::Linked(whom, ..)
            | Self::Drained(whom, ..)
            | Self::Behind(whom, _)
            | Self::Leave(whom)
            | Self::HandedOver(whom) => *whom,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Out,
    Up,
    Leaving,
    Left,
    Gone,
}

struct Node {
    id: NodeId,
    life: u32,
    phase: Phase,
    shards: u16,
    control: Control,
    clock: Clock,
    paused: Time,
    cut_off: bool,
    /// Nothing is under way on its shards, which leave.
    quiet: bool,
    /// When the last thing arrives that it was told.
    rung: Time,
    shown: Option<Arc<Ownership>>,
    /// What each shard still empties, of the slots that are watched.
    emptying: Vec<BTreeSet<SlotId>>,
}

impl Node {
    fn is_up(&self) -> bool {
        matches!(self.phase, Phase::Up | Phase::Leaving)
    }

    /// When its machine is to be told the time.
    fn due(&self) -> Option<Time> {
        let due = self.control.deadline().filter(|_| self.is_up())?;
        Some(self.clock.when(due).max(self.paused))
    }
}

/// A control plane of control machines.
pub(crate) struct Machines {
    scenario: Scenario,
    rng: Rng,
    now: Time,
    queue: BTreeMap<(Time, u64), Happening>,
    serial: u64,
    nodes: Vec<Node>,
    atlas: Atlas,
    coordinator: Coordinator,
    mutant: Option<Mutant>,
    side: (u64, bool),
    muddled: Time,
    calm: bool,
    epochs: BTreeMap<SlotId, (Epoch, NodeId)>,
    slots: Vec<SlotId>,
    orders: Vec<Order>,
    counts: BTreeMap<&'static str, u64>,
}

impl Machines {
    /// A plane in a world that is as `scenario` says, which watches over `slots`.
    pub(crate) fn new(
        scenario: Scenario,
        mut rng: Rng,
        slots: Vec<SlotId>,
        mutant: Option<Mutant>,
    ) -> Self {
        let clock = Clock::draw(&scenario.clocks, &mut rng);
        Self {
            scenario,
            rng,
            now: Time::ZERO,
            queue: BTreeMap::new(),
            serial: 0,
            nodes: Vec::new(),
            atlas: Atlas::default(),
            coordinator: Coordinator::new(clock, mutant),
            mutant,
            side: (0, false),
            muddled: Time::ZERO,
            calm: false,
            epochs: BTreeMap::new(),
            slots,
            orders: Vec::new(),
            counts: BTreeMap::new(),
        }
    }

    fn count(&mut self, name: &'static str) {
        *self.counts.entry(name).or_default() += 1;
    }

    fn whom(&self, node: usize) -> Whom {
        Whom { node, life: self.nodes[node].life }
    }

    fn put(&mut self, at: Time, what: Happening) {
        self.serial += 1;
        self.queue.insert((at, self.serial), what);
    }

    /// The control thread of a node hears of something, after all that it was told before.
    fn soon(&mut self, now: Time, what: Happening) {
        let at = now + self.rng.up_to(RING);
        let rung = &mut self.nodes[what.whom().node].rung;
        *rung = at.max(*rung);
        let at = *rung;
        self.put(at, what);
    }

    /// Whether this happens to a node that does nothing now; then it happens later.
    fn happen(&mut self, what: Happening) {
        let whom = what.whom();
        let node = &self.nodes[whom.node];
        let asks = matches!(what, Happening::Asked(..));
        if node.life != whom.life && !asks {
            return;
        }
        if node.paused > self.now && !asks {
            if node.paused < Time::MAX {
                self.put(node.paused, what);
            }
            return;
        }
        match what {
            Happening::Begin(_) => self.begin(whom.node),
            Happening::Asked(_, id, ask, back) => self.asked(whom, (id, ask), back),
            Happening::Answered(_, id, answer) => {
                self.feed(whom.node, Event::Answer { id, answer });
            }
            Happening::Said(_, from, bytes) => {
                self.feed(whom.node, Event::Said { from, bytes: &bytes });
            }
            Happening::Linked(_, node) => self.feed(whom.node, Event::Linked { node }),
            Happening::Drained(_, view, shard, slots) => {
                let mut classes: BTreeMap<ClassId, Vec<u16>> = BTreeMap::new();
                for slot in slots {
                    classes.entry(slot.class).or_default().push(slot.index);
                }
                let slots = classes.into_iter().collect();
                self.feed(whom.node, Event::Drained { view, shard, slots });
            }
            Happening::Behind(_, view) => self.feed(whom.node, Event::Behind { view }),
            Happening::Leave(_) => {
                self.nodes[whom.node].phase = Phase::Leaving;
                self.feed(whom.node, Event::Leave);
            }
            Happening::HandedOver(_) if self.nodes[whom.node].quiet => {}
            Happening::HandedOver(_) => {
                self.orders.push(Order::HandedOver(whom.node));
                self.put(self.now + LINGER, Happening::HandedOver(whom));
            }
        }
    }

    fn begin(&mut self, node: usize) {
        let one = &mut self.nodes[node];
        one.phase = Phase::Up;
        let member = Member::of(one.id, one.shards);
        let seed = self.rng.next();
        self.feed(node, Event::Begin { member, seed });
    }

    fn feed(&mut self, node: usize, event: Event<'_>) {
        let one = &mut self.nodes[node];
        if !one.is_up() {
            return;
        }
        let (local, life, mut out) = (one.clock.shows(self.now), one.life, Vec::new());
        one.control.handle(local, event, &mut out);
        for effect in out {
            if self.nodes[node].life == life {
                self.carry_out(node, effect);
            }
        }
    }

    fn carry_out(&mut self, node: usize, effect: Effect) {
        match effect {
            Effect::Ask { id, ask } => self.ask(node, id, ask),
            Effect::Lease { until } => {
                let until = self.nodes[node].clock.when(until);
                self.orders.push(Order::Lease(node, until));
            }
            Effect::View(_) => {}
            Effect::Serve(served) => self.show(node, served.ownership()),
            Effect::Say { to, bytes } => self.say(node, to, bytes),
            Effect::Gone { node: gone, left: false } => {
                self.count("members seen to be lost");
                self.orders.push(Order::HangUp(node, gone));
            }
            Effect::Gone { left: true, .. } => self.count("members seen to leave"),
            Effect::Evicted { .. } => {
                self.count("leases ended by others");
                self.stop(node, Phase::Out);
                self.orders.push(Order::Evict(node));
            }
            Effect::HandedOver => {
                let whom = self.whom(node);
                self.put(self.now, Happening::HandedOver(whom));
            }
            Effect::Left => {
                self.count("left");
                self.stop(node, Phase::Left);
                self.orders.push(Order::Left(node));
            }
            Effect::Notice(_) => self.count("notices"),
        }
    }

    /// A life of a node is over.
    fn stop(&mut self, node: usize, phase: Phase) {
        let one = &mut self.nodes[node];
        (one.phase, one.shown) = (phase, None);
        one.life += 1;
        one.emptying.iter_mut().for_each(BTreeSet::clear);
    }

    fn show(&mut self, node: usize, shown: Ownership) {
        // Past its lease it may say what it wants, since its shards do nothing.
        let counts = self.mutant.is_none() && self.coordinator.lasts(self.now, self.nodes[node].id);
        let one = &mut self.nodes[node];
        for slot in &self.slots {
            let epoch = |of: &Ownership| of.epoch_of(slot.class, slot.index);
            let before = one.shown.as_deref().and_then(epoch);
            if before.is_some() && before != epoch(&shown) {
                for slots in &mut one.emptying {
                    slots.insert(*slot);
                }
            }
            let Some(epoch) = epoch(&shown).filter(|_| counts) else { continue };
            let last = self.epochs.insert(*slot, (epoch, one.id));
            let (last, whose) = last.unwrap_or((epoch, one.id));
            assert!(epoch >= last, "S12: the epochs of a slot grow");
            assert!(epoch > last || whose == one.id, "S12: an epoch is of one node");
        }
        let shown = Arc::new(shown);
        one.shown = Some(Arc::clone(&shown));
        self.orders.push(Order::Show(node, shown));
    }

    /// Whether what `from` says is not heard by `to`.
    fn parted(&self, from: usize, to: usize) -> bool {
        let (side, one_way) = self.side;
        let on = |node: usize| side >> (node % 64) & 1 == 1;
        on(from) != on(to) && (on(from) || !one_way)
    }

    fn say(&mut self, node: usize, to: NodeId, bytes: Vec<u8>) {
        let at = self.nodes.iter().position(|other| other.id == to && other.is_up());
        let Some(at) = at.filter(|at| !self.parted(node, *at)) else { return };
        let net = self.scenario.net.clone();
        let share = |share: f64| if self.calm { 0.0 } else { share };
        let (lost, twice, slow) = (share(net.lost), share(net.twice), share(net.slow));
        if self.rng.chance(lost) {
            return;
        }
        let (whom, from) = (self.whom(at), self.nodes[node].id);
        let times = 1 + usize::from(self.rng.chance(twice));
        for bytes in std::iter::repeat_n(bytes, times) {
            let mut delay = self.rng.up_to(millis(net.delay_ms));
            if self.rng.chance(slow) {
                delay += self.rng.up_to(SLOW);
            }
            self.put(self.now + delay, Happening::Said(whom, from, bytes));
        }
    }

    fn mutated(&self, node: usize, ask: Ask) -> Ask {
        match (self.mutant, ask) {
            (Some(Mutant::ServeWhileDraining), Ask::Renew { node: id, record, ttl }) => {
                let number = self.nodes[node].control.view().map_or(0, |view| view.number);
                let record = match Record::read(&record) {
                    Ok(read) => Record { settled: number, ..read }.write(),
                    Err(_) => record,
                };
                Ask::Renew { node: id, record, ttl }
            }
            (_, ask) => ask,
        }
    }

    fn ask(&mut self, node: usize, id: AskId, ask: Ask) {
        let (ask, whom) = (self.mutated(node, ask), self.whom(node));
        let answers = self.scenario.coordinator.clone();
        let share = |share: f64| if self.calm { 0.0 } else { share };
        let unknown = if self.muddled > self.now { 0.5 } else { share(answers.unknown) };
        let slow = share(answers.slow);
        let gives_up = self.now + ASK_MAX;
        let mut arrives = self.now + self.rng.up_to(millis(answers.delay_ms));
        if self.rng.chance(slow) {
            arrives = self.now + self.rng.up_to(2 * ASK_MAX);
        }
        let back = arrives + self.rng.up_to(millis(answers.delay_ms));
        let unheard = self.rng.chance(unknown);
        if unheard || back > gives_up {
            self.fail(gives_up, whom, id);
            // It may have been done all the same.
            if !unheard || self.rng.one_in(2) {
                self.count("done, and nobody was told");
                self.put(arrives, Happening::Asked(whom, id, ask, None));
            }
        } else {
            self.put(arrives, Happening::Asked(whom, id, ask, Some(back)));
        }
    }

    fn fail(&mut self, at: Time, whom: Whom, id: AskId) {
        self.put(at, Happening::Answered(whom, id, Answer::Failed { why: String::new() }));
    }

    /// A question has arrived.
    fn asked(&mut self, whom: Whom, (id, ask): (AskId, Ask), back: Option<Time>) {
        if self.nodes[whom.node].cut_off {
            if back.is_some() {
                self.fail(self.now + ASK_MAX, whom, id);
            }
            return;
        }
        let answer = self.coordinator.ask(self.now, ask);
        if matches!(answer, Answer::Changed { .. }) {
            self.orders.push(Order::Changed);
        }
        if let Some(back) = back {
            self.put(back, Happening::Answered(whom, id, answer));
        }
    }

    fn is_steady(&self, node: &Node) -> bool {
        let number = node.control.view().map_or(0, |view| view.number);
        node.control.stage() == Stage::Steady && number == self.coordinator.number()
    }
}

impl Plane for Machines {
    fn add(&mut self, shards: u16) {
        let clock = Clock::draw(&self.scenario.clocks, &mut self.rng);
        let config = Config { atlas: self.atlas.clone(), ..Config::default() };
        self.nodes.push(Node {
            id: NodeId::new(0),
            life: 0,
            phase: Phase::Out,
            shards,
            control: Control::new(config),
            clock,
            paused: Time::ZERO,
            cut_off: false,
            quiet: false,
            rung: Time::ZERO,
            shown: None,
            emptying: vec![BTreeSet::new(); usize::from(shards)],
        });
    }

    fn clock(&self, node: usize) -> Clock {
        if self.scenario.clocks.of_shards { self.nodes[node].clock } else { Clock::true_time() }
    }

    fn join(&mut self, now: Time, node: usize, id: NodeId) {
        self.nodes[node].id = id;
        let whom = self.whom(node);
        self.soon(now, Happening::Begin(whom));
    }

    fn leave(&mut self, now: Time, node: usize) {
        let whom = self.whom(node);
        self.soon(now, Happening::Leave(whom));
    }

    fn crash(&mut self, _now: Time, node: usize) {
        if self.nodes[node].phase != Phase::Left {
            self.stop(node, Phase::Gone);
        }
    }

    fn pause(&mut self, node: usize, until: Time) {
        self.nodes[node].paused = until;
    }

    fn cut_off(&mut self, node: usize, is: bool) {
        self.nodes[node].cut_off = is;
    }

    fn part(&mut self, side: (u64, bool)) {
        self.side = side;
    }

    fn muddle(&mut self, until: Time) {
        self.muddled = until;
    }

    fn calm_down(&mut self) {
        (self.calm, self.muddled) = (true, Time::ZERO);
    }

    fn linked(&mut self, now: Time, [a, b]: [usize; 2]) {
        for (node, other) in [(a, b), (b, a)] {
            let (whom, other) = (self.whom(node), self.nodes[other].id);
            self.soon(now, Happening::Linked(whom, other));
        }
    }

    fn is_settled(&self) -> bool {
        let Some(view) = self.coordinator.view() else { return false };
        let up = self.nodes.iter().filter(|node| node.phase == Phase::Up).count();
        let settled = |node: &Node| match node.phase {
            Phase::Up => self.is_steady(node) && view.has(node.id),
            Phase::Left | Phase::Gone => true,
            Phase::Out | Phase::Leaving => false,
        };
        view.history.is_empty() && view.members.len() == up && self.nodes.iter().all(settled)
    }

    fn is_member(&self, node: usize) -> bool {
        let one = &self.nodes[node];
        let view = self.coordinator.view();
        one.phase == Phase::Up && view.is_some_and(|view| view.has(one.id))
    }

    fn lease_of(&self, now: Time, node: usize) -> Time {
        match self.coordinator.lasts(now, self.nodes[node].id) {
            true => Time::MAX,
            false => Time::ZERO,
        }
    }

    fn may_have(&self, node: usize, shard: u16, slot: SlotId) -> bool {
        let one = &self.nodes[node];
        let serves = |shown: &Arc<Ownership>| shown.epoch_of(slot.class, slot.index).is_some();
        one.shown.as_ref().is_some_and(serves) || one.emptying[usize::from(shard)].contains(&slot)
    }

    fn stage(&self, node: usize) -> String {
        let one = &self.nodes[node];
        if one.is_up() {
            format!("{:?}", one.control.stage()).to_lowercase()
        } else {
            "gone".into()
        }
    }

    fn drained(
        &mut self,
        now: Time,
        (node, shard): (usize, u16),
        (view, slots, _): (u64, &[SlotId], u32),
    ) {
        for slot in slots {
            self.nodes[node].emptying[usize::from(shard)].remove(slot);
        }
        let whom = self.whom(node);
        let what = Happening::Drained(whom, view, ShardId::new(shard), slots.to_vec());
        self.soon(now, what);
    }

    fn behind(&mut self, now: Time, node: usize, view: u64) {
        let whom = self.whom(node);
        self.soon(now, Happening::Behind(whom, view));
    }

    fn deadline(&self) -> Option<Time> {
        let first = self.queue.first_key_value().map(|((at, _), _)| *at);
        self.nodes.iter().filter_map(Node::due).chain(first).min()
    }

    fn run(&mut self, now: Time) -> Vec<Order> {
        self.now = now;
        loop {
            if let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= now) {
                let what = entry.remove();
                self.happen(what);
                continue;
            }
            let due = |node: &Node| node.due().is_some_and(|due| due <= now);
            match self.nodes.iter().position(due) {
                Some(node) => self.feed(node, Event::Time),
                None => return std::mem::take(&mut self.orders),
            }
        }
    }

    fn quiet(&mut self, now: Time, node: usize) {
        self.nodes[node].quiet = true;
        self.now = now;
        self.feed(node, Event::Quiet);
    }

    fn views(&self) -> u64 {
        self.coordinator.number()
    }

    fn counts(&self) -> Vec<(&'static str, u64)> {
        self.counts.iter().map(|(name, count)| (*name, *count)).collect()
    }
}
