//! Fences: whose saves are taken (**SO4**).

use epicserver_wire::{ClassId, EntityId, EntityKey as _, TypeId};

use super::Subject;
use super::client::{Client, Writing, barrel, owner};
use crate::{Found, Name, Outcome, Range, Slot};

fn slot() -> Slot {
    Slot::of(&barrel(1))
}

fn slots(indices: std::ops::Range<u16>) -> Vec<Slot> {
    indices.map(|index| Slot { class: ClassId::DEFAULT, index }).collect()
}

pub(super) fn a_save_without_a_claim_is_refused(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut client = Client::open(&*keeper, subject);
    assert_eq!(client.save(Writing::of(barrel(1), 0).state(b"x")), Outcome::Fenced(None));
    assert_eq!(client.load(&barrel(1)), Found::Nothing);
}

pub(super) fn a_save_of_an_earlier_owner_is_refused(subject: &dyn Subject) {
    let keeper = subject.open();
    let (mut one, mut two) = (Client::owning(&*keeper, subject), Client::open(&*keeper, subject));
    one.must_save(vec![Writing::of(barrel(1), 0).state(b"one")]);
    assert_eq!(two.claim(owner(2, 2), &[slot()]), []);
    let fenced = Outcome::Fenced(Some(owner(2, 2)));
    assert_eq!(one.save(Writing::of(barrel(1), 1).state(b"late")), fenced);
    assert_eq!(one.save(Writing::of(barrel(2), 0).tombstone()), fenced);
    assert_eq!(two.payload(&barrel(1)), Some(b"one".to_vec()));
    two.must_save(vec![Writing::of(barrel(1), 1).by(owner(2, 2)).state(b"two")]);
    assert_eq!(one.save(Writing::of(barrel(1), 2).state(b"late")), fenced);
    assert_eq!(two.payload(&barrel(1)), Some(b"two".to_vec()));
}

pub(super) fn a_save_of_another_node_is_refused_though_its_epoch_is_the_same(
    subject: &dyn Subject,
) {
    let keeper = subject.open();
    let mut client = Client::owning(&*keeper, subject);
    let other = Writing::of(barrel(1), 0).by(owner(2, 1)).state(b"x");
    assert_eq!(client.save(other), Outcome::Fenced(Some(owner(1, 1))));
}

pub(super) fn a_save_of_a_later_owner_that_has_not_claimed_is_refused(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut client = Client::owning(&*keeper, subject);
    let later = Writing::of(barrel(1), 0).by(owner(1, 2)).state(b"x");
    assert_eq!(client.save(later), Outcome::Fenced(Some(owner(1, 1))));
    client.must_save(vec![Writing::of(barrel(1), 0).state(b"x")]);
}

pub(super) fn a_claim_of_a_lower_epoch_is_refused(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut client = Client::open(&*keeper, subject);
    assert_eq!(client.claim(owner(2, 300), &[slot()]), []);
    for epoch in [0, 1, 299] {
        assert_eq!(client.claim(owner(1, epoch), &[slot()]), [(slot(), owner(2, 300))]);
        assert_eq!(client.claim(owner(2, epoch), &[slot()]), [(slot(), owner(2, 300))]);
    }
    client.must_save(vec![Writing::of(barrel(1), 0).by(owner(2, 300)).state(b"x")]);
}

pub(super) fn an_epoch_has_one_owner(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut client = Client::open(&*keeper, subject);
    assert_eq!(client.claim(owner(2, u64::MAX), &[slot()]), []);
    assert_eq!(client.claim(owner(1, u64::MAX), &[slot()]), [(slot(), owner(2, u64::MAX))]);
    let other = owner(u64::MAX, u64::MAX);
    assert_eq!(client.claim(other, &[slot()]), [(slot(), owner(2, u64::MAX))]);
}

pub(super) fn a_claim_may_be_repeated(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut client = Client::owning(&*keeper, subject);
    client.must_save(vec![Writing::of(barrel(1), 0).state(b"x")]);
    assert_eq!(client.claim(owner(1, 1), &[slot()]), []);
    client.must_save(vec![Writing::of(barrel(1), 1).state(b"y")]);
    assert_eq!(client.claim(owner(1, 1), &[]), []);
}

