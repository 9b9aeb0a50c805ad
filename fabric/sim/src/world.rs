//! The world: shards under virtual time, run in an order that follows from the seed.
//!
//! # Invariants
//! - **S4** Time jumps only when nothing can be done at the present one, and never goes back.
//!
//! # Not here
//! What runs in the shards; delays and order of messages (`post`, `net`); who is a member (`plane`), and what
//! happens to nodes (`weather`).

mod guard;
mod node;
mod weather;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use epicserver_entity::{Answer, Registry, TurnId};
use epicserver_node::{
    Counters, Effect, Event, Fault as Knob, Message, Notice, RootTask, Shard, WakeSink,
};
use epicserver_proto::view::Share;
use epicserver_proto::{Directory, Ownership, SlotId};
use epicserver_wire::frame::Frame;
use epicserver_wire::header::{Glance, Kind};
use epicserver_wire::{LinkId, ShardId, Time};

use crate::fabric::scenario::{Answers, Scenario};
use crate::mutant::Mutant;
use crate::net::{Arrival, Net, Tip};
use crate::plane::{Machines, Plane, Quick};
use crate::post::{Pair, Post};
use crate::rng::{Rng, mix};
use crate::store::Store;
use crate::storm::Storm;
use guard::Guard;
use node::Node;
pub(crate) use weather::NODES_MAX;

/// When worlds begin.
pub(crate) const START: Time = Time::from_nanos(3_600_000_000_000);
/// Things that one run may do.
const STEPS_MAX: u64 = 3_000_000;

/// Tasks that were woken from outside of their shard.
#[derive(Default)]
struct Woken(Mutex<VecDeque<TurnId>>);

impl Woken {
    fn drain(&self) -> VecDeque<TurnId> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

impl WakeSink for Woken {
    fn wake(&self, turn: TurnId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(turn);
    }
}

struct Member {
    /// Of which node it is a shard.
    node: usize,
    /// None once the node is no more.
    shard: Option<Shard>,
    woken: Arc<Woken>,
    inbox: VecDeque<Event>,
    /// It does nothing before.
    stalled: Time,
}

/// What a world is made of.
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) nodes: u16,
    /// Of each node that there is at the beginning.
    pub(crate) shards: u16,
    pub(crate) registry: Registry,
    pub(crate) memory_bytes_max: u64,
    pub(crate) idle: Option<Duration>,
    pub(crate) direct: bool,
    pub(crate) mutant: Option<Mutant>,
    pub(crate) storm: Storm,
    /// What the control machines of the nodes meet; none where the control plane is a quick one.
    pub(crate) scenario: Option<Scenario>,
    /// There is a store, and this is how it answers.
    pub(crate) store: Option<Answers>,
    /// Bytes of states that a shard may have changed and not saved.
    pub(crate) unsaved_bytes_max: u64,
    /// The slots of entities that are watched.
    pub(crate) slots: Vec<SlotId>,
    /// A task that the storm begins.
    pub(crate) task: Option<fn(u64) -> RootTask>,
    /// The node to which nothing happens: that of a user's test, which begins nodes for those that are lost.
    pub(crate) host: Option<usize>,
}

/// How a run of the world ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// Nothing is under way.
    Quiet,
    /// Nothing will happen before the time at which the run was to be over, or ever.
    Waits,
    /// Its user has seen enough.
    Over,
    /// It goes on and on.
    Restless,
}

/// Who looks at the world when a shard is about to run.
pub(crate) trait Watch {
    /// Shard number `shard` of a node acts now, under a lease until then, and may have turns in these slots.
    fn acts(&mut self, at: (Time, Time), node: u64, may_have: &[bool]);
    /// Whether something is yet to come though nobody waits for it.
    fn awaits(&self) -> bool;
}

