//! What every store must do, as a suite of named behaviours.
//!
//! A store's tests say how it is opened, a [`Subject`], and the macro [`conformance!`](crate::conformance!) makes a test of each
//! behaviour. Nothing sleeps; what never comes ends in a panic that names it.
//!
//! # Invariants
//! - **CS1** A client is polled only after it was woken, so that a wake which is not rung is missed.
//! - **CS2** Each answer is to an op that was submitted and has had none, whatever a behaviour asks for (**SO1**).
//!
//! # Not here
//! How fast anything is. What a state says. Losses of power: stores that own their file show those themselves.

#![expect(
    clippy::wildcard_enum_match_arm,
    clippy::cast_possible_truncation,
    reason = "whatever else comes fails a test, and numbers are those of tests"
)]

mod backing_up;
mod client;
mod deleting;
mod fencing;
#[cfg(test)]
mod flawed;
mod lasting;
mod pressure;
mod racing;
mod rotten;
mod saving;
mod scanning;
#[cfg(test)]
mod tests;

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::{Keeper, Name};
pub use client::{Client, Writing, barrel, of_type, owner};

/// How a store is set up to be tested: it is empty at first.
pub trait Subject {
    /// Opens it, or opens it again after the last keeper was dropped.
    ///
    /// # Panics
    /// If it cannot be opened.
    fn open(&self) -> Box<dyn Keeper>;

    /// Another one, empty and apart from this one.
    fn another(&self) -> Box<dyn Subject>;

    /// Whether what was saved is there when it is opened again.
    fn lasts(&self) -> bool {
        true
    }

    /// Flips a bit of the record that is kept under `name`, while no keeper is open or in spite of it, past all that would
    /// notice; `false` if the record has no such bit.
    fn flip(&self, name: &Name, bit: usize) -> bool;

    /// How long an answer may take before it counts as missing.
    fn patience(&self) -> Duration {
        Duration::from_secs(60)
    }
}

type Behaviour = fn(&dyn Subject);

/// All behaviours, by name.
const BEHAVIOURS: &[(&str, Behaviour)] = crate::__behaviours!(table);

/// Names of all behaviours.
pub fn names() -> impl Iterator<Item = &'static str> {
    BEHAVIOURS.iter().map(|(name, _)| *name)
}

/// What this machine lacks, for people: with the command that brings it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lacks(pub String);

/// Shows that `subject` has the behaviour called `name`, or says aloud that there is none.
///
/// # Panics
/// If it has not; or if there is no subject and the environment has `EPIC_REQUIRE_ALL`.
pub fn run<S: Subject>(subject: Result<S, Lacks>, name: &str) {
    let Some((_, behaviour)) = BEHAVIOURS.iter().find(|(known, _)| *known == name) else {
        panic!("there is no behaviour called {name}");
    };
    match subject {
        Ok(subject) => behaviour(&subject),
        Err(Lacks(why)) => {
            let all = std::env::var_os("EPIC_REQUIRE_ALL").is_some_and(|value| value == "1");
            assert!(!all, "{name} cannot run: {why}");
            let mut aloud = std::io::stderr().lock();
            // Where nobody listens, nobody is told.
            let _told = writeln!(aloud, "skipped: {name}: {why}");
        }
    }
}

/// A path in the place for temporary files that nobody else has, of a file that goes when this does.
#[derive(Debug)]
pub struct Scratch(pub PathBuf);

impl Scratch {
    /// One whose name ends in `name`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("epic-store-{}-{number}-{name}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It may never have been there.
        let _removed = std::fs::remove_file(&self.0);
    }
}

/// Makes a module with a test of each behaviour: `conformance!(mod redb, subject())`, where `subject()` is a `Result` of a
/// [`Subject`](crate::conformance::Subject) and of what [the machine lacks](crate::conformance::Lacks).
#[macro_export]
macro_rules! conformance {
    (mod $name:ident, $subject:expr) => {
        mod $name {
            use super::*;
            $crate::__behaviours!(tests $subject);
        }
    };
}

