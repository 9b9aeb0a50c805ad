//! Storms: what happens to the nodes of a world while its tasks run, as a list that follows from the seed.
//!
//! # Not here
//! How a fault is carried out (`world`), and what follows from it for views (`plane`).

use std::fmt;
use std::time::Duration;

use epicserver_wire::Time;

use crate::fabric::faults::{self, Fault as Drawn};
use crate::fabric::scenario::{Scenario, secs};
use crate::rng::Rng;

/// What happens at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// A new node joins.
    Join,
    /// A node leaves in order.
    Leave,
    /// Each node of now leaves in order, one after the other, and a new one joins for it.
    Restart,
    /// A node is gone at once.
    Crash,
    /// A node does nothing for so long.
    Pause(Duration),
    /// A link is lost.
    Cut,
    /// The nodes whose bits are set cannot reach the others, nor perhaps the coordinator, for so long.
    /// One way, these hear the others, whose control threads do not hear them; links take two.
    Part { side: u64, one_way: bool, coordinator: bool, lasts: Duration },
    /// Nobody can reach the coordinator for so long.
    Away(Duration),
    /// A node cannot reach the coordinator for so long.
    CutOff(Duration),
    /// The coordinator does what it is asked or does not, and nobody is told which, for so long.
    Muddle(Duration),
    /// The store carries nothing out for so long.
    StoreAway(Duration),
    /// The store does what it is asked or does not, and nobody is told which, for so long.
    StoreMuddle(Duration),
    /// Whatever is said takes up to so long, for so long.
    Slow { most: Duration, lasts: Duration },
    /// Tasks begin.
    Tasks(u32),
    /// Nothing goes wrong any more.
    Calm,
}

impl Fault {
    /// What it is called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Leave => "leave",
            Self::Restart => "rolling restart",
            Self::Crash => "crash",
            Self::Pause(lasts) if lasts > Duration::from_secs(2) => "long pause",
            Self::Pause(_) => "pause",
            Self::Cut => "lost link",
            Self::Part { one_way: true, .. } => "one-way partition",
            Self::Part { .. } => "partition",
            Self::Away(_) => "coordinator away",
            Self::CutOff(_) => "cut off from the coordinator",
            Self::Muddle(_) => "coordinator unknown",
            Self::StoreAway(_) => "store away",
            Self::StoreMuddle(_) => "store unknown",
            Self::Slow { .. } => "slow network",
            Self::Tasks(_) => "tasks",
            Self::Calm => "calm",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name();
        match self {
            Self::Pause(lasts)
            | Self::Away(lasts)
            | Self::CutOff(lasts)
            | Self::Muddle(lasts)
            | Self::StoreAway(lasts)
            | Self::StoreMuddle(lasts) => write!(f, "{name} for {lasts:.2?}"),
            Self::Part { side, coordinator, lasts, .. } => {
                let with = if *coordinator { ", of the coordinator too" } else { "" };
                write!(f, "{name} {side:016x}{with}, for {lasts:.2?}")
            }
            Self::Slow { most, lasts } => write!(f, "{name}, up to {most:.2?}, for {lasts:.2?}"),
            Self::Join | Self::Leave | Self::Restart | Self::Crash | Self::Cut | Self::Calm => {
                f.write_str(name)
            }
            Self::Tasks(count) => write!(f, "{count} tasks"),
        }
    }
}

/// What sort of storm it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Weather {
    /// Nothing happens.
    Calm,
    /// Nodes come and go in order: no call is lost.
    Fair,
    /// Anything happens.
    Foul,
}

/// A list of faults, each with the time since the one before.
#[derive(Clone, Debug)]
pub(crate) struct Storm {
    pub(crate) weather: Weather,
    /// How long each thing takes that the control plane does.
    pub(crate) pace: Duration,
    pub(crate) faults: Vec<(Duration, Fault)>,
}

fn micros(rng: &mut Rng, end: u64) -> Duration {
    Duration::from_micros(rng.below(end))
}

impl Storm {
    /// Nothing happens.
    pub(crate) fn none() -> Self {
        Self { weather: Weather::Calm, pace: Duration::from_micros(1), faults: Vec::new() }
    }

    pub(crate) fn is_calm(&self) -> bool {
        self.weather == Weather::Calm
    }

