//! What `#[epicserver::test]` becomes: a user's own entities in the simulated world.
//!
//! # Not here
//! What has to be true of any program (`world`); what else is right is for the test to say.

use std::fmt::Debug;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use epicserver_entity::{Pool, Registry, RegistryError};
use epicserver_node::RootTask;
use epicserver_wire::Time;

use crate::fabric::scenario::Answers;
use crate::log::Violation;
use crate::mutant::Mutant;
use crate::rng::Rng;
use crate::run::text_of;
use crate::seed::fresh_seed;
use crate::storm::Storm;
use crate::trouble::{self, CALM_AFTER, NODES_MAX, SHARDS_MAX, TestFault};
use crate::world::{End, Plan, START, World};

/// The node on which the test itself runs, where things happen to nodes.
const HOST: usize = 0;
/// How long nodes may take to meet before the test begins.
const MEET_MAX: Duration = Duration::from_mins(1);
/// How long all may take to end after a test has ended and nothing goes wrong any more: longer than
/// calls wait where nothing says otherwise.
const REST_MAX: Duration = Duration::from_mins(2);

/// How a test is to run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TestOptions {
    /// How many nodes, joined by a network that delays; at most [`NODES_MAX`].
    pub nodes: u32,
    /// Shards of each; at most [`SHARDS_MAX`].
    pub shards: u16,
    /// The first seed; a random one where there is none.
    pub seed: Option<u64>,
    /// How many runs, each of the seed after the one before.
    pub seeds: u64,
    /// Whether entities are saved, in a store that all nodes reach.
    pub store: bool,
    /// What happens to nodes but the first one, on which the test runs; nothing if this is empty.
    pub faults: &'static [TestFault],
}

impl Default for TestOptions {
    fn default() -> Self {
        Self { nodes: 1, shards: 2, seed: None, seeds: 1, store: false, faults: &[] }
    }
}

/// What a test may return.
#[diagnostic::on_unimplemented(
    message = "a test cannot return `{Self}`",
    note = "return nothing, or `Result<(), E>` with `E: Debug`"
)]
pub trait TestOutcome {
    /// What went wrong, if anything did.
    fn failure(self) -> Option<String>;
}

impl TestOutcome for () {
    fn failure(self) -> Option<String> {
        None
    }
}

impl<E: Debug> TestOutcome for Result<(), E> {
    fn failure(self) -> Option<String> {
        self.err().map(|error| format!("it returned {error:?}"))
    }
}

/// Runs `setup` on shards that serve what `register` adds: once a seed, each time in another order
/// of things and with other delays.
///
/// # Panics
/// With the seed, if a run fails: `setup` returned an error, panicked, or waits for what never
/// comes; or what has to be true of any program is not. Without one, if there are too many nodes or shards.
pub fn test<R: TestOutcome + 'static>(
    options: TestOptions,
    register: fn(&mut Registry) -> Result<(), RegistryError>,
    setup: impl AsyncFn(Pool) -> R + Clone + Send + 'static,
) {
    assert!(options.nodes <= NODES_MAX, "a test has at most {NODES_MAX} nodes");
    assert!(options.shards <= SHARDS_MAX, "a node of a test has at most {SHARDS_MAX} shards");
    let mut registry = Registry::default();
    if let Err(error) = register(&mut registry) {
        panic!("{error}");
    }
    let first = options.seed.unwrap_or_else(fresh_seed);
    for seed in (0..options.seeds.max(1)).map(|number| first.wrapping_add(number)) {
        let failure = run(&options, (seed, None), registry.clone(), setup.clone());
        if let Some(failure) = failure {
            let instead = if options.seeds > 1 { " in place of `seeds`" } else { "" };
            panic!(
                "{failure}\nrepeat it with `#[epicserver::test(seed = {seed}, …)]`{instead}, and all else as it is"
            );
        }
    }
}

/// How `setup` ended, once it has.
type Ended = Arc<Mutex<Option<Option<String>>>>;

