//! Bits that flip on the disk: whatever they hit, nothing wrong is served.

use epicserver_store::conformance::{Client, Writing, barrel, owner};
use epicserver_store::{Answer, Found, Name, Op, Outcome, Record, Slot};
use std::time::Duration;

use super::disk::Disk;
use crate::Redb;
use crate::writing::Writer;

const KEYS: u64 = 9;

fn payload(key: u64) -> Vec<u8> {
    vec![key as u8 + 1; 40]
}

/// A disk with some entities, closed.
fn filled() -> Vec<u8> {
    let disk = Disk::default();
    let book = disk.book().unwrap();
    let claim = Op::Claim { owner: owner(1, 1), slots: vec![Slot::of(&barrel(0))] };
    let saves = (0..KEYS).map(|key| Writing::of(barrel(key), 0).state(&payload(key)));
    let ops = [claim, Op::Commit(saves.collect())];
    for answer in Writer::new(&book).carry_out(&ops) {
        answer.unwrap();
    }
    drop(book);
    disk.bytes()
}

/// What a load of each entity finds; `None` where the file is refused or an op ends in trouble.
fn found(bytes: Vec<u8>) -> Vec<Option<Found>> {
    let disk = Disk::of(bytes);
    let Ok(book) = disk.book() else { return Vec::new() };
    let redb = Redb::start(book).unwrap();
    let mut client = Client::with_patience(&redb, Duration::from_secs(60));
    let load = |key| match client.ask(Op::Load { entity: barrel(key), claim: None }) {
        Ok(Answer::Loaded(found)) => Some(found),
        Ok(other) => panic!("{other:?}"),
        Err(_trouble) => None,
    };
    (0..KEYS).map(load).collect()
}

/// Places in `bytes` where `part` is.
fn places(bytes: &[u8], part: &[u8]) -> Vec<usize> {
    (0..=bytes.len() - part.len()).filter(|at| bytes[*at..].starts_with(part)).collect()
}

/// Flips each bit of the `len` bytes at `at`: each entity is served as it was, or named as corrupt; `hit` is.
///
/// Unless it is hit `alone`, others may be named too: a search may be led astray.
fn flip_each(whole: &[u8], at: usize, len: usize, hit: u64, alone: bool) {
    for bit in 8 * at..8 * (at + len) {
        let mut bytes = whole.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let all = found(bytes);
        assert_eq!(all.len(), KEYS as usize, "bit {bit}: the file is refused");
        for (key, found) in (0..).zip(all) {
            match found {
                Some(Found::State(record)) => {
                    assert_ne!(key, hit, "bit {bit}: served in spite of it");
                    assert_eq!(record.payload(), payload(key), "bit {bit}");
                }
                Some(Found::Corrupt(corrupt)) => {
                    assert_eq!(corrupt.name, Name::state(&barrel(key)), "bit {bit}");
                    assert!(!alone || key == hit, "bit {bit}: {key} is harmed");
                }
                other => panic!("bit {bit}: {other:?} of {key}"),
            }
        }
    }
}

#[test]
fn every_flipped_bit_of_a_record_is_found_and_harms_no_other() {
    let whole = filled();
    let name = Name::state(&barrel(4));
    let record = Writing::of(barrel(4), 0).record(&payload(4));
    assert_eq!(record.name(), name);
    let places = places(&whole, record.as_bytes());
    assert_eq!(places.len(), 1, "it was written once");
    flip_each(&whole, places[0], record.as_bytes().len(), 4, true);
}

#[test]
fn every_flipped_bit_of_a_name_under_which_a_record_lies_is_found() {
    let whole = filled();
    for hit in [0, 4, KEYS - 1] {
        let name = Name::state(&barrel(hit));
        // One in the record, and one under which it lies.
        let all = places(&whole, name.as_bytes());
        let in_record = |at: &usize| {
            let record = Writing::of(barrel(hit), 0).record(&payload(hit));
            at.checked_sub(64).is_some_and(|at| whole[at..].starts_with(record.as_bytes()))
        };
        let keys: Vec<usize> = all.into_iter().filter(|at| !in_record(at)).collect();
        assert_eq!(keys.len(), 1, "it lies under one name");
        flip_each(&whole, keys[0], name.as_bytes().len(), hit, false);
    }
}

#[test]
fn no_flipped_bit_anywhere_makes_a_state_that_was_never_written() {
    let whole = filled();
    let used: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] != 0).collect();
    let mut lost = Vec::new();
    for at in used.iter().step_by(37) {
        let mut bytes = whole.clone();
        bytes[*at] ^= 1 << (at % 8);
        for (key, found) in (0..).zip(found(bytes)) {
            match found {
                Some(Found::State(record)) => assert_eq!(record.payload(), payload(key)),
                Some(Found::Nothing) => lost.push((*at, key)),
                Some(Found::Corrupt(_)) | None => {}
                other => panic!("byte {at}: {other:?}"),
            }
        }
    }
    assert_eq!(lost, [], "of {} bytes", used.len());
}

#[test]
fn an_owner_that_has_rotted_is_no_owner() {
    let whole = filled();
    let stored = epicserver_store::judge::owner_bytes(Slot::of(&barrel(0)).as_u32(), owner(1, 1));
    let places = places(&whole, &stored);
    assert_eq!(places.len(), 1);
    for bit in 0..8 * stored.len() {
        let mut bytes = whole.clone();
        bytes[places[0] + bit / 8] ^= 1 << (bit % 8);
        let disk = Disk::of(bytes);
        let book = disk.book().unwrap();
        let mut writer = Writer::new(&book);
        let save = Op::Commit(vec![Writing::of(barrel(1), 1).state(b"new")]);
        let claim = Op::Claim { owner: owner(2, 9), slots: vec![Slot::of(&barrel(0))] };
        let answers = writer.carry_out(&[save, claim]);
        let Ok(Answer::Committed(outcomes)) = &answers[0] else { panic!("{answers:?}") };
        assert!(
            matches!(&outcomes[..], [Outcome::Corrupt(corrupt)] if corrupt.name == Name::state(&barrel(1)))
        );
        assert!(answers[1].is_err(), "{answers:?}");
    }
}

#[test]
fn a_record_that_was_cut_off_is_found() {
    let record = Writing::of(barrel(4), 0).record(&payload(4));
    for len in 0..record.as_bytes().len() {
        assert!(!Record::is_of(&record.name(), &record.as_bytes()[..len]));
    }
}
