//! One seed: a world, its tasks, the checkers, and the same again.
//!
//! # Not here
//! Many seeds, and what is printed: the program in `main`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use epicserver_entity::Registry;
use epicserver_node::RootTask;

use crate::fabric::scenario::{Answers, Scenario};
use crate::knot::{self, Knot, Late, Ledger, Tally};
use crate::log::{self, Log, Onlooker, Scene, Stats, Violation};
use crate::mutant::Mutant;
use crate::rng::{Rng, mix};
use crate::storm::{Storm, Weather};
use crate::world::{End, Plan, START, World};

/// Any run without endless waits is over by then, but for what it sleeps; deadlines are far behind it.
const OVER: Duration = Duration::from_mins(2);
/// So many of the longest naps may follow each other: those of one chain, and of all that wait for one entity.
const NAPS_MAX: u32 = 1000;

/// What decides which seeds have a store: such that those which are known from before there was one have none.
const STORE_DRAW: u64 = 1685;

/// How one seed went.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Trial {
    /// What happened.
    pub stats: Stats,
    /// The run as one number.
    pub trace: u64,
    /// What a checker found, if one did.
    pub violation: Option<Violation>,
}

/// Runs `seed` twice, with all checkers. By a scenario nodes have control machines, and meet what it says; without
/// one there may be one view for ever, or a control plane that is quick.
#[must_use]
pub fn check(seed: u64, scenario: Option<&Scenario>, mutant: Option<Mutant>) -> Trial {
    let mut first = run(seed, scenario, mutant);
    let again = run(seed, scenario, mutant);
    if first.trace != again.trace && first.violation == again.violation {
        let what = format!("the traces are {:016x} and {:016x}", first.trace, again.trace);
        first.violation = Some(Violation { checker: "same_trace", what });
    }
    if first.violation != again.violation {
        let what = format!("{:?} and {:?}", first.violation, again.violation);
        first.violation = Some(Violation { checker: "same_trace", what });
    }
    first
}

/// The command that repeats a run.
#[must_use]
pub fn replay_line(seed: u64, mutant: Option<Mutant>, scenario: Option<&str>) -> String {
    let mutant = mutant.map(|mutant| format!(" --mutant {mutant}")).unwrap_or_default();
    let scenario = scenario.map(|scenario| format!(" --scenario {scenario}")).unwrap_or_default();
    format!("cargo run --release -p epicserver-sim -- --seeds 1 --seed {seed}{scenario}{mutant}")
}

/// The same once.
#[must_use]
pub fn run(seed: u64, scenario: Option<&Scenario>, mutant: Option<Mutant>) -> Trial {
    drop(log::begin(Scene::default()));
    let world = catch_unwind(AssertUnwindSafe(|| simulate(seed, scenario, mutant)));
    let (mut stats, mut violation, trace) =
        log::log(|log| (std::mem::take(&mut log.stats), log.violation.take(), log.trace));
    let trace = match world {
        Ok(world) => mix(trace ^ world.trace()),
        Err(panic) => {
            let what = text_of(&*panic);
            violation = violation.or(Some(Violation { checker: "assertion", what }));
            trace
        }
    };
    stats.runs = 1;
    Trial { stats, trace, violation }
}

/// What a panic said.
pub(crate) fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic").to_owned()
}

fn plan(
    seed: u64,
    rng: &mut Rng,
    scene: Scene,
    (storm, scenario): (Storm, Option<&Scenario>),
) -> Plan {
    let mut registry = Registry::default();
    let mut added = registry.add::<Knot>().and_then(|()| registry.add::<Late>());
    if scene.saves {
        added =
            added.and_then(|()| registry.add::<Ledger>()).and_then(|()| registry.add::<Tally>());
    }
    added.expect("the built-in entities do not collide");
    let nodes = 1 + u16::try_from(rng.below(3)).unwrap_or(0);
    let shards = 1 + u16::try_from(rng.below(4)).unwrap_or(0);
    let hosts = |scenario: &Scenario| u16::try_from(scenario.nodes()).unwrap_or(u16::MAX);
    Plan {
        seed,
        nodes: scenario.map_or(nodes, hosts),
        shards: scenario.map_or(shards, |scenario| scenario.shards.min(shards)),
        registry,
        memory_bytes_max: if rng.one_in(6) { 600 + rng.below(1500) } else { 1 << 30 },
        idle: match rng.below(4) {
            // Not where somebody may wait for seconds: those would be a million looks.
            0 if !scene.lossy && scenario.is_none() => {
                Some(Duration::from_micros(50 + rng.below(200)))
            }
            1 => Some(Duration::from_millis(20)),
            _ => None,
        },
        direct: !rng.one_in(6),
        mutant: scene.mutant,
        storm,
        scenario: scenario.cloned(),
        store: scene.saves.then(|| store(seed, scenario)),
        unsaved_bytes_max: if mix(seed ^ 5).is_multiple_of(4) { 1024 } else { 1 << 30 },
        slots: knot::slots(scene.keys, scene.saves),
        task: Some(task),
        host: None,
    }
}

