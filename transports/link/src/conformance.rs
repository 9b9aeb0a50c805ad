//! What every transport must do, as a suite of named behaviours.
//!
//! A transport's tests say how it is set up, a [`Subject`], and the macro [`conformance!`](crate::conformance!)
//! makes a test of each behaviour. Two ends or more are driven by one thread, as an I/O thread does it. Each
//! end is watched all along: whatever a behaviour asks for, order, wholeness and the life of links are
//! checked at every event (**T1** to **T3**). Nothing sleeps; what never comes ends in a panic that names it.
//!
//! # Invariants
//! - **Y1** Time stands still for a transport but where a behaviour skips to its next deadline, so that no
//!   slow machine makes a link time out.
//! - **Y2** A sender that was refused tries again only after [`Event::Room`](crate::Event::Room): one that is
//!   not said is missed.
//!
//! # Not here
//! How fast anything is. What a message means.

mod crowd;
mod end;
mod ending;
mod flow;
mod hostile;
mod killed;
mod message;
mod opening;
pub mod pipe;
mod pressure;
#[cfg(test)]
mod tests;
mod waking;
mod world;

use std::any::Any;
use std::fmt;
use std::io::Write as _;
use std::time::Duration;

use epicserver_wire::Time;

use crate::driver::Driver;
use crate::{Address, Io, Refused, Transport};

/// One end: a transport and the driver that it alone uses.
pub struct Seat {
    /// The transport.
    pub transport: Box<dyn Transport>,
    /// Its driver.
    pub driver: Box<dyn Driver>,
}

impl Seat {
    /// An end whose transport is opened with `driver`.
    ///
    /// # Errors
    /// What `open` says.
    pub fn open(
        mut driver: Box<dyn Driver>,
        open: impl FnOnce(&mut Io<'_>) -> Result<Box<dyn Transport>, Refused>,
    ) -> Result<Self, Refused> {
        let (mut events, mut next_link) = (Vec::new(), 0);
        let transport = open(&mut Io {
            now: Time::ZERO,
            driver: &mut *driver,
            events: &mut events,
            next_link: &mut next_link,
        })?;
        Ok(Self { transport, driver })
    }
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat").field("transport", &self.transport.name()).finish_non_exhaustive()
    }
}

/// A peer that is no transport: it connects, and then writes what it likes, or nothing. It reads nothing.
/// Dropping it ends the connection.
pub trait Raw {
    /// Writes all of `bytes`, at most a few hundred of them; if the connection has ended, nothing.
    fn write(&mut self, bytes: &[u8]);

    /// Whether the other end has ended the connection. Does not block.
    fn has_ended(&mut self) -> bool;
}

/// How a transport is set up to be tested.
pub trait Subject {
    /// An end that others of this subject can dial.
    ///
    /// # Panics
    /// If it cannot be opened.
    fn seat(&self) -> Seat;

    /// Ends `seat` as a process that is killed does: without a word to the transport.
    fn kill(&self, seat: Seat) {
        drop(seat);
    }

    /// Addresses of this transport's scheme that are none.
    fn malformed(&self) -> Vec<Address>;

    /// An address at which nobody listens.
    fn nobody(&self) -> Address;

    /// An address at which a dial is never answered, as long as the value beside it lives; `None` if there
    /// is no such thing.
    fn silent(&self) -> Option<(Address, Box<dyn Any>)> {
        None
    }

    /// Connects to `to` as a peer that is no transport; `None` if there is no such thing.
    fn raw(&self, to: &Address) -> Option<Box<dyn Raw>> {
        let _ = to;
        None
    }

    /// Bytes of the longest payload that is tried.
    fn payload_bytes_max(&self) -> usize {
        64 << 20
    }

    /// How long ends that do nothing are waited for, before what should come counts as missing.
    fn patience(&self) -> Duration {
        Duration::from_secs(30)
    }
}

type Behaviour = fn(&dyn Subject);

/// All behaviours, by name.
const BEHAVIOURS: &[(&str, Behaviour)] = crate::__behaviours!(table);

/// Names of all behaviours.
pub fn names() -> impl Iterator<Item = &'static str> {
    BEHAVIOURS.iter().map(|(name, _)| *name)
}

