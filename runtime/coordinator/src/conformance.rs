//! What every coordinator must do, as a suite of named behaviours.
//!
//! A coordinator's tests say how it is set up, a [`Subject`], and the macro
//! [`conformance!`](crate::conformance!) makes a test of each behaviour. What never comes ends in a panic that names it.
//!
//! # Invariants
//! - **Y1** Nothing waits for a time to pass: what must come is asked for until it is there.
//!
//! # Not here
//! How fast anything is. What only one kind of coordinator has.

mod asking;
mod client;
mod cut;
mod fixed;
mod hints;
mod hostile;
mod leases;
mod lost;
pub mod proxy;
mod race;
mod restart;
pub mod server;
#[cfg(test)]
mod tests;
mod view;

use std::io::Write as _;

use epicserver_wire::NodeId;

use crate::{Coordinator, VIEW_BYTES_MAX, Wake};

pub use client::Client;

/// How a coordinator is set up to be tested: something that nobody has used before, for each behaviour.
pub trait Subject: Sync {
    /// A handle on it. All handles of one subject agree. May block.
    ///
    /// # Errors
    /// Says why there is none.
    fn open(&self, wake: Wake) -> Result<Box<dyn Coordinator>, String>;

    /// Another one of its kind, which shares nothing with it.
    fn another(&self) -> Box<dyn Subject>;

    /// Longest view that it keeps, in bytes; a longer one fails and says so.
    fn view_bytes_max(&self) -> usize {
        VIEW_BYTES_MAX
    }

    /// Ends what keeps the data as a crash does, and starts it again; false if there is no such thing. Handles stay open.
    fn restart(&self) -> bool {
        false
    }

    /// Makes the coordinator forget all it knows of `node`, as it may after a long time; false if that cannot be.
    fn forget(&self, node: NodeId) -> bool {
        let _ = node;
        false
    }

    /// Puts something foreign in the place where it keeps data, in one of several ways; gives a part of what is to be said of
    /// it, and nothing if there is no such way.
    fn spoil(&self, way: usize) -> Option<&'static str> {
        let _ = way;
        None
    }

    /// Sees to it that the next one who asks for `what` is parted from the coordinator after that has been done, and before
    /// it is told; false if they cannot be parted.
    fn cut(&self, what: Cut) -> bool {
        let _ = what;
        false
    }

    /// Keeps all handles and the coordinator from hearing of each other, or lets them again; false if that cannot be.
    fn stall(&self, stalled: bool) -> bool {
        let _ = stalled;
        false
    }
}

/// What may be done without being told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut {
    /// A change of the view.
    Change,
    /// The first renewal of a lease.
    Renew,
    /// A release.
    Release,
}

type Behaviour = fn(&dyn Subject);

/// All behaviours, by name.
const BEHAVIOURS: &[(&str, Behaviour)] = crate::__behaviours!(table);

/// Names of all behaviours.
pub fn names() -> impl Iterator<Item = &'static str> {
    BEHAVIOURS.iter().map(|(name, _)| *name)
}

/// What this machine lacks, with the command that brings it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lacks(pub String);

/// Shows that `subject` has the behaviour called `name`; says aloud that there is none, and fails where the environment
/// has `EPIC_REQUIRE_ALL`.
///
/// # Panics
/// If it has not.
pub fn run<S: Subject>(subject: Result<S, Lacks>, name: &str) {
    let Some((_, behaviour)) = BEHAVIOURS.iter().find(|(known, _)| *known == name) else {
        panic!("there is no behaviour called {name}");
    };
    if let Some(subject) = or_skip(subject, name) {
        behaviour(&subject);
    }
}

/// What is there, or nothing after it was said aloud that `name` does not run, past what a test harness keeps to itself.
///
/// # Panics
/// If nothing is there and the environment has `EPIC_REQUIRE_ALL`.
pub fn or_skip<T>(there: Result<T, Lacks>, name: &str) -> Option<T> {
    match there {
        Ok(there) => Some(there),
        Err(Lacks(why)) => {
            let all = std::env::var_os("EPIC_REQUIRE_ALL").is_some_and(|value| value == "1");
            assert!(!all, "{name} cannot run: {why}");
            // Where nobody listens, nobody is told.
            let _told = writeln!(std::io::stderr().lock(), "skipped: {name}: {why}");
            None
        }
    }
}