/// How the store answers.
fn store(seed: u64, scenario: Option<&Scenario>) -> Answers {
    let drawn = Answers { delay_ms: f64::from(1 << (mix(seed ^ 4) % 6)), ..Answers::default() };
    scenario.and_then(|scenario| scenario.store.clone()).unwrap_or(drawn)
}

fn task(plan: u64) -> RootTask {
    let task = knot::Task::default();
    RootTask::new(move || knot::root(plan, task))
}

/// What the sky is like: calm once in three times; always or never where a mutant shows without moves, or by them.
fn weather(rng: &mut Rng, mutant: Option<Mutant>) -> Weather {
    let moves = mutant.is_some_and(Mutant::needs_moves);
    if mutant.is_some() && !moves {
        return Weather::Calm;
    }
    match rng.below(3) {
        0 if !moves => Weather::Calm,
        0 | 1 => Weather::Fair,
        _ => Weather::Foul,
    }
}

/// The world is given back, since what is left over in it may still write to the log.
fn simulate(seed: u64, scenario: Option<&Scenario>, mutant: Option<Mutant>) -> World {
    let mut rng = Rng::new(seed);
    let (weather, storm) = match scenario {
        Some(scenario) => {
            let storm = Storm::of(scenario, &mut rng);
            (storm.weather, storm)
        }
        None => match weather(&mut rng, mutant) {
            Weather::Calm => (Weather::Calm, Storm::none()),
            weather @ (Weather::Fair | Weather::Foul) => (weather, Storm::drawn(&mut rng, weather)),
        },
    };
    let saves = has_store(seed, scenario, mutant);
    let store_fails =
        saves && scenario.map_or_else(|| mix(seed ^ 3).is_multiple_of(2), Scenario::store_fails);
    let storm = match scenario {
        None if store_fails && !storm.is_calm() => {
            storm.with_a_store_that_fails(&mut Rng::new(mix(seed ^ 3)))
        }
        _ => storm,
    };
    let scene = Scene {
        keys: 2 + rng.below(7),
        hasty: rng.one_in(4),
        lossy: weather == Weather::Foul,
        moves: weather != Weather::Calm,
        // Drawn apart, so that seeds which are known do what they did.
        gaps: weather != Weather::Calm && mix(seed ^ 1).is_multiple_of(3),
        nap_us: nap_us(weather, scenario, &mut rng),
        saves,
        store_fails,
        mutant,
    };
    drop(log::begin(scene));
    let drawn = if weather == Weather::Calm { Vec::new() } else { storm.in_words() };
    let naps = Duration::from_micros(scene.nap_us) * NAPS_MAX;
    let over = scenario.map_or(OVER + naps, Scenario::lasts);
    let mut world = World::new(plan(rng.next(), &mut rng, scene, (storm, scenario)));
    if weather == Weather::Calm {
        for _ in 0..=rng.below(5) {
            let plan = rng.next();
            let shard = rng.index(world.shards());
            world.root(shard, task(plan));
        }
    }
    world.watch(Onlooker);
    let mut end = world.run(START + over, |_| false);
    if saves && end == End::Quiet {
        let task = knot::Task::default();
        world.root_in_the_end(RootTask::new(move || knot::look_at_all(task)));
        end = world.run(START + 2 * over, |_| false);
    }
    let unrest = if end == End::Waits { world.unrest() } else { String::new() };
    log::log(|log| {
        log.stats.drawn = drawn;
        match end {
            End::Quiet | End::Over => {}
            End::Waits => log.violate("no_endless_wait", unrest),
            End::Restless => log.violate("no_endless_wait", "it does not come to rest".to_owned()),
        }
        conclude(log, &world, (scene, weather));
    });
    world
}

/// Whether entities are saved: as the scenario says, or in some runs without one.
fn has_store(seed: u64, scenario: Option<&Scenario>, mutant: Option<Mutant>) -> bool {
    match (mutant, scenario) {
        (Some(mutant), _) => mutant.needs_store(),
        (None, Some(scenario)) => scenario.store.is_some(),
        (None, None) => mix(seed ^ STORE_DRAW).is_multiple_of(3),
    }
}

/// How long methods sleep at most: also longer than slots take to move.
fn nap_us(weather: Weather, scenario: Option<&Scenario>, rng: &mut Rng) -> u64 {
    match (weather, scenario) {
        (Weather::Foul, _) if rng.one_in(8) => 20_000_000,
        (Weather::Foul | Weather::Fair, Some(_)) => 2_000 << rng.below(8),
        (Weather::Calm | Weather::Fair | Weather::Foul, _) => 2_000,
    }
}

