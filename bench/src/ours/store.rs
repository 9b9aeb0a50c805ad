//! Our own side of suite `store`: one node of one shard whose entities are saved.
//!
//! Its file lies beside this program, or where `EPIC_STORE_DIR` says: what lies in the folder for temporary files may be in
//! memory only, where to sync costs nothing. What is not set here is as the configuration says.
//!
//! # Invariants
//! - **B8** Floors write as many records at a time as ours did, in the last round in which ours were measured.
//!
//! # Not here
//! Floors, rounds, verdicts. What is saved: `entities`.

mod entities;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use epicserver::Config;
use epicserver::config::StoreKind;
use epicserver::prelude::*;
use redb::{Database, ReadableDatabase as _, TableDefinition};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::case::{Effort, Failure, Round, Sample};
use entities::{Account, Crowd, Page};

/// Entities that change together in `write_behind_rate`: while some are written, as many others change.
pub(crate) const GROUP: u32 = 4096;
/// Callers in `every_turn_rate`, each of an entity of its own.
pub(crate) const CALLERS: u32 = 1000;
/// Entities that are called in turn in `cold_call`.
pub(crate) const COLD: u32 = 1024;
/// Calls between two looks at the clock in `every_turn_rate`.
const LAP_CALLS: u32 = 4 * CALLERS;
/// Calls that are under way at a time before anything is measured.
const AT_ONCE: usize = 1024;
/// How many times as long a round is: a transaction takes tens of milliseconds.
const ROUND: u32 = 4;

/// A round that is long enough for a disk.
pub(crate) fn longer(round: &Round) -> Round {
    let effort = round.effort;
    Round { effort: Effort { measured: effort.measured * ROUND, ..effort }, ..*round }
}

/// A folder of one subject, removed with all that is in it.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Result<Self, Failure> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let program = std::env::current_exe()?;
        let beside = program.parent().map(Path::to_owned).ok_or("the program lies nowhere")?;
        let parent = std::env::var_os("EPIC_STORE_DIR").map_or(beside, PathBuf::from);
        let path = parent.join(format!("epicserver-bench-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self(path))
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Left behind it harms nobody: its name is not used again.
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// How many records ours has made durable at a time, on average (**B8**).
#[derive(Clone, Debug)]
pub(crate) struct Batch(Arc<AtomicU64>);

impl Batch {
    /// Until ours was measured it is `records`.
    pub(crate) fn new(records: u32) -> Self {
        Self(Arc::new(AtomicU64::new(records.into())))
    }

    pub(crate) fn records(&self) -> Result<u32, Failure> {
        Ok(u32::try_from(self.0.load(Ordering::Relaxed))?)
    }

    pub(crate) fn set(&self, records: u64) {
        self.0.store(records.max(1), Ordering::Relaxed);
    }
}

/// A file of the embedded store that lasts for all rounds of a case.
pub(crate) struct Stored {
    folder: Folder,
    /// Transactions that it takes to load all entities and to save them once.
    loading: u64,
}

impl Stored {
    /// A file that has what `load` saves.
    fn new(load: impl AsyncFnOnce(Pool) -> Result<()> + Send + 'static) -> Result<Self, Failure> {
        let mut stored = Self { folder: Folder::new()?, loading: 0 };
        stored.run(load)??;
        stored.loading = stored.transactions()?;
        Ok(stored)
    }

    fn config(&self) -> Result<Config, Failure> {
        let mut config = Config::load(None)?;
        config.store.kind = StoreKind::Redb;
        config.store.path = self.folder.file("store.redb");
        config.node.shards = NonZeroUsize::new(1);
        config.runtime.run_dir = Some(self.folder.file("run"));
        Ok(config)
    }

    /// Runs `task` on a node, and stops that in order.
    fn run<R: Send + 'static>(
        &self,
        task: impl AsyncFnOnce(Pool) -> R + Send + 'static,
    ) -> Result<R, Failure> {
        run_node(&self.config()?, task)
    }

    /// The number of the last transaction that the file has: the store keeps it there.
    fn transactions(&self) -> Result<u64, Failure> {
        const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
        let database = Database::open(self.folder.file("store.redb"))?;
        let number = database.begin_read()?.open_table(META)?.get("group")?;
        let number = number.ok_or("the store does not number its transactions")?;
        Ok(u64::from_le_bytes(number.value().try_into()?))
    }
}

/// Runs `task` on a node of these entities, and stops that in order.
fn run_node<R: Send + 'static>(
    config: &Config,
    task: impl AsyncFnOnce(Pool) -> R + Send + 'static,
) -> Result<R, Failure> {
    let builder = Node::builder().entity::<Page>().entity::<Account>().entity::<Crowd>();
    let node = builder.config(config).start()?;
    let result = node.run(task)?;
    if !node.stop() {
        return Err("calls were still under way at the end".into());
    }
    Ok(result)
}

