//! Reminders that are due: a shard keeps watch over its share of the node's slots, and calls who is to be reminded.
//!
//! Of each slot it knows when the first reminder is due, and no more: what a slot has lies in the store, in the order of time.
//! Which shard watches a slot has nothing to do with where its entities are: they are called as anybody calls them.
//!
//! # Invariants
//! - **N35** A row goes only by the entity's own commit, and the hook's call is answered when that is durable: so a reminder is
//!   called for at least once, and a slot is looked at again whenever calls of it have ended.
//! - **N36** At most [`WATCHED_MAX`] slots are looked at at a time, and [`CALLS_MAX`] calls made for each.
//!
//! # Not here
//! What an entity does with its reminders (`agenda`).

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use epicserver_entity::{Desk, RemindArgs, Reminds, detached};
use epicserver_record::{Answer, Corrupt, Name, Op, Range, Record, Slot, Trouble};
use epicserver_wire::{ClassId, EntityId, ShardId, Time};

use super::Asked;
use crate::core::Core;
use crate::{Config, Effect, Message, Notice};

/// Slots whose reminders are looked at, or called for, at a time.
const WATCHED_MAX: usize = 32;
/// Reminders of one slot that are called for at a time.
const CALLS_MAX: usize = 16;
/// Rows of a page that says what is due first.
const PAGE: usize = 1024;
/// After so long a slot of which something failed is looked at again.
const RETRY_MS: u64 = 5_000;
/// After so long all slots are looked at anew: one that was lost may have saved something after its new owner looked.
const ANEW: Duration = Duration::from_secs(60);

/// What becomes of calls: of which slot, and whether each was well.
type Outcomes = Rc<RefCell<Vec<(Slot, bool)>>>;

/// What a shard watches.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// Classes whose entities can be reminded.
    classes: Vec<ClassId>,
    /// It is the shard that reads what is due first in each slot, and tells the others.
    first: bool,
    /// When the first reminder of a slot is due, of those that have any, in ms.
    due: BTreeMap<Slot, u64>,
    /// The same, by time, but for those that are looked at.
    order: BTreeSet<(u64, Slot)>,
    /// Those that are looked at: how many calls have not ended, and whether one has failed.
    busy: BTreeMap<Slot, (usize, bool)>,
    outcomes: Outcomes,
    /// All are being looked at anew.
    reads: bool,
    /// When that is to begin again.
    anew: Time,
}

impl Watch {
    pub(crate) fn new(config: &Config) -> Self {
        let reminds = config.registry.entities().filter(|info| info.reminds.is_some());
        let classes: BTreeSet<ClassId> = match config.saves {
            Some(_) => reminds.map(|info| info.class).collect(),
            None => BTreeSet::new(),
        };
        Self::of(classes.into_iter().collect(), config.shard == ShardId::new(0))
    }

    fn of(classes: Vec<ClassId>, first: bool) -> Self {
        Self { classes, first, ..Self::default() }
    }

    /// When all slots are to be looked at anew.
    fn next_read(&self) -> Option<Time> {
        (self.first && !self.reads).then_some(self.anew)
    }

    /// Something of `slot` is due then, or later.
    fn expect(&mut self, slot: Slot, due_ms: u64) {
        let before = self.due.get(&slot).copied();
        if before.is_some_and(|before| before <= due_ms) {
            return;
        }
        self.due.insert(slot, due_ms);
        if let Some(before) = before {
            self.order.remove(&(before, slot));
        }
        if !self.busy.contains_key(&slot) {
            self.order.insert((due_ms, slot));
        }
    }

    /// The next slot of which something is due, which is looked at from now on.
    fn next(&mut self, now_ms: u64) -> Option<Slot> {
        if self.busy.len() >= WATCHED_MAX {
            return None;
        }
        let (_, slot) = *self.order.first().filter(|(due_ms, _)| *due_ms <= now_ms)?;
        self.order.pop_first();
        self.due.remove(&slot);
        self.busy.insert(slot, (0, false));
        Some(slot)
    }