pub(super) fn a_claim_of_many_slots_tells_which_are_refused(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut client = Client::open(&*keeper, subject);
    assert_eq!(client.claim(owner(9, 9), &slots(100..110)), []);
    assert_eq!(client.claim(owner(2, 2), &slots(0..3000)).len(), 10);
    let mut refused = client.claim(owner(1, 1), &slots(98..112));
    refused.sort_unstable();
    let two =
        |index: std::ops::Range<u16>| slots(index).into_iter().map(|slot| (slot, owner(2, 2)));
    let nine = slots(100..110).into_iter().map(|slot| (slot, owner(9, 9)));
    let all: Vec<_> = two(98..100).chain(nine).chain(two(110..112)).collect();
    assert_eq!(refused, all);
}

pub(super) fn slots_and_classes_are_claimed_apart(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut client = Client::owning(&*keeper, subject);
    let gpu = EntityId::new(TypeId::of("Barrel"), ClassId::of("gpu"), Some(1), 1_u64.to_key());
    let elsewhere = EntityId::new(TypeId::of("Barrel"), ClassId::DEFAULT, Some(2), 1_u64.to_key());
    let same_index = Slot { class: ClassId::of("gpu"), index: slot().index };
    assert_ne!(Slot::of(&elsewhere), slot());
    assert_eq!(client.claim(owner(2, 5), &[same_index, Slot::of(&elsewhere), Slot::of(&gpu)]), []);
    client.must_save(vec![Writing::of(barrel(1), 0).state(b"x")]);
    for entity in [gpu, elsewhere] {
        let fenced = client.save(Writing::of(entity.clone(), 0).state(b"x"));
        assert_eq!(fenced, Outcome::Fenced(Some(owner(2, 5))));
        client.must_save(vec![Writing::of(entity, 0).by(owner(2, 5)).state(b"x")]);
    }
}

pub(super) fn a_load_claims_for_its_owner(subject: &dyn Subject) {
    let keeper = subject.open();
    let (mut one, mut two) = (Client::open(&*keeper, subject), Client::open(&*keeper, subject));
    assert_eq!(one.load_as(&barrel(1), Some(owner(1, 1))), Found::Nothing);
    one.must_save(vec![Writing::of(barrel(1), 0).state(b"one")]);
    let Found::State(record) = two.load_as(&barrel(1), Some(owner(2, 2))) else {
        panic!("it is there")
    };
    assert_eq!(record.payload(), b"one");
    let late = one.save(Writing::of(barrel(1), 1).state(b"late"));
    assert_eq!(late, Outcome::Fenced(Some(owner(2, 2))));
    two.must_save(vec![Writing::of(barrel(1), 1).by(owner(2, 2)).state(b"two")]);
    // The second time there is nothing to claim.
    assert!(matches!(two.load_as(&barrel(1), Some(owner(2, 2))), Found::State(_)));
}

pub(super) fn a_load_of_an_earlier_owner_is_refused(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut client = Client::owning(&*keeper, subject);
    client.must_save(vec![Writing::of(barrel(1), 0).state(b"one")]);
    assert_eq!(client.claim(owner(2, 2), &[slot()]), []);
    let fenced = Found::Fenced(owner(2, 2));
    assert_eq!(client.load_as(&barrel(1), Some(owner(1, 1))), fenced);
    assert_eq!(client.load_as(&barrel(9), Some(owner(1, 2))), fenced);
    // Whoever does not want to own it may look.
    assert_eq!(client.payload(&barrel(1)), Some(b"one".to_vec()));
}

pub(super) fn a_refused_save_leaves_no_row_behind(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut client = Client::owning(&*keeper, subject);
    let row = Name::answer(&barrel(1), 1);
    client.must_save(vec![Writing::of(barrel(1), 0).with(&row, b"a").state(b"x")]);
    assert_eq!(client.claim(owner(2, 2), &[slot()]), []);
    let other = Name::answer(&barrel(1), 2);
    let late = Writing::of(barrel(1), 1).with(&other, b"b").without(row.clone());
    assert!(matches!(client.save(late.clone().state(b"y")), Outcome::Fenced(_)));
    assert!(matches!(client.save(late.only_rows()), Outcome::Fenced(_)));
    assert_eq!(client.names(&Range::Answers(barrel(1)), 9), [row]);
}
