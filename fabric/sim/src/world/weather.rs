//! What happens to the nodes of a world, and what the control plane has them do.
//!
//! # Not here
//! What a storm is made of (`storm`).

use std::collections::VecDeque;
use std::time::Duration;

use epicserver_node::Event;
use epicserver_wire::{Time, limits};

use super::World;
use crate::plane::Order;
use crate::store::Store;
use crate::storm::{Fault, Storm};

/// How long two nodes take to find out that they are not linked.
const REDIAL: Duration = Duration::from_millis(5);

/// How long a node that has left waits for what others have said to it before they knew.
const FAREWELL: Duration = Duration::from_millis(100);

/// Tasks that begin at most because slots move.
const TASKS_MAX: u64 = 400;

/// Nodes that there may be in a world, those that are no more among them.
pub(crate) const NODES_MAX: usize = 24;

/// A part of the fabric that cannot be reached.
#[derive(Clone, Copy, Debug)]
struct Part {
    side: u64,
    one_way: bool,
    until: Time,
    coordinator: bool,
}

/// What is still to happen.
#[derive(Debug)]
pub(super) struct Weather {
    faults: VecDeque<(Time, Fault)>,
    part: Option<Part>,
    redial: Option<Time>,
    /// Nodes that a rolling restart has still to do with, and the one that leaves, with how often it was evicted.
    restarts: VecDeque<usize>,
    leaving: Option<(usize, u64)>,
    /// The node for which another one has joined.
    relieved: Option<usize>,
    /// Nodes that cannot reach the coordinator, and until when.
    cut_off: Vec<(usize, Time)>,
    /// Until when the network is slow.
    slow: Option<Time>,
    /// Nodes that are lost, and for which none has begun yet.
    lost: u32,
}

impl Weather {
    pub(super) fn new(storm: &Storm, start: Time) -> Self {
        let mut at = start;
        let faults = storm.faults.iter().map(|(delay, fault)| {
            at = at + *delay;
            (at, *fault)
        });
        let (faults, restarts) = (faults.collect(), VecDeque::new());
        let (part, redial, leaving, relieved) = (None, None, None, None);
        let (cut_off, slow, lost) = (Vec::new(), None, 0);
        Self { faults, part, redial, restarts, leaving, relieved, cut_off, slow, lost }
    }

    pub(super) fn is_over(&self) -> bool {
        let over = self.faults.is_empty() && self.part.is_none() && self.redial.is_none();
        over && self.restarts.is_empty() && self.cut_off.is_empty() && self.slow.is_none()
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        let fault = self.faults.front().map(|(at, _)| *at);
        let part = self.part.map(|part| part.until);
        let cut_off = self.cut_off.iter().map(|(_, until)| *until);
        let others = part.into_iter().chain(self.redial).chain(self.slow);
        fault.into_iter().chain(others).chain(cut_off).min()
    }

    /// Whether two nodes cannot reach each other now.
    pub(super) fn parts(&self, a: usize, b: usize) -> bool {
        let side = |part: Part, node: usize| part.side >> (node % 64) & 1;
        self.part.is_some_and(|part| side(part, a) != side(part, b))
    }
}

impl World {
    /// The next thing happens.
    pub(super) fn happen(&mut self) {
        self.note(13, 0);
        if self.weather.redial.take_if(|at| *at <= self.now).is_some() {
            self.link_all();
            self.restart_next();
        }
        if self.weather.part.take_if(|part| part.until <= self.now).is_some() {
            self.reach_coordinator();
            self.link_all();
        }
        if self.weather.slow.take_if(|until| *until <= self.now).is_some() {
            self.net.slow_down(None);
        }
        let (now, before) = (self.now, self.weather.cut_off.len());
        self.weather.cut_off.retain(|(_, until)| *until > now);
        if self.weather.cut_off.len() < before {
            self.reach_coordinator();
        }
        if let Some((_, fault)) = self.weather.faults.pop_front_if(|(at, _)| *at <= now) {
            self.suffer(fault);
        }
        self.plan_redial();
    }

    /// Whoever should be linked and is not, finds that out.
    pub(super) fn plan_redial(&mut self) {
        let waits = self.needs_links() || !self.weather.restarts.is_empty();
        if self.weather.redial.is_none() && waits {
            self.weather.redial = Some(self.now + REDIAL);
        }
    }

    fn needs_links(&self) -> bool {
        let living: Vec<usize> = self.living().collect();
        living.iter().any(|a| {
            let lacks = |b: &&usize| {
                *a < **b && !self.net.are_linked(*a, **b) && !self.weather.parts(*a, **b)
            };
            living.iter().find(lacks).is_some()
        })
    }

