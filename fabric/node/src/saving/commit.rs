//! Saving: which states are written when, and what follows from the store's answer.
//!
//! # Invariants
//! - **N31** A state that has changed is saved within its lag, if the store keeps up; before its activation ends; and not in the
//!   middle of an exclusive section.
//! - **N32** What the store did not take stays to be saved, until somebody else is found to own it.
//!
//! # Not here
//! When an activation ends (`collect`).

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use epicserver_entity::{AnyCell, Desk, Policy, Unsaved};
use epicserver_record::limits::ROWS_MAX;
use epicserver_record::{
    Answer, Envelope, Name, Op, OpId, Outcome, Record, Row, Save, Slot, TooLong, Trouble,
};
use epicserver_wire::{Codec, ErrorKind, Out, Path, Rkyv, Time};

use super::{Asked, Kept, Saving, Stage};
use crate::core::Core;
use crate::{Effect, Fault, Notice};

/// States that are written in one round of the loop: whatever else is ready there waits no longer than for these.
const SAVES_A_ROUND: usize = 64;
/// Saves of one op after which the next one begins.
const OP_SAVES: usize = 1024;
/// Bytes of one op after which the next one begins.
const OP_BYTES: usize = 4 << 20;
/// How long an op waits for what turns that are ready may change: a store makes durable together what it is given together.
const GATHER: Duration = Duration::from_micros(500);

/// An op that is being gathered.
#[derive(Debug)]
pub(super) struct Gathered {
    id: u64,
    since: Time,
    places: Vec<u32>,
    saves: Vec<Save>,
    bytes: usize,
}

impl Gathered {
    fn is_full(&self) -> bool {
        self.saves.len() >= OP_SAVES || self.bytes >= OP_BYTES
    }
}

impl Core {
    /// The state at `place` has changed.
    pub(crate) fn changed_at(&self, place: u32) {
        self.counts_as_unsaved(place);
        let saving = &mut *self.saving.borrow_mut();
        let Some(kept) = saving.get(place) else { return };
        if kept.listed {
            return;
        }
        let is_waited_for = !kept.waits.is_empty();
        match kept.policy {
            Policy::WriteBehind { lag } if !is_waited_for => {
                kept.listed = true;
                // The other half is the store's.
                let (list, due) = (kept.list, self.time() + lag / 2);
                saving.later[list].push_back((due, place));
            }
            Policy::Manual | Policy::Never if !is_waited_for => {}
            Policy::WriteBehind { .. } | Policy::EveryTurn | Policy::Manual | Policy::Never => {
                kept.listed = true;
                saving.soon.push_back(place);
            }
        }
    }

    /// The state at `place` is saved in this round, if it has changed.
    pub(super) fn save_soon(&self, place: u32) {
        let saving = &mut *self.saving.borrow_mut();
        if let Some(kept) = saving.get(place) {
            // It may be listed for later too, where it finds nothing left to do.
            kept.listed = true;
            saving.soon.push_back(place);
        }
    }

    /// Whether the state at `place` is not what is stored, nor what is being stored.
    pub(super) fn is_unsaved(&self, place: u32) -> bool {
        let Some(cell) = self.cell(place) else { return false };
        let asks = |kept: &mut Kept| match kept.stage {
            Stage::Active | Stage::Leaving => {
                let reminders = kept.reminders.as_ref().is_some_and(|all| all.is_unsaved());
                let beside = reminders || kept.answers.is_unsaved();
                kept.unsaved || kept.deleted || beside || cell.has_changed()
            }
            Stage::Loading(_) | Stage::Resetting => false,
        };
        self.kept(place, asks) == Some(true)
    }

    /// When something is to be saved.
    pub(crate) fn next_save(&self) -> Option<Time> {
        let saving = self.saving.borrow();
        if saving.gathered.is_some() {
            return Some(Time::ZERO);
        }
        if self.config.saves.is_none() || !saving.has_room() {
            return None;
        }
        let later = saving.later.iter().filter_map(|list| list.front()).map(|(due, _)| *due);
        let soon = (!saving.soon.is_empty()).then_some(Time::ZERO);
        Some(later.chain(soon).min()?.max(saving.pause))
    }

