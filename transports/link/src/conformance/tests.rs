//! The suite is right: the simplest transport passes it, and each way to be wrong is found, by the behaviour
//! that is about it and for the reason that it has.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::Lacks;
use super::pipe::{Flaw, Pipes};

crate::conformance!(mod pipes, Ok(Pipes::default()));

/// The behaviour called `name` finds `flaw`, and says `why`.
fn finds(flaw: Flaw, name: &str, why: &str) {
    let run = AssertUnwindSafe(|| super::run(Ok(Pipes::with(flaw)), name));
    let Err(panic) = catch_unwind(run) else { panic!("{name} does not find {flaw:?}") };
    let said = panic.downcast_ref::<String>().map(String::as_str);
    let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("");
    assert!(said.contains(why), "{name} fails for another reason: {said}");
}

macro_rules! mutants {
    ($($test:ident: $flaw:ident, $name:literal, $why:literal;)*) => {
        $(#[test]
        fn $test() {
            finds(Flaw::$flaw, $name, $why);
        })*
    };
}

mutants! {
    a_lost_frame_is_found:
        Drops, "flow::messages_of_all_sizes_arrive_in_order", "T1: the next message";
    swapped_frames_are_found:
        Swaps, "flow::messages_of_all_sizes_arrive_in_order", "T1: the next message";
    a_doubled_frame_is_found:
        Doubles, "flow::messages_of_all_sizes_arrive_in_order", "T1: the next message";
    a_changed_byte_is_found:
        Corrupts, "flow::messages_of_all_sizes_arrive_in_order", "is broken at byte";
    half_a_message_is_found:
        HandsUpHalf, "flow::messages_of_all_sizes_arrive_in_order", "T2: a frame holds no whole";
    an_unaligned_frame_is_found:
        Misaligns, "flow::messages_of_all_sizes_arrive_in_order", "T2: a frame lies unaligned";
    an_end_that_is_not_said_is_found:
        ForgetsDown, "killed::when_it_is_up", "a link is down";
    an_end_that_is_said_twice_is_found:
        SaysDownTwice, "killed::when_it_is_up", "T3:";
    an_end_before_the_last_frame_is_found:
        SaysDownEarly, "ending::a_close_sends_what_was_submitted", "T1: a close lost messages";
    a_close_that_drops_is_found:
        CloseDrops, "ending::a_close_sends_what_was_submitted", "T1: a close lost messages";
    a_slot_that_leaks_while_a_link_is_up_is_found:
        LeaksSlot, "pressure::slots_come_home_while_a_link_is_up", "T4: not all slots";
    a_slot_that_leaks_after_a_close_is_found:
        LeaksSlot, "pressure::slots_come_home_after_a_close", "T4: not all slots";
    a_sender_without_bounds_is_found:
        TakesAll, "pressure::a_receiver_that_does_not_poll_stops_its_sender", "T4: nothing was";
    room_that_is_not_said_is_found:
        ForgetsRoom, "pressure::small_parcels_are_bounded_too", "all messages have come";
    room_that_is_not_said_of_a_slot_is_found:
        ForgetsRoom, "pressure::room_is_said_when_a_slot_comes_back_unused", "room is said";
    garbage_that_is_believed_is_found:
        BelievesAll, "hostile::garbage_is_a_violation_at_every_offset", "T2: a frame holds no whole";
    half_of_a_hostile_message_is_found:
        BelievesAll, "hostile::half_a_message_is_never_handed_up", "T2: a frame holds no whole";
    an_arrival_that_wakes_nobody_is_found:
        WakesNobody, "waking::what_arrives_ends_the_wait", "did not end the wait";
    a_dial_that_wakes_nobody_is_found:
        WakesNobody, "waking::a_dial_ends_the_wait", "did not end the wait";
    a_death_that_wakes_nobody_is_found:
        WakesNobody, "waking::a_death_ends_the_wait", "did not end the wait";
    a_link_that_starves_others_is_found:
        Starves, "crowd::bulk_on_one_link_starves_no_other", "starved";
    a_number_that_is_used_again_is_found:
        ReusesNumbers, "opening::link_numbers_are_never_used_again", "had been there before";
    a_parcel_that_is_taken_for_nobody_is_found:
        TakesForNobody, "opening::a_link_that_is_not_is_harmless", "given back";
    a_parcel_that_is_taken_after_a_close_is_found:
        TakesForNobody, "ending::a_closed_link_takes_nothing", "it was closed";
    a_dial_without_an_end_is_found:
        WaitsForEver, "opening::a_dial_that_nobody_answers_is_down_at_its_deadline", "deadline";
    a_close_without_an_end_is_found:
        WaitsForEver, "hostile::a_peer_that_stops_reading_blocks_nobody", "deadline";
    a_link_that_was_not_dialled_here_is_found:
        SaysDialled, "opening::both_ends_come_up_and_know_who_dialled", "neither dialled nor";
}

#[test]
fn a_subject_that_nobody_has_written_is_skipped() {
    let none: Result<Pipes, _> = Err(Lacks::Code("there is none".to_owned()));
    super::run(none, "opening::both_ends_come_up_and_know_who_dialled");
}

#[test]
#[should_panic(expected = "there is no behaviour")]
fn a_behaviour_that_is_not_is_no_success() {
    super::run(Ok(Pipes::default()), "opening::something_else");
}

#[test]
fn behaviours_have_names_of_their_own() {
    let mut names: Vec<_> = super::names().collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}