/// The shard pins itself, and the store's threads run where there is room.
pub(crate) fn use_both_cpus(round: &Round) -> Result<(), Failure> {
    let mut both = CpuSet::new();
    round.cpus.iter().for_each(|cpu| both.set(cpu.id));
    Ok(sched_setaffinity(None, &both)?)
}

fn pages(pool: &Pool, count: u32) -> Vec<Ref<Page>> {
    (0..u64::from(count)).map(|key| pool.get(key)).collect()
}

/// Has all pages in memory, changed and saved.
async fn load(pages: &[Ref<Page>]) -> Result<()> {
    for some in pages.chunks(AT_ONCE) {
        for call in some.iter().map(|page| page.write()).collect::<Vec<_>>() {
            call.await?;
        }
    }
    for some in pages.chunks(AT_ONCE) {
        for call in some.iter().map(|page| page.saved()).collect::<Vec<_>>() {
            call.await?;
        }
    }
    Ok(())
}

/// Entities a second that are made durable while as many others change.
async fn save_in_turn(pages: &[Ref<Page>], round: &Round) -> Result<(Sample, u64), Failure> {
    let (one, other) = pages.split_at(GROUP as usize);
    let (mut laps, mut count) = (round.laps(), 0);
    while laps.begin() {
        for (now, before) in [(one, other), (other, one)] {
            for page in now {
                page.write().await?;
            }
            // They are saved in the order in which they have changed, and that of these has long begun.
            before.last().ok_or("a group has a page")?.saved().await?;
        }
        laps.end(2 * GROUP);
        count += u64::from(2 * GROUP);
    }
    Ok((laps.rate()?, count))
}

/// Entities a second that are saved some time after they have changed.
pub(crate) fn write_behind(batch: &Batch) -> impl FnMut(&Round) -> Result<Sample, Failure> + use<> {
    let batch = batch.clone();
    let mut stored = None;
    move |round| {
        use_both_cpus(round)?;
        let round = longer(round);
        let stored = match &mut stored {
            Some(stored) => stored,
            empty @ None => {
                empty.insert(Stored::new(async |pool| load(&pages(&pool, 2 * GROUP)).await)?)
            }
        };
        let before = stored.transactions()?;
        let measured = stored.run(async move |pool| {
            let pages = pages(&pool, 2 * GROUP);
            load(&pages).await?;
            save_in_turn(&pages, &round).await
        });
        let (sample, count) = measured??;
        let transactions = stored.transactions()? - before;
        batch.set(count / transactions.saturating_sub(stored.loading).max(1));
        Ok(sample)
    }
}

/// Calls a second whose replies wait until what they have changed is durable.
pub(crate) fn every_turn(batch: &Batch) -> impl FnMut(&Round) -> Result<Sample, Failure> + use<> {
    let batch = batch.clone();
    let mut stored = None;
    move |round| {
        use_both_cpus(round)?;
        let round = longer(round);
        let stored = match &mut stored {
            Some(stored) => stored,
            empty @ None => {
                empty.insert(Stored::new(async |pool| pool.get::<Crowd>(0).once(CALLERS).await)?)
            }
        };
        let before = stored.transactions()?;
        let measured = stored.run(async move |pool| {
            let crowd = pool.get::<Crowd>(0);
            crowd.once(CALLERS).await?;
            crowd.begin(CALLERS).await?;
            let (mut laps, mut count) = (round.laps(), 0);
            while laps.begin() {
                crowd.more(LAP_CALLS).await?;
                laps.end(LAP_CALLS);
                count += u64::from(LAP_CALLS);
            }
            crowd.end().await?;
            Ok::<_, Failure>((laps.rate()?, count))
        });
        let (sample, count) = measured??;
        let transactions = stored.transactions()? - before;
        batch.set(count / transactions.saturating_sub(stored.loading).max(1));
        Ok(sample)
    }
}

/// Nanoseconds of a call to an entity that is stored and not in memory. Its slot was claimed before.
pub(crate) fn cold_call() -> impl FnMut(&Round) -> Result<Sample, Failure> {
    let mut stored = None;
    move |round| {
        use_both_cpus(round)?;
        let round = *round;
        let stored = match &mut stored {
            Some(stored) => stored,
            empty @ None => {
                empty.insert(Stored::new(async |pool| load(&pages(&pool, COLD)).await)?)
            }
        };
        stored.run(async move |pool| {
            let pages = pages(&pool, COLD);
            load(&pages).await?;
            for page in &pages {
                page.leave().await?;
            }
            let mut laps = round.laps();
            for page in pages.iter().cycle() {
                if !laps.begin() {
                    break;
                }
                page.read().await?;
                laps.end_one()?;
                page.leave().await?;
            }
            laps.time()
        })?
    }
}
