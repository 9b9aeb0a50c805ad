//! Scenarios: what a run is made of, as a file says it.
//!
//! # Not here
//! What is drawn from a seed within these bounds.

use std::time::Duration;

use serde::Deserialize;

/// Why a scenario cannot be run.
#[derive(Debug)]
pub struct ScenarioError(String);

impl std::fmt::Display for ScenarioError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ScenarioError {}

/// What a run is made of.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it is called.
    pub name: String,
    /// Hosts.
    pub(crate) nodes: usize,
    /// How long they take to begin, one after another.
    #[serde(default)]
    pub(crate) begin_s: f64,
    /// The most shards that one has.
    #[serde(default = "one")]
    pub(crate) shards: u16,
    /// Placement classes beside the default one, each offered by about half of the hosts.
    #[serde(default)]
    pub(crate) classes: Vec<String>,
    /// Whether hosts weigh differently.
    #[serde(default)]
    pub(crate) weights: bool,
    /// How long things go wrong.
    #[serde(default)]
    pub(crate) faulty_s: f64,
    /// How long it may take after that until all is as it should be.
    pub(crate) calm_s: f64,
    #[serde(default)]
    pub(crate) net: Net,
    #[serde(default)]
    pub(crate) coordinator: Answers,
    /// There is a store, and this is how it answers; only where entities call each other.
    pub(crate) store: Option<Answers>,
    #[serde(default)]
    pub(crate) clocks: Clocks,
    #[serde(default)]
    pub(crate) work: Work,
    #[serde(default)]
    pub(crate) faults: Faults,
    #[serde(default)]
    pub(crate) timeline: Vec<Entry>,
    /// Real shards, whose entities call each other; without it shards hold slots and do nothing else.
    pub(crate) calls: Option<Calls>,
}

/// What entities do.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Calls {
    /// Tasks that begin, in the whole fabric, a second, beside those that begin when slots move.
    pub(crate) tasks_s: f64,
}

fn one() -> u16 {
    1
}

/// The network between hosts. Shares are of 1.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Net {
    pub(crate) delay_ms: f64,
    pub(crate) lost: f64,
    pub(crate) twice: f64,
    /// Messages that take up to a second longer.
    pub(crate) slow: f64,
}

impl Default for Net {
    fn default() -> Self {
        Self { delay_ms: 2.0, lost: 0.0, twice: 0.0, slow: 0.0 }
    }
}

/// How the coordinator, or the store, answers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Answers {
    pub(crate) delay_ms: f64,
    /// Answers that take up to twice as long as anybody waits.
    pub(crate) slow: f64,
    /// Questions that are not done, or done, and end without an answer.
    pub(crate) unknown: f64,
}

impl Default for Answers {
    fn default() -> Self {
        Self { delay_ms: 5.0, slow: 0.0, unknown: 0.0 }
    }
}

/// The hosts' clocks.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Clocks {
    pub(crate) skew_s: u64,
    pub(crate) drift_ppm: u64,
    /// Whether shards whose entities call each other go by them too, and not by true time.
    pub(crate) of_shards: bool,
}

impl Default for Clocks {
    fn default() -> Self {
        Self { skew_s: 1_000, drift_ppm: 500, of_shards: false }
    }
}

/// What shards do.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Work {
    /// Turns that write, in the whole fabric, a second.
    pub(crate) turns_s: f64,
    /// Writes that arrive up to `late_s` later.
    pub(crate) late: f64,
    pub(crate) late_s: f64,
    /// How long it takes to drain slots: as a rule, and for this share of all cases.
    pub(crate) drain_ms: f64,
    pub(crate) drain_slow: f64,
    pub(crate) drain_slow_s: f64,
}

impl Faults {
    /// Whether calls may be lost by them: whatever is more than leaving in good order.
    pub(crate) fn loses(&self) -> bool {
        let others = [self.crash, self.pause, self.split, self.one_way, self.away, self.cut_off];
        others.into_iter().chain([self.unknown]).any(|count| count > 0)
    }
}

impl Default for Work {
    fn default() -> Self {
        Self {
            turns_s: 100.0,
            late: 0.0,
            late_s: 6.0,
            drain_ms: 20.0,
            drain_slow: 0.0,
            drain_slow_s: 4.0,
        }
    }
}

