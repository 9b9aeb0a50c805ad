//! The fleet: all hosts of a run, their coordinator and the rest of their world, under virtual time.
//!
//! # Not here
//! What goes wrong when (`faults`, and the timeline in `phase`).

mod course;
mod effects;
mod phase;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use epicserver_proto::Atlas;
use epicserver_proto::control::{Effect, Event};
use epicserver_proto::view::{Share, WEIGHT_DEFAULT};
use epicserver_wire::{ClassId, NodeId, Time};

use self::phase::Open;
use super::check::Check;
use super::clock::Clock;
use super::coordinator::Coordinator;
use super::faults;
use super::host::Host;
use super::net::Net;
use super::queue::{Happening, Queue, Whom};
use super::scenario::{Scenario, secs};
use super::store::Store;
use super::tally::Tally;
use crate::log::Violation;
use crate::mutant::Mutant;
use crate::rng::{Rng, mix};

/// Slots of a class.
const SLOTS: usize = epicserver_proto::SLOTS;

pub(super) struct Fleet<'s> {
    scenario: &'s Scenario,
    mutant: Option<Mutant>,
    rng: Rng,
    now: Time,
    queue: Queue,
    hosts: Vec<Host>,
    /// On which host each node runs, or ran.
    places_of_nodes: BTreeMap<NodeId, usize>,
    classes: Vec<ClassId>,
    coordinator: Coordinator,
    away_until: Time,
    unknown_until: Time,
    net: Net,
    store: Store,
    check: Check,
    atlas: Atlas,
    tally: Tally,
    trace: u64,
    /// Nothing goes wrong any more.
    calm: bool,
    phase: Option<Open>,
    /// Hosts that are to be rolled, one after another.
    rolling: Vec<usize>,
    over: bool,
    out: Vec<Effect>,
}

impl<'s> Fleet<'s> {
    pub(super) fn new(scenario: &'s Scenario, seed: u64, mutant: Option<Mutant>) -> Self {
        let mut rng = Rng::new(seed);
        let atlas = Atlas::default();
        let mut classes = vec![ClassId::DEFAULT];
        classes.extend(scenario.classes.iter().map(|name| ClassId::of(name)));
        let hosts = (0..scenario.nodes).map(|host| {
            let clock = Clock::draw(&scenario.clocks, &mut rng);
            let shards = 1 + u16::try_from(rng.below(u64::from(scenario.shards))).unwrap_or(0);
            let share = share(scenario, host, &classes, &mut rng);
            Host::new(clock, share, shards, &atlas)
        });
        let hosts: Vec<Host> = hosts.collect();
        let clock = Clock::draw(&scenario.clocks, &mut rng);
        let mut fleet = Self {
            scenario,
            mutant,
            now: Time::ZERO,
            queue: Queue::default(),
            hosts,
            places_of_nodes: BTreeMap::new(),
            coordinator: Coordinator::new(clock, mutant),
            away_until: Time::ZERO,
            unknown_until: Time::ZERO,
            net: Net::new(scenario.net.clone(), rng.fork()),
            store: Store::new(classes.len() * SLOTS, mutant),
            check: Check::new(classes.len() * SLOTS),
            classes,
            atlas,
            tally: Tally { runs: 1, ..Tally::default() },
            trace: seed,
            calm: false,
            phase: None,
            rolling: Vec::new(),
            over: false,
            out: Vec::new(),
            rng,
        };
        fleet.plan();
        fleet
    }

    fn plan(&mut self) {
        let spread = secs(self.scenario.begin_s.max(0.001));
        for host in 0..self.hosts.len() {
            let at = Time::ZERO + self.rng.up_to(spread);
            self.queue.put(at, Happening::Begin { host });
        }
        let mut rng = self.rng.fork();
        for (at, fault) in faults::draw(self.scenario, &mut rng) {
            self.tally.drawn.push(format!("{:8.3} s  {fault}", at.since(Time::ZERO).as_secs_f64()));
            self.queue.put(at, Happening::Fault(fault));
        }
        for (number, entry) in self.scenario.timeline.iter().enumerate() {
            self.queue.put(Time::ZERO + secs(entry.at_s), Happening::Timeline(number));
        }
        if self.scenario.timeline.is_empty() {
            self.queue.put(Time::ZERO + secs(self.scenario.faulty_s), Happening::Calm);
        }
        self.queue.put(Time::ZERO, Happening::Work);
    }

    pub(super) fn run(&mut self) {
        while !self.over && self.check.violation.is_none() {
            let Some((at, what)) = self.queue.take() else { break };
            self.now = at;
            self.happen(what);
        }
        self.tally.virtual_nanos = self.now.as_nanos();
    }

    fn note(&mut self, what: u64, which: usize) {
        self.trace =
            mix(self.trace ^ mix((what << 56) ^ which as u64 ^ (self.now.as_nanos() << 8)));
    }

    pub(super) fn trace(&self) -> u64 {
        self.trace
    }

    pub(super) fn take_violation(&mut self) -> Option<Violation> {
        let violation = self.check.violation.take()?;
        let what =
            format!("at {:.3} s: {}", self.now.since(Time::ZERO).as_secs_f64(), violation.what);
        Some(Violation { what, ..violation })
    }

    pub(super) fn into_tally(self) -> Tally {
        self.tally
    }

    /// Whether this is for a host that stands still; then it happens once that goes on.
    fn defer(&mut self, host: usize, what: Happening) -> Option<Happening> {
        if self.hosts[host].stands_still(self.now) {
            self.hosts[host].deferred.push(what);
            return None;
        }
        Some(what)
    }

