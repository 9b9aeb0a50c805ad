//! Saving, and loading what was saved.

use epicserver_wire::{ClassId, EntityId, EntityKey as _, TypeId};

use super::Subject;
use super::client::{Client, Writing, barrel, of_type, owner};
use crate::{Found, Name, Op, Outcome, Range, Slot, Trouble};

pub(super) fn what_was_saved_is_loaded_as_it_was(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut client = Client::owning(&*keeper, subject);
    let writing = Writing::of(barrel(1), 0);
    client.must_save(vec![writing.clone().state(b"one")]);
    assert_eq!(client.load(&barrel(1)), Found::State(writing.record(b"one")));
    let writing = Writing::of(barrel(1), 1).at(77);
    client.must_save(vec![writing.clone().state(b"another")]);
    assert_eq!(client.load(&barrel(1)), Found::State(writing.record(b"another")));
}

pub(super) fn nothing_is_found_where_nothing_was_saved(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut client = Client::open(&*keeper, subject);
    assert_eq!(client.load(&barrel(1)), Found::Nothing);
    let mut client = Client::owning(&*keeper, subject);
    client.must_save(vec![
        Writing::of(barrel(1), 0).state(b"x"),
        Writing::of(barrel(3), 0).state(b"x"),
    ]);
    for key in [0, 2, 4] {
        assert_eq!(client.load(&barrel(key)), Found::Nothing);
    }
    assert_eq!(client.load(&of_type("Other", 1_u64)), Found::Nothing);
}

pub(super) fn states_of_all_sizes_are_kept(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut client = Client::owning(&*keeper, subject);
    for (key, len) in [0, 1, 15, 16, 17, 4000, 4096, 70_000, 3 << 20].into_iter().enumerate() {
        let payload: Vec<u8> = (0..len).map(|at: usize| (at % 251) as u8).collect();
        let entity = barrel(key as u64);
        client.must_save(vec![Writing::of(entity.clone(), 0).state(&payload)]);
        assert!(client.payload(&entity) == Some(payload), "{len} bytes");
    }
}

pub(super) fn keys_of_all_forms_are_kept_apart(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut client = Client::owning(&*keeper, subject);
    let mut entities = vec![
        barrel(0),
        barrel(u64::MAX),
        of_type("Other", 0_u64),
        of_type("Barrel", ""),
        of_type("Barrel", "x".repeat(500)),
        of_type("Barrel", "x".repeat(499)),
        of_type("Barrel", "\0\u{10ffff}'\\"),
    ];
    let grouped =
        |group| EntityId::new(TypeId::of("Barrel"), ClassId::DEFAULT, group, 0_u64.to_key());
    entities.extend([grouped(None), grouped(Some(2)), grouped(Some(u64::MAX))]);
    for (at, entity) in entities.iter().enumerate() {
        client.claim(owner(1, 1), &[Slot::of(entity)]);
        let payload = at.to_string();
        client.must_save(vec![Writing::of(entity.clone(), 0).state(payload.as_bytes())]);
    }
    for (at, entity) in entities.iter().enumerate() {
        assert_eq!(client.payload(entity), Some(at.to_string().into_bytes()), "{entity:?}");
    }
}

pub(super) fn a_version_that_is_not_stored_is_a_conflict(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut client = Client::owning(&*keeper, subject);
    let conflict = |outcome: Outcome, version| match outcome {
        Outcome::Conflict { found, .. } => assert_eq!(found, version),
        other => panic!("{other:?}"),
    };
    conflict(client.save(Writing::of(barrel(1), 1).state(b"x")), 0);
    client.must_save(vec![Writing::of(barrel(1), 0).state(b"kept")]);
    for expected in [0, 2, u64::from(u32::MAX)] {
        conflict(client.save(Writing::of(barrel(1), expected).state(b"x")), 1);
    }
    assert_eq!(client.payload(&barrel(1)), Some(b"kept".to_vec()));
    // A version may be skipped, as long as the one that is there was known.
    let mut skipping = Writing::of(barrel(1), 6).state(b"7");
    skipping.expected = 1;
    client.must_save(vec![skipping]);
    conflict(client.save(Writing::of(barrel(1), 6).state(b"x")), 7);
    client.must_save(vec![Writing::of(barrel(1), 7).state(b"8")]);
    assert_eq!(client.payload(&barrel(1)), Some(b"8".to_vec()));
}

pub(super) fn a_conflict_tells_what_is_stored_and_by_whom(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut client = Client::owning(&*keeper, subject);
    let none = Outcome::Conflict { found: 0, by: None };
    assert_eq!(client.save(Writing::of(barrel(1), 9).state(b"x")), none);
    // As one does that had no answer: it asks again, and sees its own save.
    let save = Writing::of(barrel(1), 0).state(b"mine");
    assert_eq!(client.save(save.clone()), Outcome::Saved);
    assert_eq!(client.save(save), Outcome::Conflict { found: 1, by: Some(owner(1, 1)) });
}

pub(super) fn saves_of_one_op_stand_and_fall_alone(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut client = Client::owning(&*keeper, subject);
    let outcomes = client.commit(vec![
        Writing::of(barrel(1), 0).state(b"1"),
        Writing::of(barrel(2), 5).state(b"2"),
        Writing::of(barrel(3), 0).by(owner(2, 9)).state(b"3"),
        Writing::of(barrel(4), 0).state(b"4"),
    ]);
    assert_eq!(
        outcomes,
        [
            Outcome::Saved,
            Outcome::Conflict { found: 0, by: None },
            Outcome::Fenced(Some(owner(1, 1))),
            Outcome::Saved,
        ]
    );
    let kept: Vec<bool> = (1..5).map(|key| client.payload(&barrel(key)).is_some()).collect();
    assert_eq!(kept, [true, false, false, true]);
    assert_eq!(client.commit(Vec::new()), []);
}

