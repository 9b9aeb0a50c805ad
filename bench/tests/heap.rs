//! Heap: how many allocations a call makes. A binary of its own, since whoever counts also slows.
//!
//! # Invariants
//! - **B5** One test: the counters are the process's own, and another test's thread would count too.
//!
//! # Not here
//! Time, and memory as an operator sees it: the benchmark program and its probes.

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[path = "../src/floors/boxed_async_fn.rs"]
mod boxed_async_fn;

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const CALLS: u32 = 10_000;

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
}
