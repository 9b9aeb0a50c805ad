//! Atomics and fences, taken from std or, under `--cfg loom`, from the model checker.
//!
//! # Not here
//! What lies in shared memory: a model cannot have another process, so `map` uses std's alone.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, Ordering, fence};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU32, Ordering, fence};