fn run<R: TestOutcome + 'static>(
    options: &TestOptions,
    (seed, mutant): (u64, Option<Mutant>),
    registry: Registry,
    setup: impl AsyncFn(Pool) -> R + Send + 'static,
) -> Option<String> {
    let mut rng = Rng::new(seed);
    let direct = !rng.one_in(4);
    let faults = !options.faults.is_empty();
    let storm =
        if faults { trouble::draw(options.faults, options.nodes, &mut rng) } else { Storm::none() };
    let mut world = World::new(Plan {
        seed,
        nodes: u16::try_from(options.nodes.max(1)).unwrap_or(u16::MAX),
        shards: options.shards.max(1),
        registry,
        memory_bytes_max: 1 << 30,
        idle: None,
        direct,
        mutant,
        storm: Storm { faults: Vec::new(), ..storm.clone() },
        scenario: None,
        store: options.store.then(Answers::default),
        unsaved_bytes_max: u64::MAX,
        slots: Vec::new(),
        task: None,
        host: faults.then_some(HOST),
    });
    world.guard();
    if faults {
        world.comes_to_rest(START + MEET_MAX);
        world.storm(&storm);
    }
    let until = world.now() + CALM_AFTER;
    let ended = Ended::default();
    let tell = Arc::clone(&ended);
    let shards = if faults { usize::from(options.shards.max(1)) } else { world.shards() };
    world.root(rng.index(shards), RootTask::new(move || observe(setup, tell)));
    let has_ended = || ended.lock().unwrap_or_else(PoisonError::into_inner).is_some();
    let end = world.run(Time::MAX, |world| world.violation().is_some() || has_ended());
    if faults && end == End::Over {
        world.comes_to_rest(world.now().max(until) + REST_MAX);
    }
    let outcome = ended.lock().unwrap_or_else(PoisonError::into_inner).take();
    let failure = match (outcome, end) {
        (Some(failure), _) => failure,
        (None, End::Restless) => Some("it goes on and on".to_owned()),
        (None, _) => Some("it waits for what never comes".to_owned()),
    };
    let broken = world.violation().map(told);
    let failure = broken.or(failure)?;
    let storm = storm.in_words();
    let met = if storm.is_empty() {
        String::new()
    } else {
        "\nwhat was drawn to happen to its nodes:".to_owned()
    };
    Some(storm.into_iter().fold(failure + &met, |all, line| all + "\n  " + &line))
}

/// What a checker found, to whoever wrote the test.
fn told(Violation { checker, what }: &Violation) -> String {
    match *checker {
        "no_endless_wait" => format!("after it had ended, {what}"),
        _ => format!("Epic Server broke its word ({checker}): {what}"),
    }
}

/// Runs `setup` and says how it ended, a panic included.
async fn observe<R: TestOutcome + 'static>(setup: impl AsyncFn(Pool) -> R, ended: Ended) {
    let mut outcome = pin!(setup(Pool::new()));
    let failure = std::future::poll_fn(|cx| {
        match catch_unwind(AssertUnwindSafe(|| outcome.as_mut().poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(outcome)) => Poll::Ready(outcome.failure()),
            Err(panic) => Poll::Ready(Some(format!("it panicked: {}", text_of(&*panic)))),
        }
    })
    .await;
    ended.lock().unwrap_or_else(PoisonError::into_inner).replace(failure);
}

#[cfg(test)]
mod tests {
    use epicserver_entity::{At, Cx};
    use epicserver_macros::entity;
    use epicserver_wire::CallError;

    use super::*;

    #[entity(key = u64, crate = crate::__private)]
    #[derive(Default)]
    struct Counter {
        sum: u32,
    }

    #[entity(crate = crate::__private)]
    impl Counter {
        pub fn add(&mut self, by: u32) -> u32 {
            self.sum += by;
            self.sum
        }

        pub async fn add_via(cx: Cx<Self>, other: u64, by: u32) -> Result<u32, CallError> {
            cx.sleep(Duration::from_secs(60)).await?;
            cx.pool().get::<Self>(other).add(by).await
        }

        pub async fn wait(cx: Cx<Self>) -> Result<(), CallError> {
            cx.event("never").wait().await
        }

        pub fn key(&self, at: At<Self>) -> u64 {
            at.key()
        }
    }

    fn register(registry: &mut Registry) -> Result<(), RegistryError> {
        registry.add::<Counter>()
    }

    const OPTIONS: TestOptions =
        TestOptions { nodes: 2, shards: 2, seed: Some(7), seeds: 20, store: false, faults: &[] };