    fn living(&self) -> impl Iterator<Item = usize> + '_ {
        self.nodes.iter().enumerate().filter(|(_, node)| node.lives).map(|(at, _)| at)
    }

    /// A node that may go, but for the last ones.
    fn victim(&mut self) -> Option<usize> {
        let plane = self.plane.as_ref()?;
        let mut members: Vec<usize> = self.living().filter(|node| plane.is_member(*node)).collect();
        if members.len() < 2 {
            return None;
        }
        members.retain(|node| self.plan.host != Some(*node));
        Some(members[self.rng.index(members.len())])
    }

    fn suffer(&mut self, fault: Fault) {
        match fault {
            Fault::Tasks(count) => self.begin_tasks(count),
            Fault::Join => self.join_node(),
            Fault::Leave => {
                let victim = self.victim();
                victim.into_iter().for_each(|node| {
                    self.meet(fault, node);
                    self.weather.lost += 1;
                    self.leave(node);
                });
            }
            Fault::Restart => {
                let members: Vec<usize> = self.living().collect();
                self.weather.restarts.extend(members);
            }
            Fault::Crash => {
                let victim = self.victim();
                victim.into_iter().for_each(|node| {
                    self.meet(fault, node);
                    self.weather.lost += 1;
                    self.kill(node);
                });
            }
            Fault::Pause(lasts) => {
                let victim = self.victim();
                victim.into_iter().for_each(|node| {
                    self.meet(fault, node);
                    self.pause(node, lasts);
                });
            }
            Fault::Cut => {
                let links: Vec<(usize, usize)> = self.links().collect();
                if !links.is_empty() {
                    let (a, b) = links[self.rng.index(links.len())];
                    self.hang_up(a, b);
                }
            }
            Fault::Part { side, one_way, coordinator, lasts } => {
                (0..self.nodes.len()).for_each(|node| self.meet(fault, node));
                self.part(Part { side, one_way, until: self.now + lasts, coordinator });
            }
            Fault::Away(lasts) => {
                (0..self.nodes.len()).for_each(|node| self.meet(fault, node));
                self.cut_off(0..self.nodes.len(), lasts);
            }
            Fault::CutOff(lasts) => {
                let victim = self.victim();
                victim.into_iter().for_each(|node| {
                    self.meet(fault, node);
                    self.cut_off([node], lasts);
                });
            }
            Fault::Slow { most, lasts } => {
                self.net.slow_down(Some(most));
                self.weather.slow = Some(self.now + lasts);
            }
            Fault::Muddle(lasts) => {
                (0..self.nodes.len()).for_each(|node| self.meet(fault, node));
                let until = self.now + lasts;
                self.plane.iter_mut().for_each(|plane| plane.muddle(until));
            }
            Fault::StoreAway(lasts) | Fault::StoreMuddle(lasts) => {
                (0..self.nodes.len()).for_each(|node| self.meet(fault, node));
                self.fail_store(fault, self.now + lasts);
            }
            Fault::Calm => {
                self.plane.iter_mut().for_each(|plane| plane.calm_down());
                self.store.iter_mut().for_each(Store::calm_down);
            }
        }
    }

    fn fail_store(&mut self, fault: Fault, until: Time) {
        let Some(store) = &mut self.store else { return };
        if matches!(fault, Fault::StoreAway(_)) {
            store.go_away(until)
        } else {
            store.muddle(until)
        }
    }

    fn meet(&mut self, fault: Fault, node: usize) {
        if let Some(plane) = self.plane.as_ref().filter(|_| self.nodes[node].lives) {
            let met = format!("{} met {}", fault.name(), plane.stage(node));
            *self.met.entry(met.trim_end().to_owned()).or_default() += 1;
        }
    }

    /// Nodes cannot reach the coordinator for a while.
    fn cut_off(&mut self, nodes: impl IntoIterator<Item = usize>, lasts: Duration) {
        let until = self.now + lasts;
        for node in nodes {
            self.weather.cut_off.retain(|(cut, _)| *cut != node);
            self.weather.cut_off.push((node, until));
        }
        self.reach_coordinator();
    }

    fn links(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let all = self.living().flat_map(|a| self.living().map(move |b| (a, b)));
        all.filter(|(a, b)| a != b && self.net.link_between(*a, *b).is_some())
    }

    /// Tasks begin on nodes that are there.
    fn begin_tasks(&mut self, count: u32) {
        let Some(task) = self.plan.task else { return };
        for _ in 0..count {
            let living: Vec<usize> = self.living().collect();
            let node = living[self.rng.index(living.len())];
            let members: Vec<usize> = self.nodes[node].members().collect();
            let member = members[self.rng.index(members.len())];
            let plan = self.rng.next();
            self.root(member, task(plan));
        }
    }

    /// While slots move there is always something to do, where nobody says when that is.
    fn begin_some(&mut self) {
        if self.plan.scenario.is_some() && self.tasks < TASKS_MAX {
            let count = u32::try_from(self.rng.below(3)).unwrap_or(0);
            self.begin_tasks(count);
        }
    }

    fn join_node(&mut self) {
        if self.nodes.len() >= NODES_MAX {
            return;
        }
        let shards = match self.plan.host {
            None => 1 + u16::try_from(self.rng.below(3)).unwrap_or(0),
            Some(_) if self.weather.lost == 0 => return,
            Some(_) => self.plan.shards,
        };
        self.weather.lost = self.weather.lost.saturating_sub(1);
        self.add_node(shards);
        self.link_all();
    }

    fn leave(&mut self, node: usize) {
        if let Some(plane) = &mut self.plane {
            plane.leave(self.now, node);
        }
    }

    fn pause(&mut self, node: usize, lasts: Duration) {
        let until = self.now + lasts;
        self.nodes[node].paused = until;
        for member in self.nodes[node].members() {
            self.members[member].stalled = until;
        }
        if let Some(plane) = &mut self.plane {
            plane.pause(node, until);
        }
    }

    fn part(&mut self, part: Part) {
        self.weather.part = Some(part);
        let cut: Vec<(usize, usize)> =
            self.links().filter(|(a, b)| a < b && self.weather.parts(*a, *b)).collect();
        for (a, b) in cut {
            let (near, far) = if self.rng.one_in(2) { (a, b) } else { (b, a) };
            self.hang_up(near, far);
        }
        self.reach_coordinator();
    }

    fn reach_coordinator(&mut self) {
        let part = self.weather.part;
        let Some(plane) = &mut self.plane else { return };
        for node in 0..self.nodes.len() {
            let beyond = |part: Part| part.coordinator && part.side >> (node % 64) & 1 == 1;
            let away = self.weather.cut_off.iter().any(|(cut, _)| *cut == node);
            plane.cut_off(node, away || part.is_some_and(beyond));
        }
        plane.part(part.map_or((0, false), |part| (part.side, part.one_way)));
    }

    /// A rolling restart goes on once the node before has left: a new one joins, and then the next one leaves.
    fn restart_next(&mut self) {
        let Some(plane) = &self.plane else { return };
        let gone = |node: usize| !self.nodes[node].lives || !plane.is_member(node);
        // One that was evicted before it could leave is another one, which nobody has told to leave.
        let leaves = |(node, evicted): (usize, u64)| {
            self.nodes[node].lives && self.nodes[node].evicted == evicted
        };
        if !plane.is_settled() || self.weather.leaving.is_some_and(leaves) {
            return;
        }
        self.weather.leaving = None;
        while self.weather.restarts.pop_front_if(|node| gone(*node)).is_some() {}
        let Some(node) = self.weather.restarts.front().copied() else { return };
        if self.weather.relieved.replace(node) != Some(node) {
            return self.join_node();
        }
        self.weather.restarts.pop_front();
        if self.victim().is_some() {
            self.leave(node);
            self.weather.leaving = Some((node, self.nodes[node].evicted));
        }
    }

    /// The control plane does what is due, and its nodes do what it says.
    pub(super) fn control(&mut self) {
        let Some(plane) = &mut self.plane else { return };
        for order in plane.run(self.now) {
            self.obey(order);
        }
        self.plan_redial();
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Show(node, _)
            | Order::Lease(node, _)
            | Order::Evict(node)
            | Order::HangUp(node, _)
            | Order::HandedOver(node)
            | Order::Left(node)
                if !self.nodes[node].lives => {}
            Order::Show(node, ownership) => {
                self.note(14, node);
                self.tell(node, || Event::View(ownership.clone()));
                if self.rng.one_in(4) {
                    self.begin_some();
                }
            }
            Order::Lease(node, until) => {
                self.note(15, node);
                self.lease(node, until);
            }
            Order::Evict(node) => self.evict(node),
            Order::HangUp(node, other) => {
                let other = self.nodes.iter().position(|node| node.id == other);
                if let Some(other) = other {
                    self.hang_up(node, other);
                }
            }
            Order::HandedOver(node) => self.handed_over(node),
            Order::Left(node) => {
                self.net.close(self.now, node);
                self.end(node);
            }
            Order::Changed => self.begin_some(),
        }
    }

    /// A node that leaves holds nothing any more. It goes once it has nothing to do either.
    fn handed_over(&mut self, node: usize) {
        let idle = self.nodes[node].members().all(|member| {
            let member = &self.members[member];
            let shard = member.shard.as_ref();
            member.inbox.is_empty() && shard.is_none_or(epicserver_node::Shard::is_quiet)
        });
        let since = *self.nodes[node].idle_since.get_or_insert(self.now);
        if !idle {
            self.nodes[node].idle_since = None;
        }
        let since_left = *self.nodes[node].left.get_or_insert(self.now);
        let over = self.now >= since_left + limits::DRAIN_MAX;
        if !over && (!idle || self.now < since + FAREWELL) {
            return;
        }
        if let Some(plane) = &mut self.plane {
            plane.quiet(self.now, node);
        }
    }
}
