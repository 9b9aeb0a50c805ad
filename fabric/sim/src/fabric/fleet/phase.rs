//! Phases: whether and when all is as it should be, after something happened or once nothing goes wrong any more.
//!
//! # Not here
//! Safety, which is looked at all the time.

use std::time::Duration;

use epicserver_proto::control::Stage;
use epicserver_proto::view::Member;
use epicserver_wire::Time;

use super::Fleet;
use crate::fabric::host::Cost;
use crate::fabric::queue::Happening;
use crate::fabric::scenario::{Entry, What, secs};
use crate::fabric::tally::Phase;

/// How often it is looked.
const EVERY: Duration = Duration::from_millis(100);
/// How long all has to stay as it should be.
const STAYS: Duration = Duration::from_secs(2);
/// Within what time hosts begin again.
const BACK: Duration = Duration::from_secs(1);

/// A phase that goes on.
pub(super) struct Open {
    name: String,
    began: Time,
    within: Duration,
    cost: Cost,
    views: u64,
    /// Since when all is as it should be, and by which view.
    since: Option<(Time, u64)>,
}

impl Fleet<'_> {
    fn open(&mut self, name: String, within: Duration) {
        let (cost, views) = (self.cost(), self.view_number());
        let first = self.phase.is_none();
        self.phase = Some(Open { name, began: self.now, within, cost, views, since: None });
        if first {
            self.queue.put(self.now + EVERY, Happening::Look);
        }
    }

    fn cost(&self) -> Cost {
        let add = |sum: Cost, host: &crate::fabric::host::Host| Cost {
            messages: sum.messages + host.cost.messages,
            bytes: sum.bytes + host.cost.bytes,
            asks: sum.asks + host.cost.asks,
            ask_bytes: sum.ask_bytes + host.cost.ask_bytes,
        };
        self.hosts.iter().fold(Cost::default(), add)
    }

    /// The faults end.
    pub(super) fn calm_down(&mut self) {
        self.note(14, 0);
        self.calm = true;
        self.net.calm();
        (self.away_until, self.unknown_until) = (self.now, self.now);
        for host in 0..self.hosts.len() {
            self.hosts[host].cut_off_until = self.now;
            self.hosts[host].still_until = self.now;
            self.resume(host);
            let at = self.after(BACK);
            self.queue.put(at, Happening::Begin { host });
        }
        self.open("calm after the faults".to_owned(), secs(self.scenario.calm_s));
    }

    /// The entry of this number in the timeline is due.
    pub(super) fn enter(&mut self, number: usize) {
        self.note(15, number);
        let Entry { what, share, within_s, about, .. } = self.scenario.timeline[number].clone();
        if let Some(open) = &self.phase {
            let what = format!("\"{}\" is not over when the next begins", open.name);
            return self.check.violate("convergence", what);
        }
        let count = f64::from(u32::try_from(self.hosts.len()).unwrap_or(u32::MAX)) * share;
        let count = (0..self.hosts.len()).take_while(|host| (*host as f64) < count).count();
        match what {
            What::Look => {}
            What::Lose => {
                // Hosts of one rack, so next to each other.
                let (first, all) = (self.rng.index(self.hosts.len()), self.hosts.len());
                (0..count).for_each(|host| self.crash((first + host) % all));
            }
            What::Restart => {
                for host in 0..self.hosts.len() {
                    let at = self.after(BACK);
                    self.queue.put(at, Happening::Begin { host });
                }
            }
            What::Roll => {
                self.rolling = (0..self.hosts.len()).collect();
                self.roll();
            }
        }
        self.open(about, secs(within_s));
    }

    /// The next host leaves.
    fn roll(&mut self) {
        if let Some(host) = self.rolling.last().copied() {
            self.leave(host);
        }
    }

    pub(super) fn look(&mut self) {
        self.note(16, 0);
        let amiss = self.amiss();
        let number = self.view_number();
        if amiss.is_none() && !self.rolling.is_empty() {
            self.rolling.pop();
            self.roll();
        }
        let (rolling, now) = (!self.rolling.is_empty(), self.now);
        let Some(open) = &mut self.phase else { return };
        let late = now > open.began + open.within;
        match amiss {
            None if !rolling => match open.since {
                Some((since, of)) if of == number && now.since(since) >= STAYS => {
                    return self.close();
                }
                Some((_, of)) if of == number => {}
                _ => open.since = Some((now, number)),
            },
            None => open.since = None,
            Some(amiss) => {
                open.since = None;
                if late {
                    let within = open.within;
                    let what = format!("\"{}\" is not over after {within:?}: {amiss}", open.name);
                    return self.check.violate("convergence", what);
                }
            }
        }
        self.leaves_in_time();
        self.queue.put(now + EVERY, Happening::Look);
    }

    /// Whoever was told to leave has left, once nothing goes wrong.
    fn leaves_in_time(&mut self) {
        let limit = secs(self.scenario.calm_s);
        let quiet = self.phase.as_ref().map_or(self.now, |open| open.began);
        let late = self.hosts.iter().position(|host| {
            let since = host.leaving.filter(|_| host.up).map(|since| since.max(quiet));
            since.is_some_and(|since| self.now.since(since) > limit)
        });
        if let Some(host) = late {
            self.check.violate("leaves", format!("host {host} has not left after {limit:?}"));
        }
    }

    fn close(&mut self) {
        let Some(Open { name, began, within, cost, views, since }) = self.phase.take() else {
            return;
        };
        let (now, nodes) = (self.cost(), self.hosts.iter().filter(|host| host.up).count());
        let each = |now: u64, then: u64| (now - then) / (nodes.max(1) as u64);
        self.tally.phases.push(Phase {
            name,
            took: since.map_or(Duration::ZERO, |(since, _)| since.since(began)),
            within,
            nodes,
            views: self.view_number() - views,
            messages: each(now.messages, cost.messages),
            bytes: each(now.bytes, cost.bytes),
            asks: each(now.asks, cost.asks),
            ask_bytes: each(now.ask_bytes, cost.ask_bytes),
            largest_share: self.largest_share(),
        });
        let last = self.tally.phases.len() >= self.scenario.timeline.len();
        self.over = self.calm || last;
    }

    /// The largest share of the default class beside the mean, in hundredths.
    fn largest_share(&self) -> u64 {
        let Some(view) = self.coordinator.view() else { return 0 };
        let shares = self.atlas.of(&view.shares()).shares(self.classes[0]);
        let (most, sum) = (shares.iter().copied().max().unwrap_or(0), shares.iter().sum::<u32>());
        u64::from(most) * 100 * shares.len() as u64 / u64::from(sum.max(1))
    }

    /// What is not as it should be.
    fn amiss(&self) -> Option<String> {
        let Some(view) = self.coordinator.view() else {
            return Some("there is no view".to_owned());
        };
        if !view.history.is_empty() {
            let history: Vec<u64> = view.history.iter().map(|past| past.number).collect();
            return Some(format!("view {} has the history {history:?}", view.number));
        }
        let up = self.hosts.iter().filter(|host| host.up).count();
        if view.members.len() != up {
            return Some(format!(
                "view {} has {} members of {up}",
                view.number,
                view.members.len()
            ));
        }
        for (at, host) in self.hosts.iter().enumerate().filter(|(_, host)| host.up) {
            let number = host.control.view().map_or(0, |view| view.number);
            let stage = host.control.stage();
            let member = view.member(host.node).is_some_and(|member: &Member| !member.leaving);
            if number != view.number
                || stage != Stage::Steady
                || !member
                || !host.is_valid(self.now)
            {
                return Some(format!(
                    "host {at}, {stage:?}, goes by view {number} of {}, member: {member}, lease: {}",
                    view.number,
                    host.is_valid(self.now)
                ));
            }
        }
        let classes = self.atlas.of(&view.shares()).classes().count();
        let served =
            |host: &crate::fabric::host::Host| host.serves.iter().copied().min().unwrap_or(0);
        let served: usize = self.hosts.iter().filter(|host| host.up).map(served).sum();
        (served != classes * super::SLOTS).then(|| format!("{served} slots are served"))
    }
}
