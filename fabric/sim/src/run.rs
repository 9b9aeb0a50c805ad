//! One seed: a world, its tasks, the checkers, and the same again.
//!
//! # Not here
//! Many seeds, and what is printed: the program in `main`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use epicserver_entity::Registry;
use epicserver_node::RootTask;

use crate::knot::{self, Knot, Late};
use crate::log::{self, Log, Scene, Stats, Violation};
use crate::mutant::Mutant;
use crate::rng::{Rng, mix};
use crate::world::{End, Plan, START, World};

/// Any run without endless waits is over by then; deadlines are far behind it.
const OVER: Duration = Duration::from_mins(2);

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

/// Runs `seed` twice, with all checkers.
#[must_use]
pub fn check(seed: u64, mutant: Option<Mutant>) -> Trial {
    let mut first = once(seed, mutant);
    let again = once(seed, mutant);
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

fn once(seed: u64, mutant: Option<Mutant>) -> Trial {
    drop(log::begin(Scene::default()));
    let world = catch_unwind(AssertUnwindSafe(|| run(seed, mutant)));
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

fn plan(seed: u64, rng: &mut Rng, mutant: Option<Mutant>) -> Plan {
    let mut registry = Registry::default();
    let added = registry.add::<Knot>().and_then(|()| registry.add::<Late>());
    added.expect("the built-in entities do not collide");
    Plan {
        seed,
        nodes: 1 + u16::try_from(rng.below(3)).unwrap_or(0),
        shards: 1 + u16::try_from(rng.below(4)).unwrap_or(0),
        registry,
        memory_bytes_max: if rng.one_in(6) { 600 + rng.below(1500) } else { 1 << 30 },
        idle: match rng.below(4) {
            0 => Some(Duration::from_micros(50 + rng.below(200))),
            1 => Some(Duration::from_millis(20)),
            _ => None,
        },
        direct: !rng.one_in(6),
        mutant,
    }
}

/// The world is given back, since what is left over in it may still write to the log.
fn run(seed: u64, mutant: Option<Mutant>) -> World {
    let mut rng = Rng::new(seed);
    let scene = Scene { keys: 2 + rng.below(7), hasty: rng.one_in(4), mutant };
    drop(log::begin(scene));
    let mut world = World::new(plan(rng.next(), &mut rng, mutant));
    let roots = 1 + rng.below(6);
    for _ in 0..roots {
        let plan = rng.next();
        let shard = rng.index(world.shards());
        world.root(shard, RootTask::new(move || knot::root(plan)));
    }
    let end = world.run(START + OVER, || false);
    log::log(|log| {
        match end {
            End::Quiet | End::Over => {}
            End::Waits => log.violate("no_endless_wait", "something waits for ever".to_owned()),
            End::Restless => log.violate("no_endless_wait", "it does not come to rest".to_owned()),
        }
        conclude(log, &world, roots, scene);
    });
    world
}

fn conclude(log: &mut Log, world: &World, roots: u64, scene: Scene) {
    let refused = world.counters().map(|counters| counters.tells_refused).sum();
    log.conclude(roots, refused, world.panics);
    log.stats.virtual_nanos = u64::try_from(world.now().since(START).as_nanos()).unwrap_or(0);
    for counters in world.counters() {
        log.stats.cover("direct", counters.direct);
        log.stats.cover("queued", counters.queued);
        log.stats.cover("remote", counters.remote);
        log.stats.cover("activated", counters.activated);
        log.stats.cover("collected", counters.collected);
        log.stats.cover("late replies", counters.late);
    }
    log.stats.cover("hasty runs", u64::from(scene.hasty));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fifty_seeds_pass_every_checker() {
        for seed in 0..50 {
            assert_eq!(check(seed, None).violation, None, "{}", replay_line(seed, None, None));
        }
    }

    #[test]
    fn each_mutant_is_caught_by_its_checker_within_a_thousand_seeds() {
        for mutant in Mutant::ALL.iter().copied().filter(|mutant| !mutant.is_of_the_fabric()) {
            let caught = (0..1000).find_map(|seed| check(seed, Some(mutant)).violation);
            let checker = caught.map(|violation| violation.checker);
            let by = checker.is_some_and(|checker| mutant.caught_by().contains(&checker));
            assert!(by, "{mutant} is caught by {checker:?}");
        }
    }

    #[test]
    fn s1_a_seed_gives_the_same_trace_again_and_another_seed_another() {
        let traces: Vec<u64> = [7, 7, 8].map(|seed| check(seed, None).trace).to_vec();
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