/// Why there is no subject, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Lacks {
    /// This machine lacks what it needs: skipped aloud, and a failure where the environment has
    /// `EPIC_REQUIRE_ALL`, but in the run that `EPIC_NO_URING` says is the one without io_uring.
    Machine(String),
    /// Nobody has written it: skipped aloud.
    Code(String),
    /// It needs a kernel or a device that `hw-tests/run` of that area brings: skipped aloud with that command, and a
    /// failure where the environment has the area's name in `EPIC_HW_AREA`, as it has there.
    Area(&'static str, String),
}

/// Shows that `subject` has the behaviour called `name`, or says aloud that there is none.
///
/// # Panics
/// If it has not.
pub fn run<S: Subject>(subject: Result<S, Lacks>, name: &str) {
    let Some((_, behaviour)) = BEHAVIOURS.iter().find(|(known, _)| *known == name) else {
        panic!("there is no behaviour called {name}");
    };
    match subject {
        Ok(subject) => behaviour(&subject),
        Err(Lacks::Code(why)) => skip(name, &why),
        Err(Lacks::Machine(why)) => {
            let set = |name| std::env::var_os(name).is_some_and(|value| value == "1");
            assert!(!set("EPIC_REQUIRE_ALL") || set("EPIC_NO_URING"), "{name} cannot run: {why}");
            skip(name, &why);
        }
        Err(Lacks::Area(area, why)) => {
            let there = std::env::var_os("EPIC_HW_AREA").is_some_and(|value| value == area);
            assert!(!there, "{name} cannot run: {why}");
            skip(name, &format!("{why}; `hw-tests/run {area}` runs it"));
        }
    }
}

/// Says that `name` does not run, past what a test harness keeps to itself.
fn skip(name: &str, why: &str) {
    let mut aloud = std::io::stderr().lock();
    // Where nobody listens, nobody is told.
    let _told = writeln!(aloud, "skipped: {name}: {why}");
}

/// Makes a module with a test of each behaviour: `conformance!(mod tcp, subject())`, where `subject()` is a
/// `Result` of a [`Subject`](crate::conformance::Subject) and of what [it lacks](crate::conformance::Lacks).
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
            opening {
                both_ends_come_up_and_know_who_dialled,
                an_address_where_nobody_listens_is_down,
                a_malformed_address_is_refused_and_nothing_follows,
                a_dial_that_nobody_answers_is_down_at_its_deadline,
                a_dial_that_is_closed_is_down_and_never_up,
                link_numbers_are_never_used_again,
                a_link_that_is_not_is_harmless,
            }
            flow {
                messages_of_all_sizes_arrive_in_order,
                bodies_arrive_whole_behind_their_heads,
                the_longest_message_arrives_whole,
                both_directions_flow_at_once,
                frames_that_are_held_stay_as_they_were,
            }
            pressure {
                a_receiver_that_does_not_poll_stops_its_sender,
                small_parcels_are_bounded_too,
                bodies_are_bounded_too,
                an_end_goes_on_when_held_frames_are_dropped,
                room_is_said_when_a_slot_comes_back_unused,
                slots_come_home_while_a_link_is_up,
                slots_come_home_after_a_close,
            }
            ending {
                a_close_sends_what_was_submitted,
                a_close_sends_what_was_submitted_though_the_peer_is_sending,
                a_close_from_both_ends_is_down_once_at_each,
                a_close_that_is_repeated_is_one,
                a_closed_link_takes_nothing,
                an_end_can_be_dialled_again,
            }
            killed {
                while_it_is_dialled,
                while_it_dials,
                when_it_is_up,
                with_parcels_submitted_to_it,
                with_parcels_submitted_by_it,
                in_the_middle_of_a_body_to_it,
                in_the_middle_of_a_body_from_it,
                while_this_end_is_refused,
                with_one_link_of_many_ends,
            }
            hostile {
                garbage_is_a_violation_at_every_offset,
                half_a_message_is_never_handed_up,
                a_peer_that_says_nothing_blocks_nobody,
                a_peer_that_stops_reading_blocks_nobody,
            }
            crowd {
                many_links_keep_their_messages_apart,
                bulk_on_one_link_starves_no_other,
            }
            waking {
                what_arrives_ends_the_wait,
                a_dial_ends_the_wait,
                a_close_ends_the_wait,
                a_death_ends_the_wait,
                a_wake_ends_the_wait,
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
