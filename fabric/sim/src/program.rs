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
use crate::world::{End, Plan, World};

/// How a test is to run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TestOptions {
    /// How many nodes. A run has one node yet: more of them are as many more shards.
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
        shards: options.shards.max(1).saturating_mul(nodes),
        registry,
        memory_bytes_max: 1 << 30,
        idle: None,
        direct: !rng.one_in(4),
        mutant: None,
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
