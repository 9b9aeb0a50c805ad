//! The reminders of an entity that is active: what it asks for, and which rows tell of it.
//!
//! # Invariants
//! - **N34** The rows of an entity's reminders change in the commit that saves its agenda; a row that its agenda does not name is
//!   taken away.
//!
//! # Not here
//! When a reminder is due (`due`).

use std::collections::BTreeSet;
use std::time::Duration;

use epicserver_entity::{Desk, Due, Reminder};
use epicserver_record::limits::{REMINDERS_MAX, ROWS_MAX};
use epicserver_record::{Agenda, Envelope, Name, Record, Row, TooLong, agenda};
use epicserver_wire::{EntityId, ErrorKind, Token};

use super::Kept;
use super::answers::ANSWERS_A_SAVE;
use crate::core::Core;

const _: () = assert!(REMINDERS_MAX + ANSWERS_A_SAVE <= ROWS_MAX, "what is new fits one save");

/// The reminders of one activation.
#[derive(Debug, Default)]
pub(super) struct Reminders {
    /// As the entity has them.
    agenda: Agenda,
    /// The rows that the store has, or may have.
    lie: BTreeSet<Name>,
    /// Whether it has all of them.
    sure: bool,
    /// Some of them are to go, and did not fit the save before.
    more: bool,
    /// Those that it has once the commit under way is done.
    sent: BTreeSet<Name>,
    /// When the first of those is due that it adds.
    first_ms: Option<u64>,
}

fn name_of(entity: &EntityId, reminder: &agenda::Reminder) -> Option<Name> {
    Name::reminder(entity, reminder.due_ms, reminder.label.as_bytes())
}

impl Reminders {
    /// Those that were stored with a state; `None` if they cannot be read.
    pub(super) fn stored(entity: &EntityId, bytes: &[u8]) -> Option<Option<Box<Self>>> {
        if bytes.is_empty() {
            return Some(None);
        }
        let agenda = Agenda::parse(bytes)?;
        let lie = agenda.reminders().iter().filter_map(|reminder| name_of(entity, reminder));
        let lie = lie.collect();
        Some(Some(Box::new(Self { agenda, lie, sure: true, ..Self::default() })))
    }

    pub(super) fn agenda(&self) -> &Agenda {
        &self.agenda
    }

    /// Whether rows have to go that the last save had no room for.
    pub(super) fn is_unsaved(&self) -> bool {
        self.more
    }

    /// What is to change of the rows, as many as one save takes, for what is `gone` or not; they get `envelope`.
    pub(super) fn rows(
        &mut self,
        entity: &EntityId,
        envelope: &Envelope,
        gone: bool,
    ) -> Result<Vec<Row>, TooLong> {
        if gone {
            self.agenda = Agenda::default();
        }
        let (mut rows, mut wanted) = (Vec::new(), BTreeSet::new());
        self.first_ms = None;
        for reminder in self.agenda.reminders() {
            let Some(name) = name_of(entity, reminder) else { continue };
            if !self.sure || !self.lie.contains(&name) {
                let period = reminder.period_ms.to_le_bytes();
                rows.push(Row::Put(Record::seal(&name, envelope, &period)?));
                self.first_ms = Some(self.first_ms.unwrap_or(u64::MAX).min(reminder.due_ms));
            }
            wanted.insert(name);
        }
        // The rest is for what the entity answers.
        let room = ROWS_MAX - ANSWERS_A_SAVE - rows.len();
        let (gone, stay): (Vec<_>, Vec<_>) =
            self.lie.difference(&wanted).cloned().enumerate().partition(|(at, _)| *at < room);
        rows.extend(gone.into_iter().map(|(_, name)| Row::Remove(name)));
        // Until the answer comes, each of them may lie there.
        self.lie.extend(wanted.iter().cloned());
        (self.sure, self.more) = (false, !stay.is_empty());
        wanted.extend(stay.into_iter().map(|(_, name)| name));
        self.sent = wanted;
        Ok(rows)
    }

    /// They were changed so. Gives when the first of the new ones is due.
    pub(super) fn are_saved(&mut self) -> Option<u64> {
        self.lie = std::mem::take(&mut self.sent);
        self.sure = true;
        self.first_ms.take()
    }

