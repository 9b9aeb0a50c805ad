//! What `#[epicserver::test]` becomes: a user's own entities in the simulated world.
//!
//! # Not here
//! Checkers: what is right is for the test to say.

use std::fmt::Debug;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use epicserver_entity::{Pool, Registry, RegistryError};
use epicserver_node::RootTask;
use epicserver_wire::Time;

use crate::rng::Rng;
use crate::run::text_of;
use crate::seed::fresh_seed;
use crate::storm::Storm;
use crate::world::{End, Plan, World};

/// How a test is to run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TestOptions {
    /// How many nodes, joined by a network that delays.
    pub nodes: u32,
    /// Shards of each.
    pub shards: u16,
    /// The first seed; a random one where there is none.
    pub seed: Option<u64>,
    /// How many runs, each of the seed after the one before.
    pub seeds: u64,
}

impl Default for TestOptions {
    fn default() -> Self {
        Self { nodes: 1, shards: 2, seed: None, seeds: 1 }
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
/// comes.
pub fn test<R: TestOutcome + 'static>(
    options: TestOptions,
    register: fn(&mut Registry) -> Result<(), RegistryError>,
    setup: impl AsyncFn(Pool) -> R + Clone + Send + 'static,
) {
    let mut registry = Registry::default();
    if let Err(error) = register(&mut registry) {
        panic!("{error}");
    }
    let first = options.seed.unwrap_or_else(fresh_seed);
    for seed in (0..options.seeds.max(1)).map(|number| first.wrapping_add(number)) {
        let failure = run(&options, seed, registry.clone(), setup.clone());
        if let Some(failure) = failure {
            panic!("{failure}\nrepeat it with `#[epicserver::test(seed = {seed}, …)]`");
        }
    }
}

/// How `setup` ended, once it has.
type Ended = Arc<Mutex<Option<Option<String>>>>;

fn run<R: TestOutcome + 'static>(
    options: &TestOptions,
    seed: u64,
    registry: Registry,
    setup: impl AsyncFn(Pool) -> R + Send + 'static,
) -> Option<String> {
    let mut rng = Rng::new(seed);
    let nodes = u16::try_from(options.nodes.max(1)).unwrap_or(u16::MAX);
    let mut world = World::new(Plan {
        seed,
        nodes,
        shards: options.shards.max(1),
        registry,
        memory_bytes_max: 1 << 30,
        idle: None,
        direct: !rng.one_in(4),
        mutant: None,
        storm: Storm::none(),
        scenario: None,
        slots: Vec::new(),
        task: None,
    });
    let ended = Ended::default();
    let tell = Arc::clone(&ended);
    let shard = rng.index(world.shards());
    world.root(shard, RootTask::new(move || observe(setup, tell)));
    let has_ended = || ended.lock().unwrap_or_else(PoisonError::into_inner).is_some();
    let end = world.run(Time::MAX, has_ended);
    let ended = ended.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (ended, end) {
        (Some(failure), _) => failure,
        (None, End::Restless) => Some("it goes on and on".to_owned()),
        (None, _) => Some("it waits for what never comes".to_owned()),
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
    use std::time::Duration;

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

    const OPTIONS: TestOptions = TestOptions { nodes: 2, shards: 2, seed: Some(7), seeds: 20 };

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
}
