//! How much may be changed and not saved: beyond that, changes wait for the store.
//!
//! # Invariants
//! - **N41** Once the states that are changed and not saved count for as many bytes as they may, no further one is
//!   changed by a call that begins: it waits, in its order, until some are saved. Those that are changed already go on, and so do
//!   methods by `&self`.
//!
//! # Not here
//! What a method does that has begun: it may change what it will.

use epicserver_entity::{Policy, Request};

use super::{Kept, Stage};
use crate::core::Core;

/// What an activation counts for, beside what its state takes.
const ACTIVATION: u64 = 256;

/// What is changed and not saved, and who waits for that.
#[derive(Debug, Default)]
pub(super) struct Unsaved {
    bytes: u64,
    /// Activations that are shut until there is room.
    stalled: Vec<u32>,
}

impl Core {
    /// The state at `place` is changed, and not saved.
    pub(super) fn counts_as_unsaved(&self, place: u32) {
        let bytes = ACTIVATION + u64::from(self.table.borrow().bytes_of(place));
        let saving = &mut *self.saving.borrow_mut();
        // What only its entity saves would be waited for by all others.
        let waits = |kept: &&mut Kept| {
            let saved = matches!(kept.policy, Policy::WriteBehind { .. } | Policy::EveryTurn);
            saved && kept.counts == 0
        };
        if let Some(kept) = saving.get(place).filter(waits) {
            kept.counts = bytes;
            saving.unsaved.bytes += bytes;
        }
        self.tune_direct(saving.unsaved.bytes);
    }

    /// It is saved, or is none any more and has counted for so many bytes.
    pub(super) fn counts_no_more(&self, bytes: u64) {
        let stalled = {
            let unsaved = &mut self.saving.borrow_mut().unsaved;
            unsaved.bytes -= bytes;
            // There is to be some room, so that they do not come and go one by one.
            let room = unsaved.bytes < self.unsaved_bytes_max() / 4 * 3;
            self.tune_direct(unsaved.bytes);
            if room { std::mem::take(&mut unsaved.stalled) } else { Vec::new() }
        };
        stalled.into_iter().for_each(|place| self.open_again(place));
    }

    /// A call is about to begin: gives it back if it may.
    pub(super) fn may_change(&self, place: u32, request: Request) -> Option<Request> {
        if !self.unsaved_full.get() || request.method().looks {
            return Some(request);
        }
        let clean = |kept: &mut Kept| kept.counts == 0 && kept.stage == Stage::Active;
        if self.kept(place, clean) != Some(true) {
            return Some(request);
        }
        self.wait_shut(place, request);
        self.saving.borrow_mut().unsaved.stalled.push(place);
        None
    }

    /// Calls run inside their callers' turns only while there is room, since nobody looks at those.
    fn tune_direct(&self, bytes: u64) {
        self.unsaved_full.set(bytes >= self.unsaved_bytes_max());
    }

    fn unsaved_bytes_max(&self) -> u64 {
        self.config.saves.as_ref().map_or(u64::MAX, |saves| saves.unsaved_bytes_max)
    }
}
