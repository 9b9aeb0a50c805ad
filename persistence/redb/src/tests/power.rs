//! Losses of power: at every sync of a run, what the disk may have then is opened, and holds all that was answered.
//!
//! Between two syncs a disk may have done any of what it was told, in any order, and parts of a write by sectors.

use std::collections::BTreeMap;

use epicserver_store::conformance::{Writing, barrel, owner};
use epicserver_store::{Answer, Found, Name, Op, Outcome, Range, Save, Slot};

use super::disk::{Disk, Event};
use crate::reading::load_all_for_tests;
use crate::writing::Writer;

const SECTOR: usize = 512;
const KEYS: u64 = 12;

/// What is there: by key, the version and whether it is a tombstone.
type Model = BTreeMap<u64, (u64, bool)>;

/// Numbers that are the same in each run.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % bound
    }
}

struct Run {
    events: Vec<Event>,
    /// After how many events a model was answered for.
    answered: Vec<(usize, Model)>,
    epochs: u64,
}

fn payload(key: u64, version: u64) -> Vec<u8> {
    let len = [10, 900, 5_000, 40_000][(key + version) as usize % 4];
    vec![(key * 31 + version) as u8; len]
}

fn save(key: u64, version: u64, dead: bool, epoch: u64) -> Save {
    let row = Name::answer(&barrel(key), 1);
    let writing = Writing::of(barrel(key), version - 1).by(owner(1, epoch)).at(5);
    let writing = writing.with(&row, &version.to_le_bytes());
    if dead { writing.tombstone() } else { writing.state(&payload(key, version)) }
}

/// Groups of saves, claims and purges on a disk that writes all of it down.
fn run(seed: u64, groups: usize) -> Run {
    let (disk, mut draw) = (Disk::default(), Draw(seed));
    let book = disk.book().unwrap();
    let mut answered = vec![(disk.event_count(), Model::new())];
    let (mut writer, mut model, mut epoch) = (Writer::new(&book), Model::new(), 0);
    for group in 0..groups {
        let mut ops = Vec::new();
        if group % 5 == 0 {
            epoch += 1;
            ops.push(Op::Claim { owner: owner(1, epoch), slots: vec![Slot::of(&barrel(0))] });
        }
        for _ in 0..=draw.below(4) {
            let key = draw.below(KEYS as usize) as u64;
            let version = model.get(&key).map_or(0, |(version, _)| *version) + 1;
            let dead = draw.below(8) == 0;
            model.insert(key, (version, dead));
            ops.push(Op::Commit(vec![save(key, version, dead, epoch)]));
        }
        if group % 7 == 6 {
            model.retain(|_, (_, dead)| !*dead);
            ops.push(Op::Purge { before_ms: 6 });
        }
        for (op, answer) in ops.iter().zip(writer.carry_out(&ops)) {
            match answer.unwrap() {
                Answer::Committed(outcomes) => assert_eq!(outcomes, [Outcome::Saved], "{op:?}"),
                Answer::Claimed { refused } => assert_eq!(refused, []),
                Answer::Purged { more, .. } => assert!(!more),
                other => panic!("{other:?}"),
            }
        }
        answered.push((disk.event_count(), model.clone()));
    }
    drop(book);
    Run { events: disk.events(), answered, epochs: epoch }
}

/// What a disk may have that has synced `events[..synced]` and was told the others up to `told`.
fn image(events: &[Event], synced: usize, told: usize, kind: usize, draw: &mut Draw) -> Vec<u8> {
    let mut bytes = Vec::new();
    events[..synced].iter().for_each(|event| event.apply(&mut bytes));
    let mut pending: Vec<Event> = events[synced..told].to_vec();
    match kind {
        0 => pending.clear(),
        1 => {}
        2 => pending.truncate(draw.below(pending.len() + 1)),
        _ => {
            pending.retain(|_| draw.below(2) == 0);
            for at in (1..pending.len()).rev() {
                pending.swap(at, draw.below(at + 1));
            }
            pending = pending.into_iter().flat_map(|event| torn(event, draw)).collect();
        }
    }
    pending.iter().for_each(|event| event.apply(&mut bytes));
    bytes
}

/// Some of its sectors, or all of it.
fn torn(event: Event, draw: &mut Draw) -> Vec<Event> {
    match event {
        Event::Write(at, data) if draw.below(3) == 0 => {
            let sectors = data.chunks(SECTOR).enumerate();
            let sectors = sectors.filter(|_| draw.below(2) == 0);
            sectors
                .map(|(index, data)| Event::Write(at + (index * SECTOR) as u64, data.to_vec()))
                .collect()
        }
        event @ (Event::Write(..) | Event::Resize(_) | Event::Sync) => vec![event],
    }
}

