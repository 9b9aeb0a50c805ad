//! What is not what was written (**SO6**).

use epicserver_wire::TypeId;

use super::Subject;
use super::client::{Client, Writing, barrel, owner};
use crate::{Corrupt, Found, Name, Outcome, Range};

/// Stores of files are opened again for each bit; a state of few bytes has all fields that there are.
pub(super) fn every_flipped_bit_is_found_and_named(subject: &dyn Subject) {
    let name = Name::state(&barrel(1));
    let writing = Writing::of(barrel(1), 0);
    let keeper = subject.open();
    let mut client = Client::owning(&*keeper, subject);
    client.must_save(vec![writing.clone().state(b"state")]);
    drop((client, keeper));
    let whole = writing.record(b"state");
    let bits = 8 * whole.as_bytes().len();
    for bit in 0..bits {
        assert!(subject.flip(&name, bit), "bit {bit} of {bits}");
        let keeper = subject.open();
        let mut client = Client::open(&*keeper, subject);
        match client.load(&barrel(1)) {
            Found::Corrupt(corrupt) => assert_eq!(corrupt.name, name, "bit {bit}"),
            found => panic!("bit {bit} is flipped, and there is {found:?}"),
        }
        drop((client, keeper));
        assert!(subject.flip(&name, bit));
    }
    assert!(!subject.flip(&name, bits));
    let keeper = subject.open();
    assert_eq!(Client::open(&*keeper, subject).load(&barrel(1)), Found::State(whole));
}

/// Ten barrels, of which the fourth is rotten.
fn one_rotten_of_ten(subject: &dyn Subject) -> Name {
    let keeper = subject.open();
    let mut client = Client::owning(&*keeper, subject);
    client.must_save((0..10).map(|key| Writing::of(barrel(key), 0).state(b"state")).collect());
    drop((client, keeper));
    let name = Name::state(&barrel(4));
    assert!(subject.flip(&name, 8 * 100));
    name
}

pub(super) fn a_rotten_row_harms_no_other(subject: &dyn Subject) {
    let name = one_rotten_of_ten(subject);
    let keeper = subject.open();
    let mut client = Client::owning(&*keeper, subject);
    for key in (0..10).filter(|key| *key != 4) {
        assert_eq!(client.payload(&barrel(key)), Some(b"state".to_vec()));
    }
    for limit in [1, 3, 100] {
        let rows = client.scan(&Range::Type(TypeId::of("Barrel")), limit);
        let (sound, corrupt): (Vec<_>, Vec<_>) = rows.into_iter().partition(Result::is_ok);
        assert_eq!(sound.len(), 9, "pages of {limit}");
        assert!(matches!(&corrupt[..], [Err(Corrupt { name: found, .. })] if *found == name));
    }
    let outcomes =
        client.commit((3..6).map(|key| Writing::of(barrel(key), 1).state(b"new")).collect());
    assert!(matches!(&outcomes[..], [Outcome::Saved, _, Outcome::Saved]), "{outcomes:?}");
}

pub(super) fn a_save_over_a_rotten_state_is_refused(subject: &dyn Subject) {
    let name = one_rotten_of_ten(subject);
    let keeper = subject.open();
    let mut client = Client::owning(&*keeper, subject);
    for expected in [0, 1] {
        match client.save(Writing::of(barrel(4), expected).state(b"new")) {
            Outcome::Corrupt(corrupt) => assert_eq!(corrupt.name, name),
            // One that keeps the version beside the record knows it, and saves a good state over it.
            Outcome::Saved if expected == 1 => {
                assert_eq!(client.payload(&barrel(4)), Some(b"new".to_vec()));
                return;
            }
            Outcome::Conflict { found: 1, by } if expected == 0 => {
                assert!(by.is_none_or(|by| by == owner(1, 1)));
            }
            outcome => panic!("{outcome:?}"),
        }
    }
    assert!(matches!(client.load(&barrel(4)), Found::Corrupt(corrupt) if corrupt.name == name));
}

pub(super) fn a_verification_names_what_is_rotten_and_nothing_else(subject: &dyn Subject) {
    let name = one_rotten_of_ten(subject);
    let keeper = subject.open();
    let mut client = Client::open(&*keeper, subject);
    for limit in [1, 4, 5, 100] {
        let (sound, corrupt) = client.verify(limit);
        assert_eq!(sound, 9);
        assert!(matches!(&corrupt[..], [Corrupt { name: found, .. }] if *found == name));
    }
}
