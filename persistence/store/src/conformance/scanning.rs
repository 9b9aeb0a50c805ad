//! Scans, page by page.

use std::collections::{BTreeMap, BTreeSet};

use epicserver_wire::{ClassId, EntityId, EntityKey as _, TypeId};

use super::Subject;
use super::client::{Client, Writing, barrel, of_type, owner};
use crate::limits::{PAGE_BYTES_MAX, PAGE_MAX};
use crate::{Answer, Name, Op, Range, Slot, Trouble};

pub(super) fn a_type_is_scanned_whole_in_pages(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut client = Client::owning(&*keeper, subject);
    let mut saves: Vec<_> = (0..40).map(|key| Writing::of(barrel(key), 0).state(b"x")).collect();
    for other in ["A", "Other", "Zebra", "Barrels"] {
        saves.push(Writing::of(of_type(other, 1_u64), 0).state(b"other"));
    }
    let row = Name::answer(&barrel(1), 1);
    saves.push(Writing::of(barrel(40), 0).tombstone());
    saves.push(Writing::of(barrel(1), 1).with(&row, b"a").only_rows());
    client.must_save(saves);
    let all: BTreeSet<Name> = (0..41).map(|key| Name::state(&barrel(key))).collect();
    for limit in [1, 7, 40, 41, 42, PAGE_MAX] {
        let names = client.names(&Range::Type(TypeId::of("Barrel")), limit);
        assert_eq!(names.len(), 41, "pages of {limit}");
        assert_eq!(names.into_iter().collect::<BTreeSet<_>>(), all, "pages of {limit}");
    }
    assert_eq!(client.names(&Range::Type(TypeId::of("None")), 9), []);
}

pub(super) fn reminders_come_in_order_of_time(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut client = Client::owning(&*keeper, subject);
    let slot = Slot::of(&barrel(0));
    let reminder = |key, due| Name::reminder(&barrel(key), due, b"label").expect("it is short");
    let dues = [700, 5, 65_536, 300, 255, 256, u64::MAX];
    for (key, due) in (0..).zip(dues) {
        client.must_save(vec![
            Writing::of(barrel(key), 0).with(&reminder(key, due), b"r").state(b"x"),
        ]);
    }
    let other = Slot { index: slot.index.wrapping_add(1), ..slot };
    client.claim(owner(1, 1), &[other]);
    for (limit, until_ms, expected) in [
        (1, 300, &[5, 255, 256, 300][..]),
        (9, 299, &[5, 255, 256]),
        (2, u64::MAX, &[5, 255, 256, 300, 700, 65_536, u64::MAX]),
        (9, 4, &[]),
    ] {
        let names = client.names(&Range::Due { slot, until_ms }, limit);
        let dues: Vec<_> = names.iter().filter_map(Name::due_ms).collect();
        assert_eq!(dues, expected, "until {until_ms}");
        assert!(names.iter().all(|name| name.label() == b"label"));
    }
    assert_eq!(client.names(&Range::Due { slot: other, until_ms: u64::MAX }, 9), []);
}

pub(super) fn answers_of_one_entity_are_scanned_alone(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut client = Client::owning(&*keeper, subject);
    // The id of the one is the beginning of the other's.
    let (short, long) = (of_type("T", "a"), of_type("T", format!("a{}", "\0".repeat(16))));
    for entity in [&short, &long] {
        let rows = (0..20).fold(Writing::of(entity.clone(), 0), |writing, request| {
            writing.with(&Name::answer(entity, request << 64 | 7), b"answer")
        });
        client.must_save(vec![rows.state(b"x")]);
    }
    for (entity, limit) in [(&short, 3), (&short, 100), (&long, 3), (&long, 20)] {
        let names = client.names(&Range::Answers(entity.clone()), limit);
        assert_eq!(names.len(), 20);
        assert!(names.iter().all(|name| name.entity().as_ref() == Some(entity)));
    }
}

pub(super) fn all_rows_are_scanned(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut client = Client::owning(&*keeper, subject);
    let rows =
        [Name::answer(&barrel(1), 5), Name::reminder(&barrel(1), 5, b"").expect("it is short")];
    let with = Writing::of(barrel(1), 0).with(&rows[0], b"").with(&rows[1], b"");
    client.must_save(vec![with.state(b"x"), Writing::of(barrel(2), 0).tombstone()]);
    let mut all = vec![Name::state(&barrel(1)), Name::state(&barrel(2))];
    all.extend(rows);
    all.sort();
    for limit in 1..6 {
        assert_eq!(client.names(&Range::All, limit), all, "in the order of their names");
    }
    assert_eq!(client.verify(3), (4, Vec::new()));
}

pub(super) fn a_page_of_long_records_ends_early(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut client = Client::owning(&*keeper, subject);
    let long = vec![7; PAGE_BYTES_MAX / 2];
    for key in 0..4 {
        client.must_save(vec![Writing::of(barrel(key), 0).state(&long)]);
    }
    let range = Range::Type(TypeId::of("Barrel"));
    match client.ask(Op::Scan { range: range.clone(), after: None, limit: 100 }) {
        Ok(Answer::Scanned { rows, next: Some(_) }) => assert_eq!(rows.len(), 2),
        other => panic!("{other:?}"),
    }
    assert_eq!(client.scan(&range, 100).len(), 4);
}

pub(super) fn a_page_without_a_limit_is_refused(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut client = Client::open(&*keeper, subject);
    for limit in [0, PAGE_MAX + 1, usize::MAX] {
        for op in
            [Op::Scan { range: Range::All, after: None, limit }, Op::Verify { after: None, limit }]
        {
            assert!(matches!(client.ask(op), Err(Trouble::Refused(_))));
        }
    }
}

pub(super) fn the_next_reminders_come_one_a_slot(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut client = Client::owning(&*keeper, subject);
    let class = ClassId::of("watch");
    let at =
        |group: u64, class| EntityId::new(TypeId::of("Watch"), class, Some(group), group.to_key());
    let mut slots: BTreeMap<Slot, u64> = BTreeMap::new();
    for (group, class) in (0..9).map(|group| (group, class)).chain([(3, ClassId::DEFAULT)]) {
        let entity = at(group, class);
        client.claim(owner(1, 1), &[Slot::of(&entity)]);
        for due in [group + 50, group + 7, u64::MAX] {
            let name = Name::reminder(&entity, due, b"label").expect("it is short");
            client.must_save(vec![Writing::of(entity.clone(), 0).with(&name, b"").only_rows()]);
        }
        if entity.class() != ClassId::DEFAULT {
            let first = slots.entry(Slot::of(&entity)).or_insert(group + 7);
            *first = (*first).min(group + 7);
        }
    }
    for limit in [1, 4, 1024] {
        let names = client.names(&Range::Next(class), limit);
        let found =
            names.iter().filter_map(|name| Some((Slot::of(&name.entity()?), name.due_ms()?)));
        assert!(found.eq(slots.clone()), "pages of {limit}: {names:?}");
    }
    assert_eq!(client.names(&Range::Next(ClassId::of("none")), 9), []);
}
