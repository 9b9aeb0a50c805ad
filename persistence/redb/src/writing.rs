//! The thread that writes: one transaction for all that waits.
//!
//! # Invariants
//! - **WR1** The owner of a slot that is kept in memory is what the file has: nobody else writes it, and it is forgotten when the
//!   file was given up.
//! - **WR2** Ops of a transaction are done in the order in which they came, or none of them is. Where one cannot be done for what
//!   is damaged below, the others are done without it.
//!
//! # Not here
//! The file: `book`.

use std::collections::HashMap;
use std::path::Path;

use epicserver_store::limits::{GROUP_BYTES_MAX, GROUP_OPS_MAX, PURGE_MAX};
use epicserver_store::{
    Answer, Corrupt, Envelope, Flaw, Found, Job, Lane, Name, Op, Outcome, Owner, Record, Row, Save,
    Slot, Ticket, Trouble, archive, judge,
};
use redb::{Database, ReadableTable as _, ReadableTableMetadata as _, Table, WriteTransaction};

use crate::book::{Book, OWNERS, ROWS, TOMBSTONES, begin_write, number, trouble};
use crate::reading::load;

/// Owners of slots that are kept in memory.
const OWNERS_MAX: usize = 1 << 18;

type Answers = Vec<Result<Answer, Trouble>>;

/// Carries out ops until there are no more.
pub(crate) fn run(mut lane: Lane, book: &Book) {
    let mut writer = Writer::new(book);
    while let Some(job) = lane.wait() {
        let (mut ops, mut tickets, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut next = Some(job);
        while let Some(Job { op, ticket }) = next {
            bytes += op.bytes();
            ops.push(op);
            tickets.push(ticket);
            if ops.len() >= GROUP_OPS_MAX || bytes >= GROUP_BYTES_MAX {
                break;
            }
            next = lane.try_next();
        }
        answer(tickets, writer.carry_out(&ops));
    }
}

fn answer(tickets: Vec<Ticket>, answers: Answers) {
    for (ticket, answer) in tickets.into_iter().zip(answers) {
        ticket.answer(answer);
    }
}

/// Whoever writes to a file.
pub(crate) struct Writer<'a> {
    book: &'a Book,
    /// WR1.
    owners: HashMap<u32, Owner>,
    /// The number of the last transaction.
    group: u64,
}

/// How a transaction has ended.
enum Ended {
    /// It is durable, or there was nothing to write.
    Done(Answers, HashMap<u32, Owner>),
    /// It was not done.
    Left(Trouble),
    /// Nobody knows: its sync failed.
    Asked(Trouble),
}

impl<'a> Writer<'a> {
    pub(crate) fn new(book: &'a Book) -> Self {
        let group = book.group().unwrap_or(0);
        Self { book, owners: HashMap::new(), group }
    }

    /// Carries out `ops`, in one transaction if it can be.
    pub(crate) fn carry_out(&mut self, ops: &[Op]) -> Answers {
        match self.together(ops) {
            Ok(answers) => answers,
            // WR2: whichever of them has met what is damaged.
            Err(Trouble::Corrupt(_)) if ops.len() > 1 => {
                ops.iter().flat_map(|op| self.alone(op)).collect()
            }
            Err(trouble) => vec![Err(trouble); ops.len()],
        }
    }

    fn alone(&mut self, op: &Op) -> Answers {
        self.together(std::slice::from_ref(op)).unwrap_or_else(|trouble| vec![Err(trouble)])
    }

    fn together(&mut self, ops: &[Op]) -> Result<Answers, Trouble> {
        if self.owners.len() > OWNERS_MAX {
            self.owners.clear();
        }
        let group = self.group + 1;
        let ended = self.book.with(|database| self.transact(database, ops, group));
        match ended {
            Ok(Ended::Done(answers, owners)) => {
                self.group = group;
                self.owners.extend(owners);
                Ok(answers)
            }
            Ok(Ended::Left(trouble)) => {
                self.forget();
                Err(trouble)
            }
            Ok(Ended::Asked(trouble)) => {
                self.forget();
                Err(self.settle(trouble, group))
            }
            Err(trouble) => {
                self.forget();
                Err(trouble)
            }
        }
    }

    /// What is said of a transaction whose sync has failed (**RE2**).
    fn settle(&mut self, trouble: Trouble, group: u64) -> Trouble {
        match self.book.open_again().and_then(|()| self.book.group()) {
            Ok(found) => {
                self.group = found;
                // What is read may be on no disk: after a sync that failed, the kernel takes what it has for written.
                let why = format!("{trouble}, and the transaction is there");
                if found == group { Trouble::Unknown(why) } else { trouble }
            }
            Err(again) => Trouble::Unknown(format!("{trouble}, and then: {again}")),
        }
    }

    fn forget(&mut self) {
        self.book.give_up();
        self.owners.clear();
    }

