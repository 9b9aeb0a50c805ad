//! Whoever asks in a behaviour: one op after another, or many at once.
//!
//! # Not here
//! The invariants: they are in `conformance`.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use epicserver_wire::{ClassId, EntityId, IntoKey, NodeId, TypeId};

use super::Subject;
use crate::{
    Answer, Done, Envelope, Found, Keeper, Name, Op, OpId, Outcome, Owner, Range, Record, Row,
    Save, Slot, Store, Trouble, Wake,
};

/// Asks a store.
#[derive(Debug)]
pub struct Client {
    store: Box<dyn Store>,
    rung: Receiver<()>,
    patience: Duration,
    next: u64,
    waiting: BTreeSet<OpId>,
    done: Vec<Done>,
}

/// The entity of the type `Barrel` with this key.
#[must_use]
pub fn barrel(key: u64) -> EntityId {
    of_type("Barrel", key)
}

/// An entity of a type and a key; all of one type and class share a slot.
#[must_use]
pub fn of_type<K: epicserver_wire::EntityKey>(name: &str, key: impl IntoKey<K>) -> EntityId {
    EntityId::new(TypeId::of(name), ClassId::DEFAULT, Some(1), key.into_key())
}

/// The owner that is node `node`, in `epoch`.
#[must_use]
pub fn owner(node: u64, epoch: u64) -> Owner {
    Owner { node: NodeId::new(node), epoch }
}

/// A save that is being put together: by node 1 in epoch 1, of version `expected` + 1.
#[derive(Clone, Debug)]
pub struct Writing {
    entity: EntityId,
    envelope: Envelope,
    expected: u64,
    rows: Vec<Row>,
}

impl Writing {
    /// One of `entity` where version `expected` is stored.
    #[must_use]
    pub fn of(entity: EntityId, expected: u64) -> Self {
        let envelope = Envelope {
            codec: 1,
            layout: 0x1234_5678_9abc_def0,
            schema: 3,
            owner: owner(1, 1),
            version: expected + 1,
            written_ms: 1_000 + expected,
            tombstone: false,
        };
        Self { entity, envelope, expected, rows: Vec::new() }
    }

    /// The same by `owner`.
    #[must_use]
    pub fn by(mut self, owner: Owner) -> Self {
        self.envelope.owner = owner;
        self
    }

    /// The same, of another time.
    #[must_use]
    pub fn at(mut self, written_ms: u64) -> Self {
        self.envelope.written_ms = written_ms;
        self
    }

    /// The same, with a row that has `payload`.
    ///
    /// # Panics
    /// If that is too long.
    #[must_use]
    pub fn with(mut self, name: &Name, payload: &[u8]) -> Self {
        let row = Record::seal(name, &self.envelope, payload).expect("it is not too long");
        self.rows.push(Row::Put(row));
        self
    }

    /// The same, without the row of that name.
    #[must_use]
    pub fn without(mut self, name: Name) -> Self {
        self.rows.push(Row::Remove(name));
        self
    }

    /// The record of the state.
    ///
    /// # Panics
    /// If `payload` is too long.
    #[must_use]
    pub fn record(&self, payload: &[u8]) -> Record {
        let name = Name::state(&self.entity);
        Record::seal(&name, &self.envelope, payload).expect("it is not too long")
    }

    /// With this state.
    #[must_use]
    pub fn state(self, payload: &[u8]) -> Save {
        let state = Some(self.record(payload));
        Save { state, ..self.only_rows() }
    }

    /// With a tombstone.
    #[must_use]
    pub fn tombstone(mut self) -> Save {
        self.envelope.tombstone = true;
        self.state(b"")
    }

    /// With no state.
    #[must_use]
    pub fn only_rows(self) -> Save {
        let Self { entity, envelope, expected, rows } = self;
        Save { entity, owner: envelope.owner, expected, state: None, rows }
    }
}

impl Client {
    /// Opens a handle.
    ///
    /// # Panics
    /// If there are too many.
    #[must_use]
    pub fn open(keeper: &dyn Keeper, subject: &dyn Subject) -> Self {
        Self::with_patience(keeper, subject.patience())
    }

    /// The same, where no subject is.
    ///
    /// # Panics
    /// If there are too many.
    #[must_use]
    pub fn with_patience(keeper: &dyn Keeper, patience: Duration) -> Self {
        let (ring, rung) = channel();
        let wake = Wake::new(move || {
            // Whoever has gone needs no wake.
            let _heard = ring.send(());
        });
        let store = keeper.handle(wake).expect("there are not so many handles");
        Self { store, rung, patience, next: 0, waiting: BTreeSet::new(), done: Vec::new() }
    }

    /// The same, and it has claimed the slot of `barrel` as node 1 in epoch 1.
    #[must_use]
    pub fn owning(keeper: &dyn Keeper, subject: &dyn Subject) -> Self {
        let mut client = Self::open(keeper, subject);
        assert_eq!(client.claim(owner(1, 1), &[Slot::of(&barrel(0))]), []);
        client
    }

