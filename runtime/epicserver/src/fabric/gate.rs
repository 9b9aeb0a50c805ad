//! The gate between a node's control thread and whoever waits for it.
//!
//! # Invariants
//! - **FA12** A wait for the node to be ready, or to have left, ends when the control thread does.
//!
//! # Not here
//! When a node is ready.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How far a node has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) enum Progress {
    /// It joins.
    #[default]
    Joining,
    /// It is a member among as many as are wanted, and serves all that it owns; or it waits for nothing any more.
    Ready,
    /// It leaves, and has handed over what it had.
    HandedOver,
    /// Its control thread has ended.
    Over,
}

/// The gate.
#[derive(Debug, Default)]
pub(super) struct Gate {
    progress: Mutex<Progress>,
    moved: Condvar,
    leaving: AtomicBool,
    quiet: AtomicBool,
    stopping: AtomicBool,
}

impl Gate {
    /// The node has come so far. It never goes back.
    pub(super) fn show(&self, progress: Progress) {
        let mut shown = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        if *shown < progress {
            *shown = progress;
            self.moved.notify_all();
        }
    }

    /// Waits until the node has come at least so far, for at most `wait`. Says whether it has.
    pub(super) fn wait(&self, progress: Progress, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        let mut shown = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        while *shown < progress {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.moved.wait_timeout(shown, left);
            (shown, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        true
    }

    /// The node is to hand everything over and go.
    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::SeqCst)
    }

    /// Nothing is under way any more on a node that leaves, or is not waited for.
    pub(super) fn be_quiet(&self) {
        self.quiet.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.quiet.load(Ordering::SeqCst)
    }

    /// The control thread is to end, whatever it is about.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }
}
