//! The thread that reads, from what was last made durable.
//!
//! # Invariants
//! - **RD1** Where a name is not found, its neighbours are looked at. If one lies out of order, or under what is not its name, the
//!   search may have been led astray, and it is not said that there is nothing.
//! - **RD2** A back-up goes on only while nobody waits for anything else.
//!
//! # Not here
//! The file: `book`.

use std::collections::VecDeque;
use std::ops::Bound;

use epicserver_store::limits::GROUP_OPS_MAX;
use epicserver_store::{
    Answer, Corrupt, Flaw, Found, Job, Lane, Name, Op, Page, Range, Record, Slot, Ticket, Trouble,
    Verify, archive, judge,
};
use redb::{ReadTransaction, ReadableDatabase as _, ReadableTable};

use crate::WRITER;
use crate::book::{Book, OWNERS, ROWS, trouble};

/// Rows that a back-up writes at a time.
const STEP: usize = 256;

/// Carries out ops until there are no more.
pub(crate) fn run(mut lane: Lane, book: &Book) {
    let mut backups: VecDeque<Backup> = VecDeque::new();
    while !lane.is_closed() {
        let first = if backups.is_empty() { lane.wait() } else { lane.try_next() };
        let Some(first) = first else {
            // RD2.
            if let Some(backup) = backups.pop_front() {
                backups.extend(backup.go_on());
            }
            continue;
        };
        let mut jobs = vec![first];
        while jobs.len() < GROUP_OPS_MAX
            && let Some(job) = lane.try_next()
        {
            jobs.push(job);
        }
        for (job, read) in read_all(book, jobs) {
            match read {
                Read::Done(answer) => job.ticket.answer(answer),
                Read::ToClaim => lane.pass_on(job, WRITER),
                Read::ToBackUp => backups.extend(Backup::begin(book, job)),
            }
        }
    }
}

/// What comes of an op.
enum Read {
    Done(Result<Answer, Trouble>),
    /// The writer has to do it.
    ToClaim,
    /// It takes long.
    ToBackUp,
}

/// What comes of all `jobs`, from one moment if nothing is damaged.
fn read_all(book: &Book, jobs: Vec<Job>) -> Vec<(Job, Read)> {
    let all = book.with(|database| {
        let transaction = database.begin_read()?;
        jobs.iter().map(|job| read(&transaction, &job.op)).collect::<Result<Vec<_>, _>>()
    });
    match all {
        Ok(read) => jobs.into_iter().zip(read).collect(),
        Err(Trouble::Corrupt(_)) => jobs
            .into_iter()
            .map(|job| {
                let read = read_alone(book, &job.op);
                (job, read)
            })
            .collect(),
        Err(trouble) => {
            jobs.into_iter().map(|job| (job, Read::Done(Err(trouble.clone())))).collect()
        }
    }
}

/// What comes of one that may be what meets the damage.
fn read_alone(book: &Book, op: &Op) -> Read {
    let alone = book.with(|database| read(&database.begin_read()?, op));
    alone.unwrap_or_else(|trouble| match (trouble, op) {
        (Trouble::Corrupt(_), Op::Load { entity, .. }) => {
            let corrupt = Corrupt { name: Name::state(entity), flaw: Flaw::Order };
            Read::Done(Ok(Answer::Loaded(Found::Corrupt(corrupt))))
        }
        (trouble, _) => Read::Done(Err(trouble)),
    })
}

fn read(transaction: &ReadTransaction, op: &Op) -> Result<Read, redb::Error> {
    let done = |answer| Ok(Read::Done(Ok(answer)));
    match op {
        Op::Load { entity, claim } => {
            let name = Name::state(entity);
            if let Some(owner) = *claim {
                let slot = Slot::of(entity).as_u32();
                let owners = transaction.open_table(OWNERS)?;
                let stored = owners.get(slot)?;
                let stored = stored.map(|stored| judge::owner_in(slot, stored.value()));
                let Some(stored) = stored.map_or(Some(None), |stored| stored.map(Some)) else {
                    let corrupt = Corrupt { name, flaw: Flaw::Beside };
                    return done(Answer::Loaded(Found::Corrupt(corrupt)));
                };
                match judge::claim(owner, stored) {
                    judge::Claim::Held => {}
                    judge::Claim::Take => return Ok(Read::ToClaim),
                    judge::Claim::Refused(by) => return done(Answer::Loaded(Found::Fenced(by))),
                }
            }
            done(Answer::Loaded(load(&transaction.open_table(ROWS)?, &name)?))
        }
        Op::Scan { range, after, limit } => {
            let mut page = Page::new(range.clone(), *limit);
            let push = |name: &[u8], bytes: &[u8]| page.push(name, bytes);
            each(transaction, range, after.as_ref(), push)?;
            done(page.finish())
        }
        Op::Verify { after, limit } => {
            let mut page = Verify::new(*limit);
            let push = |name: &[u8], bytes: &[u8]| page.push(name, bytes);
            each(transaction, &Range::All, after.as_ref(), push)?;
            done(page.finish())
        }
        Op::Backup { .. } => Ok(Read::ToBackUp),
        Op::Claim { .. } | Op::Commit(_) | Op::Purge { .. } | Op::Restore { .. } => {
            Ok(Read::Done(Err(Trouble::Refused("it is none of the reader's".to_owned()))))
        }
    }
}

