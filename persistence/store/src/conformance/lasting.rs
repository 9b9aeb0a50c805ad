//! What is there when a store is opened again.

use super::Subject;
use super::client::{Client, Writing, barrel, owner};
use crate::{Found, Name, Outcome, Range, Slot};

pub(super) fn what_was_answered_is_there_when_it_is_opened_again(subject: &dyn Subject) {
    let row = Name::answer(&barrel(1), 1);
    for round in 0..4 {
        let keeper = subject.open();
        let mut client = Client::owning(&*keeper, subject);
        if round > 0 && subject.lasts() {
            assert_eq!(client.payload(&barrel(1)), Some(vec![round - 1]));
            assert!(matches!(client.load(&barrel(2)), Found::Tombstone(_)));
            assert_eq!(client.names(&Range::Answers(barrel(1)), 9), std::slice::from_ref(&row));
        } else if round > 0 {
            return;
        }
        let version = u64::from(round);
        client.must_save(vec![
            Writing::of(barrel(1), version).with(&row, b"a").state(&[round]),
            Writing::of(barrel(2), version).tombstone(),
        ]);
    }
}

pub(super) fn claims_are_there_when_it_is_opened_again(subject: &dyn Subject) {
    let slot = Slot::of(&barrel(1));
    let keeper = subject.open();
    assert_eq!(Client::open(&*keeper, subject).claim(owner(2, 7), &[slot]), []);
    drop(keeper);
    if subject.lasts() {
        let keeper = subject.open();
        let mut client = Client::open(&*keeper, subject);
        let fenced = Outcome::Fenced(Some(owner(2, 7)));
        assert_eq!(client.save(Writing::of(barrel(1), 0).state(b"x")), fenced);
        assert_eq!(client.claim(owner(1, 6), &[slot]), [(slot, owner(2, 7))]);
    }
}