    /// `slot` has something due, and is not this node's: it waits for a view by which it is.
    fn park(&mut self, slot: Slot, due_ms: u64) {
        self.busy.remove(&slot);
        let due = self.due.entry(slot).or_insert(due_ms);
        *due = (*due).min(due_ms);
    }

    /// Those that wait so are looked at again.
    fn unpark(&mut self) {
        let waits = |(slot, due_ms): (&Slot, &u64)| {
            (!self.busy.contains_key(slot)).then_some((*due_ms, *slot))
        };
        self.order = self.due.iter().filter_map(waits).collect();
    }

    /// `slot` is not looked at any more, and has something due at `again_ms`, if anything.
    fn leave(&mut self, slot: Slot, again_ms: Option<u64>) {
        match again_ms {
            Some(again_ms) => self.park(slot, again_ms),
            None => drop(self.busy.remove(&slot)),
        }
        // Something else may have been heard of meanwhile.
        self.order.extend(self.due.get(&slot).map(|due_ms| (*due_ms, slot)));
    }

    /// One call of `slot` has ended.
    fn ended(&mut self, slot: Slot, well: bool, now_ms: u64) {
        let Some((left, failed)) = self.busy.get_mut(&slot) else { return };
        *left -= 1;
        *failed |= !well;
        if *left == 0 {
            let again_ms = if *failed { now_ms + RETRY_MS } else { now_ms };
            self.leave(slot, Some(again_ms));
        }
    }
}

/// Tells what became of a call, even if it is dropped.
struct Call {
    slot: Slot,
    well: bool,
    outcomes: Outcomes,
}

impl Call {
    fn ended(mut self, well: bool) {
        self.well = well;
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.outcomes.borrow_mut().push((self.slot, self.well));
    }
}

impl Core {
    /// Calls who is to be reminded, and looks after what is due later.
    pub(crate) fn watch_reminders(&self) {
        if self.watch.borrow().classes.is_empty() {
            return;
        }
        let now_ms = self.wall_ms();
        let mut asks = Vec::new();
        {
            let watch = &mut *self.watch.borrow_mut();
            let outcomes = watch.outcomes.take();
            outcomes.into_iter().for_each(|(slot, well)| watch.ended(slot, well, now_ms));
            if self.is_stopping() {
                return;
            }
            if watch.next_read().is_some_and(|anew| anew <= self.time()) {
                (watch.anew, watch.reads) = (self.time() + ANEW, true);
                asks.extend(heads(watch.classes.first().copied(), None));
            }
            while let Some(slot) = watch.next(now_ms) {
                if self.has_slot(slot) {
                    let range = Range::Due { slot, until_ms: u64::MAX };
                    let op = Op::Scan { range, after: None, limit: CALLS_MAX };
                    asks.push((op, Asked::Due(slot)));
                } else {
                    watch.park(slot, now_ms);
                }
            }
        }
        for (op, asked) in asks {
            self.ask_rows(op, asked);
        }
    }

    /// When that is to be done again.
    pub(crate) fn next_reminder(&self) -> Option<Time> {
        let watch = self.watch.borrow();
        if watch.classes.is_empty() || self.is_stopping() {
            return None;
        }
        if !watch.outcomes.borrow().is_empty() {
            return Some(Time::ZERO);
        }
        let first = watch.order.first().filter(|_| watch.busy.len() < WATCHED_MAX);
        let first = first.map(|(due_ms, _)| self.time_of(*due_ms));
        first.into_iter().chain(watch.next_read()).min()
    }

    /// The time at which the clock that all nodes share says `ms`.
    fn time_of(&self, ms: u64) -> Time {
        let began = self.config.saves.as_ref().map_or(0, |saves| saves.began_ms);
        Time::from_nanos(ms.saturating_sub(began).saturating_mul(1_000_000))
    }