pub(crate) struct World {
    rng: Rng,
    now: Time,
    plan: Plan,
    nodes: Vec<Node>,
    members: Vec<Member>,
    post: Post,
    net: Net,
    /// None where there is one view for ever.
    plane: Option<Box<dyn Plane>>,
    store: Option<Store>,
    weather: weather::Weather,
    watch: Option<Box<dyn Watch>>,
    guard: Option<Guard>,
    out: Vec<Effect>,
    trace: u64,
    /// Panics that shards have told of.
    pub(crate) panics: u64,
    /// Tasks that have begun, and those of them that went with their node.
    pub(crate) tasks: u64,
    /// What shards that are no more have done.
    past: Vec<Counters>,
    /// Which fault met a node in which state, how often.
    pub(crate) met: BTreeMap<String, u64>,
}

enum Act {
    Run(usize),
    Deliver(Pair),
    Arrive(Tip),
    Control,
    Store,
    Weather,
}

impl World {
    pub(crate) fn new(plan: Plan) -> Self {
        let mut rng = Rng::new(plan.seed);
        let post = Post::new(rng.fork(), plan.mutant);
        let net = Net::new(rng.fork());
        let stormy = !plan.storm.is_calm();
        let plane = stormy.then(|| plane(&plan, rng.fork()));
        let weather = weather::Weather::new(&plan.storm, START);
        let (nodes, shards) = (plan.nodes, plan.shards);
        // A stream of its own, so that seeds which are known do what they did.
        let store = plan.store.clone().map(|how| Store::new(how, Rng::new(mix(plan.seed))));
        let mut world = Self {
            rng,
            now: START,
            plan,
            nodes: Vec::new(),
            members: Vec::new(),
            post,
            net,
            plane,
            store,
            weather,
            watch: None,
            guard: None,
            out: Vec::new(),
            trace: 0,
            panics: 0,
            tasks: 0,
            past: Vec::new(),
            met: BTreeMap::new(),
        };
        for _ in 0..nodes {
            world.add_node(shards);
        }
        if !stormy && nodes > 1 {
            world.agree();
        }
        world.link_all();
        world
    }

    /// The nodes have a view that never changes.
    fn agree(&mut self) {
        let shares = self.nodes.iter().map(|node| Share::of(node.id));
        let directory = Arc::new(Directory::of(shares));
        for node in 0..self.nodes.len() {
            let view = Ownership::whole(1, self.nodes[node].id, Arc::clone(&directory));
            let view = Arc::new(view);
            self.tell(node, || Event::View(Arc::clone(&view)));
        }
    }

    /// From now on `watch` looks on.
    pub(crate) fn watch(&mut self, watch: impl Watch + 'static) {
        self.watch = Some(Box::new(watch));
    }

    /// How many shards there are in all.
    pub(crate) fn shards(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn now(&self) -> Time {
        self.now
    }

    /// What the run did, as one number.
    pub(crate) fn trace(&self) -> u64 {
        self.trace
    }

    /// How many views there were.
    pub(crate) fn views(&self) -> u64 {
        self.plane.as_ref().map_or(0, |plane| plane.views())
    }

    /// What happened in the control plane, by name.
    pub(crate) fn counts(&self) -> Vec<(&'static str, u64)> {
        let mut counts = self.plane.as_ref().map_or_else(Vec::new, |plane| plane.counts());
        counts.extend(self.store.iter().flat_map(Store::counts));
        counts
    }

    /// What the shards did.
    pub(crate) fn counters(&self) -> impl Iterator<Item = Counters> + '_ {
        let living = self.members.iter().filter_map(|member| member.shard.as_ref());
        living.map(Shard::counters).chain(self.past.iter().copied())
    }

    /// Gives a shard a task that belongs to no entity.
    pub(crate) fn root(&mut self, shard: usize, task: RootTask) {
        self.tasks += 1;
        if let Some(member) = self.members.get_mut(shard) {
            member.inbox.push_back(Event::Root(task));
        }
    }

    /// Gives some node that there is such a task, for which the store does not fail.
    pub(crate) fn root_in_the_end(&mut self, task: RootTask) {
        self.store.iter_mut().for_each(Store::calm_down);
        let node = self.nodes.iter().find(|node| node.lives);
        if let Some(first) = node.map(|node| node.first) {
            self.root(first, task);
        }
    }

