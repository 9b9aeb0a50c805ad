//! The world: shards under virtual time, run in an order that follows from the seed.
//!
//! # Invariants
//! - **S4** Time jumps only when nothing can be done at the present one, and never goes back.
//!
//! # Not here
//! What runs in the shards; delays and order of messages (`post`).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use epicserver_entity::{Answer, Registry, TurnId};
use epicserver_node::{
    Config, Counters, Effect, Event, LinkUp, Message, Notice, RootTask, Shard, WakeSink,
};
use epicserver_proto::view::Share;
use epicserver_proto::{Directory, Ownership};
use epicserver_wire::frame::Frame;
use epicserver_wire::header::Glance;
use epicserver_wire::{ShardId, Time};

use crate::mutant::Mutant;
use crate::net::{Arrival, Net, Tip};
use crate::post::Post;
use crate::rng::{Rng, mix};

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
    shard: Shard,
    woken: Arc<Woken>,
    inbox: VecDeque<Event>,
    /// It does nothing before.
    stalled: Time,
}

/// What a world is made of.
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) nodes: u16,
    /// Of each node.
    pub(crate) shards: u16,
    pub(crate) registry: Registry,
    pub(crate) memory_bytes_max: u64,
    pub(crate) idle: Option<Duration>,
    pub(crate) direct: bool,
    pub(crate) mutant: Option<Mutant>,
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

pub(crate) struct World {
    rng: Rng,
    now: Time,
    /// The shards of the first node, of the second, and so on.
    members: Vec<Member>,
    shards: usize,
    post: Post,
    net: Net,
    out: Vec<Effect>,
    trace: u64,
    /// Panics that shards have told of.
    pub(crate) panics: u64,
}

enum Act {
    Run(usize),
    Deliver(usize),
    Arrive(Tip),
}

impl World {
    pub(crate) fn new(plan: Plan) -> Self {
        let mut rng = Rng::new(plan.seed);
        let registry = Arc::new(plan.registry);
        let members = (0..plan.nodes * plan.shards).map(|number| {
            let woken = Arc::new(Woken::default());
            let shard = Shard::new(Config {
                shard: ShardId::new(number % plan.shards),
                shards: plan.shards,
                fabric: plan.nodes > 1,
                origin: u32::from(number),
                registry: Arc::clone(&registry),
                memory_bytes_max: plan.memory_bytes_max,
                idle: plan.idle,
                direct: plan.direct,
                seed: rng.next(),
                wakes: Arc::clone(&woken) as Arc<dyn WakeSink>,
                fault: None,
            });
            Member { shard, woken, inbox: VecDeque::new(), stalled: Time::ZERO }
        });
        let members: Vec<Member> = members.collect();
        let post = Post::new(rng.fork(), members.len(), plan.mutant);
        let nodes = usize::from(plan.nodes);
        let net = Net::new(rng.fork(), nodes, plan.shards);
        let shards = usize::from(plan.shards);
        let (out, trace, panics) = (Vec::new(), 0, 0);
        let mut world = Self { rng, now: START, members, shards, post, net, out, trace, panics };
        world.join(nodes);
        world
    }

    /// Every node gets to know every other.
    fn join(&mut self, nodes: usize) {
        if nodes < 2 {
            return;
        }
        let directory = Arc::new(Directory::of((0..nodes).map(Net::id).map(Share::of)));
        for node in 0..nodes {
            let view = Arc::new(Ownership::whole(1, Net::id(node), Arc::clone(&directory)));
            let links: Vec<LinkUp> =
                (0..nodes).filter(|to| *to != node).map(|to| self.net.up(node, to)).collect();
            for member in &mut self.members[node * self.shards..(node + 1) * self.shards] {
                member.inbox.push_back(Event::View(Arc::clone(&view)));
                member.inbox.extend(links.iter().cloned().map(Event::LinkUp));
            }
        }
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

    /// What the shards did.
    pub(crate) fn counters(&self) -> impl Iterator<Item = Counters> + '_ {
        self.members.iter().map(|member| member.shard.counters())
    }

    /// Gives a shard a task that belongs to no entity.
    pub(crate) fn root(&mut self, shard: usize, task: RootTask) {
        if let Some(member) = self.members.get_mut(shard) {
            member.inbox.push_back(Event::Root(task));
        }
    }

    /// Runs until nothing is under way, until `until`, or until `is_over` says so.
    pub(crate) fn run(&mut self, until: Time, is_over: impl Fn() -> bool) -> End {
        for _ in 0..STEPS_MAX {
            if is_over() {
                return End::Over;
            }
            if let Some(act) = self.choose() {
                self.act(act);
                continue;
            }
            if self.is_quiet() {
                return End::Quiet;
            }
            match self.next_time() {
                Some(next) if next <= until => self.now = self.now.max(next),
                _ => return End::Waits,
            }
        }
        End::Restless
    }

    fn is_quiet(&self) -> bool {
        self.post.is_empty()
            && self.net.is_empty()
            && self.members.iter().all(|member| member.inbox.is_empty() && member.shard.is_quiet())
    }