/// What lies under `name`.
pub(crate) fn load(
    rows: &impl ReadableTable<&'static [u8], &'static [u8]>,
    name: &Name,
) -> Result<Found, redb::Error> {
    if let Some(bytes) = rows.get(name.as_bytes())? {
        return Ok(match Record::open(name, bytes.value()) {
            Ok(record) if record.envelope().tombstone => Found::Tombstone(record.envelope()),
            Ok(record) => Found::State(record),
            Err(corrupt) => Found::Corrupt(corrupt),
        });
    }
    // RD1.
    let at = name.as_bytes();
    let damaged = || Ok(Found::Corrupt(Corrupt { name: name.clone(), flaw: Flaw::Order }));
    if let Some(next) = rows.range::<&[u8]>(at..)?.next() {
        let (key, bytes) = next?;
        if key.value() <= at || !in_place(key.value(), bytes.value()) {
            return damaged();
        }
    }
    if let Some(last) = rows.range::<&[u8]>(..at)?.next_back() {
        let (key, bytes) = last?;
        if key.value() >= at || !in_place(key.value(), bytes.value()) {
            return damaged();
        }
    }
    Ok(Found::Nothing)
}

fn in_place(name: &[u8], bytes: &[u8]) -> bool {
    Name::parse(name).is_some() && Record::may_lie_under(name, bytes)
}

/// Gives rows in order, until there are no more or `push` has no room.
fn each(
    transaction: &ReadTransaction,
    range: &Range,
    after: Option<&Name>,
    mut push: impl FnMut(&[u8], &[u8]) -> bool,
) -> Result<(), redb::Error> {
    let (_, end) = range.bounds();
    let end = end.as_ref().map_or(Bound::Unbounded, |end| Bound::Excluded(end.as_bytes()));
    let mut start = range.start(after);
    let table = transaction.open_table(ROWS)?;
    loop {
        let from = start.as_ref().map(Name::as_bytes);
        if let (Bound::Excluded(from) | Bound::Included(from), Bound::Excluded(end)) = (from, end)
            && from >= end
        {
            return Ok(());
        }
        let mut last = None;
        for row in table.range::<&[u8]>((from, end))? {
            let (name, bytes) = row?;
            if !push(name.value(), bytes.value()) {
                return Ok(());
            }
            if range.is_sparse() {
                last = Some(Name::at(name.value()));
                break;
            }
        }
        let Some(last) = last else { return Ok(()) };
        start = range.start(Some(&last));
    }
}

/// A back-up that is being written.
struct Backup {
    ticket: Ticket,
    writer: archive::Writer,
    transaction: ReadTransaction,
    after: Option<Name>,
}

impl Backup {
    fn begin(book: &Book, job: Job) -> Option<Self> {
        let Job { op: Op::Backup { to }, ticket } = job else { return None };
        let begun = archive::Writer::create(&to).and_then(|writer| {
            let transaction = book.with(|database| Ok(database.begin_read()?))?;
            Ok((writer, transaction))
        });
        match begun {
            Ok((writer, transaction)) => Some(Self { ticket, writer, transaction, after: None }),
            Err(trouble) => {
                ticket.answer(Err(trouble));
                None
            }
        }
    }

    /// Writes some rows; gives itself back if there are more.
    fn go_on(mut self) -> Option<Self> {
        let step = std::panic::AssertUnwindSafe(|| self.step());
        let stepped = std::panic::catch_unwind(step).unwrap_or_else(|_shown| {
            Err(Trouble::Corrupt("a page of the file is damaged".to_owned()))
        });
        match stepped {
            Ok(true) => Some(self),
            Ok(false) => {
                self.ticket.answer(self.writer.finish());
                None
            }
            Err(trouble) => {
                self.ticket.answer(Err(trouble));
                None
            }
        }
    }

    /// Whether there are more rows.
    fn step(&mut self) -> Result<bool, Trouble> {
        let (mut rows, mut last, mut failed) = (0, None, None);
        let writer = &mut self.writer;
        let push = |name: &[u8], bytes: &[u8]| {
            failed = writer.push(name, bytes).err();
            last = Some(name.to_vec());
            rows += 1;
            rows < STEP && failed.is_none()
        };
        each(&self.transaction, &Range::All, self.after.as_ref(), push)
            .map_err(|error| trouble(&error))?;
        if let Some(trouble) = failed {
            return Err(trouble);
        }
        self.after = last.map(|name| Name::at(&name));
        Ok(rows == STEP)
    }
}

/// All rows of `range`.
#[cfg(test)]
pub(crate) fn load_all_for_tests(book: &Book, range: &Range) -> Vec<Result<Record, Corrupt>> {
    let all = book.with(|database| {
        let mut page = Page::new(range.clone(), 1000);
        let push = |name: &[u8], bytes: &[u8]| page.push(name, bytes);
        each(&database.begin_read()?, range, None, push)?;
        Ok(page.finish())
    });
    let Ok(Answer::Scanned { rows, .. }) = all else { panic!("{all:?}") };
    rows
}