pub(super) fn saves_of_one_entity_in_one_op_follow_each_other(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut client = Client::owning(&*keeper, subject);
    let outcomes = client.commit(vec![
        Writing::of(barrel(1), 0).state(b"1"),
        Writing::of(barrel(1), 1).state(b"2"),
        Writing::of(barrel(2), 0).state(b"beside"),
        Writing::of(barrel(1), 1).state(b"late"),
        Writing::of(barrel(1), 2).tombstone(),
        Writing::of(barrel(1), 3).state(b"4"),
    ]);
    let conflict = Outcome::Conflict { found: 2, by: Some(owner(1, 1)) };
    let saved = Outcome::Saved;
    assert_eq!(
        outcomes,
        [saved.clone(), saved.clone(), saved.clone(), conflict, saved.clone(), saved]
    );
    assert_eq!(client.payload(&barrel(1)), Some(b"4".to_vec()));
}

fn reminder(due_ms: u64) -> Name {
    Name::reminder(&barrel(1), due_ms, b"wake").expect("the label is short")
}

fn all_beside(client: &mut Client) -> Vec<Name> {
    let due = Range::Due { slot: Slot::of(&barrel(1)), until_ms: u64::MAX };
    let mut names = client.names(&due, 100);
    names.extend(client.names(&Range::Answers(barrel(1)), 100));
    names
}

pub(super) fn rows_beside_a_state_stand_and_fall_with_it(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut client = Client::owning(&*keeper, subject);
    let answer = Name::answer(&barrel(1), 1 << 100);
    let writing = |expected| Writing::of(barrel(1), expected);
    client.must_save(vec![writing(0).with(&reminder(5), b"r").with(&answer, b"a").state(b"state")]);
    assert_eq!(all_beside(&mut client), [reminder(5), answer.clone()]);
    let refused = writing(0).with(&reminder(6), b"r").without(reminder(5)).state(b"state");
    assert!(matches!(client.save(refused), Outcome::Conflict { .. }));
    assert_eq!(all_beside(&mut client), [reminder(5), answer.clone()]);
    // A row is written over, whether it was there or not, and removed, whether it was there or not.
    client.must_save(vec![
        writing(1)
            .with(&reminder(6), b"new")
            .with(&answer, b"again")
            .without(reminder(5))
            .without(reminder(4))
            .state(b""),
    ]);
    assert_eq!(all_beside(&mut client), [reminder(6), answer]);
    let rows = client.scan(&Range::Answers(barrel(1)), 9);
    assert_eq!(rows[0].as_ref().expect("it is sound").payload(), b"again");
}

pub(super) fn rows_may_change_where_the_state_does_not(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut client = Client::owning(&*keeper, subject);
    let writing = |expected| Writing::of(barrel(1), expected);
    client.must_save(vec![writing(0).state(b"state")]);
    client.must_save(vec![writing(1).with(&reminder(5), b"r").only_rows()]);
    client.must_save(vec![writing(1).with(&reminder(6), b"r").only_rows()]);
    let late = client.save(writing(0).with(&reminder(7), b"r").only_rows());
    assert_eq!(late, Outcome::Conflict { found: 1, by: Some(owner(1, 1)) });
    assert_eq!(all_beside(&mut client), [reminder(5), reminder(6)]);
    assert_eq!(client.load(&barrel(1)), Found::State(writing(0).record(b"state")));
}

pub(super) fn rows_of_an_entity_that_has_no_state_are_kept(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut client = Client::owning(&*keeper, subject);
    let rows = |expected| Writing::of(barrel(1), expected).with(&reminder(5), b"r").only_rows();
    assert_eq!(client.save(rows(1)), Outcome::Conflict { found: 0, by: None });
    assert_eq!(all_beside(&mut client), []);
    client.must_save(vec![rows(0)]);
    assert_eq!(all_beside(&mut client), [reminder(5)]);
    assert_eq!(client.load(&barrel(1)), Found::Nothing);
    // Both in one op.
    client.must_save(vec![
        Writing::of(barrel(2), 0).state(b"2"),
        Writing::of(barrel(1), 0).without(reminder(5)).only_rows(),
    ]);
    assert_eq!(all_beside(&mut client), []);
}

pub(super) fn a_save_that_contradicts_itself_is_refused(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut client = Client::owning(&*keeper, subject);
    let good = || Writing::of(barrel(1), 0).state(b"x");
    let mut bad = vec![good(); 6];
    bad[0].expected = 1;
    bad[1].owner = owner(2, 2);
    bad[2].entity = barrel(2);
    bad[3].state = None;
    bad[4] = Writing::of(barrel(1), 0).with(&reminder(1), b"").without(reminder(1)).only_rows();
    bad[5] = Writing::of(barrel(2), 0).with(&reminder(1), b"").state(b"x");
    for save in bad {
        let answer = client.ask(Op::Commit(vec![good(), save.clone()]));
        assert!(matches!(answer, Err(Trouble::Refused(_))), "{save:?}: {answer:?}");
    }
    assert_eq!(client.load(&barrel(1)), Found::Nothing);
}
