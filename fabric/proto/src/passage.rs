//! Passages: the way from one shard to another, and what of all that was said there is decided.
//!
//! When the view changes, a shard announces it to each shard that it has said something to, and asks to be told
//! once all of before is decided: begun there, or given back. What it has to say about slots that the other one
//! lost waits until then. A slot that the other one still empties takes calls of chains that began before it was lost,
//! since somebody there may wait for them.
//!
//! # Invariants
//! - **PA1** Each flush has one answer.
//! - **PA2** Who lost what is of interest from the time at which something is tried until it is decided: it may come
//!   back, and what is made meanwhile waits behind it, also if the other side has emptied all by then.
//!
//! # Not here
//! Who lost what (`trail`), and what waits (`lines`). How a flush gets there.

use std::collections::BTreeSet;

use epicserver_wire::header::Violation;

use crate::ownership::SlotId;

/// The slots that the other side has lost and still empties.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Emptying {
    /// These.
    These(BTreeSet<SlotId>),
    /// Too many to be named: perhaps any that it has lost.
    Any,
}

impl Default for Emptying {
    fn default() -> Self {
        Self::These(BTreeSet::new())
    }
}

impl Emptying {
    fn has(&self, slot: SlotId) -> bool {
        match self {
            Self::These(slots) => slots.contains(&slot),
            Self::Any => true,
        }
    }
}

/// What to do with a call to a slot that the other side has lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The other side has nothing to do with it.
    Clear,
    /// It waits here.
    Wait,
    /// It goes to the other side, which takes it or gives it back.
    Try,
}

/// The way to one other shard.
#[derive(Debug, Default)]
pub struct Passage {
    /// What was said under earlier views than this one is decided.
    base: u64,
    /// The view that was announced last.
    said: u64,
    /// Something was said since a flush was asked for.
    used: bool,
    /// Flushes that are not answered.
    asked: u32,
    /// Something was tried since a flush was asked for.
    tried: bool,
    emptying: Emptying,
}

impl Passage {
    /// Something is said under `view`. Says whether that view has to be announced first.
    #[inline]
    pub fn say(&mut self, view: u64) -> bool {
        self.used = true;
        self.said != view
    }

    /// The view has been announced.
    pub fn announced(&mut self, view: u64) {
        self.said = view;
    }