/// The list of behaviours, by module.
#[doc(hidden)]
#[macro_export]
macro_rules! __behaviours {
    ($form:ident $($subject:expr)?) => {
        $crate::__with_behaviours! {
            $form [$($subject)?]
            saving {
                what_was_saved_is_loaded_as_it_was,
                nothing_is_found_where_nothing_was_saved,
                states_of_all_sizes_are_kept,
                keys_of_all_forms_are_kept_apart,
                a_version_that_is_not_stored_is_a_conflict,
                a_conflict_tells_what_is_stored_and_by_whom,
                saves_of_one_op_stand_and_fall_alone,
                saves_of_one_entity_in_one_op_follow_each_other,
                rows_beside_a_state_stand_and_fall_with_it,
                rows_may_change_where_the_state_does_not,
                rows_of_an_entity_that_has_no_state_are_kept,
                a_save_that_contradicts_itself_is_refused,
            }
            deleting {
                a_deleted_entity_leaves_a_tombstone,
                an_entity_is_made_again_over_its_tombstone,
                old_tombstones_are_purged_and_nothing_else,
                many_tombstones_are_purged_in_turns,
            }
            fencing {
                a_save_without_a_claim_is_refused,
                a_save_of_an_earlier_owner_is_refused,
                a_save_of_another_node_is_refused_though_its_epoch_is_the_same,
                a_save_of_a_later_owner_that_has_not_claimed_is_refused,
                a_claim_of_a_lower_epoch_is_refused,
                an_epoch_has_one_owner,
                a_claim_may_be_repeated,
                a_claim_of_many_slots_tells_which_are_refused,
                slots_and_classes_are_claimed_apart,
                a_load_claims_for_its_owner,
                a_load_of_an_earlier_owner_is_refused,
                a_refused_save_leaves_no_row_behind,
            }
            racing {
                of_many_that_save_one_version_one_is_saved,
                of_many_that_claim_an_epoch_one_has_it,
                no_save_follows_a_later_claim,
                saves_to_slots_in_any_order_never_wait_for_each_other_for_ever,
            }
            scanning {
                a_type_is_scanned_whole_in_pages,
                reminders_come_in_order_of_time,
                the_next_reminders_come_one_a_slot,
                answers_of_one_entity_are_scanned_alone,
                all_rows_are_scanned,
                a_page_of_long_records_ends_early,
                a_page_without_a_limit_is_refused,
            }
            pressure {
                a_full_handle_gives_ops_back_and_goes_on,
                many_ops_have_one_answer_each,
                ops_of_one_handle_take_effect_in_order,
                a_handle_that_is_dropped_harms_nobody,
                a_store_that_is_dropped_answers_all_that_wait,
            }
            lasting {
                what_was_answered_is_there_when_it_is_opened_again,
                claims_are_there_when_it_is_opened_again,
            }
            rotten {
                every_flipped_bit_is_found_and_named,
                a_rotten_row_harms_no_other,
                a_save_over_a_rotten_state_is_refused,
                a_verification_names_what_is_rotten_and_nothing_else,
            }
            backing_up {
                a_back_up_is_restored_as_it_was,
                a_back_up_is_of_one_moment,
                a_back_up_tells_what_is_rotten_and_leaves_it_out,
                a_back_up_that_is_there_is_not_overwritten,
                a_store_that_is_not_empty_takes_no_back_up,
                a_spoiled_back_up_is_refused_and_nothing_is_taken_in,
            }
        }
    };
}

/// The list as a table, or as tests.
#[doc(hidden)]
#[macro_export]
macro_rules! __with_behaviours {
    (table [] $($group:ident { $($name:ident,)* })*) => {
        &[$($((concat!(stringify!($group), "::", stringify!($name)), $group::$name as Behaviour),)*)*]
    };
    (tests [$subject:expr] $($group:ident { $($name:ident,)* })*) => {
        $(mod $group {
            use super::*;
            $(#[test]
            fn $name() {
                let name = concat!(stringify!($group), "::", stringify!($name));
                $crate::conformance::run($subject, name);
            })*
        })*
    };
}
