//! Disks that are full, fail or are slow, and files that are not ours.

use std::time::Duration;

use epicserver_store::conformance::{Client, Scratch, Writing, barrel, owner};
use epicserver_store::{
    Answer, Keeper as _, Lanes, Op, OpId, Outcome, Slot, Store as _, Trouble, Wake,
};

use super::disk::{Disk, Event};
use crate::{Error, OpenError, Options, Redb, open};

fn start(disk: &Disk) -> Redb {
    Redb::start(disk.book().unwrap()).unwrap()
}

fn client(redb: &Redb) -> Client {
    let mut client = Client::with_patience(redb, Duration::from_secs(60));
    assert_eq!(client.claim(owner(1, 1), &[Slot::of(&barrel(0))]), []);
    client
}

fn save(key: u64, version: u64, len: usize) -> Op {
    Op::Commit(vec![Writing::of(barrel(key), version).state(&vec![7; len])])
}

#[test]
fn a_full_disk_refuses_saves_and_serves_what_it_has() {
    let disk = Disk::default();
    let redb = start(&disk);
    let mut client = client(&redb);
    client.ask(save(0, 0, 1000)).unwrap();
    disk.set_room(Some(disk.len()));
    let mut stored = 0;
    let trouble = loop {
        match client.ask(save(stored + 1, 0, 300_000)) {
            Ok(answer) => assert_eq!(answer, Answer::Committed(vec![Outcome::Saved])),
            Err(trouble) => break trouble,
        }
        stored += 1;
        assert!(stored < 1000, "there is no room for so many");
    };
    assert!(matches!(trouble, Trouble::Full(_)), "{trouble:?}");
    for key in 0..=stored {
        assert!(client.payload(&barrel(key)).is_some(), "{key} was answered as saved");
    }
    assert_eq!(client.payload(&barrel(stored + 1)), None);
    disk.set_room(None);
    client.must_save(vec![Writing::of(barrel(stored + 1), 0).state(&[1; 300_000])]);
}

/// What is said of a save where the `syncs`-th sync from now on fails, and whether it is there afterwards.
fn with_failing_sync(syncs: u32, late: bool) -> (Result<Answer, Trouble>, bool) {
    let disk = Disk::default();
    let redb = start(&disk);
    let mut client = client(&redb);
    client.ask(save(0, 0, 1000)).unwrap();
    disk.fail_after(Some(syncs), late);
    let answer = client.ask(save(1, 0, 1000));
    disk.fail_after(None, false);
    // Whatever came of it, it goes on.
    assert_eq!(client.payload(&barrel(0)).map(|bytes| bytes.len()), Some(1000));
    let there = client.payload(&barrel(1)).is_some();
    client.ask(save(2, 0, 1000)).unwrap();
    (answer, there)
}

#[test]
fn a_sync_that_fails_is_told_and_never_called_saved() {
    let mut failed = 0;
    for late in [false, true] {
        for syncs in 0..6 {
            match with_failing_sync(syncs, late) {
                (Ok(answer), there) => {
                    assert_eq!(answer, Answer::Committed(vec![Outcome::Saved]));
                    assert!(there, "RE1: it was answered");
                }
                (Err(Trouble::Unknown(_)), _) => failed += 1,
                (Err(Trouble::Unavailable(_)), there) => {
                    failed += 1;
                    assert!(!there, "RE2: nothing was to change");
                }
                (Err(trouble), _) => panic!("{trouble:?}"),
            }
        }
    }
    assert!(failed >= 4, "{failed} of the syncs failed");
}

#[test]
fn reads_do_not_wait_for_a_slow_disk_and_what_waits_for_it_is_synced_together() {
    let disk = Disk::default();
    let redb = start(&disk);
    let (mut writing, mut reading) = (client(&redb), client(&redb));
    writing.ask(save(0, 0, 100)).unwrap();
    disk.stall(true);
    let first = writing.submit(save(1, 0, 100)).unwrap();
    disk.wait_for_sync();
    let ids: Vec<_> = (2..500).map(|key| writing.submit(save(key, 0, 100)).unwrap()).collect();
    assert!(reading.payload(&barrel(0)).is_some());
    assert_eq!(reading.payload(&barrel(1)), None, "it is not durable");
    let before = disk.event_count();
    disk.stall(false);
    for id in [first].into_iter().chain(ids) {
        assert_eq!(writing.answer(id), Ok(Answer::Committed(vec![Outcome::Saved])));
    }
    let events = disk.events();
    let syncs = events[before..].iter().filter(|event| **event == Event::Sync).count();
    assert!(syncs <= 12, "{syncs} syncs for 499 saves");
    assert!(reading.payload(&barrel(499)).is_some());
}

#[test]
fn a_file_is_open_once_and_of_one_fabric() {
    let file = Scratch::new("once");
    let options = |fabric: &str| Options {
        path: file.0.clone(),
        fabric: fabric.to_owned(),
        cache_bytes: 1 << 20,
    };
    let first = open(&options("ours")).unwrap();
    assert_eq!(first.name(), "redb");
    let second = open(&options("ours")).unwrap_err();
    assert!(matches!(&second, Error::Open { error: OpenError::Busy, .. }), "{second}");
    drop(first);
    let other = open(&options("theirs")).unwrap_err();
    assert!(other.to_string().contains("the fabric \"ours\""), "{other}");
    drop(open(&options("ours")).unwrap());
    std::fs::write(&file.0, vec![7; 100_000]).unwrap();
    let none = open(&options("ours")).unwrap_err();
    assert!(matches!(&none, Error::Open { error: OpenError::Other(_), .. }), "{none}");
    assert_eq!(std::fs::read(&file.0).unwrap(), vec![7; 100_000], "BK1: it is left as it is");
    let nowhere = Options { path: file.0.join("below"), ..options("ours") };
    assert!(open(&nowhere).unwrap_err().to_string().contains("below"));
}

#[test]
fn an_op_that_another_store_has_taken_is_carried_out_for_it() {
    let disk = Disk::default();
    let redb = start(&disk);
    let (lanes, mut ends) = Lanes::new(1, |_| 0);
    let mut lane = ends.pop().unwrap();
    let (ring, rung) = std::sync::mpsc::channel();
    let mut handle = lanes.handle(Wake::new(move || ring.send(()).unwrap_or_default())).unwrap();
    let claim = Op::Claim { owner: owner(1, 1), slots: vec![Slot::of(&barrel(0))] };
    for (id, op) in (0..).zip([claim, save(1, 0, 100), save(2, 7, 100)]) {
        handle.submit(OpId(id), op).unwrap();
        redb.door().pass_on(lane.wait().unwrap());
    }
    let mut done = Vec::new();
    while handle.unanswered() > 0 {
        rung.recv_timeout(Duration::from_secs(60)).unwrap();
        handle.poll(&mut done);
    }
    let outcome = |outcome| Ok(Answer::Committed(vec![outcome]));
    let results: Vec<_> = done.into_iter().map(|done| done.result).collect();
    let conflict = Outcome::Conflict { found: 0, by: None };
    let claimed = Ok(Answer::Claimed { refused: Vec::new() });
    assert_eq!(results, [claimed, outcome(Outcome::Saved), outcome(conflict)]);
}