    /// When a shard has something to do.
    fn due(&self, member: &Member) -> Option<Time> {
        let ready = member.shard.is_ready() || !member.inbox.is_empty() || !member.woken.is_empty();
        let due = if ready { Some(self.now) } else { member.shard.deadline() };
        due.map(|due| due.max(member.stalled))
    }

    fn next_time(&self) -> Option<Time> {
        let shards = self.members.iter().filter_map(|member| self.due(member));
        shards.chain(self.post.deadline()).chain(self.net.deadline()).min()
    }

    /// One of the things that can be done now.
    fn choose(&mut self) -> Option<Act> {
        let now = self.now;
        let due = |member: &Member| self.due(member).is_some_and(|due| due <= now);
        let runs = self.members.iter().enumerate().filter(|(_, member)| due(member));
        let mut acts: Vec<Act> = runs.map(|(index, _)| Act::Run(index)).collect();
        acts.extend(self.post.arrived(now).map(Act::Deliver));
        acts.extend(self.net.arrived(now).map(Act::Arrive));
        if acts.is_empty() {
            return None;
        }
        let index = self.rng.index(acts.len());
        Some(acts.swap_remove(index))
    }

    fn note(&mut self, what: u64, which: usize) {
        let news = (what << 32) ^ which as u64 ^ self.now.as_nanos().rotate_left(20);
        self.trace = mix(self.trace ^ mix(news));
    }

    fn act(&mut self, act: Act) {
        self.now = self.now + Duration::from_nanos(self.rng.below(700));
        match act {
            Act::Run(index) => self.run_shard(index),
            Act::Deliver(link) => self.deliver(link),
            Act::Arrive(tip) => self.arrive(tip),
        }
    }

    /// A frame arrives: each shard gets its messages. Or there is room: each shard of the sender hears of it.
    fn arrive(&mut self, tip: Tip) {
        match self.net.take(self.now, tip) {
            Some(Arrival::Frame { from, to, frame }) => {
                self.note(5, to);
                self.hand_out((from, to), &frame);
            }
            Some(Arrival::Room { from, to }) => {
                self.note(7, from);
                let link = Net::link(from, to);
                for member in &mut self.members[from * self.shards..(from + 1) * self.shards] {
                    member.inbox.push_back(Event::LinkRoom(link));
                }
            }
            None => {}
        }
    }

    fn hand_out(&mut self, (from, to): (usize, usize), frame: &Frame) {
        let (link, mut at) = (Net::link(from, to), 0);
        while let Ok(glance) = Glance::at(frame.bytes(), at) {
            let member = to * self.shards + glance.to.index();
            let Some(frame) = frame.slice(at, glance.end) else { return };
            self.members[member].inbox.push_back(Event::Packet { link, frame });
            at = glance.end;
        }
    }

    fn deliver(&mut self, link: usize) {
        self.note(1, link);
        let Some((from, to, message)) = self.post.take(link) else { return };
        if let Message::Call(_) = message {
            let to = ShardId::new(u16::try_from(to % self.shards).unwrap_or(u16::MAX));
            self.members[from].inbox.push_back(Event::Sent { to, count: 1 });
        }
        let mut out = std::mem::take(&mut self.out);
        self.members[to].shard.handle(self.now, Event::Message(message), &mut out);
        self.members[to].shard.flush(self.now, &mut out);
        self.carry_out(to, &mut out);
        self.out = out;
    }

    fn run_shard(&mut self, index: usize) {
        self.note(2, index);
        let mut out = std::mem::take(&mut self.out);
        let steps = 1 + u32::try_from(self.rng.below(6)).unwrap_or(0);
        let stall = self.rng.one_in(300).then(|| Duration::from_nanos(self.rng.below(5_000_000)));
        let member = &mut self.members[index];
        for turn in member.woken.drain() {
            member.inbox.push_back(Event::Woken(turn));
        }
        while let Some(event) = member.inbox.pop_front() {
            member.shard.handle(self.now, event, &mut out);
        }
        member.shard.run(self.now, steps, &mut out);
        member.shard.flush(self.now, &mut out);
        if let Some(stall) = stall {
            member.stalled = self.now + stall;
        }
        self.carry_out(index, &mut out);
        self.out = out;
    }

    fn carry_out(&mut self, from: usize, out: &mut Vec<Effect>) {
        for effect in out.drain(..) {
            match effect {
                Effect::Send { to, message } => {
                    let to = from / self.shards * self.shards + to.index();
                    self.note(3, to);
                    self.post.send(self.now, from, to, message);
                }
                Effect::Transmit { link, head, body } => {
                    let to = self.net.other(from / self.shards, link);
                    self.note(6, to);
                    self.net.send(self.now, (from, to), head, body);
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
                Effect::Drained { .. } | Effect::Behind { .. } => {}
                Effect::Notice(notice) => {
                    self.note(4, from);
                    self.panics += u64::from(matches!(notice, Notice::Panicked { .. }));
                }
            }
        }
    }
}
