//! redb by hand: records of the same size under keys of the same form, in transactions of as many as ours.
//!
//! One thread, one table, each record written only after its version was read and compared; each commit allows quick repair, as
//! ours do, so both pay for two syncs. The file is kept between rounds. Nothing is encoded or checksummed but what redb does.
//!
//! # Not here
//! Owners, names that are checked, anybody who waits for an answer.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};

use crate::case::{Failure, Round, Sample, made};
use crate::ours::store::{Batch, Folder, longer, use_both_cpus};

/// As long as ours: the name of an entity that has a number.
pub(crate) const KEY: usize = 25;
/// As long as ours: an envelope, the name, and 1 KiB.
pub(crate) const RECORD: usize = 64 + 32 + 1024;

const RECORDS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("records");
/// Records written together before anything is measured.
const FILL: u32 = 8192;
/// How long a caller spins, and then lets others run, before it would sleep: as a shard does under a hypervisor.
const SPIN: Duration = Duration::from_micros(50);
const CACHE_BYTES: usize = 64 << 20;

/// The key of the record numbered `number`: the bytes that ours differ in come in the same order.
pub(crate) fn key(number: u32) -> [u8; KEY] {
    let mut key = [7; KEY];
    key[KEY - 8..].copy_from_slice(&u64::from(number).to_le_bytes());
    key
}

/// Makes a record of `version`.
pub(crate) fn fill(record: &mut [u8; RECORD], version: u64) {
    record.fill(version.to_le_bytes()[0]);
    record[..8].copy_from_slice(&version.to_le_bytes());
}

fn version(record: &[u8]) -> Result<u64, Failure> {
    Ok(u64::from_le_bytes(*record.first_chunk().ok_or("a record is too short")?))
}

/// A file that has so many records of version 1.
struct File {
    database: Database,
    /// The versions that the writer knows.
    versions: Vec<u64>,
    next: u32,
    /// Removed last.
    _folder: Folder,
}

impl File {
    fn new(records: u32) -> Result<Self, Failure> {
        let folder = Folder::new()?;
        let database = create(&folder.file("raw.redb"))?;
        let mut file =
            Self { database, versions: vec![0; records as usize], next: 0, _folder: folder };
        for _ in 0..records.div_ceil(FILL) {
            file.write(FILL.min(records))?;
        }
        Ok(file)
    }

    /// One durable transaction of `batch` records.
    fn write(&mut self, batch: u32) -> Result<(), Failure> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_quick_repair(true);
        {
            let mut table = transaction.open_table(RECORDS)?;
            let mut record = [0; RECORD];
            for _ in 0..batch {
                let known = &mut self.versions[self.next as usize];
                let key = key(self.next);
                let found = table.get(&key[..])?.map(|found| version(found.value())).transpose()?;
                if found.unwrap_or(0) != *known {
                    return Err("somebody else has written a record".into());
                }
                *known += 1;
                fill(&mut record, *known);
                table.insert(&key[..], &record[..])?;
                self.next = (self.next + 1) % u32::try_from(self.versions.len())?;
            }
        }
        Ok(transaction.commit()?)
    }
}

fn create(path: &Path) -> Result<Database, Failure> {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    Ok(builder.create(path)?)
}

/// Records a second, of `records` that are written in turn.
pub(crate) fn rate(
    records: u32,
    batch: &Batch,
) -> impl FnMut(&Round) -> Result<Sample, Failure> + use<> {
    let batch = batch.clone();
    let mut file = None;
    move |round| {
        let file = made(&mut file, || File::new(records))?;
        let batch = batch.records()?.min(records);
        let mut laps = longer(round).laps();
        while laps.begin() {
            file.write(batch)?;
            laps.end(batch);
        }
        laps.rate()
    }
}

/// What a caller and the thread that reads have between them.
#[derive(Default)]
struct Between {
    asked: Mutex<VecDeque<Option<u32>>>,
    sleeps: Condvar,
    answer: Mutex<Option<Vec<u8>>>,
    has_answer: AtomicBool,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Between {
    /// Asks for a record; for the end by `None`.
    fn ask(&self, number: Option<u32>) {
        lock(&self.asked).push_back(number);
        self.sleeps.notify_one();
    }

    /// Sleeps until something is asked, as the threads of ours do.
    fn next(&self) -> Option<u32> {
        let mut asked = lock(&self.asked);
        loop {
            if let Some(next) = asked.pop_front() {
                return next;
            }
            asked = self.sleeps.wait(asked).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn serve(&self, database: &Database) -> Result<(), Failure> {
        while let Some(number) = self.next() {
            let table = database.begin_read()?.open_table(RECORDS)?;
            let found = table.get(&key(number)[..])?.map(|found| found.value().to_vec());
            *lock(&self.answer) = found;
            self.has_answer.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Waits as a shard does.
    fn take(&self) -> Option<Vec<u8>> {
        let began = Instant::now();
        let mut looks = 0_u32;
        while !self.has_answer.swap(false, Ordering::Acquire) {
            looks += 1;
            if looks.is_multiple_of(32) && began.elapsed() > SPIN {
                thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
        lock(&self.answer).take()
    }
}

/// Nanoseconds until another thread has read one of `records` and this one has it.
pub(crate) fn get(records: u32) -> impl FnMut(&Round) -> Result<Sample, Failure> {
    let mut file = None;
    move |round| {
        let file = made(&mut file, || File::new(records))?;
        let between = Between::default();
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                use_both_cpus(round)?;
                between.serve(&file.database)
            });
            let mut laps = round.laps();
            let mut found = Ok(());
            for number in (0..records).cycle() {
                if found.is_err() || reader.is_finished() || !laps.begin() {
                    break;
                }
                between.ask(Some(number));
                found = between.take().map(drop).ok_or("a record is not there");
                laps.end_one()?;
            }
            between.ask(None);
            reader.join().map_err(|_| "the reader panicked")??;
            found?;
            laps.time()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_record_has_the_version_of_its_last_writing() {
        let mut file = File::new(10).unwrap();
        file.write(4).unwrap();
        assert_eq!(file.versions, [2, 2, 2, 2, 1, 1, 1, 1, 1, 1]);
        file.versions[4] = 7;
        assert!(file.write(1).is_err(), "what is stored is another version");
    }
}