fn conclude(log: &mut Log, world: &World, (scene, weather): (Scene, Weather)) {
    let refused = world.counters().map(|counters| counters.tells_refused).sum();
    let forced = world.counters().map(|counters| counters.forced).sum();
    log.conclude(world.tasks, (refused, forced), world.panics);
    log.stats.cover("activations ended by force", forced);
    log.stats.virtual_nanos = u64::try_from(world.now().since(START).as_nanos()).unwrap_or(0);
    for counters in world.counters() {
        log.stats.cover("direct", counters.direct);
        log.stats.cover("queued", counters.queued);
        log.stats.cover("remote", counters.remote);
        log.stats.cover("activated", counters.activated);
        log.stats.cover("collected", counters.collected);
        log.stats.cover("late replies", counters.late);
        log.stats.cover("calls moved", counters.moved);
        log.stats.cover("calls held", counters.held);
        log.stats.cover("calls tried", counters.tried);
    }
    log.stats.cover("hasty runs", u64::from(scene.hasty));
    log.stats.cover("fair runs", u64::from(weather == Weather::Fair));
    log.stats.cover("foul runs", u64::from(weather == Weather::Foul));
    log.stats.cover("views", world.views());
    world.counts().into_iter().for_each(|(name, count)| log.stats.cover(name, count));
    log.stats.met.clone_from(&world.met);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fifteen_seeds_pass_every_checker() {
        for seed in 0..15 {
            assert_eq!(
                check(seed, None, None).violation,
                None,
                "{}",
                replay_line(seed, None, None)
            );
        }
    }

    #[test]
    fn each_mutant_is_caught_by_its_checker_within_a_thousand_seeds() {
        // Where slots have to move it takes more seeds than a test has time for: the gate runs those.
        let quick = |mutant: &Mutant| !mutant.is_of_the_fabric() && !mutant.needs_moves();
        for mutant in Mutant::ALL.iter().copied().filter(quick) {
            let caught = (0..1000).find_map(|seed| check(seed, None, Some(mutant)).violation);
            let checker = caught.map(|violation| violation.checker);
            let by = checker.is_some_and(|checker| mutant.caught_by().contains(&checker));
            assert!(by, "{mutant} is caught by {checker:?}");
        }
    }

    #[test]
    fn seeds_that_once_failed_pass() {
        // Calls that passed one which had come back or was about to, or that went from one wait to the next, or a tell
        // that had gone elsewhere, or that a tell passed which stayed; long sleeps, a restart that was evicted, a section
        // held for long, a farewell that was cut short, a call between two shards of which one was evicted first.
        let order = [143, 1_004_499_098_039, 936_709_893_337, 19_228_940_951_838, 363_536_455_834];
        let waits = [29_664_581_608, 615_566_769_663, 1_085_990_306_850];
        let returned = [791_798_752_698, 606_402_428_506];
        let tried = [179_577_691_259, 179_579_691_132, 179_580_691_411];
        // A save that was under way when its activation ended, a panic when nobody knew of one, a deletion before it.
        let saved = [32, 253, 680];
        // A caller that went on in the turn in which its direct call was ended, while a branch of its chain held it.
        let held = [980_231_426_413];
        let others = [5317, 1_004_499_096_840, 1_004_499_098_745, 936_709_892_475, 491_382_148_857];
        for seed in order
            .into_iter()
            .chain(waits)
            .chain(returned)
            .chain(tried)
            .chain(saved)
            .chain(held)
            .chain(others)
        {
            assert_eq!(run(seed, None, None).violation, None, "{}", replay_line(seed, None, None));
        }
    }

    #[test]
    fn seeds_of_whole_fabrics_that_once_failed_pass() {
        let handover = [2, 1169, 2038, 2350, 3193, 1_892_301_201, 821_140_200_072]
            .map(|seed| ("handover", seed));
        let shards = [72, 97, 155, 1105, 2174, 2558, 3363].map(|seed| ("shards", seed));
        // A call of another shard that waited for the end of an activation.
        let stores = [("stores", 8)];
        for (name, seed) in handover.into_iter().chain(shards).chain(stores) {
            let scenario = Scenario::named(name).expect("it comes with the simulator");
            let violation = run(seed, Some(&scenario), None).violation;
            assert_eq!(violation, None, "{}", replay_line(seed, None, Some(name)));
        }
    }

    #[test]
    fn s1_a_seed_gives_the_same_trace_again_and_another_seed_another() {
        let traces: Vec<u64> = [7, 7, 8].map(|seed| check(seed, None, None).trace).to_vec();
        assert_eq!(traces[0], traces[1]);
        assert_ne!(traces[1], traces[2]);
    }

    #[test]
    fn the_replay_line_names_seed_and_mutant() {
        let line = replay_line(7, Some(Mutant::ReorderPair), None);
        assert!(line.ends_with("--seeds 1 --seed 7 --mutant reorder_pair"), "{line}");
        assert!(Mutant::ALL.iter().all(|mutant| Mutant::named(mutant.name()) == Some(*mutant)));
    }
}
