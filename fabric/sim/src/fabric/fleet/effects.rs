//! What machines ask for: questions, messages, leases, snapshots.
//!
//! # Not here
//! What the world does of its own accord: `course`.

use std::time::Duration;

use epicserver_proto::control::{AskId, Effect, Event};
use epicserver_proto::coordinator::{ASK_MAX, Answer, Ask};
use epicserver_proto::view::Record;
use epicserver_wire::{NodeId, Time};

use super::{Fleet, shared};
use crate::fabric::coordinator::{bytes_of, bytes_of_answer};
use crate::fabric::host::LASTS;
use crate::fabric::queue::{Happening, Whom};
use crate::fabric::scenario::millis;
use crate::mutant::Mutant;

/// How soon a shard sees a snapshot.
const NOTICE: Duration = Duration::from_millis(3);
/// How soon a node whose lease has ended begins again, and one that has left.
const AGAIN: Duration = Duration::from_millis(50);
const BACK: Duration = Duration::from_secs(1);

impl Fleet<'_> {
    pub(super) fn carry_out(&mut self, host: usize, effect: Effect) {
        match effect {
            Effect::Ask { id, ask } => self.ask(host, id, ask),
            Effect::Lease { until } => self.lease(host, until),
            Effect::View(view) => {
                self.note(5, host ^ usize::try_from(view.number).unwrap_or(0) << 16)
            }
            Effect::Serve(served) => {
                self.note(6, host);
                let whom = self.whom(host);
                for shard in 0..self.hosts[host].shards.len() {
                    let soon = self.after(NOTICE);
                    let machine = &mut self.hosts[host].shards[shard];
                    // Rings keep order.
                    machine.last = machine.last.max(soon);
                    let (at, served) = (machine.last, served.clone());
                    self.queue.put(at, Happening::Snapshot { whom, shard, served });
                }
            }
            Effect::Say { to, bytes } => self.say(host, to, bytes),
            Effect::Gone { left, .. } => {
                self.tally.count(
                    if left { "members seen to leave" } else { "members seen to be lost" },
                    1,
                );
            }
            Effect::Evicted { .. } => {
                self.note(7, host);
                self.tally.count("leases ended by others", 1);
                self.end(host);
                let at = self.after(AGAIN);
                self.queue.put(at, Happening::Begin { host });
            }
            // Shards have nothing under way.
            Effect::HandedOver => self.feed(host, Event::Quiet),
            Effect::Left => {
                self.note(8, host);
                self.tally.count("left", 1);
                self.end(host);
                let at = self.after(BACK);
                self.queue.put(at, Happening::Begin { host });
            }
            Effect::Notice(_) => self.tally.count("notices", 1),
        }
    }

    /// The process of `host`, or the node in it, is over.
    pub(super) fn end(&mut self, host: usize) {
        self.hosts[host].end();
        self.check.drop_host(host);
    }

    fn lease(&mut self, host: usize, until: Time) {
        let was = self.hosts[host].is_valid(self.now);
        let machine = &mut self.hosts[host];
        machine.until = match self.mutant {
            Some(Mutant::LeaseFromAnswer) => machine.clock.shows(self.now) + LASTS,
            _ => until,
        };
        if !was && self.hosts[host].is_valid(self.now) && !self.hosts[host].serves.is_empty() {
            self.tally.count("leases that lasted again", 1);
            self.look_for_others(host);
        }
    }

    /// No other host may run turns on what this one holds.
    fn look_for_others(&mut self, host: usize) {
        for place in 0..self.classes.len() * super::SLOTS {
            if self.check.holders(place).iter().any(|held| held.host as usize == host) {
                self.look_for_another(host, place);
            }
        }
    }

    pub(super) fn look_for_another(&mut self, host: usize, place: usize) {
        let holders = self.check.holders(place);
        if holders.len() < 2 || !self.hosts[host].is_valid(self.now) {
            return;
        }
        let others = holders.iter().filter(|held| held.host as usize != host);
        let other = others.copied().find(|held| self.hosts[held.host as usize].is_valid(self.now));
        if let Some(other) = other {
            let what = format!(
                "hosts {host} ({}) and {} ({}) both hold place {place}",
                self.hosts[host].stage(),
                other.host,
                self.hosts[other.host as usize].stage()
            );
            self.check.violate("one_owner", what);
        }
    }

    fn say(&mut self, host: usize, to: NodeId, bytes: Vec<u8>) {
        let cost = &mut self.hosts[host].cost;
        cost.messages += 1;
        cost.bytes += bytes.len() as u64;
        let Some(at) = self.host_of(to) else { return };
        let from = (host, self.hosts[host].node);
        let bytes = shared(bytes);
        for arrives in self.net.arrivals(self.now, host, at).into_iter().flatten() {
            let bytes = bytes.clone();
            self.queue.put(arrives, Happening::Said { to: at, from, bytes });
        }
    }

    /// The question as the mutant has it.
    fn mutated(&mut self, host: usize, ask: Ask) -> Option<Ask> {
        match (self.mutant, ask) {
            (Some(Mutant::SettledTooEarly), Ask::Renew { node, record, ttl }) => {
                let mut record = Record::read(&record).ok()?;
                record.settled = self.hosts[host].control.view().map_or(0, |view| view.number);
                Some(Ask::Renew { node, record: record.write(), ttl })
            }
            // The first gets lost, as it may without this mutant.
            (Some(Mutant::ReleaseNotRetried), Ask::Release { .. }) => None,
            (_, ask) => Some(ask),
        }
    }

    fn ask(&mut self, host: usize, id: AskId, ask: Ask) {
        let Some(ask) = self.mutated(host, ask) else {
            let (whom, gives_up) = (self.whom(host), self.now + ASK_MAX);
            return self.fail(gives_up, (whom, id));
        };
        self.note(9, host);
        let cost = &mut self.hosts[host].cost;
        cost.asks += 1;
        cost.ask_bytes += bytes_of(&ask) as u64;
        let whom = self.whom(host);
        let gives_up = self.now + self.hosts[host].clock.lasts(ASK_MAX);
        let answers = &self.scenario.coordinator;
        let (delay, slow, unknown) = (millis(answers.delay_ms), answers.slow, answers.unknown);
        let unknown = if self.calm {
            0.0
        } else if self.unknown_until > self.now {
            0.5
        } else {
            unknown
        };
        let mut arrives = self.after(delay);
        if !self.calm && self.rng.chance(slow) {
            arrives = self.after(2 * ASK_MAX);
            self.tally.count("questions that took long", 1);
        }
        let back = self.rng.up_to(delay);
        if self.rng.chance(unknown) {
            let fails = self.after(ASK_MAX).min(gives_up);
            self.fail(fails, (whom, id));
            if self.rng.one_in(2) {
                self.tally.count("done, and nobody was told", 1);
                self.queue.put(arrives, Happening::Asked { whom, id, ask, back: None });
            } else {
                self.tally.count("not done, and nobody was told", 1);
            }
        } else if arrives + back > gives_up {
            self.fail(gives_up, (whom, id));
            self.queue.put(arrives, Happening::Asked { whom, id, ask, back: None });
        } else {
            self.queue.put(arrives, Happening::Asked { whom, id, ask, back: Some(arrives + back) });
        }
    }

    fn fail(&mut self, at: Time, (whom, id): (Whom, AskId)) {
        let answer = Answer::Failed { why: String::new() };
        self.queue.put(at, Happening::Answered { whom, id, answer });
    }

    /// A question has arrived.
    pub(super) fn asked(&mut self, whom: Whom, id: AskId, ask: Ask, back: Option<Time>) {
        self.note(10, whom.host);
        let host = whom.host;
        if self.away_until > self.now || self.hosts[host].cut_off_until > self.now {
            if back.is_some() {
                let gives_up = self.now + self.hosts[host].clock.lasts(ASK_MAX);
                self.fail(gives_up, (whom, id));
            }
            return;
        }
        let answer = self.coordinator.ask(self.now, ask);
        if let Some(number) = self.coordinator.replaced.take() {
            self.check.violate(
                "one_view",
                format!("view {number} was put in place of another view {number}"),
            );
        }
        let kind = match &answer {
            Answer::Changed { .. } => "views made",
            Answer::Overtaken { .. } => "changes that came too late",
            Answer::Alive { .. } => "changes that would have ended a lease",
            Answer::Evicted => "renewals of leases that had ended",
            Answer::State { .. } => "reads",
            Answer::Renewed { .. } => "renewals",
            Answer::Released => "releases",
            Answer::Failed { .. } => "failures",
        };
        self.tally.count(kind, 1);
        if let Some(back) = back {
            self.hosts[host].cost.ask_bytes += bytes_of_answer(&answer) as u64;
            self.queue.put(back, Happening::Answered { whom, id, answer });
        }
    }

    /// The host on which `node` runs.
    fn host_of(&self, node: NodeId) -> Option<usize> {
        self.places_of_nodes.get(&node).copied()
    }
}
