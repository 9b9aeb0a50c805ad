//! The suite, held against the store in memory, and against stores that are wrong.

use super::flawed::{self, Flawed, Wrong};
use super::{Lacks, Subject, names};
use crate::{Keeper, Memory, Name};

struct OfMemory(Memory);

impl Subject for OfMemory {
    fn open(&self) -> Box<dyn Keeper> {
        Box::new(self.0.clone())
    }

    fn another(&self) -> Box<dyn Subject> {
        Box::new(Self(Memory::new()))
    }

    fn flip(&self, name: &Name, bit: usize) -> bool {
        self.0.flip(name, bit)
    }
}

fn memory() -> Result<OfMemory, Lacks> {
    Ok(OfMemory(Memory::new()))
}

crate::conformance!(mod of_memory, memory());

#[test]
fn behaviours_have_names_of_their_own() {
    let mut all: Vec<&str> = names().collect();
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count);
    assert!(count >= 50, "{count} behaviours");
}

/// Whether `wrong` lacks the behaviour called `name`.
fn is_caught(wrong: Wrong, name: &str) -> bool {
    let behaviour = super::BEHAVIOURS.iter().find(|(known, _)| *known == name);
    let (_, behaviour) = behaviour.expect("there is such a behaviour");
    let subject = Flawed::new(wrong);
    let run = std::panic::AssertUnwindSafe(|| behaviour(&subject));
    std::panic::catch_unwind(run).is_err()
}

#[test]
fn a_store_that_is_tampered_with_in_no_way_passes() {
    for (name, _) in super::BEHAVIOURS {
        assert!(!is_caught(Wrong::Not, name), "{name}");
    }
}

#[test]
fn each_way_to_be_wrong_is_caught_by_the_behaviour_that_is_about_it() {
    for wrong in flawed::ALL.iter().copied() {
        let about = match wrong {
            Wrong::Not => continue,
            Wrong::AnswersTwice | Wrong::LosesAnAnswer => "pressure::many_ops_have_one_answer_each",
            Wrong::WakesNobody => "saving::what_was_saved_is_loaded_as_it_was",
            Wrong::TakesAll => "pressure::a_full_handle_gives_ops_back_and_goes_on",
            Wrong::ChecksNoVersion => "saving::a_version_that_is_not_stored_is_a_conflict",
            Wrong::ChecksNoOwner => "fencing::a_save_of_an_earlier_owner_is_refused",
            Wrong::ClaimsBack => "fencing::a_claim_of_a_lower_epoch_is_refused",
            Wrong::SharesEpochs => "racing::of_many_that_claim_an_epoch_one_has_it",
            Wrong::ClaimsOnlyTheFirst => "fencing::a_claim_of_many_slots_tells_which_are_refused",
            Wrong::LoadsWithoutClaiming => "fencing::a_load_claims_for_its_owner",
            Wrong::ServesRot => "rotten::every_flipped_bit_is_found_and_named",
            Wrong::HidesRot => "rotten::a_rotten_row_harms_no_other",
            Wrong::WritesRowsAnyway => "fencing::a_refused_save_leaves_no_row_behind",
            Wrong::ForgetsRows => "saving::rows_beside_a_state_stand_and_fall_with_it",
            Wrong::ReversesSaves => "saving::saves_of_one_entity_in_one_op_follow_each_other",
            Wrong::LeavesNoTombstone => "deleting::a_deleted_entity_leaves_a_tombstone",
            Wrong::PurgesByAgeAlone => "deleting::old_tombstones_are_purged_and_nothing_else",
            Wrong::PurgesNothing => "deleting::many_tombstones_are_purged_in_turns",
            Wrong::SkipsARow | Wrong::EndsTooEarly => "scanning::a_type_is_scanned_whole_in_pages",
            Wrong::ForgetsAll => "lasting::what_was_answered_is_there_when_it_is_opened_again",
            Wrong::KeepsEpochsOnlyInMemory => "lasting::claims_are_there_when_it_is_opened_again",
            Wrong::RestoresOverAll => "backing_up::a_store_that_is_not_empty_takes_no_back_up",
            Wrong::RestoresHalf => {
                "backing_up::a_spoiled_back_up_is_refused_and_nothing_is_taken_in"
            }
            Wrong::TakesWhatContradictsItself => {
                "saving::a_save_that_contradicts_itself_is_refused"
            }
        };
        assert!(is_caught(wrong, about), "{wrong:?} is not caught by {about}");
    }
}