    /// Whether something was said that no flush has been asked for since.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.used
    }

    /// Whether a flush is unanswered.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.asked > 0
    }

    /// A flush is asked for.
    pub fn ask(&mut self) {
        self.asked += 1;
        (self.used, self.tried) = (false, false);
    }

    /// The first unanswered flush is answered: what was said before `view` is decided, and these slots are still
    /// emptied. Says whether it was the last one.
    ///
    /// # Errors
    /// If there is none (**PA1**).
    pub fn flushed(&mut self, view: u64, emptying: Emptying) -> Result<bool, Violation> {
        let asked = self.asked.checked_sub(1);
        self.asked = asked.ok_or(Violation::Unexpected("an answer to no flush"))?;
        self.base = self.base.max(view);
        self.emptying = emptying;
        Ok(self.asked == 0)
    }

    /// The first view that something undecided may have been said under; `None` if nothing is.
    #[must_use]
    pub fn undecided_since(&self) -> Option<u64> {
        (self.used || self.asked > 0).then_some(self.base)
    }

    /// The first view that is still of interest here: whoever lost something after it is to be remembered (**PA2**).
    #[must_use]
    pub fn of_interest_since(&self) -> Option<u64> {
        // What was tried depends on a loss by an earlier view than any that is undecided.
        if self.tried || self.asked > 0 { Some(0) } else { self.undecided_since() }
    }

    /// Whether something was tried since a flush was asked for.
    #[must_use]
    pub fn has_tried(&self) -> bool {
        self.tried
    }

    /// Whether the other side empties slots.
    #[must_use]
    pub fn is_emptying(&self) -> bool {
        self.emptying != Emptying::default()
    }

    /// What to do with a call to `slot`, which the other side has lost by the view numbered `lost`. `may_try` says
    /// whether it could be taken there.
    #[must_use]
    pub fn verdict(&self, lost: u64, slot: SlotId, may_try: bool) -> Verdict {
        // What waits here for the last answer was made before.
        if self.base < lost || self.asked > 0 {
            return Verdict::Wait;
        }
        match self.emptying.has(slot) {
            false => Verdict::Clear,
            true if may_try => Verdict::Try,
            // Something that was tried may come back, and was made before.
            true if self.tried => Verdict::Wait,
            true => Verdict::Clear,
        }
    }

    /// Something is tried.
    pub fn try_one(&mut self) {
        self.tried = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use epicserver_wire::ClassId;

    const A: SlotId = SlotId { class: ClassId::DEFAULT, index: 1 };
    const B: SlotId = SlotId { class: ClassId::DEFAULT, index: 2 };

    fn only(slot: SlotId) -> Emptying {
        Emptying::These([slot].into())
    }

    #[test]
    fn a_view_is_announced_before_the_first_that_is_said_under_it() {
        let mut passage = Passage::default();
        assert!(passage.say(3));
        passage.announced(3);
        assert!(!passage.say(3) && passage.is_used());
        assert!(passage.say(4));
        assert_eq!(passage.undecided_since(), Some(0));
    }

    #[test]
    fn what_the_other_side_has_lost_waits_until_it_has_decided_what_was_said_before() {
        let mut passage = Passage::default();
        passage.ask();
        assert_eq!(passage.verdict(2, A, false), Verdict::Wait);
        assert_eq!(passage.flushed(2, Emptying::default()), Ok(true));
        assert_eq!(passage.verdict(2, A, false), Verdict::Clear);
        assert_eq!(passage.verdict(3, A, false), Verdict::Wait, "it was lost again");
    }

    #[test]
    fn pa1_each_flush_has_one_answer() {
        let mut passage = Passage::default();
        passage.ask();
        passage.ask();
        assert_eq!(passage.flushed(2, Emptying::default()), Ok(false));
        assert_eq!(passage.undecided_since(), Some(2));
        assert_eq!(passage.flushed(3, Emptying::default()), Ok(true));
        assert_eq!(passage.undecided_since(), None);
        assert!(passage.flushed(3, Emptying::default()).is_err(), "PA1");
    }

    #[test]
    fn what_is_said_later_waits_for_the_last_answer_too() {
        let mut passage = Passage::default();
        passage.ask();
        passage.ask();
        assert_eq!(passage.flushed(2, Emptying::default()), Ok(false));
        assert_eq!(passage.verdict(2, A, false), Verdict::Wait);
        assert_eq!(passage.flushed(2, Emptying::default()), Ok(true));
        assert_eq!(passage.verdict(2, A, false), Verdict::Clear);
    }

    #[test]
    fn what_may_be_taken_where_a_slot_is_emptied_is_tried_and_others_wait_for_how_that_ended() {
        let mut passage = Passage::default();
        passage.ask();
        assert_eq!(passage.flushed(2, only(A)), Ok(true));
        assert_eq!(passage.verdict(2, B, true), Verdict::Clear);
        assert_eq!(passage.verdict(2, A, false), Verdict::Clear);
        assert_eq!(passage.verdict(2, A, true), Verdict::Try);
        passage.try_one();
        assert_eq!(passage.verdict(2, A, false), Verdict::Wait);
        passage.ask();
        assert_eq!(passage.verdict(2, A, true), Verdict::Wait);
        assert_eq!(passage.flushed(2, Emptying::Any), Ok(true));
        assert_eq!(passage.verdict(2, B, true), Verdict::Try);
        assert!(passage.is_emptying());
    }

    #[test]
    fn pa2_who_lost_a_slot_is_of_interest_until_what_was_tried_there_is_decided() {
        let mut passage = Passage::default();
        passage.say(2);
        passage.ask();
        assert_eq!(passage.flushed(2, only(A)), Ok(true));
        assert_eq!(passage.of_interest_since(), None);
        passage.say(2);
        assert_eq!(passage.of_interest_since(), Some(2), "what goes elsewhere is of this view");
        passage.try_one();
        assert_eq!(passage.of_interest_since(), Some(0), "it may come back");
        assert_eq!(passage.undecided_since(), Some(2), "nobody is late for it");
        passage.ask();
        assert!(!passage.has_tried());
        assert_eq!(passage.of_interest_since(), Some(0), "it may still come back");
        assert_eq!(passage.flushed(2, Emptying::default()), Ok(true));
        assert_eq!(passage.of_interest_since(), None);
    }
}