    /// Whether something could be saved now.
    pub(crate) fn has_saves(&self) -> bool {
        let saving = self.saving.borrow();
        let soon = !saving.soon.is_empty() && saving.pause <= self.time() && saving.has_room();
        soon || saving.gathered.is_some()
    }

    /// Saves what is due, a bounded part of it.
    pub(crate) fn save(&self, desk: &Desk) {
        if self.config.saves.is_none() {
            return;
        }
        let mut is_all = false;
        for _ in 0..SAVES_A_ROUND {
            let Some(place) = self.next_due() else {
                is_all = true;
                break;
            };
            if let Some(save) = self.prepare(desk, place) {
                self.gather(place, save);
            }
        }
        if is_all && !self.may_gather_more() {
            self.commit(&mut self.saving.borrow_mut());
        }
    }

    /// Adds `save` to what is asked of the store next.
    fn gather(&self, place: u32, save: Save) {
        let now = self.time();
        let saving = &mut *self.saving.borrow_mut();
        let id = saving.gathered.as_ref().map(|gathered| gathered.id);
        let id = id.unwrap_or_else(|| saving.next_id());
        let gathered = saving.gathered.get_or_insert_with(|| Gathered {
            id,
            since: now,
            places: Vec::new(),
            saves: Vec::new(),
            bytes: 0,
        });
        gathered.bytes += save.bytes();
        gathered.places.push(place);
        gathered.saves.push(save);
        let is_full = gathered.is_full();
        if let Some(kept) = saving.get(place) {
            kept.op = kept.op.map(|(_, sum)| (id, sum));
        }
        if is_full {
            self.commit(saving);
        }
    }

    /// Whether turns that are ready may change more, and that can be waited for.
    fn may_gather_more(&self) -> bool {
        let saving = self.saving.borrow();
        let since = saving.gathered.as_ref().map(|gathered| gathered.since);
        since.is_some_and(|since| self.time() < since + GATHER) && self.has_turns_ready()
    }

    /// Asks what was gathered.
    fn commit(&self, saving: &mut Saving) {
        let Some(Gathered { id, places, saves, bytes, .. }) = saving.gathered.take() else {
            return;
        };
        saving.commits += 1;
        saving.bytes += bytes;
        saving.asked.insert(id, Asked::Commit(places, bytes));
        self.effect(Effect::Store { id: OpId(id), op: Op::Commit(saves) });
    }

    fn next_due(&self) -> Option<u32> {
        let now = self.time();
        let saving = &mut *self.saving.borrow_mut();
        if saving.pause > now || !saving.has_room() {
            return None;
        }
        saving.soon.pop_front().or_else(|| {
            let due = |list: &mut VecDeque<_>| list.pop_front_if(|(due, _)| *due <= now);
            saving.later.iter_mut().find_map(due).map(|(_, place)| place)
        })
    }

    /// What is to be written of the activation at `place`; `None` if nothing is, or not now.
    fn prepare(&self, desk: &Desk, place: u32) -> Option<Save> {
        let (busy, deleted) = self.kept(place, |kept| {
            kept.listed = false;
            // Of one that is to be deleted nothing is written but that.
            let stays = kept.deleted && kept.stage != Stage::Leaving;
            (kept.op.is_some() || stays, kept.deleted)
        })?;
        if busy || !self.is_unsaved(place) {
            // When that is answered it is looked at again.
            return None;
        }
        let cell = self.cell(place)?;
        match self.written(place, &cell, deleted) {
            Ok((record, rows, sum)) => {
                let unchanged =
                    self.kept(place, |kept| sum.is_some() && kept.sum == sum && rows.is_empty())?;
                cell.watch();
                self.kept(place, |kept| {
                    kept.unsaved = false;
                    kept.waits.begin();
                });
                if unchanged {
                    self.count(|c| c.unchanged += 1);
                    self.is_durable(desk, place);
                    return None;
                }
                let version = record.envelope().version;
                self.kept(place, |kept| {
                    (kept.tried, kept.op) = (version, Some((0, sum)));
                    Save {
                        entity: cell.id().clone(),
                        owner: kept.owner,
                        expected: kept.stored,
                        state: Some(record),
                        rows,
                    }
                })
            }
            // The end of the section lists it again.
            Err(NotWritten::State(Unsaved::Held)) => None,
            Err(NotWritten::State(Unsaved::Nothing)) => {
                if self.is_leaving_saved(place) {
                    self.finish_end(desk, place);
                }
                None
            }
            Err(why) => {
                self.cannot_save(desk, place, &why.to_string(), ErrorKind::Malformed);
                None
            }
        }
    }