/// About how many of each there are; each kind is left out of some runs.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Faults {
    pub(crate) crash: u64,
    pub(crate) pause: u64,
    pub(crate) leave: u64,
    pub(crate) split: u64,
    pub(crate) one_way: u64,
    pub(crate) away: u64,
    pub(crate) cut_off: u64,
    pub(crate) unknown: u64,
    pub(crate) store_away: u64,
    pub(crate) store_unknown: u64,
}

/// What happens to some hosts at some time.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    /// When.
    pub(crate) at_s: f64,
    /// What.
    pub(crate) what: What,
    /// To how many of all.
    #[serde(default)]
    pub(crate) share: f64,
    /// How soon after it all has to be as it should be.
    pub(crate) within_s: f64,
    /// How many times as long as it should a slot may be without an owner: a share of slots that nobody serves.
    #[serde(default)]
    pub(crate) about: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum What {
    /// Nothing: it is only looked at.
    Look,
    /// Their processes are gone.
    Lose,
    /// Those that are gone begin again.
    Restart,
    /// They leave, and begin again once they have left.
    Roll,
}

const BUILT_IN: &[(&str, &str)] = &[
    ("chaos", include_str!("../../scenarios/chaos.toml")),
    ("calm", include_str!("../../scenarios/calm.toml")),
    ("rolling", include_str!("../../scenarios/rolling.toml")),
    ("hundred", include_str!("../../scenarios/hundred.toml")),
    ("thousand", include_str!("../../scenarios/thousand.toml")),
    ("shards", include_str!("../../scenarios/shards.toml")),
    ("stores", include_str!("../../scenarios/stores.toml")),
    ("handover", include_str!("../../scenarios/handover.toml")),
    ("four_thousand", include_str!("../../scenarios/four_thousand.toml")),
];

impl Scenario {
    /// The scenario that `text` describes.
    ///
    /// # Errors
    /// [`ScenarioError`] says what is wrong with it, and where.
    pub fn read(text: &str) -> Result<Self, ScenarioError> {
        let scenario: Self =
            toml::from_str(text).map_err(|error| ScenarioError(error.to_string()))?;
        let shares = [&scenario.net.lost, &scenario.net.twice, &scenario.net.slow];
        let more = [&scenario.coordinator.slow, &scenario.coordinator.unknown, &scenario.work.late];
        let store = scenario.store.iter().flat_map(|store| [&store.slow, &store.unknown]);
        if shares.into_iter().chain(more).chain(store).any(|share| !(0.0..=1.0).contains(share)) {
            return Err(ScenarioError("a share is between 0 and 1".to_owned()));
        }
        let fails = scenario.faults.store_away + scenario.faults.store_unknown > 0;
        let alone = scenario.store.is_some() && scenario.calls.is_none();
        if alone || fails && scenario.store.is_none() {
            return Err(ScenarioError("a store needs calls, and its faults a store".to_owned()));
        }
        if scenario.nodes == 0 || scenario.shards == 0 || scenario.calm_s <= 0.0 {
            return Err(ScenarioError(
                "it needs nodes, shards, and time to come to rest".to_owned(),
            ));
        }
        Ok(scenario)
    }

    /// The scenario of this name, if it is one of those in `scenarios`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let (_, text) = BUILT_IN.iter().find(|(known, _)| *known == name)?;
        Self::read(text).ok()
    }

    /// The names of those.
    pub fn names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name)
    }

    /// Whether entities call each other in it.
    #[must_use]
    pub fn has_calls(&self) -> bool {
        self.calls.is_some()
    }

    pub(crate) fn store_fails(&self) -> bool {
        let answers = self.store.as_ref().is_some_and(|store| store.unknown + store.slow > 0.0);
        answers || self.faults.store_away + self.faults.store_unknown > 0
    }

    pub(crate) fn tasks_s(&self) -> f64 {
        self.calls.map_or(0.0, |calls| calls.tasks_s)
    }

    /// When it is over at the latest.
    pub(crate) fn lasts(&self) -> Duration {
        secs(self.faulty_s + self.calm_s)
    }

    /// How many hosts it has.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.nodes
    }
}

/// So many seconds.
pub(crate) fn secs(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.max(0.0))
}

/// So many milliseconds.
pub(crate) fn millis(millis: f64) -> Duration {
    secs(millis / 1_000.0)
}