    /// All slots are to be looked at anew, since others may be this node's now.
    pub(crate) fn watch_anew(&self) {
        let watch = &mut *self.watch.borrow_mut();
        if !watch.classes.is_empty() {
            watch.anew = self.time();
            watch.unpark();
        }
    }

    /// Nothing is known any more.
    pub(crate) fn forget_watch(&self) {
        let watch = &mut *self.watch.borrow_mut();
        *watch = Watch::of(std::mem::take(&mut watch.classes), watch.first);
    }

    /// Whether it is this node that has `slot`.
    fn has_slot(&self, slot: Slot) -> bool {
        let realm = self.realm.borrow();
        let served = || realm.ownership.as_ref()?.epoch_of(slot.class, slot.index);
        !self.config.fabric || served().is_some()
    }

    fn watcher_of(&self, slot: Slot) -> ShardId {
        ShardId::new(slot.index % self.config.shards)
    }

    /// Something of `slot` is due at `due_ms`: whoever watches it is told.
    pub(super) fn tell_watcher(&self, slot: Slot, due_ms: u64) {
        let to = self.watcher_of(slot);
        if to == self.shard_id() {
            return self.expect_reminder(slot, due_ms);
        }
        self.effect(Effect::Send { to, message: Message::Due { slot, due_ms } });
    }

    /// The same, where it is known. Whether the slot is this node's is looked at when it is due: the view may come later.
    pub(crate) fn expect_reminder(&self, slot: Slot, due_ms: u64) {
        self.watch.borrow_mut().expect(slot, due_ms);
    }

    /// A page of what is due first in each slot of a class.
    pub(super) fn found_heads(&self, class: ClassId, result: Result<Answer, Trouble>) {
        let Ok(Answer::Scanned { rows, next }) = result else {
            let watch = &mut *self.watch.borrow_mut();
            watch.anew = self.time() + Duration::from_millis(RETRY_MS);
            watch.reads = false;
            return;
        };
        for row in rows {
            let first = row.ok().as_ref().and_then(|row| slot_of(&row.name()));
            if let Some((slot, due_ms)) = first.filter(|(slot, _)| self.has_slot(*slot)) {
                self.tell_watcher(slot, due_ms);
            }
        }
        let ask = {
            let watch = &mut *self.watch.borrow_mut();
            let following = watch.classes.iter().copied().find(|other| *other > class);
            let class = if next.is_some() { Some(class) } else { following };
            let ask = heads(class, next);
            watch.reads = ask.is_some();
            ask
        };
        if let Some((op, asked)) = ask {
            self.ask_rows(op, asked);
        }
    }

    /// What `slot` has, in the order of time.
    pub(super) fn found_due(&self, desk: &Desk, slot: Slot, result: Result<Answer, Trouble>) {
        let now_ms = self.wall_ms();
        let Ok(Answer::Scanned { rows, .. }) = result else {
            return self.watch.borrow_mut().leave(slot, Some(now_ms + RETRY_MS));
        };
        let (mut calls, mut later) = (Vec::new(), None);
        for row in rows {
            match row {
                Ok(row) => {
                    let due_ms = row.name().due_ms().unwrap_or(u64::MAX);
                    if due_ms > now_ms {
                        later = Some(due_ms);
                        break;
                    }
                    calls.push(row);
                }
                Err(corrupt) => self.unreadable_row(corrupt),
            }
        }
        if calls.is_empty() || self.is_stopping() {
            return self.watch.borrow_mut().leave(slot, later);
        }
        self.watch.borrow_mut().busy.insert(slot, (calls.len(), false));
        calls.into_iter().for_each(|row| self.call_for(desk, slot, &row));
    }

    pub(super) fn unreadable_row(&self, corrupt: Corrupt) {
        let why = corrupt.to_string();
        if let Some(entity) = corrupt.name.entity() {
            self.effect(Effect::Notice(Notice::NotLoaded { entity, why }));
        }
    }

