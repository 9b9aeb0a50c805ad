//! What goes wrong in a run, drawn from its seed.
//!
//! # Not here
//! How it is carried out: `fleet`.

use std::fmt;
use std::time::Duration;

use epicserver_wire::Time;

use super::scenario::{Scenario, secs};
use crate::rng::Rng;

/// Something that goes wrong, or that a host is told to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// A process ends, and begins again later.
    Crash { host: usize, away: Duration },
    /// A host stands still: process, threads, and all.
    Pause { host: usize, still: Duration },
    /// A host leaves in good order, and begins again.
    Leave { host: usize },
    /// Hosts do not hear each other.
    Split { there: Vec<bool>, one_way: bool, lasts: Duration },
    /// Nobody reaches the coordinator.
    Away { lasts: Duration },
    /// One host does not reach the coordinator.
    CutOff { host: usize, lasts: Duration },
    /// The coordinator does what it is asked or does not, and nobody is told which.
    Unknown { lasts: Duration },
    /// The store carries nothing out.
    StoreAway { lasts: Duration },
    /// The store does what it is asked or does not, and nobody is told which.
    StoreUnknown { lasts: Duration },
}

impl Fault {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Crash { .. } => "crash",
            Self::Pause { still, .. } if *still > Duration::from_secs(2) => "long pause",
            Self::Pause { .. } => "pause",
            Self::Leave { .. } => "leave",
            Self::Split { one_way: false, .. } => "partition",
            Self::Split { .. } => "one-way partition",
            Self::Away { .. } => "coordinator away",
            Self::CutOff { .. } => "cut off from the coordinator",
            Self::Unknown { .. } => "coordinator unknown",
            Self::StoreAway { .. } => "store away",
            Self::StoreUnknown { .. } => "store unknown",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name();
        match self {
            Self::Crash { host, away: lasts }
            | Self::Pause { host, still: lasts }
            | Self::CutOff { host, lasts } => write!(f, "host {host}: {name} for {lasts:.2?}"),
            Self::Leave { host } => write!(f, "host {host}: {name}"),
            Self::Split { there, lasts, .. } => {
                let side: Vec<usize> = (0..there.len()).filter(|host| there[*host]).collect();
                write!(f, "hosts {side:?}: {name} for {lasts:.2?}")
            }
            Self::Away { lasts }
            | Self::Unknown { lasts }
            | Self::StoreAway { lasts }
            | Self::StoreUnknown { lasts } => write!(f, "{name} for {lasts:.2?}"),
        }
    }
}

type Make = fn(&mut Rng, usize) -> Fault;

/// What goes wrong when, in the order of time.
pub(crate) fn draw(scenario: &Scenario, rng: &mut Rng) -> Vec<(Time, Fault)> {
    let of = &scenario.faults;
    let makes: [(u64, Make); 10] = [
        (of.crash, crash),
        (of.pause, pause),
        (of.leave, |rng, nodes| Fault::Leave { host: rng.index(nodes) }),
        (of.split, |rng, nodes| split(rng, nodes, false)),
        (of.one_way, |rng, nodes| split(rng, nodes, true)),
        (of.away, |rng, _| Fault::Away { lasts: lasting(rng, 8) }),
        (of.cut_off, |rng, nodes| Fault::CutOff { host: rng.index(nodes), lasts: lasting(rng, 9) }),
        (of.unknown, |rng, _| Fault::Unknown { lasts: lasting(rng, 6) }),
        (of.store_away, |rng, _| Fault::StoreAway { lasts: lasting(rng, 8) }),
        (of.store_unknown, |rng, _| Fault::StoreUnknown { lasts: lasting(rng, 6) }),
    ];
    let mut all = Vec::new();
    for (about, make) in makes {
        // Runs without some kinds go elsewhere than runs with all.
        let none = about == 0 || rng.one_in(4);
        let count = if none { 0 } else { rng.below(2 * about + 1) };
        for _ in 0..count {
            let at = Time::ZERO + rng.up_to(secs(scenario.faulty_s));
            all.push((at, make(rng, scenario.nodes)));
        }
    }
    all.sort_by_key(|(at, _)| *at);
    all
}

fn lasting(rng: &mut Rng, most_s: u64) -> Duration {
    Duration::from_millis(100) + rng.up_to(Duration::from_secs(most_s))
}

fn crash(rng: &mut Rng, nodes: usize) -> Fault {
    Fault::Crash { host: rng.index(nodes), away: lasting(rng, 8) }
}

fn pause(rng: &mut Rng, nodes: usize) -> Fault {
    let host = rng.index(nodes);
    let still = if rng.one_in(2) { lasting(rng, 1) } else { lasting(rng, 9) };
    Fault::Pause { host, still }
}

fn split(rng: &mut Rng, nodes: usize, one_way: bool) -> Fault {
    let one = rng.index(nodes);
    let alone = rng.one_in(2);
    let there = (0..nodes).map(|host| host == one || !alone && rng.one_in(2)).collect();
    Fault::Split { there, one_way, lasts: lasting(rng, 8) }
}