    /// Runs until nothing is under way, until `until`, or until `is_over` says so.
    pub(crate) fn run(&mut self, until: Time, is_over: impl Fn(&Self) -> bool) -> End {
        for _ in 0..STEPS_MAX {
            if is_over(self) {
                return End::Over;
            }
            if let Some(act) = self.choose() {
                self.act(act);
                continue;
            }
            if self.is_quiet() {
                return End::Quiet;
            }
            if self.is_still() {
                return End::Waits;
            }
            match self.next_time() {
                Some(next) if next <= until => self.now = self.now.max(next),
                _ => return End::Waits,
            }
        }
        End::Restless
    }

    /// What is not at rest, in words.
    pub(crate) fn unrest(&self) -> String {
        let mut what = Vec::new();
        if !self.weather.is_over() {
            what.push("more is to happen".to_owned());
        }
        if !self.plane.as_ref().is_none_or(|plane| plane.is_settled()) {
            what.push("views are not settled".to_owned());
        }
        if !self.post.is_empty() || !self.net.is_empty() {
            what.push("messages are under way".to_owned());
        }
        if self.watch.as_ref().is_some_and(|watch| watch.awaits()) {
            what.push("reminders are to come".to_owned());
        }
        for (index, member) in self.members.iter().enumerate() {
            if member.shard.as_ref().is_some_and(|shard| !shard.is_quiet()) {
                what.push(format!("shard {index} of node {}", member.node));
            }
        }
        format!("something waits for ever: {}", what.join(", "))
    }

    fn is_quiet(&self) -> bool {
        let quiet = |member: &Member| {
            let shard = member.shard.as_ref();
            shard.is_none_or(|shard| member.inbox.is_empty() && shard.is_quiet())
        };
        self.weather.is_over()
            && self.plane.as_ref().is_none_or(|plane| plane.is_settled())
            && self.post.is_empty()
            && self.net.is_empty()
            && self.store.as_ref().is_none_or(Store::is_empty)
            && !self.watch.as_ref().is_some_and(|watch| watch.awaits())
            && self.members.iter().all(quiet)
    }

    /// When a shard has something to do.
    fn due(&self, member: &Member) -> Option<Time> {
        let shard = member.shard.as_ref()?;
        let ready = shard.is_ready() || !member.inbox.is_empty() || !member.woken.is_empty();
        let clock = self.nodes[member.node].clock;
        let due = if ready { Some(self.now) } else { shard.deadline().map(|due| clock.when(due)) };
        due.map(|due| due.max(member.stalled))
    }

    fn next_time(&self) -> Option<Time> {
        let shards = self.members.iter().filter_map(|member| self.due(member));
        let control = self.plane.as_ref().and_then(|plane| plane.deadline());
        let post = self.messages().map(|(_, at)| at).min();
        let store = self.store.as_ref().and_then(Store::deadline);
        let others = [post, self.net.deadline(), control, store, self.weather.deadline()];
        shards.chain(others.into_iter().flatten()).min()
    }

    /// One of the things that can be done now.
    fn choose(&mut self) -> Option<Act> {
        let now = self.now;
        let due = |member: &Member| self.due(member).is_some_and(|due| due <= now);
        let runs = self.members.iter().enumerate().filter(|(_, member)| due(member));
        let mut acts: Vec<Act> = runs.map(|(index, _)| Act::Run(index)).collect();
        let arrived = self.messages().filter(|(_, at)| *at <= now);
        acts.extend(arrived.map(|(pair, _)| Act::Deliver(pair)));
        acts.extend(self.net.arrived(now).map(Act::Arrive));
        let is_due = |at: Option<Time>| at.is_some_and(|at| at <= now);
        if is_due(self.plane.as_ref().and_then(|plane| plane.deadline())) {
            acts.push(Act::Control);
        }
        if is_due(self.store.as_ref().and_then(Store::deadline)) {
            acts.push(Act::Store);
        }
        if is_due(self.weather.deadline()) {
            acts.push(Act::Weather);
        }
        if acts.is_empty() {
            return None;
        }
        let index = self.rng.index(acts.len());
        Some(acts.swap_remove(index))
    }