    /// Calls the hook for the reminder that `row` says.
    fn call_for(&self, desk: &Desk, slot: Slot, row: &Record) {
        let outcomes = Rc::clone(&self.watch.borrow().outcomes);
        let call = Call { slot, well: false, outcomes };
        let Some((entity, reminds, args)) = self.hook_of(row) else { return };
        self.root(
            desk,
            detached(async move {
                let outcome = (reminds.call)(entity, args).await;
                call.ended(outcome.is_ok());
            }),
        );
    }

    fn hook_of(&self, row: &Record) -> Option<(EntityId, Reminds, RemindArgs)> {
        let name = row.name();
        let entity = name.entity()?;
        let reminds = self.config.registry.entity(entity.type_id())?.reminds?;
        let label = std::str::from_utf8(name.label()).ok()?.to_owned();
        let (due_ms, period) = (name.due_ms()?, row.payload().first_chunk()?);
        let period_ms = u64::from_le_bytes(*period);
        let late_ms = self.wall_ms().saturating_sub(due_ms);
        let missed = late_ms.checked_div(period_ms).unwrap_or(0);
        Some((entity, reminds, (label, due_ms, period_ms, missed)))
    }
}

/// What is due first in each slot of a class, from behind a row on.
fn heads(class: Option<ClassId>, after: Option<Name>) -> Option<(Op, Asked)> {
    let class = class?;
    let range = Range::Next(class);
    Some((Op::Scan { range, after, limit: PAGE }, Asked::Heads(class)))
}

fn slot_of(name: &Name) -> Option<(Slot, u64)> {
    Some((Slot::of(&name.entity()?), name.due_ms()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(index: u16) -> Slot {
        Slot { class: ClassId::DEFAULT, index }
    }

    #[test]
    fn a_million_reminders_cost_the_watch_no_more_than_their_slots() {
        let mut watch = Watch::default();
        for reminder in 0..1_000_000_u64 {
            watch.expect(slot(u16::try_from(reminder % 1_000).unwrap()), 2_000_000 - reminder);
        }
        assert_eq!((watch.due.len(), watch.order.len()), (1_000, 1_000));
        assert_eq!(watch.order.first(), Some(&(1_000_001, slot(999))));
    }

    #[test]
    fn n36_so_many_slots_are_looked_at_and_each_again_when_its_calls_have_ended() {
        let mut watch = Watch::default();
        (0..100).for_each(|index| watch.expect(slot(index), 5));
        assert_eq!(watch.next(4), None);
        let looked: Vec<Slot> = std::iter::from_fn(|| watch.next(5)).collect();
        assert_eq!(looked.len(), WATCHED_MAX);
        watch.busy.insert(slot(0), (2, false));
        watch.expect(slot(0), 9);
        watch.ended(slot(0), true, 7);
        assert_eq!(watch.next(7), None, "one of its calls has not ended");
        watch.ended(slot(0), true, 7);
        assert!(watch.order.contains(&(7, slot(0))), "it may have more that is due");
        watch.leave(slot(1), None);
        assert!(!watch.due.contains_key(&slot(1)));
    }

    #[test]
    fn what_is_due_in_a_slot_that_is_not_yet_the_nodes_waits_for_the_view() {
        let mut watch = Watch::default();
        watch.expect(slot(0), 5);
        assert_eq!(watch.next(6), Some(slot(0)));
        watch.park(slot(0), 6);
        assert_eq!(watch.next(100), None);
        watch.unpark();
        assert_eq!(watch.next(100), Some(slot(0)));
    }

    #[test]
    fn n35_a_slot_of_which_a_call_has_failed_is_looked_at_after_a_while() {
        let mut watch = Watch::default();
        watch.expect(slot(0), 5);
        assert_eq!(watch.next(5), Some(slot(0)));
        watch.busy.insert(slot(0), (2, false));
        watch.ended(slot(0), false, 7);
        watch.ended(slot(0), true, 8);
        assert_eq!(watch.next(7 + RETRY_MS), None);
        assert_eq!(watch.next(8 + RETRY_MS), Some(slot(0)));
    }
}
