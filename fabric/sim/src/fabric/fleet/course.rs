//! The course of things: shards that begin, drain and write, and what goes wrong.
//!
//! # Not here
//! What is looked for when all should be well: `phase`.

use std::sync::Arc;
use std::time::Duration;

use epicserver_proto::Epoch;
use epicserver_proto::control::{Event, Served};
use epicserver_wire::{NodeId, ShardId, Time};

use super::Fleet;
use crate::fabric::faults::Fault;
use crate::fabric::net::Cut;
use crate::fabric::queue::{Happening, Places, Whom};
use crate::fabric::scenario::{millis, secs};
use crate::fabric::store::Written;
use crate::mutant::Mutant;

/// Within what time others see a process go, where they see it.
const SEEN: Duration = Duration::from_millis(50);

impl Fleet<'_> {
    pub(super) fn snapshot(&mut self, whom: Whom, shard: usize, served: Arc<Served>) {
        self.note(11, whom.host);
        let (host, view) = (whom.host, served.number());
        let before = self.hosts[host].shards[shard].served.clone();
        if before.as_ref().is_some_and(|before| before.number() > view) {
            self.tally.count("snapshots older than the last", 1);
        }
        let count = served.count();
        let turnover = self.hosts[host].take(shard, &served);
        self.hosts[host].serves[shard] = count;
        for (class, Epoch(epoch), slots) in &turnover.begins {
            let epoch = if self.mutant == Some(Mutant::EpochNotRaised) { 1 } else { *epoch };
            let first = self.place(*class, 0);
            for place in slots.iter().map(|slot| first + usize::from(*slot)) {
                if self.check.begin(place, host, epoch) {
                    self.look_for_another(host, place);
                }
            }
        }
        if !turnover.ceases.is_empty() {
            self.drain(whom, (shard, view), &turnover.ceases);
        }
        if let Some(served) = before.filter(|_| self.mutant == Some(Mutant::StaleViewAccepted))
            && self.rng.one_in(6)
        {
            let at = self.after(Duration::from_millis(200));
            self.queue.put(at, Happening::Snapshot { whom, shard, served });
        }
    }

    /// Slots are given up, some sooner than others.
    fn drain(&mut self, whom: Whom, (shard, view): (usize, u64), places: &Places) {
        let work = &self.scenario.work;
        let (usual, slow) = (millis(work.drain_ms), secs(work.drain_slow_s));
        let share = if self.calm { 0.0 } else { work.drain_slow };
        let mut parts: Vec<Places> = vec![Vec::new(); 1 + self.rng.index(3)];
        for (class, slots) in places {
            let each = slots.len().div_ceil(parts.len()).max(1);
            for (part, slots) in parts.iter_mut().zip(slots.chunks(each)) {
                part.push((*class, slots.to_vec()));
            }
        }
        for places in parts {
            let takes = if self.rng.chance(share) { slow } else { usual };
            let at = self.after(takes);
            if self.mutant == Some(Mutant::DrainedTooEarly) {
                let said = places.clone();
                self.say_drained(whom.host, (shard, view), said);
            }
            self.queue.put(at, Happening::Drained { whom, shard, view, places });
        }
    }

    pub(super) fn drained(&mut self, whom: Whom, (shard, view): (usize, u64), places: Places) {
        self.note(12, whom.host);
        for (class, slots) in &places {
            let first = self.place(*class, 0);
            for slot in slots {
                self.check.cease(first + usize::from(*slot), whom.host);
            }
        }
        self.say_drained(whom.host, (shard, view), places);
    }

    fn say_drained(&mut self, host: usize, (shard, view): (usize, u64), slots: Places) {
        let shard = ShardId::new(u16::try_from(shard).unwrap_or(0));
        self.feed(host, Event::Drained { view, shard, slots });
    }

    /// Somebody has work for a slot: whoever holds it runs a turn, if it may.
    pub(super) fn work(&mut self) {
        let every = secs(1.0 / self.scenario.work.turns_s.max(0.01));
        let next = self.now + every / 2 + self.rng.up_to(every);
        self.queue.put(next, Happening::Work);
        let place = self.rng.index(self.classes.len() * super::SLOTS);
        let holders = self.check.holders(place).to_vec();
        for held in &holders {
            self.turn(held.host as usize, place, held.epoch);
        }
        let host = self.rng.index(self.hosts.len());
        if self.rng.one_in(64) {
            let whom = self.whom(host);
            self.queue.put(self.now, Happening::Behind { whom });
        }
    }

    fn turn(&mut self, host: usize, place: usize, epoch: u64) {
        let machine = &self.hosts[host];
        if !machine.up || machine.stands_still(self.now) {
            return;
        }
        if !machine.is_valid(self.now) && self.mutant != Some(Mutant::NoLocalDeadline) {
            self.tally.count("turns refused past the lease", 1);
            return;
        }
        let node = machine.node;
        self.tally.count("turns", 1);
        if !self.coordinator.lasts(self.now, node) {
            let what =
                format!("host {host} ({}) runs a turn, and its lease is over", machine.stage());
            self.check.violate("past_no_lease", what);
        }
        self.look_for_another(host, place);
        self.check.turn(place, epoch, node);
        if !self.store.claim(place, epoch, node) {
            self.tally.count("claims refused", 1);
        }
        let work = &self.scenario.work;
        let (late, late_s) = (if self.calm { 0.0 } else { work.late }, secs(work.late_s));
        let takes = if self.rng.chance(late) { late_s } else { Duration::from_millis(10) };
        let at = self.after(takes);
        self.queue.put(at, Happening::Write { place, node, epoch });
    }

    pub(super) fn write(&mut self, place: usize, node: NodeId, epoch: u64) {
        match self.store.write(place, epoch, node) {
            Written::Accepted => self.tally.count("writes accepted", 1),
            Written::Refused => self.tally.count("writes of older owners refused", 1),
            Written::Wrong => {
                let what = format!(
                    "the store has taken a write of {node} in epoch {epoch} on place {place}"
                );
                self.check.violate("store_fence", what);
            }
        }
    }

    fn meet(&mut self, fault: &str, host: usize) {
        let stage = self.hosts[host].stage();
        self.tally.meet(fault, &stage);
    }

    pub(super) fn fault(&mut self, fault: &Fault) {
        if self.calm {
            return;
        }
        self.note(13, 0);
        let name = fault.name();
        self.tally.count(name, 1);
        match fault {
            Fault::Crash { host, away } => {
                self.meet(name, *host);
                self.crash(*host);
                let at = self.now + *away;
                self.queue.put(at, Happening::Begin { host: *host });
            }
            Fault::Pause { host, still } => {
                self.meet(name, *host);
                let until = self.now + *still;
                self.hosts[*host].still_until = until;
                self.queue.put(until, Happening::Resume { host: *host });
            }
            Fault::Leave { host } => {
                self.meet(name, *host);
                self.leave(*host);
            }
            Fault::Split { there, one_way, lasts } => {
                (0..self.hosts.len()).for_each(|host| self.meet(name, host));
                let (there, one_way, until) = (there.clone(), *one_way, self.now + *lasts);
                self.link_again(until);
                self.net.cut(Cut { there, one_way, until });
            }
            Fault::Away { lasts } => {
                (0..self.hosts.len()).for_each(|host| self.meet(name, host));
                self.away_until = self.now + *lasts;
            }
            Fault::CutOff { host, lasts } => {
                self.meet(name, *host);
                self.hosts[*host].cut_off_until = self.now + *lasts;
            }
            // No shard asks a store here.
            Fault::StoreAway { .. } | Fault::StoreUnknown { .. } => {}
            Fault::Unknown { lasts } => {
                (0..self.hosts.len()).for_each(|host| self.meet(name, host));
                self.unknown_until = self.now + *lasts;
            }
        }
    }

    /// Once a cut is over hosts hear that they are linked.
    fn link_again(&mut self, at: Time) {
        for host in 0..self.hosts.len() {
            let other = self.rng.index(self.hosts.len());
            let (whom, node) = (self.whom(host), self.hosts[other].node);
            self.queue.put(at, Happening::Linked { whom, node });
        }
    }

    pub(super) fn crash(&mut self, host: usize) {
        if !self.hosts[host].up {
            return;
        }
        let node = self.hosts[host].node;
        self.end(host);
        self.hosts[host].still_until = self.now;
        self.hosts[host].deferred.clear();
        if !self.rng.one_in(2) {
            return;
        }
        // Those of the same machine see it go.
        for other in (0..self.hosts.len()).filter(|other| *other != host) {
            let (at, whom) = (self.now + SEEN, self.whom(other));
            if self.rng.one_in(2) {
                self.queue.put(at, Happening::Died { whom, node });
            }
        }
    }

    pub(super) fn leave(&mut self, host: usize) {
        if self.hosts[host].up && self.hosts[host].leaving.is_none() {
            self.hosts[host].leaving = Some(self.now);
            let whom = self.whom(host);
            self.queue.put(self.now, Happening::Told { whom });
        }
    }

    pub(super) fn resume(&mut self, host: usize) {
        if self.hosts[host].stands_still(self.now) {
            return;
        }
        for what in std::mem::take(&mut self.hosts[host].deferred) {
            self.queue.put(self.now, what);
        }
    }
}
