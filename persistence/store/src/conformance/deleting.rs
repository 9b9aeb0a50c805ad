//! Tombstones.

use super::Subject;
use super::client::{Client, Writing, barrel};
use crate::limits::PURGE_MAX;
use crate::{Answer, Found, Name, Op, Outcome, Range};
use epicserver_wire::TypeId;

fn purge(client: &mut Client, before_ms: u64) -> (usize, bool) {
    match client.ask(Op::Purge { before_ms }) {
        Ok(Answer::Purged { count, more }) => (count, more),
        other => panic!("{other:?}"),
    }
}

pub(super) fn a_deleted_entity_leaves_a_tombstone(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut client = Client::owning(&*keeper, subject);
    client.must_save(vec![Writing::of(barrel(1), 0).state(b"x")]);
    client.must_save(vec![Writing::of(barrel(1), 1).at(50).tombstone()]);
    let Found::Tombstone(envelope) = client.load(&barrel(1)) else { panic!("it is deleted") };
    assert_eq!((envelope.version, envelope.written_ms), (2, 50));
    // Whoever knew it before it was deleted cannot bring it back.
    assert!(matches!(
        client.save(Writing::of(barrel(1), 1).state(b"x")),
        Outcome::Conflict { found: 2, .. }
    ));
    assert!(matches!(
        client.save(Writing::of(barrel(1), 0).state(b"x")),
        Outcome::Conflict { found: 2, .. }
    ));
    let names = client.names(&Range::Type(TypeId::of("Barrel")), 9);
    assert_eq!(names, [Name::state(&barrel(1))]);
}

pub(super) fn an_entity_is_made_again_over_its_tombstone(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut client = Client::owning(&*keeper, subject);
    client.must_save(vec![Writing::of(barrel(1), 0).tombstone()]);
    client.must_save(vec![Writing::of(barrel(1), 1).state(b"again")]);
    assert_eq!(client.payload(&barrel(1)), Some(b"again".to_vec()));
}

pub(super) fn old_tombstones_are_purged_and_nothing_else(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut client = Client::owning(&*keeper, subject);
    client.must_save(vec![
        Writing::of(barrel(1), 0).at(10).state(b"old, and no tombstone"),
        Writing::of(barrel(2), 0).at(10).tombstone(),
        Writing::of(barrel(3), 0).at(19).tombstone(),
        Writing::of(barrel(4), 0).at(20).tombstone(),
        Writing::of(barrel(5), 0).at(u64::MAX).tombstone(),
    ]);
    assert_eq!(purge(&mut client, 20), (2, false));
    let found: Vec<_> = (1..6).map(|key| client.load(&barrel(key))).collect();
    assert!(matches!(
        &found[..],
        [Found::State(_), Found::Nothing, Found::Nothing, Found::Tombstone(_), Found::Tombstone(_)]
    ));
    assert_eq!(purge(&mut client, 20), (0, false));
    client.must_save(vec![Writing::of(barrel(2), 0).state(b"new")]);
}

pub(super) fn many_tombstones_are_purged_in_turns(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut client = Client::owning(&*keeper, subject);
    let all = PURGE_MAX as u64 + 3;
    let saves: Vec<_> = (0..all).map(|key| Writing::of(barrel(key), 0).at(1).tombstone()).collect();
    for saves in saves.chunks(1500) {
        client.must_save(saves.to_vec());
    }
    assert_eq!(purge(&mut client, 2), (PURGE_MAX, true));
    assert_eq!(purge(&mut client, 2), (3, false));
    assert_eq!(client.scan(&Range::All, 9), []);
}
