//! What callers were told of entities that are saved, held against what these find in their states.
//!
//! Checkers: `no_save_lost` (what a caller was told is in every later state, until it is deleted), `deleted_for_good` (what was
//! deleted in none), `request_once` (a request that was sent again is in a state once), and `reminders_come`.
//!
//! # Not here
//! How states come about (`knot`).

use std::collections::{BTreeMap, BTreeSet};

use crate::log::Violation;

/// What a call did to the entity whose key this is.
#[derive(Debug)]
enum Did {
    /// Its reply was made of this state.
    Saw(u64, Vec<u64>),
    /// It deleted this state.
    Deleted(u64, Vec<u64>),
    /// It asked to be reminded.
    Reminds(u64),
}

/// What is known of one entity.
#[derive(Debug, Default)]
struct Page {
    /// What callers know to be in it.
    told: BTreeSet<u64>,
    /// What was in it when it was to be deleted.
    leaving: BTreeSet<u64>,
    /// What callers know to be deleted.
    gone: BTreeSet<u64>,
    /// Requests that are said not to have run.
    refused: BTreeSet<u64>,
    /// What asked for the last reminder of each label.
    labels: BTreeMap<u64, u64>,
    /// What asked for a reminder that need not come.
    waived: BTreeSet<u64>,
    /// What asked for a reminder that callers know will come, and has not.
    awaited: BTreeSet<u64>,
    /// How often a count was raised.
    raised: u64,
}

/// What is known of all of them.
#[derive(Debug, Default)]
pub(crate) struct Book {
    pages: BTreeMap<u64, Page>,
    did: BTreeMap<u64, Did>,
}

fn found(checker: &'static str, what: String) -> Result<(), Violation> {
    Err(Violation { checker, what })
}

impl Book {
    fn page(&mut self, key: u64) -> &mut Page {
        self.pages.entry(key).or_default()
    }

    /// A turn finds this state.
    pub(crate) fn finds(&mut self, key: u64, state: &[u64]) -> Result<(), Violation> {
        let page = self.page(key);
        let state_set: BTreeSet<u64> = state.iter().copied().collect();
        if state_set.len() < state.len() {
            return found("request_once", format!("ledger {key} has something twice: {state:?}"));
        }
        let lacks = page.told.difference(&state_set).find(|entry| !page.leaving.contains(entry));
        if let Some(entry) = lacks {
            return found("no_save_lost", format!("ledger {key} has lost {entry}: {state:?}"));
        }
        if let Some(entry) = page.gone.intersection(&state_set).next() {
            return found("deleted_for_good", format!("ledger {key} has {entry} again: {state:?}"));
        }
        if let Some(entry) = page.refused.intersection(&state_set).next() {
            return found("honest_ran", format!("request {entry} has run after all: {state:?}"));
        }
        Ok(())
    }

    /// The reply of `call` is made of this state.
    pub(crate) fn saw(&mut self, call: u64, key: u64, state: &[u64]) {
        self.did.insert(call, Did::Saw(key, state.to_vec()));
    }

    /// A turn of `call` deletes this state, and its reminders.
    pub(crate) fn deletes(&mut self, call: u64, key: u64, state: &[u64]) {
        let page = self.page(key);
        page.leaving.extend(state);
        let asked: Vec<u64> = std::mem::take(&mut page.labels).into_values().collect();
        asked.into_iter().for_each(|asked| page.waive(asked));
        self.did.insert(call, Did::Deleted(key, state.to_vec()));
    }

    /// This goes too when the entity is deleted.
    pub(crate) fn leaves(&mut self, key: u64, state: &[u64]) {
        self.page(key).leaving.extend(state);
    }

    /// A turn of `call` asks for a reminder, in place of the one that has the same label.
    pub(crate) fn reminds(&mut self, call: u64, key: u64, label: u64) {
        let page = self.page(key);
        if let Some(before) = page.labels.insert(label, call) {
            page.waive(before);
        }
        self.did.insert(call, Did::Reminds(key));
    }

    /// The reminder comes that `call` asked for.
    pub(crate) fn reminded(&mut self, call: u64, key: u64) {
        self.page(key).waive(call);
    }