    #[test]
    fn entities_of_a_user_run_once_a_seed() {
        test(OPTIONS, register, async |pool: Pool| {
            let one = pool.get::<Counter>(1);
            assert_eq!(one.add_via(2, 5).timeout(Duration::from_secs(90)).await?, 5);
            assert_eq!(pool.get::<Counter>(2).add(1).await?, 6);
            assert_eq!(pool.get::<Counter>(3).key().await?, 3);
            Ok::<(), CallError>(())
        });
    }

    #[test]
    #[should_panic(expected = "seed = 7")]
    fn an_error_fails_the_test_and_names_the_seed() {
        test(OPTIONS, register, async |_| Err::<(), &str>("no"));
    }

    #[test]
    #[should_panic(expected = "it panicked: assertion")]
    fn a_panic_fails_the_test() {
        test(OPTIONS, register, async |pool: Pool| {
            assert_eq!(pool.get::<Counter>(1).add(1).await, Ok(2), "wrong");
        });
    }

    #[test]
    #[should_panic(expected = "it waits for what never comes")]
    fn a_wait_for_nothing_fails_the_test() {
        test(OPTIONS, register, async |pool: Pool| {
            pool.get::<Counter>(1).wait().timeout(Duration::MAX).await
        });
    }

    #[epicserver_macros::test(entities(Counter), seeds = 3, shards = 2, crate = crate::for_tests)]
    async fn the_attribute_gives_such_a_test(pool: Pool) -> Result<(), CallError> {
        assert_eq!(pool.get::<Counter>(1).add(1).await?, 1);
        Ok(())
    }

    const ALL: &[TestFault] = &[
        TestFault::Crash,
        TestFault::Leave,
        TestFault::Partition,
        TestFault::Pause,
        TestFault::Delay,
    ];

    /// Calls go on while nodes come and go, and all is well again when nothing goes wrong any more.
    async fn calls_go_on(pool: Pool) {
        let mut made = 0;
        for round in 0..30 {
            let counter = pool.get::<Counter>(round % 7);
            made += 1;
            if let Ok(sum) = counter.add(1).await {
                assert!(sum <= made, "{sum} of {made}");
            }
            let _may_be_lost = pool.get::<Counter>(round).key().await;
        }
        let later = || pool.get::<Counter>(0).add_via(1, 1).timeout(Duration::from_secs(90));
        while later().await.is_err() {}
        for key in 0..50 {
            assert!(pool.get::<Counter>(key).add(1).await.is_ok());
        }
    }

    /// Many calls at a time, while nodes come and go.
    async fn crowds(pool: Pool) {
        for round in 0..20_u64 {
            let calls: Vec<_> = (0..24).map(|key| pool.get::<Counter>(key % 9).add(1)).collect();
            let later = pool.get::<Counter>(round % 5).add_via(round % 3, 1);
            for call in calls {
                let _may_be_lost = call.await;
            }
            let _may_be_lost = later.timeout(Duration::from_secs(90)).await;
        }
    }

    #[test]
    fn what_a_user_s_test_is_told_of_has_been_found_where_it_was_put() {
        let options =
            TestOptions { nodes: 4, seed: None, seeds: 1, store: false, faults: ALL, shards: 2 };
        let broken = [
            (Mutant::DuplicateCall, "one_outcome"),
            (Mutant::ServeWhileDraining, "single_activation"),
            (Mutant::DrainedTooSoon, "single_activation"),
            (Mutant::NoLeaseCheck, "single_activation"),
        ];
        for (mutant, checker) in broken {
            let found = (0..30).find_map(|seed| {
                let mut registry = Registry::default();
                register(&mut registry).expect("it is one type");
                run(&options, (seed, Some(mutant)), registry, crowds)
            });
            let by = found.as_ref().is_some_and(|failure| failure.contains(checker));
            assert!(by, "{mutant} is found as {found:?}");
        }
    }

    #[test]
    fn every_fault_may_happen_to_the_nodes_of_a_test() {
        let options =
            TestOptions { nodes: 4, seed: Some(1), seeds: 3, store: false, faults: ALL, shards: 2 };
        test(options, register, calls_go_on);
    }
}