    /// The record of the state at `place`, what changes of the rows beside it, and the checksum of what it says; a tombstone has none.
    fn written(
        &self,
        place: u32,
        cell: &Rc<dyn AnyCell>,
        deleted: bool,
    ) -> Result<(Record, Vec<Row>, Option<u64>), NotWritten> {
        let (present, written_ms) = (self.schema_of(cell), self.wall_ms());
        let (schema, layout) = self.written_as(place, present);
        let envelope = self.kept(place, |kept| Envelope {
            codec: <Rkyv as Codec<()>>::ID,
            layout,
            schema,
            owner: kept.owner,
            version: kept.stored.max(kept.tried) + 1,
            written_ms,
            tombstone: deleted,
        });
        let envelope = envelope.ok_or(NotWritten::State(Unsaved::Nothing))?;
        let name = Name::state(cell.id());
        let rows = |kept: &mut Kept| {
            let beside = Envelope { codec: 0, layout: 0, schema: 0, tombstone: false, ..envelope };
            let mut rows = match &mut kept.reminders {
                Some(reminders) => reminders.rows(cell.id(), &beside, deleted)?,
                None => Vec::new(),
            };
            rows.extend(kept.answers.rows(cell.id(), &beside, ROWS_MAX - rows.len())?);
            Ok::<_, TooLong>(rows)
        };
        if deleted {
            let rows = self.kept(place, rows).unwrap_or_else(|| Ok(Vec::new()))?;
            return Ok((Record::seal(&name, &envelope, &[])?, rows, None));
        }
        let agenda =
            self.kept(place, |kept| kept.reminders.as_ref().map(|all| all.agenda().clone()));
        let agenda = agenda.flatten().unwrap_or_default();
        let mut written = Ok(());
        let record = Record::write_with(&name, &envelope, &agenda, |bytes| {
            // What makes an earlier version of a state is the user's.
            let write = AssertUnwindSafe(|| cell.write(schema, &mut Out::heap(bytes)));
            written = catch_unwind(write).unwrap_or(Err(Unsaved::Panicked));
        });
        written.map_err(NotWritten::State)?;
        let record = record?;
        // Last, since from then on they count as sent.
        let rows = self.kept(place, rows).unwrap_or_else(|| Ok(Vec::new()))?;
        let sum = record.content_sum();
        Ok((record, rows, Some(sum)))
    }

    /// The store has said what became of a commit.
    pub(super) fn committed(
        &self,
        desk: &Desk,
        (places, op): (Vec<u32>, u64),
        result: Result<Answer, Trouble>,
    ) {
        let mine: Vec<Option<Option<u64>>> = places
            .iter()
            .map(|place| {
                let mine = |kept: &mut Kept| kept.op.take_if(|(asked, _)| *asked == op);
                self.kept(*place, mine).flatten().map(|(_, sum)| sum)
            })
            .collect();
        let places = places.into_iter().zip(mine);
        let places = places.filter_map(|(place, sum)| Some((place, sum?)));
        match result {
            Ok(Answer::Committed(outcomes)) => {
                self.out_of_trouble();
                for ((place, sum), outcome) in places.zip(outcomes) {
                    self.outcome(desk, (place, sum), outcome);
                }
            }
            Ok(other) => {
                let trouble = Trouble::Refused(format!("{other:?}"));
                self.undone(desk, places.map(|(place, _)| place).collect(), &trouble);
            }
            Err(trouble) => {
                self.undone(desk, places.map(|(place, _)| place).collect(), &trouble);
            }
        }
    }

