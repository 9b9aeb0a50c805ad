//! Heap: how many allocations a call makes. A binary of its own, since whoever counts also slows.
//!
//! # Invariants
//! - **B5** One test: the counters are the process's own, and another test's thread would count too.
//!
//! # Not here
//! Time, and memory as an operator sees it: the benchmark program and its probes.

use std::alloc::System;

use std::num::NonZeroUsize;

use epicserver::prelude::*;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[path = "../src/floors/boxed_async_fn.rs"]
mod boxed_async_fn;

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const CALLS: u32 = 10_000;

#[entity(key = u64)]
#[derive(Default)]
struct Counter {
    count: u64,
}

#[entity]
impl Counter {
    pub fn bump(&mut self, by: u64) -> u64 {
        self.count += by;
        self.count
    }

    pub async fn bump_async(cx: Cx<Self>, by: u64) -> u64 {
        cx.with(|counter| {
            counter.count += by;
            counter.count
        })
    }
}

/// Allocations of all threads in `CALLS` calls of each kind, to an entity of each shard, once warm.
fn allocations_of_ours(shards: usize, direct: bool) -> usize {
    let shards = NonZeroUsize::new(shards).expect("a node has a shard");
    let builder = Node::builder().entity::<Counter>().shards(shards).pin(false);
    let node = builder.direct_calls(direct).start().expect("the node starts");
    let counted = node.run(async |pool| {
        let counters: Vec<Ref<Counter>> = (0..8).map(|key| pool.get(key)).collect();
        let mut heap = Region::new(HEAP);
        for call in 0..2 * CALLS {
            if call == CALLS {
                heap = Region::new(HEAP);
            }
            for counter in &counters {
                counter.bump(1).await?;
                counter.bump_async(1).await?;
            }
        }
        let change = heap.change();
        Ok::<usize, CallError>(change.allocations + change.reallocations)
    });
    counted.expect("the task ends").expect("each call is answered")
}

/// Allocations and reallocations of all threads while `calls` ran.
fn allocations(calls: impl FnOnce()) -> usize {
    let heap = Region::new(HEAP);
    calls();
    let change = heap.change();
    change.allocations + change.reallocations
}

#[test]
fn calls_allocate_what_they_are_said_to() {
    let mut callee = boxed_async_fn::BoxedCallee::new();
    let boxed = allocations(|| assert_eq!(callee.call(CALLS), 1));
    assert_eq!(boxed, CALLS as usize, "a boxed future is one allocation a call");
    assert_eq!(allocations_of_ours(1, true), 0, "direct calls allocate nothing");
    assert_eq!(allocations_of_ours(1, false), 0, "queued calls allocate nothing");
    assert_eq!(allocations_of_ours(2, true), 0, "calls across shards allocate nothing");
}
