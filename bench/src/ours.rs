//! Our own side of suite `call`: entities on a node of one or two shards, called through `Ref`.
//!
//! # Invariants
//! - **B6** What is measured is user code's own loop: a task awaits calls as any program would.
//!
//! # Not here
//! Floors, rounds, verdicts. Suites `remote` and `store`: the modules of those names.

pub(crate) mod remote;
pub(crate) mod store;

use std::num::NonZeroUsize;

use epicserver::IdleMode;
use epicserver::prelude::*;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::case::{Failure, Round, Sample};
use crate::probe;

const OPS: u32 = 20_000;
const CROSS_OPS: u32 = 1_000;
const TASKS: u32 = 1_000;
const CALLS_A_TASK: u32 = 100;

/// What is called: a state, and the least that a method can do.
#[entity(key = u64)]
#[derive(Default)]
pub(crate) struct Counter {
    count: u64,
}

#[entity]
impl Counter {
    pub fn bump(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    pub async fn bump_async(cx: Cx<Self>) -> u64 {
        cx.with(|counter| {
            counter.count += 1;
            counter.count
        })
    }
}

/// 32 bytes that do nothing.
#[entity(key = u64)]
#[derive(Default)]
pub(crate) struct Idle {
    bytes: [u64; 4],
}

#[entity]
impl Idle {
    pub fn touch(&mut self) {
        self.bytes[0] += 1;
    }
}

/// Many tasks on one shard that all call one entity.
#[entity(key = u64)]
#[derive(Default)]
pub(crate) struct Crowd {
    left: u32,
}

#[entity]
impl Crowd {
    pub async fn run(cx: Cx<Self>, counter: Ref<Counter>, tasks: u32, calls: u32) -> Result<()> {
        cx.with(|crowd| crowd.left = tasks);
        cx.event("done").clear();
        for _ in 0..tasks {
            let counter = counter.clone();
            cx.spawn(async move |cx: Cx<Self>| {
                for _ in 0..calls {
                    // A call that fails would show in the rate: it ends the task.
                    if counter.bump().await.is_err() {
                        return;
                    }
                }
                let left = cx.with(|crowd| {
                    crowd.left -= 1;
                    crowd.left
                });
                if left == 0 {
                    cx.event("done").set();
                }
            });
        }
        cx.event("done").wait().await
    }
}

fn node(shards: usize, direct: bool) -> Result<Node, Failure> {
    let builder = Node::builder().entity::<Counter>().entity::<Idle>().entity::<Crowd>();
    let shards = NonZeroUsize::new(shards).ok_or("a node has a shard")?;
    let builder = builder.shards(shards).direct_calls(direct).idle_mode(IdleMode::Latency);
    Ok(builder.start()?)
}

/// One call after the other from one task, by a one-turn method.
pub(crate) fn seq(round: &Round) -> Result<Sample, Failure> {
    one_by_one(round, true)
}

/// The same with the fast path refused: each call goes through a mailbox and the run queue.
pub(crate) fn queued(round: &Round) -> Result<Sample, Failure> {
    one_by_one(round, false)
}

fn one_by_one(round: &Round, direct: bool) -> Result<Sample, Failure> {
    let round = *round;
    node(1, direct)?.run(async move |pool| {
        let counter = pool.get::<Counter>(1);
        let mut laps = round.laps();
        while laps.begin() {
            for _ in 0..OPS {
                counter.bump().await?;
            }
            laps.end(OPS);
        }
        laps.time()
    })?
}

/// One call after the other, by a method that could interleave.
pub(crate) fn seq_async(round: &Round) -> Result<Sample, Failure> {
    let round = *round;
    node(1, true)?.run(async move |pool| {
        let counter = pool.get::<Counter>(1);
        let mut laps = round.laps();
        while laps.begin() {
            for _ in 0..OPS {
                counter.bump_async().await?;
            }
            laps.end(OPS);
        }
        laps.time()
    })?
}

/// One call after the other to an entity of the other shard, while both spin.
pub(crate) fn cross(round: &Round) -> Result<Sample, Failure> {
    let round = *round;
    // The shards pin themselves, and may only do so to CPUs that this thread may use.
    let mut both = CpuSet::new();
    round.cpus.iter().for_each(|cpu| both.set(cpu.id));
    sched_setaffinity(None, &both)?;
    node(2, true)?.run(async move |pool| {
        let there = |key: &u64| Ref::id(&pool.get::<Counter>(*key)).shard(2).index() == 1;
        let key = (0..).find(there).ok_or("no entity is on the other shard")?;
        let counter = pool.get::<Counter>(key);
        let mut laps = round.laps();
        while laps.begin() {
            for _ in 0..CROSS_OPS {
                counter.bump().await?;
            }
            laps.end(CROSS_OPS);
        }
        laps.time()
    })?
}

/// A thousand tasks that each call one after the other.
pub(crate) fn rate_of_1000(round: &Round) -> Result<Sample, Failure> {
    crowd(round, true)
}

/// The same with the fast path refused.
pub(crate) fn queued_rate_of_1000(round: &Round) -> Result<Sample, Failure> {
    crowd(round, false)
}

fn crowd(round: &Round, direct: bool) -> Result<Sample, Failure> {
    let round = *round;
    node(1, direct)?.run(async move |pool| {
        let (counter, crowd) = (pool.get::<Counter>(1), pool.get::<Crowd>(1));
        let mut laps = round.laps();
        while laps.begin() {
            crowd.run(counter.clone(), TASKS, CALLS_A_TASK).await?;
            laps.end(TASKS * CALLS_A_TASK);
        }
        laps.rate()
    })?
}

/// First calls of entities that did not exist.
pub(crate) fn activation_rate(round: &Round) -> Result<Sample, Failure> {
    let round = *round;
    node(1, true)?.run(async move |pool| {
        let mut laps = round.laps();
        let mut key = 0;
        while laps.begin() {
            for _ in 0..OPS {
                pool.get::<Idle>(key).touch().await?;
                key += 1;
            }
            laps.end(OPS);
        }
        laps.rate()
    })?
}

/// Resident bytes of each of `count` activations that were called once.
pub(crate) fn idle_bytes(count: u64) -> Result<f64, Failure> {
    let node = node(1, true)?;
    let wake = node.run(async |pool| pool.get::<Idle>(u64::MAX).touch().await)?;
    wake?;
    let before = probe::resident_bytes()?;
    let touched = node.run(async move |pool| {
        for key in 0..count {
            pool.get::<Idle>(key).touch().await?;
        }
        Ok::<(), CallError>(())
    })?;
    touched?;
    let after = probe::resident_bytes()?;
    Ok((after - before) / count as f64)
}