    /// A storm as a scenario has it, with tasks all the time; of its hosts none is named, since nodes take their places.
    pub(crate) fn of(scenario: &Scenario, rng: &mut Rng) -> Self {
        let mut all: Vec<(Duration, Fault)> = Vec::new();
        for (at, drawn) in faults::draw(scenario, rng) {
            let at = at.since(Time::ZERO);
            match drawn {
                Drawn::Crash { away, .. } => {
                    all.extend([(at, Fault::Crash), (at + away, Fault::Join)]);
                }
                Drawn::Pause { still, .. } => all.push((at, Fault::Pause(still))),
                Drawn::Leave { .. } => {
                    let back = at + rng.up_to(Duration::from_secs(2));
                    all.extend([(at, Fault::Leave), (back, Fault::Join)]);
                }
                Drawn::Split { there, one_way, lasts } => {
                    let bits = there.iter().enumerate().map(|(at, there)| u64::from(*there) << at);
                    let (side, coordinator) = (bits.sum(), rng.one_in(2));
                    let part = Fault::Part { side, one_way, coordinator, lasts };
                    all.push((at, part));
                }
                Drawn::Away { lasts } => all.push((at, Fault::Away(lasts))),
                Drawn::CutOff { lasts, .. } => all.push((at, Fault::CutOff(lasts))),
                Drawn::Unknown { lasts } => all.push((at, Fault::Muddle(lasts))),
                Drawn::StoreAway { lasts } => all.push((at, Fault::StoreAway(lasts))),
                Drawn::StoreUnknown { lasts } => all.push((at, Fault::StoreMuddle(lasts))),
            }
        }
        let faulty = secs(scenario.faulty_s);
        let mut at = Duration::ZERO;
        while at < faulty {
            all.push((at, Fault::Tasks(1)));
            at += rng.up_to(secs(2.0 / scenario.tasks_s().max(0.01)));
        }
        all.push((faulty, Fault::Calm));
        all.sort_by_key(|(at, _)| *at);
        let lossy = scenario.faults.loses();
        let weather = if lossy { Weather::Foul } else { Weather::Fair };
        Self::of_times(weather, Duration::ZERO, all)
    }

    /// A storm of faults with the times at which they happen, in order.
    pub(crate) fn of_times(
        weather: Weather,
        pace: Duration,
        mut faults: Vec<(Duration, Fault)>,
    ) -> Self {
        let mut before = Duration::ZERO;
        for (at, _) in &mut faults {
            *at -= std::mem::replace(&mut before, *at);
        }
        Self { weather, pace, faults }
    }

    /// The same with a store that fails now and then.
    pub(crate) fn with_a_store_that_fails(mut self, rng: &mut Rng) -> Self {
        for _ in 0..=rng.below(3) {
            let lasts = Duration::from_millis(1 << rng.below(13));
            let away = rng.one_in(2);
            let fault = if away { Fault::StoreAway(lasts) } else { Fault::StoreMuddle(lasts) };
            self.faults.insert(rng.index(self.faults.len() + 1), (Duration::ZERO, fault));
        }
        self
    }

    /// What happens when, in words; tasks left out.
    pub(crate) fn in_words(&self) -> Vec<String> {
        let mut at = Duration::ZERO;
        let word = |(delay, fault): &(Duration, Fault)| {
            at += *delay;
            let tasks = matches!(fault, Fault::Tasks(_));
            (!tasks).then(|| format!("{:8.3} s  {fault}", at.as_secs_f64()))
        };
        self.faults.iter().filter_map(word).collect()
    }

    /// A storm of that sort.
    pub(crate) fn drawn(rng: &mut Rng, weather: Weather) -> Self {
        let pace = Duration::from_micros(1 << (4 + rng.below(14)));
        let pace_us = u64::try_from(pace.as_micros()).unwrap_or(1);
        let mut faults = Vec::new();
        for _ in 0..=rng.below(6) {
            // Tasks run before it, while it takes its course, and after it.
            faults.push((Duration::ZERO, Fault::Tasks(tasks(rng))));
            faults.push((micros(rng, 2_000), fault(rng, weather)));
            for _ in 0..rng.below(4) {
                faults.push((micros(rng, 2 * pace_us + 100), Fault::Tasks(tasks(rng))));
            }
            let pause = match rng.below(3) {
                0 => 100,
                1 => 8 * pace_us,
                _ => 4_000_000,
            };
            faults.push((micros(rng, pause), Fault::Tasks(tasks(rng))));
        }
        Self { weather, pace, faults }
    }
}

fn tasks(rng: &mut Rng) -> u32 {
    u32::try_from(rng.below(3)).unwrap_or(0)
}

fn fault(rng: &mut Rng, weather: Weather) -> Fault {
    let fair = [Fault::Join, Fault::Leave, Fault::Restart];
    if weather != Weather::Foul || rng.one_in(3) {
        return fair[rng.index(fair.len())];
    }
    match rng.below(5) {
        0 => Fault::Crash,
        1 => Fault::Pause(micros(rng, 10_000)),
        // Longer than a lease.
        2 => Fault::Pause(Duration::from_millis(2_000 + rng.below(4_000))),
        3 => Fault::Cut,
        _ => Fault::Part {
            side: rng.next(),
            one_way: false,
            coordinator: rng.one_in(2),
            lasts: Duration::from_millis(1 << rng.below(13)),
        },
    }
}
