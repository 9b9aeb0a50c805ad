//! Our own side of suite `store`: one node of one shard whose entities are saved.
//!
//! Its file lies beside this program, or where `EPIC_STORE_DIR` says: what lies in the folder for temporary files may be in
//! memory only, where to sync costs nothing. What is not set here is as the configuration says.
//!
//! # Invariants
//! - **B10** Floors write as many records at a time as ours did on average, in the rounds so far.
//!
//! # Not here
//! Floors, rounds, verdicts. What is saved: `entities`.

mod entities;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use epicserver::Config;
use epicserver::config::{Secret, StoreKind};
use epicserver::prelude::*;
use hdrhistogram::Histogram;
use redb::{Database, ReadableDatabase as _, TableDefinition};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::case::{Effort, Failure, Round, Sample, made};
use crate::floors::raw_pg::{self, Served};
use entities::{Account, Busy, Bystander, Crowd, Meanwhile, Page, Plain};

/// Entities that change together in `write_behind_rate`: while some are written, as many others change.
pub(crate) const GROUP: u32 = 4096;
/// The same where a server writes them, and where calls to others are timed meanwhile.
pub(crate) const SMALL_GROUP: u32 = 1024;
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

/// How many records ours has made durable at a time, on average (**B10**).
#[derive(Clone, Debug)]
pub(crate) struct Batch(Arc<AtomicU64>, u32);

impl Batch {
    /// At most so many, and that until ours was measured.
    pub(crate) fn new(records: u32) -> Self {
        Self(Arc::new(AtomicU64::new(records.into())), records)
    }

    pub(crate) fn records(&self) -> Result<u32, Failure> {
        Ok(u32::try_from(self.0.load(Ordering::Relaxed))?)
    }

    /// No more than changes at a time.
    fn set(&self, records: u64) {
        self.0.store(records.clamp(1, self.1.into()), Ordering::Relaxed);
    }
}

/// A file of the embedded store that lasts for all rounds of a case.
pub(crate) struct Stored {
    folder: Folder,
    /// Transactions that it takes to load all entities and to save them once, about.
    loading: u64,
    /// What was saved in all rounds, and in how many transactions beside those.
    saved: (u64, u64),
}

impl Stored {
    /// A file that has what `load` saves.
    fn new(
        load: impl AsyncFnOnce(Pool) -> Result<()> + Clone + Send + 'static,
    ) -> Result<Self, Failure> {
        let mut stored = Self { folder: Folder::new()?, loading: 0, saved: (0, 0) };
        stored.run(load.clone())??;
        let before = stored.transactions()?;
        stored.run(load)??;
        stored.loading = stored.transactions()? - before;
        Ok(stored)
    }

    fn config(&self) -> Result<Config, Failure> {
        let mut config = of_one_shard(&self.folder)?;
        config.store.kind = StoreKind::Redb;
        config.store.path = self.folder.file("store.redb");
        Ok(config)
    }

    /// Runs `task` on a node, and stops that in order.
    fn run<R: Send + 'static>(
        &self,
        task: impl AsyncFnOnce(Pool) -> R + Send + 'static,
    ) -> Result<R, Failure> {
        run_node(&self.config()?, task)
    }

    /// The same with a task that says how much it has saved once all was loaded, of which `batch` learns (**B10**).
    fn measure(
        &mut self,
        batch: &Batch,
        task: impl AsyncFnOnce(Pool) -> Result<(Sample, u64), Failure> + Send + 'static,
    ) -> Result<Sample, Failure> {
        let before = self.transactions()?;
        let (sample, count) = self.run(task)??;
        let transactions = (self.transactions()? - before).saturating_sub(self.loading);
        self.saved.0 += count;
        self.saved.1 += transactions;
        batch.set(self.saved.0 / self.saved.1.max(1));
        Ok(sample)
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

/// A node of one shard, and of nothing else yet.
fn of_one_shard(folder: &Folder) -> Result<Config, Failure> {
    let mut config = Config::load(None)?;
    config.node.shards = NonZeroUsize::new(1);
    config.runtime.run_dir = Some(folder.file("run"));
    Ok(config)
}

/// Runs `task` on a node of these entities, and stops that in order.
fn run_node<R: Send + 'static>(
    config: &Config,
    task: impl AsyncFnOnce(Pool) -> R + Send + 'static,
) -> Result<R, Failure> {
    let builder = Node::builder().config(config).entity::<Page>().entity::<Account>();
    let builder = builder.entity::<Crowd>().entity::<Plain>().entity::<Bystander>();
    let node = builder.entity::<Busy>().start()?;
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
    let (one, other) = pages.split_at(pages.len() / 2);
    let both = u32::try_from(pages.len())?;
    let (mut laps, mut count) = (round.laps(), 0);
    while laps.begin() {
        for (now, before) in [(one, other), (other, one)] {
            for page in now {
                page.write().await?;
            }
            // They are saved in the order in which they have changed, and that of these has long begun.
            before.last().ok_or("a group has a page")?.saved().await?;
        }
        laps.end(both);
        count += u64::from(both);
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
        let stored =
            made(&mut stored, || Stored::new(async |pool| load(&pages(&pool, 2 * GROUP)).await))?;
        stored.measure(&batch, async move |pool| {
            let pages = pages(&pool, 2 * GROUP);
            load(&pages).await?;
            save_in_turn(&pages, &round).await
        })
    }
}

/// Calls a second whose replies wait until what they have changed is durable.
pub(crate) fn every_turn(batch: &Batch) -> impl FnMut(&Round) -> Result<Sample, Failure> + use<> {
    let batch = batch.clone();
    let mut stored = None;
    move |round| {
        use_both_cpus(round)?;
        let round = longer(round);
        let stored = made(&mut stored, || {
            Stored::new(async |pool| pool.get::<Crowd>(0).once(CALLERS).await)
        })?;
        stored.measure(&batch, async move |pool| {
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
            Ok((laps.rate()?, count))
        })
    }
}

