//! One shard's way to the store.
//!
//! # Invariants
//! - **H16** An answer is seen by its shard, asleep or not: it is left, then the flag is set, then the thread is woken.
//!
//! # Not here
//! What is asked, and when.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use epicserver_store::{Answer, Done, Keeper, Op, OpId, Store, TooMany, Wake};

use crate::host::Options;
use crate::inlet::Door;

/// Answers that a shard takes before it looks at anything else.
const ANSWERS_A_ROUND: usize = 32;

/// One shard's way to the store.
pub(crate) struct Depot {
    store: Box<dyn Store>,
    rung: Arc<AtomicBool>,
    /// Answers that were taken from the store and not yet by the shard.
    come: VecDeque<Done>,
    /// What the store had no room for, in order: shards ask no more than it has room for, but one that was evicted has
    /// forgotten what it had asked.
    unsent: VecDeque<(OpId, Op)>,
}

impl Depot {
    /// The way of the shard behind `door`, if its node has a store.
    ///
    /// # Errors
    /// [`TooMany`].
    pub(crate) fn of(options: &Options, door: &Arc<Door>) -> Result<Option<Self>, TooMany> {
        options.store.as_ref().map(|keeper| Self::open(keeper.as_ref(), door)).transpose()
    }

    fn open(keeper: &dyn Keeper, door: &Arc<Door>) -> Result<Self, TooMany> {
        let rung = Arc::new(AtomicBool::new(false));
        let (flag, door) = (Arc::clone(&rung), Arc::clone(door));
        let wake = Wake::new(move || {
            flag.store(true, Ordering::Release);
            door.unpark();
        });
        Ok(Self {
            store: keeper.handle(wake)?,
            rung,
            come: VecDeque::new(),
            unsent: VecDeque::new(),
        })
    }

    /// Whether there are answers.
    pub(crate) fn has_come(&self) -> bool {
        !self.come.is_empty() || self.rung.load(Ordering::Acquire)
    }

    /// Takes some of the answers that have come: of commits, which may be about many entities, one.
    pub(crate) fn poll(&mut self, done: &mut Vec<Done>) {
        if self.rung.swap(false, Ordering::AcqRel) {
            let mut come = Vec::new();
            self.store.poll(&mut come);
            self.come.extend(come);
            self.send_unsent();
        }
        while done.len() < ANSWERS_A_ROUND
            && let Some(next) = self.come.pop_front()
        {
            let is_long = matches!(next.result, Ok(Answer::Committed(_)));
            done.push(next);
            if is_long {
                break;
            }
        }
    }

    fn send_unsent(&mut self) {
        while let Some((id, op)) = self.unsent.pop_front() {
            if let Err(op) = self.store.submit(id, op) {
                self.unsent.push_front((id, op));
                break;
            }
        }
    }

    pub(crate) fn submit(&mut self, id: OpId, op: Op) {
        if !self.unsent.is_empty() {
            return self.unsent.push_back((id, op));
        }
        if let Err(op) = self.store.submit(id, op) {
            self.unsent.push_back((id, op));
        }
    }
}