    fn transact(&self, database: &Database, ops: &[Op], group: u64) -> Result<Ended, redb::Error> {
        let transaction = begin_write(database)?;
        let mut answers = Vec::with_capacity(ops.len());
        let mut tables = Tables::open(&transaction, &self.owners)?;
        for op in ops {
            answers.push(tables.carry_out(op)?);
        }
        let (changed, claimed) = tables.finish();
        if !changed {
            transaction.abort()?;
            return Ok(Ended::Done(answers, claimed));
        }
        number(&transaction, group)?;
        match transaction.commit() {
            Ok(()) => Ok(Ended::Done(answers, claimed)),
            Err(error) => {
                let trouble = trouble(&error.into());
                let left = matches!(trouble, Trouble::Corrupt(_));
                Ok(if left { Ended::Left(trouble) } else { Ended::Asked(trouble) })
            }
        }
    }
}

/// The tables in one transaction.
struct Tables<'t> {
    rows: Table<'t, &'static [u8], &'static [u8]>,
    owners: Table<'t, u32, &'static [u8]>,
    tombstones: Table<'t, (u64, &'static [u8]), ()>,
    known: &'t HashMap<u32, Owner>,
    /// Owners that this transaction has read or written.
    claimed: HashMap<u32, Owner>,
    changed: bool,
}

impl<'t> Tables<'t> {
    fn open(
        transaction: &'t WriteTransaction,
        known: &'t HashMap<u32, Owner>,
    ) -> Result<Self, redb::Error> {
        Ok(Self {
            rows: transaction.open_table(ROWS)?,
            owners: transaction.open_table(OWNERS)?,
            tombstones: transaction.open_table(TOMBSTONES)?,
            known,
            claimed: HashMap::new(),
            changed: false,
        })
    }

    /// Whether anything is written, and what was learnt of owners.
    fn finish(self) -> (bool, HashMap<u32, Owner>) {
        (self.changed, self.claimed)
    }

    fn carry_out(&mut self, op: &Op) -> Result<Result<Answer, Trouble>, redb::Error> {
        match op {
            Op::Claim { owner, slots } => self.claim_all(*owner, slots),
            Op::Load { entity, claim } => self.load(&Name::state(entity), Slot::of(entity), *claim),
            Op::Commit(saves) => {
                let outcomes = saves.iter().map(|save| self.save(save));
                let outcomes = outcomes.collect::<Result<Vec<_>, redb::Error>>()?;
                Ok(Ok(Answer::Committed(outcomes)))
            }
            Op::Purge { before_ms } => self.purge(*before_ms).map(Ok),
            Op::Restore { from } => self.restore(from),
            Op::Scan { .. } | Op::Verify { .. } | Op::Backup { .. } => {
                Ok(Err(Trouble::Refused("it is none of the writer's".to_owned())))
            }
        }
    }

    /// The owner of a slot; an error beside it if what is kept of it is damaged.
    fn owner(&mut self, slot: Slot) -> Result<Result<Option<Owner>, Damaged>, redb::Error> {
        let slot = slot.as_u32();
        if let Some(owner) = self.claimed.get(&slot).or_else(|| self.known.get(&slot)) {
            return Ok(Ok(Some(*owner)));
        }
        let Some(found) = self.owners.get(slot)? else { return Ok(Ok(None)) };
        let Some(owner) = judge::owner_in(slot, found.value()) else { return Ok(Err(Damaged)) };
        self.claimed.insert(slot, owner);
        Ok(Ok(Some(owner)))
    }

    fn take(&mut self, slot: Slot, owner: Owner) -> Result<(), redb::Error> {
        let slot = slot.as_u32();
        self.owners.insert(slot, &judge::owner_bytes(slot, owner)[..])?;
        self.claimed.insert(slot, owner);
        self.changed = true;
        Ok(())
    }

    fn claim_all(
        &mut self,
        owner: Owner,
        slots: &[Slot],
    ) -> Result<Result<Answer, Trouble>, redb::Error> {
        let (mut taken, mut refused) = (Vec::new(), Vec::new());
        for slot in slots {
            let Ok(stored) = self.owner(*slot)? else {
                let why =
                    format!("what is kept of the owner of {slot:?} does not fit its checksum");
                return Ok(Err(Trouble::Corrupt(why)));
            };
            match judge::claim(owner, stored) {
                judge::Claim::Take => taken.push(*slot),
                judge::Claim::Held => {}
                judge::Claim::Refused(by) => refused.push((*slot, by)),
            }
        }
        for slot in taken {
            self.take(slot, owner)?;
        }
        Ok(Ok(Answer::Claimed { refused }))
    }