    /// The caller of `call` has its reply.
    pub(crate) fn replied(&mut self, call: u64) {
        match self.did.remove(&call) {
            Some(Did::Saw(key, state)) => self.page(key).told.extend(state),
            Some(Did::Deleted(key, state)) => self.page(key).gone.extend(state),
            Some(Did::Reminds(key)) => {
                let page = self.page(key);
                if !page.waived.contains(&call) {
                    page.awaited.insert(call);
                }
            }
            None => {}
        }
    }

    /// A request is sent, perhaps again.
    pub(crate) fn requests(&mut self, request: u64, key: u64) {
        self.page(key).refused.remove(&request);
    }

    /// A request, sent once, ended: it has a reply, or it is said not to have run.
    pub(crate) fn requested(&mut self, request: u64, key: u64, has_run: bool) {
        let page = self.page(key);
        let into = if has_run { &mut page.told } else { &mut page.refused };
        into.insert(request);
    }

    /// A count is found to be `count`, of which nothing was lost if `exactly`, and is raised.
    pub(crate) fn raises(&mut self, key: u64, count: u64, exactly: bool) -> Result<(), Violation> {
        let page = self.page(key);
        let raised = page.raised;
        page.raised += 1;
        if count > raised || exactly && count < raised {
            return found("no_save_lost", format!("tally {key} is {count}, raised {raised} times"));
        }
        Ok(())
    }

    /// Whether a reminder is yet to come.
    pub(crate) fn awaits(&self) -> bool {
        self.pages.values().any(|page| !page.awaited.is_empty())
    }

    /// What only the end of a run shows.
    pub(crate) fn conclude(&self) -> Result<(), Violation> {
        for (key, page) in &self.pages {
            if let Some(call) = page.awaited.first() {
                let what = format!("ledger {key} is not reminded, as call {call} asked");
                return found("reminders_come", what);
            }
        }
        Ok(())
    }
}

impl Page {
    fn waive(&mut self, asked: u64) {
        self.awaited.remove(&asked);
        self.waived.insert(asked);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checker(found: Result<(), Violation>) -> Option<&'static str> {
        found.err().map(|violation| violation.checker)
    }

    #[test]
    fn what_a_caller_was_told_is_in_every_later_state() {
        let mut book = Book::default();
        book.saw(1, 7, &[1]);
        assert_eq!(checker(book.finds(7, &[])), None);
        book.replied(1);
        assert_eq!(checker(book.finds(7, &[1, 2])), None);
        assert_eq!(checker(book.finds(7, &[2])), Some("no_save_lost"));
    }

    #[test]
    fn what_was_deleted_comes_back_only_as_long_as_nobody_was_told() {
        let mut book = Book::default();
        book.saw(1, 7, &[1]);
        book.replied(1);
        book.deletes(2, 7, &[1]);
        assert_eq!(checker(book.finds(7, &[1])), None);
        assert_eq!(checker(book.finds(7, &[])), None);
        book.replied(2);
        assert_eq!(checker(book.finds(7, &[1])), Some("deleted_for_good"));
    }

    #[test]
    fn a_request_is_in_a_state_once_and_not_if_it_was_refused() {
        let mut book = Book::default();
        assert_eq!(checker(book.finds(7, &[9, 9])), Some("request_once"));
        book.requested(9, 7, false);
        assert_eq!(checker(book.finds(7, &[9])), Some("honest_ran"));
        book.requests(9, 7);
        assert_eq!(checker(book.finds(7, &[9])), None);
        book.requested(9, 7, true);
        assert_eq!(checker(book.finds(7, &[])), Some("no_save_lost"));
    }

    #[test]
    fn a_reminder_is_awaited_from_the_reply_on_unless_another_took_its_place() {
        let mut book = Book::default();
        book.reminds(1, 7, 0);
        assert!(!book.awaits());
        book.replied(1);
        assert_eq!(checker(book.conclude()), Some("reminders_come"));
        book.reminds(2, 7, 0);
        book.reminds(3, 7, 1);
        (2..4).for_each(|call| book.replied(call));
        (2..4).for_each(|call| book.reminded(call, 7));
        assert_eq!(checker(book.conclude()), None);
    }
}