    fn outcome(&self, desk: &Desk, (place, sum): (u32, Option<u64>), outcome: Outcome) {
        match outcome {
            Outcome::Saved => {
                self.count(|c| c.saved += 1);
                self.kept(place, |kept| {
                    (kept.stored, kept.sum) = (kept.tried, sum);
                    // A tombstone has no checksum; once it is stored nothing is left to be written.
                    kept.deleted &= sum.is_some();
                });
                self.reminders_saved(place);
                let shut = self.kept(place, |kept| kept.answers.are_saved());
                if shut == Some(true) {
                    self.open_again(place);
                }
                self.is_durable(desk, place);
            }
            Outcome::Conflict { found, by } => {
                let own = self.kept(place, |kept| {
                    // An earlier attempt, of which no answer had come (N28).
                    let own = by == Some(kept.owner) && found > kept.stored && found < kept.tried;
                    if own {
                        (kept.stored, kept.sum, kept.unsaved) = (found, None, true);
                        kept.waits.undone();
                        // They are written once more, and the activation stays shut until that is done.
                        kept.answers.undone();
                    }
                    own
                });
                if own == Some(true) {
                    return self.save_soon(place);
                }
                self.lost(desk, place, &format!("version {found} is stored, of {by:?}"));
            }
            Outcome::Fenced(by) => self.lost(desk, place, &format!("its slot is owned by {by:?}")),
            Outcome::Corrupt(corrupt) => {
                self.kept(place, |kept| kept.unsaved = true);
                self.cannot_save(desk, place, &corrupt.to_string(), ErrorKind::StateUnreadable);
            }
        }
    }

    /// The reminders at `place` are saved as they were when the last save began: whoever watches them is told.
    fn reminders_saved(&self, place: u32) {
        let Some(cell) = self.cell(place) else { return };
        let saved = |kept: &mut Kept| kept.reminders.as_mut()?.are_saved();
        if let Some(due_ms) = self.kept(place, saved).flatten() {
            self.tell_watcher(Slot::of(cell.id()), due_ms);
        }
    }

    /// All that had changed at `place` when the last save began is durable.
    fn is_durable(&self, desk: &Desk, place: u32) {
        let Some((waits, stage)) = self.kept(place, |kept| (kept.waits.done(), kept.stage.clone()))
        else {
            return;
        };
        self.end_waits(desk, waits);
        let unsaved = self.is_unsaved(place);
        if !unsaved {
            let counted = self.kept(place, |kept| std::mem::take(&mut kept.counts));
            self.counts_no_more(counted.unwrap_or(0));
        }
        match stage {
            // It has changed, or was deleted, while that was being saved.
            Stage::Leaving if unsaved => self.save_soon(place),
            Stage::Leaving => self.finish_end(desk, place),
            Stage::Resetting => self.load(place, Path::new(desk.new_chain())),
            Stage::Active if unsaved => {
                // Whoever waits does so no longer than they have to.
                let waited = self.kept(place, |kept| !kept.waits.is_empty()) == Some(true);
                if waited { self.save_soon(place) } else { self.changed_at(place) }
            }
            Stage::Active | Stage::Loading(_) => {}
        }
    }

    /// The store has not carried a commit out, or does not know (**N32**).
    fn undone(&self, desk: &Desk, places: Vec<u32>, trouble: &Trouble) {
        self.in_trouble(trouble);
        for place in places {
            let Some((waits, stage)) = self.kept(place, |kept| {
                kept.waits.undone();
                kept.answers.undone();
                (kept.unsaved, kept.sum) = (true, None);
                (kept.waits.barriers(), kept.stage.clone())
            }) else {
                continue;
            };
            self.fail_waits(desk, waits, ErrorKind::StoreUnavailable);
            match stage {
                Stage::Resetting => {
                    // Nobody knows whether what they saw is in what is loaded now.
                    let waits = self.kept(place, |kept| std::mem::take(&mut kept.waits));
                    self.fail_waits(desk, waits.unwrap_or_default().into_all(), ErrorKind::Reset);
                    self.load(place, Path::new(desk.new_chain()));
                }
                Stage::Active | Stage::Leaving | Stage::Loading(_) => self.save_soon(place),
            }
        }
    }

    /// A state that cannot be saved as it is. It is tried again when it changes.
    fn cannot_save(&self, desk: &Desk, place: u32, why: &str, kind: ErrorKind) {
        let Some(cell) = self.cell(place) else { return };
        self.not_saved(&cell, why);
        cell.watch();
        let Some((waits, stage, counted)) = self.kept(place, |kept| {
            kept.waits.begin();
            (kept.waits.done(), kept.stage.clone(), std::mem::take(&mut kept.counts))
        }) else {
            return;
        };
        self.counts_no_more(counted);
        self.fail_waits(desk, waits, kind);
        match stage {
            Stage::Leaving => self.finish_end(desk, place),
            Stage::Resetting => self.load(place, Path::new(desk.new_chain())),
            Stage::Active | Stage::Loading(_) => {}
        }
    }

