//! The agenda of an entity: its reminders, kept in its record behind the state.
//!
//! Its stored form is, for each reminder in the order of the labels: when it is due in ms (8), its period in ms or 0 (8), the length of the
//! label (1), the label; integers are little-endian.
//!
//! # Invariants
//! - **AG1** Each label stands once; there are at most [`REMINDERS_MAX`].
//!
//! # Not here
//! The rows by which reminders are found when they are due: [`Name::reminder`](crate::Name::reminder).

use crate::limits::{LABEL_BYTES_MAX, REMINDERS_MAX};

/// A reminder of an entity.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reminder {
    /// Which of the entity's; at most [`LABEL_BYTES_MAX`] bytes.
    pub label: String,
    /// When it is due next, in milliseconds since 1970.
    pub due_ms: u64,
    /// After how many milliseconds it is due again; 0 if it is not.
    pub period_ms: u64,
}

/// The reminders of an entity, in the order of their labels (**AG1**).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Agenda(Vec<Reminder>);

/// Why a reminder cannot be put down.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoRoom {
    /// The label is too long.
    #[error("a label of {0} bytes, and {LABEL_BYTES_MAX} are the most")]
    Label(usize),
    /// There are too many.
    #[error("an entity has at most {REMINDERS_MAX} reminders")]
    Many,
}

impl Agenda {
    /// The agenda whose stored form is `bytes`; `None` if there is none.
    #[must_use]
    pub fn parse(mut bytes: &[u8]) -> Option<Self> {
        let mut agenda = Self::default();
        while !bytes.is_empty() {
            let (due, rest) = bytes.split_first_chunk()?;
            let (period, rest) = rest.split_first_chunk()?;
            let (len, rest) = rest.split_first()?;
            let (label, rest) = rest.split_at_checked(usize::from(*len))?;
            let reminder = Reminder {
                label: std::str::from_utf8(label).ok()?.to_owned(),
                due_ms: u64::from_le_bytes(*due),
                period_ms: u64::from_le_bytes(*period),
            };
            if agenda.0.last().is_some_and(|last| last.label >= reminder.label) {
                return None;
            }
            agenda.put(reminder).ok()?;
            bytes = rest;
        }
        Some(agenda)
    }

    /// The stored form.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for Reminder { label, due_ms, period_ms } in &self.0 {
            bytes.extend(due_ms.to_le_bytes());
            bytes.extend(period_ms.to_le_bytes());
            bytes.extend(u8::try_from(label.len()));
            bytes.extend(label.bytes());
        }
        bytes
    }

    /// All of them.
    #[must_use]
    pub fn reminders(&self) -> &[Reminder] {
        &self.0
    }

    /// The one with this label.
    #[must_use]
    pub fn get(&self, label: &str) -> Option<&Reminder> {
        self.find(label).ok().and_then(|at| self.0.get(at))
    }

    /// Puts `reminder` down, in place of the one with its label, which is given.
    ///
    /// # Errors
    /// [`NoRoom`].
    pub fn put(&mut self, reminder: Reminder) -> Result<Option<Reminder>, NoRoom> {
        if reminder.label.len() > LABEL_BYTES_MAX {
            return Err(NoRoom::Label(reminder.label.len()));
        }
        match self.find(&reminder.label) {
            Ok(at) => Ok(Some(std::mem::replace(&mut self.0[at], reminder))),
            Err(_) if self.0.len() >= REMINDERS_MAX => Err(NoRoom::Many),
            Err(at) => {
                self.0.insert(at, reminder);
                Ok(None)
            }
        }
    }

    /// Takes the one with this label out.
    pub fn remove(&mut self, label: &str) -> Option<Reminder> {
        self.find(label).ok().map(|at| self.0.remove(at))
    }

    fn find(&self, label: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|reminder| reminder.label.as_str().cmp(label))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reminder(label: &str, due_ms: u64, period_ms: u64) -> Reminder {
        Reminder { label: label.to_owned(), due_ms, period_ms }
    }

    #[test]
    fn its_stored_form_is_frozen() {
        let mut agenda = Agenda::default();
        agenda.put(reminder("tick", 258, 60_000)).unwrap();
        agenda.put(reminder("", 1, 0)).unwrap();
        let first = [1_u64.to_le_bytes(), 0_u64.to_le_bytes()].concat();
        let second = [258_u64.to_le_bytes(), 60_000_u64.to_le_bytes()].concat();
        assert_eq!(agenda.to_bytes(), [&first[..], &[0], &second, &[4], b"tick"].concat());
    }

    #[test]
    fn a_label_stands_once_and_what_it_replaces_is_given() {
        let mut agenda = Agenda::default();
        assert_eq!(agenda.put(reminder("a", 1, 0)), Ok(None));
        assert_eq!(agenda.put(reminder("a", 2, 0)), Ok(Some(reminder("a", 1, 0))));
        assert_eq!(agenda.remove("b"), None);
        assert_eq!(agenda.remove("a"), Some(reminder("a", 2, 0)));
        assert_eq!(agenda, Agenda::default());
    }

    #[test]
    fn what_is_too_long_or_too_much_is_refused() {
        let mut agenda = Agenda::default();
        let long = "x".repeat(LABEL_BYTES_MAX + 1);
        assert_eq!(agenda.put(reminder(&long, 1, 0)), Err(NoRoom::Label(LABEL_BYTES_MAX + 1)));
        for index in 0..REMINDERS_MAX {
            assert_eq!(agenda.put(reminder(&index.to_string(), 1, 0)), Ok(None));
        }
        assert_eq!(agenda.put(reminder("more", 1, 0)), Err(NoRoom::Many));
        assert!(agenda.put(reminder("0", 9, 0)).is_ok(), "it takes the place of another");
    }

    proptest! {
        #[test]
        fn it_returns_from_its_stored_form(
            all in prop::collection::btree_map("\\PC{0,20}", any::<(u64, u64)>(), 0..REMINDERS_MAX),
        ) {
            let mut agenda = Agenda::default();
            for (label, (due, period)) in &all {
                agenda.put(reminder(label, *due, *period)).unwrap();
            }
            prop_assert_eq!(Agenda::parse(&agenda.to_bytes()), Some(agenda));
        }

        #[test]
        fn hostile_bytes_are_an_agenda_or_nothing(bytes: Vec<u8>) {
            if let Some(agenda) = Agenda::parse(&bytes) {
                prop_assert_eq!(agenda.to_bytes(), bytes);
            }
        }
    }
}