    fn load(
        &mut self,
        name: &Name,
        slot: Slot,
        claim: Option<Owner>,
    ) -> Result<Result<Answer, Trouble>, redb::Error> {
        if let Some(owner) = claim {
            let Ok(stored) = self.owner(slot)? else {
                return Ok(Ok(Answer::Loaded(Found::Corrupt(Damaged::beside(name)))));
            };
            match judge::claim(owner, stored) {
                judge::Claim::Take => self.take(slot, owner)?,
                judge::Claim::Held => {}
                judge::Claim::Refused(by) => return Ok(Ok(Answer::Loaded(Found::Fenced(by)))),
            }
        }
        Ok(Ok(Answer::Loaded(load(&self.rows, name)?)))
    }

    fn save(&mut self, save: &Save) -> Result<Outcome, redb::Error> {
        let name = Name::state(&save.entity);
        let Ok(stored) = self.owner(Slot::of(&save.entity))? else {
            return Ok(Outcome::Corrupt(Damaged::beside(&name)));
        };
        // Read only for its owner, as what a claim refuses costs nothing.
        let found = self.rows.get(name.as_bytes())?;
        let look = |name: &Name| match &found {
            Some(bytes) => Record::look(name, bytes.value()).map(Some),
            None => Ok(None),
        };
        let before = match judge::save(save, stored, look) {
            Ok(before) => before,
            Err(outcome) => return Ok(outcome),
        };
        let absent = found.is_none();
        drop(found);
        if absent && let Found::Corrupt(corrupt) = load(&self.rows, &name)? {
            return Ok(Outcome::Corrupt(corrupt));
        }
        self.changed = true;
        if let Some(state) = &save.state {
            self.put_state(&name, before, state)?;
        }
        for row in &save.rows {
            match row {
                Row::Put(record) => {
                    self.rows.insert(record.name_bytes(), record.as_bytes())?;
                }
                Row::Remove(name) => {
                    self.rows.remove(name.as_bytes())?;
                }
            }
        }
        Ok(Outcome::Saved)
    }

    fn put_state(
        &mut self,
        name: &Name,
        before: Option<Envelope>,
        state: &Record,
    ) -> Result<(), redb::Error> {
        self.rows.insert(name.as_bytes(), state.as_bytes())?;
        if let Some(before) = before.filter(|before| before.tombstone) {
            self.tombstones.remove((before.written_ms, name.as_bytes()))?;
        }
        self.mark(name, &state.envelope())
    }

    /// Keeps where a tombstone is.
    fn mark(&mut self, name: &Name, envelope: &Envelope) -> Result<(), redb::Error> {
        if envelope.tombstone {
            self.tombstones.insert((envelope.written_ms, name.as_bytes()), ())?;
        }
        Ok(())
    }

    fn purge(&mut self, before_ms: u64) -> Result<Answer, redb::Error> {
        let nothing: &[u8] = &[];
        let mut old = Vec::new();
        for mark in self.tombstones.range((0, nothing)..(before_ms, nothing))?.take(PURGE_MAX + 1) {
            let (mark, ()) = mark.map(|(mark, unit)| (mark, unit.value()))?;
            let (written_ms, name) = mark.value();
            old.push((written_ms, name.to_vec()));
        }
        let more = old.len() > PURGE_MAX;
        old.truncate(PURGE_MAX);
        let mut count = 0;
        for (written_ms, bytes) in old {
            let found = self.rows.get(&bytes[..])?;
            let is_old = found.zip(Name::parse(&bytes)).is_some_and(|(found, name)| {
                judge::is_old_tombstone(&name, found.value(), before_ms)
            });
            // A row that cannot be read is left for whoever looks into it.
            if is_old {
                self.rows.remove(&bytes[..])?;
                count += 1;
            }
            self.tombstones.remove((written_ms, &bytes[..]))?;
            self.changed = true;
        }
        Ok(Answer::Purged { count, more })
    }

    fn restore(&mut self, from: &Path) -> Result<Result<Answer, Trouble>, redb::Error> {
        if !self.rows.is_empty()? {
            return Ok(Err(Trouble::Refused("the store is not empty".to_owned())));
        }
        // All of it is known to be whole before any is taken in.
        let checked = archive::Reader::check(from)
            .and_then(|rows| archive::Reader::open(from).map(|reader| (rows, reader)));
        let (rows, mut reader) = match checked {
            Ok(checked) => checked,
            Err(trouble) => return Ok(Err(trouble)),
        };
        self.changed = true;
        loop {
            match reader.next() {
                Ok(Some((name, record))) => {
                    self.rows.insert(name.as_bytes(), record.as_bytes())?;
                    self.mark(&name, &record.envelope())?;
                }
                Ok(None) => return Ok(Ok(Answer::Restored { rows })),
                // It was whole, and is not any more: the transaction ends with it.
                Err(trouble) => return Err(redb::Error::Corrupted(trouble.to_string())),
            }
        }
    }
}

/// What is kept of a slot's owner is not what was written.
struct Damaged;

impl Damaged {
    fn beside(name: &Name) -> Corrupt {
        Corrupt { name: name.clone(), flaw: Flaw::Beside }
    }
}