    fn not_saved(&self, cell: &Rc<dyn AnyCell>, why: &str) {
        let (entity, why) = (cell.id().clone(), why.to_owned());
        self.effect(Effect::Notice(Notice::NotSaved { entity, why }));
    }

    /// Somebody else has the entity: what is here is not it.
    fn lost(&self, desk: &Desk, place: u32, why: &str) {
        if let Some(cell) = self.cell(place) {
            self.not_saved(&cell, why);
        }
        self.forget_saved(desk, place, ErrorKind::NodeLost);
        let turns: Vec<u32> = self.table.borrow().turns_of(place).collect();
        turns.into_iter().for_each(|turn| self.end_turn(desk, turn, ErrorKind::NodeLost));
        self.abandon(desk, place, ErrorKind::Moved);
    }

    /// The activation at `place` has come to its end, but for being saved. Says whether it has to wait for that.
    pub(crate) fn leaves_when_saved(&self, desk: &Desk, place: u32) -> bool {
        let loads = self.kept(place, |kept| matches!(kept.stage, Stage::Loading(_)));
        if loads == Some(true) {
            // Nothing has become of it yet, and nobody needs the answer.
            return false;
        }
        let nothing_stored = |kept: &mut Kept| {
            kept.stage = Stage::Leaving;
            // What it has answered stays, also where nothing else does (N37).
            kept.deleted && kept.stored == 0 && kept.tried == 0 && !kept.answers.is_unsaved()
        };
        match self.kept(place, nothing_stored) {
            None => return false,
            Some(true) => {
                let waits = self.kept(place, |kept| std::mem::take(&mut kept.waits));
                self.end_waits(desk, waits.unwrap_or_default().into_all());
                return false;
            }
            Some(false) => {}
        }
        if self.config.fault == Some(Fault::EndsUnsaved) {
            return false;
        }
        let under_way = self.kept(place, |kept| kept.op.is_some()) == Some(true);
        if !under_way && !self.is_unsaved(place) {
            return false;
        }
        self.table.borrow_mut().set_shut(place, true);
        self.save_soon(place);
        true
    }

    /// Whether it waits for that already.
    pub(crate) fn is_leaving_saved(&self, place: u32) -> bool {
        self.kept(place, |kept| kept.stage == Stage::Leaving) == Some(true)
    }

    /// The entity at `place` is deleted once nothing of it runs any more. Until then its state is not saved, so that who waits
    /// for that in a method of its own would wait for the end of the method.
    pub(crate) fn delete(&self, desk: &Desk, place: u32) {
        let barriers = self.kept(place, |kept| {
            kept.deleted = true;
            kept.waits.barriers()
        });
        self.fail_waits(desk, barriers.unwrap_or_default(), ErrorKind::WouldDeadlock);
        self.leaves(place);
    }

    /// After a panic the activation at `place` begins again with what is stored. Says whether it is saved at all.
    pub(crate) fn loads_again(&self, desk: &Desk, place: u32) -> bool {
        let Some((op, waits, counted)) = self.kept(place, |kept| {
            (kept.unsaved, kept.deleted) = (false, false);
            let counted = std::mem::take(&mut kept.counts);
            let saved = kept.op.is_some();
            if saved {
                kept.stage = Stage::Resetting;
            }
            // What is being saved was seen before.
            (saved, kept.waits.unsaved(), counted)
        }) else {
            return false;
        };
        self.counts_no_more(counted);
        self.fail_waits(desk, waits, ErrorKind::Reset);
        self.table.borrow_mut().set_shut(place, true);
        if !op {
            self.load(place, Path::new(desk.new_chain()));
        }
        true
    }
}

/// Why there is no record of a state.
#[derive(Debug, thiserror::Error)]
enum NotWritten {
    #[error("it cannot be written ({0:?})")]
    State(Unsaved),
    #[error(transparent)]
    Long(#[from] TooLong),
}