    /// When the first message of each pair of shards is heard.
    fn messages(&self) -> impl Iterator<Item = (Pair, Time)> + '_ {
        self.post.upcoming().map(|(pair, at)| {
            let node = self.members[pair.1].node;
            (pair, at.max(self.nodes[node].paused))
        })
    }

    fn note(&mut self, what: u64, which: usize) {
        let news = (what << 32) ^ which as u64 ^ self.now.as_nanos().rotate_left(20);
        self.trace = mix(self.trace ^ mix(news));
    }

    fn act(&mut self, act: Act) {
        self.now = self.now + Duration::from_nanos(self.rng.below(700));
        match act {
            Act::Run(index) => self.run_shard(index),
            Act::Deliver(pair) => self.deliver(pair),
            Act::Arrive(tip) => self.arrive(tip),
            Act::Control => self.control(),
            Act::Store => self.store_acts(),
            Act::Weather => self.happen(),
        }
    }

    /// A frame arrives: each shard gets its messages. Or there is room, or the link is down: each shard hears of it.
    fn arrive(&mut self, tip: Tip) {
        match self.net.take(self.now, tip) {
            Some(Arrival::Frame { at, link, frame }) => {
                self.note(5, at);
                self.hand_out(at, link, &frame);
            }
            Some(Arrival::Room { at, link }) => {
                self.note(7, at);
                self.tell(at, || Event::LinkRoom(link));
            }
            Some(Arrival::Down { at, link }) => {
                self.note(8, at);
                self.tell(at, || Event::LinkDown(link));
                self.plan_redial();
            }
            None => {}
        }
    }

    /// All shards of a node hear of something.
    fn tell(&mut self, node: usize, event: impl Fn() -> Event) {
        for member in self.nodes[node].members() {
            self.members[member].inbox.push_back(event());
        }
    }

    fn hand_out(&mut self, at: usize, link: LinkId, frame: &Frame) {
        let (mut start, first) = (0, self.nodes[at].first);
        while let Ok(glance) = Glance::at(frame.bytes(), start) {
            let Some(frame) = frame.slice(start, glance.end) else { return };
            start = glance.end;
            self.check_answer(first + glance.to.index(), &frame);
            if !self.loses(glance.kind) {
                let event = Event::Packet { link, frame };
                self.members[first + glance.to.index()].inbox.push_back(event);
            }
        }
    }

    /// The store does something, of which a shard may hear.
    fn store_acts(&mut self) {
        let done = self.store.as_mut().and_then(|store| store.step(self.now));
        self.note(16, done.as_ref().map_or(0, |(to, _)| *to));
        if let Some((to, done)) = done {
            self.members[to].inbox.push_back(Event::Stored(done));
        }
    }

    /// Whether the run's mutant loses a message of that kind.
    fn loses(&mut self, kind: Kind) -> bool {
        self.plan.mutant == Some(Mutant::MovedCallLost) && kind == Kind::Moved
    }

    fn deliver(&mut self, (from, to): Pair) {
        self.note(1, from * 1000 + to);
        let Some(message) = self.post.take((from, to)) else { return };
        if let Message::Call(_) = message {
            let shard = to - self.nodes[self.members[to].node].first;
            let to = ShardId::new(u16::try_from(shard).unwrap_or(u16::MAX));
            self.members[from].inbox.push_back(Event::Sent { to, count: 1 });
        }
        let mut out = std::mem::take(&mut self.out);
        self.looked_at(to);
        let now = self.nodes[self.members[to].node].clock.shows(self.now);
        if let Some(shard) = &mut self.members[to].shard {
            shard.handle(now, Event::Message(message), &mut out);
            shard.flush(now, &mut out);
        }
        self.check(to);
        self.carry_out(to, &mut out);
        self.out = out;
    }

    fn run_shard(&mut self, index: usize) {
        self.note(2, index);
        let mut out = std::mem::take(&mut self.out);
        let steps = 1 + u32::try_from(self.rng.below(6)).unwrap_or(0);
        let stall = self.rng.one_in(300).then(|| Duration::from_nanos(self.rng.below(5_000_000)));
        self.looked_at(index);
        let member = &mut self.members[index];
        for turn in member.woken.drain() {
            member.inbox.push_back(Event::Woken(turn));
        }
        let Some(shard) = &mut member.shard else { return };
        let Node { evicted, lease, clock, .. } = self.nodes[member.node];
        let now = clock.shows(self.now);
        if self.plane.is_some() {
            shard.lease(evicted, clock.shows(lease));
        }
        while let Some(event) = member.inbox.pop_front() {
            shard.handle(now, event, &mut out);
        }
        shard.run(now, steps, &mut out);
        shard.flush(now, &mut out);
        if let Some(stall) = stall {
            member.stalled = self.now + stall;
        }
        self.check(index);
        self.carry_out(index, &mut out);
        self.out = out;
    }

    /// A shard is about to act.
    fn looked_at(&mut self, member: usize) {
        let (Some(watch), Some(plane)) = (&mut self.watch, &self.plane) else { return };
        let node = self.members[member].node;
        let shard = u16::try_from(member - self.nodes[node].first).unwrap_or(0);
        let may_have = self.plan.slots.iter().map(|slot| plane.may_have(node, shard, *slot));
        let may_have: Vec<bool> = may_have.collect();
        let run = self.nodes[node].id.as_u64();
        watch.acts((self.now, plane.lease_of(self.now, node)), run, &may_have);
    }

    fn carry_out(&mut self, from: usize, out: &mut Vec<Effect>) {
        let node = self.members[from].node;
        let first = self.nodes[node].first;
        for effect in out.drain(..) {
            match effect {
                Effect::Send { to, message } => {
                    let to = first + to.index();
                    self.note(3, to);
                    if let Message::Reply { token, .. } = &message {
                        self.answered(to, *token);
                    }
                    self.post.send(self.now, from, to, message);
                }
                Effect::Transmit { link, head, body } => {
                    self.note(6, node);
                    self.net.send(self.now, (node, from - first, link), (head, body));
                }
                Effect::Close { link, why } => panic!("S6: {link:?} carried a violation: {why}"),
                Effect::Wall { token } => {
                    let answer = Answer::Wall(self.now.as_nanos());
                    self.members[from].inbox.push_back(Event::Completed { token, answer });
                }
                Effect::Random { token, len } => {
                    let bytes = (0..len).map(|_| self.rng.next().to_le_bytes()[0]).collect();
                    let answer = Answer::Bytes(bytes);
                    self.members[from].inbox.push_back(Event::Completed { token, answer });
                }
                Effect::Store { id, op } => {
                    self.note(17, from);
                    if let Some(store) = &mut self.store {
                        store.ask(self.now, from, (id, op));
                    }
                }
                Effect::Drained { view, slots, left } => {
                    self.note(9, from);
                    let shard = u16::try_from(from - first).unwrap_or(0);
                    if let Some(plane) = &mut self.plane {
                        plane.drained(self.now, (node, shard), (view, &slots, left));
                    }
                }
                Effect::Behind { view } => {
                    self.note(10, from);
                    if let Some(plane) = &mut self.plane {
                        plane.behind(self.now, node, view);
                    }
                }
                Effect::Notice(notice) => {
                    self.note(4, from);
                    self.panics += u64::from(matches!(notice, Notice::Panicked { .. }));
                }
            }
        }
    }
}

fn plane(plan: &Plan, rng: Rng) -> Box<dyn Plane> {
    let (slots, mutant) = (plan.slots.clone(), plan.mutant);
    match &plan.scenario {
        Some(scenario) => Box::new(Machines::new(scenario.clone(), rng, slots, mutant)),
        None => Box::new(Quick::new(rng, plan.storm.pace, slots, mutant)),
    }
}

/// The shard's own way to be wrong, if the run's mutant is one.
fn knob(mutant: Option<Mutant>) -> Option<Knob> {
    mutant.and_then(Mutant::knob)
}
