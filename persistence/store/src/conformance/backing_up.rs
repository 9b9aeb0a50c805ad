//! Back-ups.

use std::path::Path;

use super::client::{Client, Writing, barrel, of_type, owner};
use super::{Scratch, Subject};
use crate::{Answer, Name, Op, Range, Slot, Trouble};

fn back_up(client: &mut Client, to: &Scratch) -> u64 {
    match client.ask(Op::Backup { to: to.0.clone() }) {
        Ok(Answer::BackedUp { rows, corrupt }) => {
            assert_eq!(corrupt, []);
            rows
        }
        other => panic!("{other:?}"),
    }
}

fn restore(client: &mut Client, from: &Path) -> Result<Answer, Trouble> {
    client.ask(Op::Restore { from: from.to_owned() })
}

/// A store with rows of all kinds.
fn fill(client: &mut Client) {
    let answer = Name::answer(&barrel(1), 1);
    let reminder = Name::reminder(&barrel(1), 1, b"x").expect("it is short");
    client.must_save(
        (1..2000).map(|key| Writing::of(barrel(key), 0).state(&[key as u8; 300])).collect(),
    );
    client.must_save(vec![
        Writing::of(barrel(1), 1).with(&answer, b"a").with(&reminder, b"r").state(b"x"),
        Writing::of(barrel(2), 1).tombstone(),
        Writing::of(of_type("Other", "text"), 0).state(&vec![9; 100_000]),
    ]);
}

pub(super) fn a_back_up_is_restored_as_it_was(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut client = Client::owning(&*keeper, subject);
    fill(&mut client);
    let file = Scratch::new("backup");
    assert_eq!(back_up(&mut client, &file), 2002);
    let other = subject.another();
    let other_keeper = other.open();
    let mut restored = Client::open(&*other_keeper, &*other);
    assert_eq!(restore(&mut restored, &file.0), Ok(Answer::Restored { rows: 2002 }));
    let (before, after) = (client.scan(&Range::All, 500), restored.scan(&Range::All, 500));
    assert_eq!(before.len(), 2002);
    assert!(before == after, "all rows are as they were");
    // Epochs are the new fabric's own.
    let slot = Slot::of(&barrel(1));
    assert_eq!(restored.claim(owner(1, 0), &[slot]), []);
    restored.must_save(vec![Writing::of(barrel(1), 2).by(owner(1, 0)).state(b"goes on")]);
}

pub(super) fn a_back_up_is_of_one_moment(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut client = Client::owning(&*keeper, subject);
    fill(&mut client);
    let file = Scratch::new("moment");
    let backup = client.submit(Op::Backup { to: file.0.clone() }).expect("there is room");
    // Two entities at the ends of the store that always change together.
    let mut ids = Vec::new();
    for version in 0..60 {
        let payload = [version as u8];
        let save = |entity| {
            Writing::of(entity, version)
                .with(&Name::answer(&barrel(5000), 1), &payload)
                .state(&payload)
        };
        let both = Op::Commit(vec![save(barrel(5000))]);
        ids.push(client.submit(both).expect("there is room"));
    }
    for id in ids {
        client.answer(id).expect("it is done");
    }
    let Ok(Answer::BackedUp { .. }) = client.answer(backup) else { panic!("it is done") };
    let other = subject.another();
    let other_keeper = other.open();
    let mut restored = Client::open(&*other_keeper, &*other);
    restore(&mut restored, &file.0).expect("it is whole");
    let beside = restored.scan(&Range::Answers(barrel(5000)), 9);
    let beside = beside.first().map(|row| row.as_ref().expect("it is sound").payload().to_vec());
    assert_eq!(restored.payload(&barrel(5000)), beside, "both are of one moment");
}

pub(super) fn a_back_up_tells_what_is_rotten_and_leaves_it_out(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut client = Client::owning(&*keeper, subject);
    client.must_save((0..10).map(|key| Writing::of(barrel(key), 0).state(b"x")).collect());
    drop((client, keeper));
    let name = Name::state(&barrel(4));
    assert!(subject.flip(&name, 3));
    let keeper = subject.open();
    let mut client = Client::open(&*keeper, subject);
    let file = Scratch::new("rotten");
    match client.ask(Op::Backup { to: file.0.clone() }) {
        Ok(Answer::BackedUp { rows, corrupt }) => {
            assert_eq!((rows, corrupt.len()), (9, 1));
            assert_eq!(corrupt[0].name, name);
        }
        other => panic!("{other:?}"),
    }
}

pub(super) fn a_back_up_that_is_there_is_not_overwritten(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut client = Client::open(&*keeper, subject);
    let file = Scratch::new("there");
    std::fs::write(&file.0, b"mine").expect("it is ours");
    let answer = client.ask(Op::Backup { to: file.0.clone() });
    assert!(matches!(&answer, Err(Trouble::Refused(why)) if why.contains("there already")));
    assert_eq!(std::fs::read(&file.0).expect("it is ours"), b"mine");
    let nowhere = Op::Backup { to: file.0.join("below") };
    assert!(matches!(client.ask(nowhere), Err(Trouble::Refused(_))));
}

pub(super) fn a_store_that_is_not_empty_takes_no_back_up(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut client = Client::owning(&*keeper, subject);
    client.must_save(vec![Writing::of(barrel(1), 0).state(b"x")]);
    let file = Scratch::new("full");
    assert_eq!(back_up(&mut client, &file), 1);
    let answer = restore(&mut client, &file.0);
    assert!(
        matches!(&answer, Err(Trouble::Refused(why)) if why.contains("not empty")),
        "{answer:?}"
    );
}

pub(super) fn a_spoiled_back_up_is_refused_and_nothing_is_taken_in(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut client = Client::owning(&*keeper, subject);
    client.must_save((0..5).map(|key| Writing::of(barrel(key), 0).state(b"state")).collect());
    let file = Scratch::new("spoiled");
    back_up(&mut client, &file);
    let whole = std::fs::read(&file.0).expect("it is ours");
    let other = subject.another();
    let other_keeper = other.open();
    let mut restored = Client::open(&*other_keeper, &*other);
    let mut spoiled =
        vec![Vec::new(), whole[..whole.len() - 1].to_vec(), [&whole[..], &[0]].concat()];
    for at in (0..whole.len()).step_by(7) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        spoiled.push(bytes);
    }
    // The last row is gone, and the count with it, but not the checksum.
    for bytes in spoiled {
        std::fs::write(&file.0, bytes).expect("it is ours");
        let answer = restore(&mut restored, &file.0);
        assert!(matches!(answer, Err(Trouble::Refused(_))), "{answer:?}");
    }
    assert!(matches!(restore(&mut restored, Path::new("/nowhere")), Err(Trouble::Refused(_))));
    assert_eq!(restored.scan(&Range::All, 9), []);
    std::fs::write(&file.0, whole).expect("it is ours");
    assert_eq!(restore(&mut restored, &file.0), Ok(Answer::Restored { rows: 5 }));
}
