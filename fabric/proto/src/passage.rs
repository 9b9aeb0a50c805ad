//! Passages: the way from one shard to another, and what waits there while slots change their owners.
//!
//! When the view changes, a shard announces it to each shard that it has said something to, and asks to be told
//! once all of before is decided: begun there, or given back. What it has to say about slots that the other one
//! lost waits here until then, behind what is given back; so it reaches their new owner in the order in which it
//! was made. A slot that the other one still empties takes calls of chains that began before it was lost, since
//! somebody there may wait for them.
//!
//! # Invariants
//! - **PA1** What was given back is taken out in the order in which it came, then what others gave back before, which
//!   may not have been said here yet, then what has waited here.
//! - **PA2** Nothing is taken out while a flush is unanswered: something may still be given back.
//! - **PA3** Each flush has one answer.
//! - **PA4** Who lost what is of interest from the time at which something is tried until it is decided: it may come
//!   back, and what is made meanwhile waits behind it, also if the other side has emptied all by then.
//!
//! # Not here
//! Who lost what (`trail`). How a flush gets there. Bounds: whoever puts something in counts.

use std::collections::{BTreeSet, VecDeque};

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
#[derive(Debug)]
pub struct Passage<W> {
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
    returned: VecDeque<W>,
    moved: VecDeque<W>,
    waiting: VecDeque<W>,
}

impl<W> Default for Passage<W> {
    fn default() -> Self {
        Self {
            base: 0,
            said: 0,
            used: false,
            asked: 0,
            tried: false,
            emptying: Emptying::default(),
            returned: VecDeque::new(),
            moved: VecDeque::new(),
            waiting: VecDeque::new(),
        }
    }
}

impl<W> Passage<W> {
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
    /// emptied. Says whether what waits may be [taken out](Self::take).
    ///
    /// # Errors
    /// If there is none (**PA3**).
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

    /// The first view that is still of interest here: whoever lost something after it is to be remembered (**PA4**).
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

    /// How much waits.
    #[must_use]
    pub fn len(&self) -> usize {
        self.returned.len() + self.moved.len() + self.waiting.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Something waits from now on.
    pub fn wait(&mut self, one: W) {
        self.waiting.push_back(one);
    }

    /// Something that another shard gave back waits from now on.
    pub fn wait_again(&mut self, one: W) {
        self.moved.push_back(one);
    }

    /// Something was given back.
    pub fn give_back(&mut self, one: W) {
        self.returned.push_back(one);
    }

    /// Takes out those that `goes` says yes to.
    pub fn extract(&mut self, goes: impl Fn(&W) -> bool) -> Vec<W> {
        let mut gone = Vec::new();
        for list in [&mut self.returned, &mut self.moved, &mut self.waiting] {
            for one in std::mem::take(list) {
                if goes(&one) { gone.push(one) } else { list.push_back(one) }
            }
        }
        gone
    }

    /// Takes out all that waits (**PA1**).
    pub fn take(&mut self) -> impl Iterator<Item = W> + use<W> {
        let lists = [&mut self.returned, &mut self.moved, &mut self.waiting].map(std::mem::take);
        lists.into_iter().flatten()
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
        let mut passage: Passage<u32> = Passage::default();
        assert!(passage.say(3));
        passage.announced(3);
        assert!(!passage.say(3) && passage.is_used());
        assert!(passage.say(4));
        assert_eq!(passage.undecided_since(), Some(0));
    }

    #[test]
    fn pa1_what_was_given_back_comes_before_what_has_waited() {
        let mut passage = Passage::default();
        passage.ask();
        passage.wait(3);
        passage.give_back(1);
        passage.wait(4);
        passage.give_back(2);
        passage.wait(5);
        assert_eq!(passage.len(), 5);
        assert_eq!(passage.verdict(2, A, false), Verdict::Wait);
        assert_eq!(passage.extract(|one| *one == 5), [5]);
        assert_eq!(passage.flushed(2, Emptying::default()), Ok(true));
        assert_eq!(passage.take().collect::<Vec<u32>>(), [1, 2, 3, 4]);
        assert!(passage.is_empty());
        assert_eq!(passage.verdict(2, A, false), Verdict::Clear);
        assert_eq!(passage.verdict(3, A, false), Verdict::Wait, "it was lost again");
    }

    #[test]
    fn pa1_what_left_and_was_given_back_comes_before_what_had_been_given_back_and_had_not_left() {
        let mut passage = Passage::default();
        passage.ask();
        passage.wait(4);
        passage.wait_again(2);
        passage.wait_again(3);
        passage.give_back(1);
        assert_eq!(passage.flushed(2, Emptying::default()), Ok(true));
        assert_eq!(passage.take().collect::<Vec<u32>>(), [1, 2, 3, 4]);
    }

    #[test]
    fn pa2_nothing_is_taken_out_before_the_last_flush_is_answered() {
        let mut passage: Passage<u32> = Passage::default();
        passage.ask();
        passage.ask();
        assert_eq!(passage.flushed(2, Emptying::default()), Ok(false));
        assert_eq!(passage.undecided_since(), Some(2));
        assert_eq!(passage.flushed(3, Emptying::default()), Ok(true));
        assert_eq!(passage.undecided_since(), None);
        assert!(passage.flushed(3, Emptying::default()).is_err(), "PA3");
    }

    #[test]
    fn what_is_said_later_waits_behind_what_waits_for_the_last_answer() {
        let mut passage: Passage<u32> = Passage::default();
        passage.ask();
        passage.ask();
        passage.wait(1);
        assert_eq!(passage.flushed(2, Emptying::default()), Ok(false));
        assert_eq!(passage.verdict(2, A, false), Verdict::Wait);
        assert_eq!(passage.flushed(2, Emptying::default()), Ok(true));
        passage.ask();
        passage.give_back(1);
        assert_eq!(passage.verdict(2, A, false), Verdict::Wait);
    }

    #[test]
    fn what_may_be_taken_where_a_slot_is_emptied_is_tried_and_others_wait_for_how_that_ended() {
        let mut passage: Passage<u32> = Passage::default();
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
    fn pa4_who_lost_a_slot_is_of_interest_until_what_was_tried_there_is_decided() {
        let mut passage: Passage<u32> = Passage::default();
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
