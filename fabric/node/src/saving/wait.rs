//! Who waits for a state to be durable: replies of `every_turn` entities, and `save().await`.
//!
//! # Invariants
//! - **N29** A reply of an `every_turn` entity, or of any one's hook for reminders, leaves when the state that its method has seen is durable.
//!
//! # Not here
//! Saving.

use epicserver_entity::{Answer, Caller, Desk, Policy, Request};
use epicserver_wire::{CallError, ErrorKind, Ran, Token};

use super::Stage;
use crate::Fault;
use crate::core::Core;

/// Somebody who waits.
#[derive(Debug)]
pub(super) enum Wait {
    /// A reply, to whom it goes.
    Reply(Caller, Request),
    /// `save().await`.
    Barrier(Token),
}

/// Who waits for which of an activation's saves, counted from its beginning.
#[derive(Debug, Default)]
pub(super) struct Waits {
    begun: u64,
    waiting: Vec<(u64, Wait)>,
}

impl Waits {
    /// A save has begun: of all that has changed until now.
    pub(super) fn begin(&mut self) {
        self.begun += 1;
    }

    /// The save that has begun last is done: takes out who waits for it.
    pub(super) fn done(&mut self) -> Vec<Wait> {
        let begun = self.begun;
        self.take(|save, _| save <= begun)
    }

    /// The save that has begun last was not done: those who would wait for it wait for the next.
    pub(super) fn undone(&mut self) {
        let next = self.begun + 1;
        self.waiting.iter_mut().for_each(|(save, _)| *save = next);
    }

    /// Takes out those that have asked to be saved, and be told whether that worked.
    pub(super) fn barriers(&mut self) -> Vec<Wait> {
        self.take(|_, wait| matches!(wait, Wait::Barrier(_)))
    }

    /// Takes out those that wait for a save that has not begun.
    pub(super) fn unsaved(&mut self) -> Vec<Wait> {
        let begun = self.begun;
        self.take(|save, _| save > begun)
    }

    fn take(&mut self, goes: impl Fn(u64, &Wait) -> bool) -> Vec<Wait> {
        let gone = self.waiting.extract_if(.., |(save, wait)| goes(*save, wait));
        gone.map(|(_, wait)| wait).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn into_all(self) -> Vec<Wait> {
        self.waiting.into_iter().map(|(_, wait)| wait).collect()
    }
}

impl Core {
    /// Gives a reply of the activation at `place` to whoever called, once it may leave (**N29**).
    #[inline]
    pub(crate) fn reply_from(&self, desk: &Desk, place: u32, caller: Caller, request: Request) {
        if self.config.saves.is_none() {
            return self.reply(desk, caller, request);
        }
        self.reply_when_saved(desk, place, caller, request);
    }

    fn reply_when_saved(&self, desk: &Desk, place: u32, caller: Caller, request: Request) {
        self.keep_answer(place, &request);
        let gated = self.kept(place, |kept| {
            // Who calls for a reminder has to know that it is done with (N35).
            kept.policy == Policy::EveryTurn || kept.hook == Some(request.method().id)
        }) == Some(true);
        let gated = gated && self.config.fault != Some(Fault::ReplyBeforeSave);
        let told = matches!(caller, Caller::Token { .. } | Caller::Remote { .. });
        match self.waits_for(place).filter(|_| gated && told) {
            Some(save) => {
                let wait = Wait::Reply(caller, request);
                self.kept(place, |kept| kept.waits.waiting.push((save, wait)));
            }
            None => self.reply(desk, caller, request),
        }
    }

    /// The save after which all that has changed at `place` is durable; `None` if it is.
    fn waits_for(&self, place: u32) -> Option<u64> {
        let unsaved = self.is_unsaved(place);
        let saves = |kept: &mut super::Kept| match (unsaved, kept.op) {
            (true, _) => Some(kept.waits.begun + 1),
            (false, Some(_)) if kept.stage != Stage::Resetting => Some(kept.waits.begun),
            (false, _) => None,
        };
        self.kept(place, saves).flatten()
    }

    /// `save().await` of the activation at `place`.
    pub(crate) fn barrier(&self, desk: &Desk, place: u32, token: Token) {
        let held = self.table.borrow().state(place).is_some_and(|cell| cell.is_held());
        let deleted = self.kept(place, |kept| kept.deleted) == Some(true);
        if held || deleted {
            return self.refuse_token(desk, token, ErrorKind::WouldDeadlock);
        }
        let Some(save) = self.waits_for(place) else {
            return self.complete(desk, token, Answer::Done);
        };
        self.kept(place, |kept| kept.waits.waiting.push((save, Wait::Barrier(token))));
        self.save_soon(place);
    }

    /// What they have waited for is durable.
    pub(super) fn end_waits(&self, desk: &Desk, waits: Vec<Wait>) {
        for wait in waits {
            match wait {
                Wait::Reply(caller, request) => self.reply(desk, caller, request),
                Wait::Barrier(token) => self.complete(desk, token, Answer::Done),
            }
        }
    }

    /// It will not be, or nobody knows.
    pub(super) fn fail_waits(&self, desk: &Desk, waits: Vec<Wait>, kind: ErrorKind) {
        for wait in waits {
            match wait {
                Wait::Reply(caller, request) => {
                    let error = CallError::new(kind, Ran::Yes, request.head().path.chain());
                    request.recycle();
                    self.answer(desk, caller, Answer::Failed(error));
                }
                Wait::Barrier(token) => {
                    let error = CallError::new(kind, Ran::Unknown, self.chain_of(token));
                    self.complete(desk, token, Answer::Failed(error));
                }
            }
        }
    }
}