    /// Submits without waiting.
    ///
    /// # Errors
    /// Gives the op back if the handle is full.
    pub fn submit(&mut self, op: Op) -> Result<OpId, Op> {
        let id = OpId(self.next);
        self.store.submit(id, op)?;
        self.next += 1;
        self.waiting.insert(id);
        Ok(id)
    }

    /// Waits for the answer to `id`.
    ///
    /// # Panics
    /// If there is none, or one that nobody asked for (**CS1**, **CS2**).
    pub fn answer(&mut self, id: OpId) -> Result<Answer, Trouble> {
        loop {
            if let Some(at) = self.done.iter().position(|done| done.id == id) {
                return self.done.swap_remove(at).result;
            }
            assert!(self.waiting.contains(&id), "CS2: nobody waits for {id:?}");
            let rung = self.rung.recv_timeout(self.patience);
            rung.unwrap_or_else(|_| panic!("CS1: no wake, and {:?} wait", self.waiting));
            self.poll();
        }
    }

    fn poll(&mut self) {
        let from = self.done.len();
        self.store.poll(&mut self.done);
        for done in &self.done[from..] {
            assert!(self.waiting.remove(&done.id), "CS2: a second answer: {done:?}");
        }
        assert_eq!(self.store.unanswered(), self.waiting.len(), "SO7: it counts what waits");
    }

    /// Asks and waits.
    ///
    /// # Panics
    /// If the handle is full.
    pub fn ask(&mut self, op: Op) -> Result<Answer, Trouble> {
        let id = self.submit(op).expect("the handle is not full");
        self.answer(id)
    }

    fn get(&mut self, op: Op) -> Answer {
        let asked = op.clone();
        self.ask(op).unwrap_or_else(|trouble| panic!("{asked:?}: {trouble}"))
    }

    /// Claims; gives what is refused.
    ///
    /// # Panics
    /// If there is another answer, as with all that follow.
    pub fn claim(&mut self, owner: Owner, slots: &[Slot]) -> Vec<(Slot, Owner)> {
        match self.get(Op::Claim { owner, slots: slots.to_vec() }) {
            Answer::Claimed { refused } => refused,
            other => panic!("{other:?}"),
        }
    }

    /// Commits.
    pub fn commit(&mut self, saves: Vec<Save>) -> Vec<Outcome> {
        match self.get(Op::Commit(saves)) {
            Answer::Committed(outcomes) => outcomes,
            other => panic!("{other:?}"),
        }
    }

    /// Commits one save.
    pub fn save(&mut self, save: Save) -> Outcome {
        let mut outcomes = self.commit(vec![save]);
        assert_eq!(outcomes.len(), 1);
        outcomes.remove(0)
    }

    /// Commits saves that must be saved.
    pub fn must_save(&mut self, saves: Vec<Save>) {
        let count = saves.len();
        assert_eq!(self.commit(saves), vec![Outcome::Saved; count]);
    }

    /// Loads.
    pub fn load(&mut self, entity: &EntityId) -> Found {
        self.load_as(entity, None)
    }

    /// Loads, and claims for `claim`.
    pub fn load_as(&mut self, entity: &EntityId, claim: Option<Owner>) -> Found {
        match self.get(Op::Load { entity: entity.clone(), claim }) {
            Answer::Loaded(found) => found,
            other => panic!("{other:?}"),
        }
    }

    /// The payload of an entity's state, if there is one.
    pub fn payload(&mut self, entity: &EntityId) -> Option<Vec<u8>> {
        match self.load(entity) {
            Found::State(record) => Some(record.payload().to_vec()),
            Found::Nothing | Found::Tombstone(_) => None,
            found @ (Found::Fenced(_) | Found::Corrupt(_)) => panic!("{found:?}"),
        }
    }

    /// All rows of `range`, in pages of `limit`.
    pub fn scan(&mut self, range: &Range, limit: usize) -> Vec<Result<Record, crate::Corrupt>> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            match self.get(Op::Scan { range: range.clone(), after, limit }) {
                Answer::Scanned { rows, next } => {
                    assert!(rows.len() <= limit, "a page of {}", rows.len());
                    all.extend(rows);
                    after = next;
                }
                other => panic!("{other:?}"),
            }
            if after.is_none() {
                return all;
            }
        }
    }

    /// Names of all sound rows of `range`.
    pub fn names(&mut self, range: &Range, limit: usize) -> Vec<Name> {
        self.scan(range, limit).into_iter().map(|row| row.expect("it is sound").name()).collect()
    }

    /// Verifies all, in pages of `limit`; gives how many rows are sound, and the others.
    pub fn verify(&mut self, limit: usize) -> (usize, Vec<crate::Corrupt>) {
        let (mut all, mut found, mut after) = (0, Vec::new(), None);
        loop {
            match self.get(Op::Verify { after, limit }) {
                Answer::Verified { sound, corrupt, next } => {
                    all += sound;
                    found.extend(corrupt);
                    after = next;
                }
                other => panic!("{other:?}"),
            }
            if after.is_none() {
                return (all, found);
            }
        }
    }
}