/// Makes a module with a test of each behaviour: `conformance!(mod local, subject())`, where `subject()` is a
/// `Result` of a [`Subject`](crate::conformance::Subject) and of what [it lacks](crate::conformance::Lacks).
/// `conformance!(fixed mod …)` does so for one whose view never changes.
#[macro_export]
macro_rules! conformance {
    (mod $name:ident, $subject:expr) => {
        mod $name {
            use super::*;
            $crate::__behaviours!(changing $subject);
        }
    };
    (fixed mod $name:ident, $subject:expr) => {
        mod $name {
            use super::*;
            $crate::__behaviours!(fixed $subject);
        }
    };
}

/// The list of behaviours, by module: those of all, of those whose view changes, and of those whose view does not.
#[doc(hidden)]
#[macro_export]
macro_rules! __behaviours {
    ($form:ident $($subject:expr)?) => {
        $crate::__with_behaviours! {
            $form [$($subject)?]
            all {
                asking {
                    every_ask_is_answered_once_and_in_order,
                    a_full_handle_gives_asks_back_until_it_is_polled,
                    what_is_too_long_fails_and_says_so,
                    a_lease_that_lasts_for_nothing_or_for_ever_fails,
                    a_handle_that_is_dropped_amid_asks_ends,
                }
            }
            changing {
                view {
                    there_is_no_view_until_the_first_change_makes_number_one,
                    a_change_of_another_number_is_overtaken_and_changes_nothing,
                    views_of_all_sizes_come_back_as_they_were,
                    exactly_one_of_many_changes_at_once_wins,
                    the_changes_of_many_count_up_by_one,
                }
                leases {
                    a_first_renewal_makes_a_lease_that_others_read,
                    a_renewal_replaces_the_record,
                    records_of_all_sizes_come_back_as_they_were,
                    a_lease_that_lasts_is_not_ended_and_nothing_changes,
                    a_lease_that_ran_out_is_ended_for_ever_by_a_change,
                    a_lease_that_ran_out_and_was_not_ended_is_renewed,
                    a_released_lease_is_gone_for_ever,
                    a_release_of_nothing_is_a_release,
                    a_node_without_a_lease_can_be_ended_and_never_gets_one,
                    a_node_may_be_ended_twice,
                    a_node_that_is_forgotten_gets_no_second_lease,
                    an_overtaken_change_ends_nothing,
                    many_leases_are_read_in_order_and_ended_at_once,
                }
                race {
                    a_lease_lasts_as_long_as_was_asked_from_before_the_asking,
                    a_renewal_and_a_change_that_ends_it_are_never_both_done,
                    nodes_that_join_while_others_are_ended_all_join,
                }
                restart {
                    all_handles_may_go_and_nothing_is_forgotten,
                    a_restart_keeps_the_view_the_leases_and_who_has_ended,
                    changes_amid_restarts_are_done_once_or_not_at_all,
                }
                hints {
                    a_change_is_hinted_to_others,
                    a_new_lease_and_a_new_record_are_hinted_to_others,
                    a_release_is_hinted_to_others,
                }
                hostile {
                    what_is_foreign_fails_and_says_so,
                }
                cut {
                    a_change_whose_answer_is_lost_fails_and_was_done,
                    a_renewal_whose_answer_is_lost_fails_and_was_done,
                    a_release_whose_answer_is_lost_fails_and_was_done,
                }
                lost {
                    asks_that_nobody_hears_fail_and_later_ones_do_not,
                }
            }
            fixed {
                fixed {
                    the_view_and_all_members_are_there_from_the_start,
                    a_change_is_refused_and_the_view_stays,
                    a_member_is_renewed_until_it_releases,
                }
            }
        }
    };
}

/// The list as a table, or as tests.
#[doc(hidden)]
#[macro_export]
macro_rules! __with_behaviours {
    (table [] $($set:ident { $($group:ident { $($name:ident,)* })* })*) => {
        &[$($($((concat!(stringify!($group), "::", stringify!($name)), $group::$name as Behaviour),)*)*)*]
    };
    (changing [$subject:expr] all { $($all:tt)* } changing { $($changing:tt)* } fixed { $($fixed:tt)* }) => {
        $crate::__behaviour_tests!([$subject] $($all)* $($changing)*);
    };
    (fixed [$subject:expr] all { $($all:tt)* } changing { $($changing:tt)* } fixed { $($fixed:tt)* }) => {
        $crate::__behaviour_tests!([$subject] $($all)* $($fixed)*);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __behaviour_tests {
    ([$subject:expr] $($group:ident { $($name:ident,)* })*) => {
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