    fn happen(&mut self, what: Happening) {
        let host = match &what {
            Happening::Tick(whom)
            | Happening::Answered { whom, .. }
            | Happening::Linked { whom, .. }
            | Happening::Died { whom, .. }
            | Happening::Behind { whom }
            | Happening::Told { whom }
            | Happening::Snapshot { whom, .. }
            | Happening::Drained { whom, .. } => {
                if self.hosts[whom.host].life != whom.life {
                    return;
                }
                Some(whom.host)
            }
            Happening::Said { to: host, .. } | Happening::Begin { host } => Some(*host),
            Happening::Asked { .. }
            | Happening::Work
            | Happening::Write { .. }
            | Happening::Fault(_)
            | Happening::Resume { .. }
            | Happening::Timeline(_)
            | Happening::Look
            | Happening::Calm => None,
        };
        let what = match host {
            Some(host) => self.defer(host, what),
            None => Some(what),
        };
        if let Some(what) = what {
            self.go_on(what);
        }
    }

    fn go_on(&mut self, what: Happening) {
        match what {
            Happening::Tick(whom) => self.tick(whom),
            Happening::Begin { host } => self.begin(host),
            Happening::Asked { whom, id, ask, back } => self.asked(whom, id, ask, back),
            Happening::Answered { whom, id, answer } => {
                self.note(2, whom.host);
                self.feed(whom.host, Event::Answer { id, answer });
            }
            Happening::Said { to, from: (host, from), bytes } => {
                self.note(3, to * self.hosts.len() + host);
                if self.hosts[to].up && !self.duped(from, to) {
                    self.feed(to, Event::Said { from, bytes: &bytes });
                }
            }
            Happening::Linked { whom, node } => self.feed(whom.host, Event::Linked { node }),
            Happening::Died { whom, node } => self.feed(whom.host, Event::Died { node }),
            Happening::Behind { whom } => {
                let view = self.coordinator.number();
                self.feed(whom.host, Event::Behind { view });
            }
            Happening::Told { whom } => self.feed(whom.host, Event::Leave),
            Happening::Snapshot { whom, shard, served } => self.snapshot(whom, shard, served),
            Happening::Drained { whom, shard, view, places } => {
                self.drained(whom, (shard, view), places);
            }
            Happening::Work => self.work(),
            Happening::Write { place, node, epoch } => self.write(place, node, epoch),
            Happening::Fault(fault) => self.fault(&fault),
            Happening::Resume { host } => self.resume(host),
            Happening::Timeline(number) => self.enter(number),
            Happening::Look => self.look(),
            Happening::Calm => self.calm_down(),
        }
    }

    /// A node that is gone has nothing to say to the one in its place.
    fn duped(&self, from: NodeId, to: usize) -> bool {
        self.hosts[to].node == from
    }

    fn begin(&mut self, host: usize) {
        if self.hosts[host].up {
            return;
        }
        self.note(1, host);
        let (atlas, mut rng) = (self.atlas.clone(), self.rng.fork());
        let member = self.hosts[host].begin(&atlas, &mut rng);
        self.places_of_nodes.insert(member.node(), host);
        self.feed(host, Event::Begin { member, seed: rng.next() });
    }

    fn tick(&mut self, whom: Whom) {
        let host = &mut self.hosts[whom.host];
        host.tick = Time::MAX;
        let local = host.clock.shows(self.now);
        if host.control.deadline().is_some_and(|due| due <= local) {
            self.note(4, whom.host);
            self.feed(whom.host, Event::Time);
        } else {
            self.wind(whom.host);
        }
    }

    /// Lets the machine of `host` know when its deadline has passed.
    fn wind(&mut self, host: usize) {
        let machine = &mut self.hosts[host];
        let Some(due) = machine.control.deadline() else { return };
        let at = machine.clock.when(due).max(self.now);
        if at < machine.tick {
            machine.tick = at;
            let whom = machine.whom(host);
            self.queue.put(at, Happening::Tick(whom));
        }
    }

    fn feed(&mut self, host: usize, event: Event<'_>) {
        let machine = &mut self.hosts[host];
        if !machine.up {
            return;
        }
        let local = machine.clock.shows(self.now);
        let mut out = std::mem::take(&mut self.out);
        machine.control.handle(local, event, &mut out);
        let life = machine.life;
        for effect in out.drain(..) {
            if self.hosts[host].life == life {
                self.carry_out(host, effect);
            }
        }
        self.out = out;
        self.wind(host);
    }

    fn place(&self, class: ClassId, slot: u16) -> usize {
        let class = self.classes.iter().position(|known| *known == class).unwrap_or(0);
        class * SLOTS + usize::from(slot)
    }

    fn after(&mut self, most: Duration) -> Time {
        self.now + self.rng.up_to(most)
    }

    fn whom(&self, host: usize) -> Whom {
        self.hosts[host].whom(host)
    }

    fn view_number(&self) -> u64 {
        self.coordinator.view().map_or(0, |view| view.number)
    }
}

fn share(scenario: &Scenario, host: usize, classes: &[ClassId], rng: &mut Rng) -> Share {
    let offers = |at: usize, rng: &mut Rng| at == 0 || host % classes.len() == at || rng.one_in(2);
    let mut offered: Vec<ClassId> = Vec::new();
    for (at, class) in classes.iter().enumerate() {
        if offers(at, rng) {
            offered.push(*class);
        }
    }
    offered.sort_unstable();
    let weight = if scenario.weights {
        50 + u16::try_from(rng.below(4)).unwrap_or(0) * 50
    } else {
        WEIGHT_DEFAULT
    };
    Share { node: NodeId::new(0), weight, classes: offered }
}

/// Bytes that several hosts get.
fn shared(bytes: Vec<u8>) -> Arc<[u8]> {
    bytes.into()
}