/// Nanoseconds of a call to an entity that is stored and not in memory. Its slot was claimed before.
pub(crate) fn cold_call() -> impl FnMut(&Round) -> Result<Sample, Failure> {
    let mut stored = None;
    move |round| {
        use_both_cpus(round)?;
        let round = *round;
        let stored =
            made(&mut stored, || Stored::new(async |pool| load(&pages(&pool, COLD)).await))?;
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

/// The same on a server of PostgreSQL, which lasts for all rounds of a case.
pub(crate) fn pg_write_behind(
    server: &Served,
    batch: &Batch,
) -> impl FnMut(&Round) -> Result<Sample, Failure> + use<> {
    let (server, batch) = (server.clone(), batch.clone());
    move |round| {
        let database = server.database()?;
        use_both_cpus(round)?;
        let round = longer(round);
        let folder = Folder::new()?;
        let mut config = of_one_shard(&folder)?;
        config.store.kind = StoreKind::Postgres;
        config.store.servers = vec![Secret::new(&database.directly())];
        let measured = run_node(&config, async move |pool| {
            let pages = pages(&pool, 2 * SMALL_GROUP);
            load(&pages).await?;
            save_in_turn(&pages, &round).await
        });
        let (sample, _) = measured??;
        batch.set(raw_pg::rows_a_transaction(&database, "epicserver.record")?);
        Ok(sample)
    }
}

/// Calls of a watch are this far apart: a shard that has nothing else to do does not sleep meanwhile.
const PERIOD: Duration = Duration::from_micros(250);
/// What changes at a modest rate: 2,000 entities a second.
const MODEST: (u32, Duration) = (8, Duration::from_millis(4));

/// How fast entities change while somebody calls another one.
#[derive(Clone, Debug)]
pub(crate) enum Pace {
    /// 2,000 a second.
    Modest,
    /// As fast as they can be saved; how long that takes a group, in microseconds, is kept for what is measured beside it.
    Full(Arc<AtomicU64>),
}

impl Pace {
    pub(crate) fn full() -> Self {
        Self::Full(Arc::new(AtomicU64::new(15_000)))
    }

    fn saved(&self) -> Meanwhile {
        match self {
            Self::Modest => Meanwhile::Pages(MODEST.0, MODEST.1),
            Self::Full(_) => Meanwhile::Groups(SMALL_GROUP),
        }
    }

    fn unsaved(&self) -> Meanwhile {
        match self {
            Self::Modest => Meanwhile::Plain(MODEST.0, MODEST.1),
            Self::Full(us) => {
                Meanwhile::Plain(SMALL_GROUP, Duration::from_micros(us.load(Ordering::Relaxed)))
            }
        }
    }

    fn learn(&self, took: Duration, groups: u64) {
        if let Self::Full(us) = self {
            let each = took.as_micros() / u128::from(groups.max(1));
            us.store(u64::try_from(each).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }
}

/// The slowest in a hundred of calls to an entity that is not saved, in nanoseconds, while others of its shard are.
pub(crate) fn call_beside_saving(
    pace: &Pace,
) -> impl FnMut(&Round) -> Result<Sample, Failure> + use<> {
    let pace = pace.clone();
    let mut stored = None;
    move |round| {
        use_both_cpus(round)?;
        let (round, meanwhile) = (longer(round), pace.saved());
        let stored = made(&mut stored, || {
            Stored::new(async |pool| load(&pages(&pool, 2 * SMALL_GROUP)).await)
        })?;
        let measured = stored.run(async move |pool| {
            load(&pages(&pool, 2 * SMALL_GROUP)).await?;
            watch(&pool, meanwhile, &round).await
        });
        let (sample, took, groups) = measured??;
        pace.learn(took, groups);
        Ok(sample)
    }
}

/// The same while as many others change that are not saved, on a node without a store.
pub(crate) fn call_without_saving(
    pace: &Pace,
) -> impl FnMut(&Round) -> Result<Sample, Failure> + use<> {
    let pace = pace.clone();
    move |round| {
        use_both_cpus(round)?;
        let (round, meanwhile) = (longer(round), pace.unsaved());
        let folder = Folder::new()?;
        let config = of_one_shard(&folder)?;
        let measured = run_node(&config, async move |pool| watch(&pool, meanwhile, &round).await);
        Ok(measured??.0)
    }
}

/// Calls at even intervals. How late answers come counts from when each call was to be made, so one that is slow does not hide
/// those that would have been made meanwhile.
async fn watch(
    pool: &Pool,
    meanwhile: Meanwhile,
    round: &Round,
) -> Result<(Sample, Duration, u64), Failure> {
    let (one, other) = (pool.get::<Bystander>(0), pool.get::<Bystander>(1));
    let busy = pool.get::<Busy>(0);
    let (kind, count, pause_us) = meanwhile.parts();
    let period = u64::try_from(PERIOD.as_micros())?;
    let calls = |time: Duration| u32::try_from(time.as_micros() / PERIOD.as_micros());
    let began = Instant::now();
    busy.begin(kind, count, pause_us).await?;
    one.watch(other.clone(), calls(round.effort.warm_up)?, period).await?;
    let late = one.watch(other, calls(round.effort.measured)?, period).await?;
    let rounds = busy.end().await?;
    let mut latencies = Histogram::new_with_max(60_000_000_000, 3)?;
    late.into_iter().for_each(|nanos| latencies.saturating_record(nanos));
    let value = latencies.value_at_quantile(0.99) as f64;
    Ok((Sample { value, latencies: Some(latencies) }, began.elapsed(), rounds))
}
