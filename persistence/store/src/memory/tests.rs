//! The store in memory, driven step by step.

use epicserver_wire::{ClassId, EntityId, EntityKey as _, NodeId, TypeId};

use super::*;
use crate::{Envelope, Found, Outcome, Owner, Record, Save, Slot};

const OWNER: Owner = Owner { node: NodeId::new(1), epoch: 1 };

fn entity(key: u64) -> EntityId {
    EntityId::new(TypeId::of("Player"), ClassId::DEFAULT, Some(1), key.to_key())
}

fn save(key: u64) -> Save {
    let (entity, owner) = (entity(key), OWNER);
    let envelope = Envelope {
        codec: 1,
        layout: 0,
        schema: 1,
        owner,
        version: 1,
        written_ms: 0,
        tombstone: false,
    };
    let state = Record::seal(&Name::state(&entity), &envelope, b"state").unwrap();
    Save { entity, owner, expected: 0, state: Some(state), rows: Vec::new() }
}

struct Driven {
    memory: Memory,
    handle: Box<dyn Store>,
    next: u64,
}

impl Driven {
    fn new() -> Self {
        let memory = Memory::stepped();
        let handle = memory.handle(Wake::new(|| ())).unwrap();
        let mut driven = Self { memory, handle, next: 0 };
        let claim = Op::Claim { owner: OWNER, slots: vec![Slot::of(&entity(0))] };
        driven.ask(claim, Fault::None).unwrap();
        driven
    }

    fn ask(&mut self, op: Op, fault: Fault) -> Result<Answer, Trouble> {
        self.handle.submit(OpId(self.next), op).unwrap();
        let mut done = Vec::new();
        self.handle.poll(&mut done);
        assert!(done.is_empty(), "nobody has stepped");
        assert!(self.memory.step(fault));
        self.handle.poll(&mut done);
        let [Done { id, result }] = &done[..] else { panic!("{done:?}") };
        assert_eq!(*id, OpId(self.next));
        self.next += 1;
        result.clone()
    }

    fn stored(&mut self) -> Vec<u64> {
        let is_there = |key: &u64| {
            let load = Op::Load { entity: entity(*key), claim: None };
            match self.ask(load, Fault::None) {
                Ok(Answer::Loaded(found)) => matches!(found, Found::State(_)),
                other => panic!("{other:?}"),
            }
        };
        (0..4).filter(is_there).collect()
    }
}

#[test]
fn each_fault_does_what_it_says_and_no_more() {
    let commit = |fault| {
        let mut driven = Driven::new();
        let answer = driven.ask(Op::Commit((0..4).map(save).collect()), fault);
        (answer, driven.stored())
    };
    assert_eq!(
        commit(Fault::None),
        (Ok(Answer::Committed(vec![Outcome::Saved; 4])), vec![0, 1, 2, 3])
    );
    assert!(
        matches!(commit(Fault::Unavailable), (Err(Trouble::Unavailable(_)), stored) if stored.is_empty())
    );
    assert!(matches!(commit(Fault::Lost), (Err(Trouble::Unknown(_)), stored) if stored.is_empty()));
    assert!(
        matches!(commit(Fault::Unsaid), (Err(Trouble::Unknown(_)), stored) if stored.len() == 4)
    );
    assert!(matches!(commit(Fault::Torn), (Err(Trouble::Unknown(_)), stored) if stored == [0, 1]));
    assert!(matches!(commit(Fault::Full), (Err(Trouble::Full(_)), stored) if stored.is_empty()));
}

#[test]
fn a_full_store_can_still_be_read() {
    let mut driven = Driven::new();
    driven.ask(Op::Commit(vec![save(2)]), Fault::None).unwrap();
    let load = Op::Load { entity: entity(2), claim: None };
    assert!(matches!(driven.ask(load, Fault::Full), Ok(Answer::Loaded(Found::State(_)))));
}

#[test]
fn a_crash_loses_what_waits_and_nothing_that_was_answered() {
    let mut driven = Driven::new();
    driven.ask(Op::Commit(vec![save(1)]), Fault::None).unwrap();
    driven.handle.submit(OpId(90), Op::Commit(vec![save(2)])).unwrap();
    assert_eq!(driven.memory.waiting(), 1);
    driven.memory.crash();
    assert!(!driven.memory.step(Fault::None));
    driven.handle = driven.memory.handle(Wake::new(|| ())).unwrap();
    assert_eq!(driven.stored(), [1]);
}

#[test]
fn handles_beyond_the_bound_are_refused_until_one_goes() {
    let memory = Memory::new();
    let open = || memory.handle(Wake::new(|| ()));
    let mut all: Vec<_> = (0..HANDLES_MAX).map(|_| open().unwrap()).collect();
    assert_eq!(open().unwrap_err(), TooMany);
    all.pop();
    open().unwrap();
}