    fn put(&mut self, reminder: agenda::Reminder) -> bool {
        self.agenda.put(reminder).is_ok()
    }
}

impl Core {
    /// `remind_at` and its like of the activation at `place`.
    pub(crate) fn remind(
        &self,
        desk: &Desk,
        place: u32,
        token: Option<Token>,
        (label, due, every): (String, Due, Option<Duration>),
    ) {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let due_ms = match due {
            Due::At(at) => ms(at),
            Due::In(after) => self.wall_ms().saturating_add(ms(after)),
        };
        let period_ms = every.map_or(0, |every| ms(every).max(1));
        let reminder = agenda::Reminder { label, due_ms, period_ms };
        let put = self.kept(place, |kept| kept.reminders_mut().put(reminder));
        match put {
            Some(true) => self.agenda_changed(desk, place, token),
            Some(false) => self.refuse_if_told(desk, token, ErrorKind::Overloaded),
            None => self.refuse_if_told(desk, token, ErrorKind::StoreUnavailable),
        }
    }

    /// `forget` of the activation at `place`.
    pub(crate) fn forget_reminder(
        &self,
        desk: &Desk,
        place: u32,
        token: Option<Token>,
        label: &str,
    ) {
        let known = self.kept(place, |kept| {
            kept.reminders.as_mut().is_some_and(|all| all.agenda.remove(label).is_some())
        });
        match (known, token) {
            (Some(true), token) => self.agenda_changed(desk, place, token),
            (Some(false) | None, Some(token)) => self.barrier(desk, place, token),
            (Some(false) | None, None) => {}
        }
    }

    fn agenda_changed(&self, desk: &Desk, place: u32, token: Option<Token>) {
        self.kept(place, |kept| kept.unsaved = true);
        self.save_soon(place);
        if let Some(token) = token {
            self.barrier(desk, place, token);
        }
    }

    fn refuse_if_told(&self, desk: &Desk, token: Option<Token>, kind: ErrorKind) {
        if let Some(token) = token {
            self.refuse_token(desk, token, kind);
        }
    }

    /// `reminders` of the activation at `place`.
    pub(crate) fn reminders(&self, place: u32) -> Vec<Reminder> {
        let all = self.kept(place, |kept| {
            kept.reminders.as_ref().map(|all| all.agenda.reminders().to_vec()).unwrap_or_default()
        });
        let all = all.unwrap_or_default().into_iter();
        all.map(|one| Reminder::of((one.label, one.due_ms, one.period_ms, 0))).collect()
    }

    /// Whether the entity at `place` has this reminder, due then.
    pub(crate) fn has_reminder_at(&self, place: u32, label: &str, due_ms: u64) -> bool {
        let due = |kept: &mut Kept| {
            let known = kept.reminders.as_ref().and_then(|all| all.agenda.get(label));
            known.is_some_and(|reminder| reminder.due_ms == due_ms)
        };
        self.kept(place, due) == Some(true)
    }

    /// The hook has run for it, or it is none of the entity's any more.
    pub(crate) fn reminded_at(&self, place: u32, label: &str, due_ms: u64) {
        let (now_ms, cell) = (self.wall_ms(), self.cell(place));
        let Some(name) = cell.and_then(|cell| Name::reminder(cell.id(), due_ms, label.as_bytes()))
        else {
            return;
        };
        self.kept(place, |kept| {
            kept.unsaved = true;
            let all = kept.reminders_mut();
            match all.agenda.get(label).filter(|known| known.due_ms == due_ms).cloned() {
                Some(known) if known.period_ms > 0 => {
                    let passed = now_ms.saturating_sub(due_ms) / known.period_ms;
                    let step = known.period_ms.saturating_mul(passed + 1);
                    all.put(agenda::Reminder { due_ms: due_ms.saturating_add(step), ..known });
                }
                Some(_) => drop(all.agenda.remove(label)),
                // A row that nothing stands for any more.
                None => drop(all.lie.insert(name)),
            }
        });
        self.save_soon(place);
    }
}

impl Kept {
    fn reminders_mut(&mut self) -> &mut Reminders {
        self.reminders
            .get_or_insert_with(|| Box::new(Reminders { sure: true, ..Reminders::default() }))
    }
}