/// What is on the disk; rows and states must be of one version.
fn found(writer: &mut Writer<'_>, book: &crate::book::Book) -> Model {
    let mut model = Model::new();
    for key in 0..KEYS {
        let load = Op::Load { entity: barrel(key), claim: None };
        let answer = writer.carry_out(&[load]).pop().unwrap().unwrap();
        let Answer::Loaded(found) = answer else { panic!("{answer:?}") };
        match found {
            Found::Nothing => continue,
            Found::Tombstone(envelope) => {
                model.insert(key, (envelope.version, true));
            }
            Found::State(record) => {
                let version = record.envelope().version;
                assert_eq!(record.payload(), payload(key, version));
                model.insert(key, (version, false));
            }
            found @ (Found::Fenced(_) | Found::Corrupt(_)) => panic!("{found:?}"),
        }
        let rows = load_all_for_tests(book, &Range::Answers(barrel(key)));
        let version = rows[0].as_ref().unwrap().payload().to_vec();
        assert_eq!(version, model[&key].0.to_le_bytes(), "SO5: a save was torn");
    }
    model
}

fn check(run: &Run, bytes: Vec<u8>, told: usize, what: &str) {
    let disk = Disk::of(bytes);
    let book = disk.book().unwrap_or_else(|error| panic!("{what}: {error}"));
    let mut writer = Writer::new(&book);
    let model = found(&mut writer, &book);
    let answered = run.answered.iter().rposition(|(events, _)| *events <= told);
    // What was answered, or that and the group that was under way.
    let allowed = answered.map_or(0, |at| at)..=answered.map_or(0, |at| at + 1);
    let fits = allowed.clone().any(|at| run.answered.get(at).is_some_and(|(_, is)| *is == model));
    assert!(fits, "{what}: {model:?} is neither of the groups {allowed:?}");
    // It goes on from there.
    let epoch = run.epochs + 1;
    let claim = Op::Claim { owner: owner(1, epoch), slots: vec![Slot::of(&barrel(0))] };
    let version = model.get(&1).map_or(0, |(version, _)| *version) + 1;
    let ops = [claim, Op::Commit(vec![save(1, version, false, epoch)])];
    let answers = writer.carry_out(&ops);
    assert_eq!(answers[1], Ok(Answer::Committed(vec![Outcome::Saved])), "{what}");
}

fn every_sync(seed: u64, groups: usize, images: usize) {
    let run = run(seed, groups);
    let mut draw = Draw(seed ^ 0xdead);
    let syncs = run.events.iter().enumerate().filter(|(_, event)| **event == Event::Sync);
    // Before that there was no file: it is made beside its place.
    let begun = run.answered[0].0;
    let (mut synced, mut count) = (begun, 0);
    for (at, _) in syncs.filter(|(at, _)| *at >= begun) {
        for kind in 0..images {
            let bytes = image(&run.events, synced, at, kind, &mut draw);
            check(&run, bytes, at, &format!("seed {seed}, sync {count}, image {kind}"));
        }
        (synced, count) = (at + 1, count + 1);
    }
    assert!(count > 2 * groups, "{count} syncs");
}

#[test]
fn what_was_answered_outlives_a_loss_of_power_at_every_sync() {
    for seed in 1..=2 {
        every_sync(seed, 14, 12);
    }
}

#[test]
fn a_claim_that_was_answered_outlives_a_loss_of_power() {
    let disk = Disk::default();
    let book = disk.book().unwrap();
    let claim = |epoch| Op::Claim { owner: owner(1, epoch), slots: vec![Slot::of(&barrel(0))] };
    Writer::new(&book).carry_out(&[claim(7)]).pop().unwrap().unwrap();
    let events = disk.events();
    let mut bytes = Vec::new();
    let last = events.iter().rposition(|event| *event == Event::Sync).unwrap();
    events[..last].iter().for_each(|event| event.apply(&mut bytes));
    let after = Disk::of(bytes);
    let book = after.book().unwrap();
    let answer = Writer::new(&book).carry_out(&[claim(6)]).pop().unwrap().unwrap();
    assert_eq!(answer, Answer::Claimed { refused: vec![(Slot::of(&barrel(0)), owner(1, 7))] });
}
