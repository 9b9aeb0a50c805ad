//! A node's threads: one a shard, pinned to a claimed CPU, joined by rings.
//!
//! # Invariants
//! - **H6** A thread of ours that panics stops the process: the shard's state cannot be trusted.
//! - **H7** A node that is shut down has answered every call that it took, or refused it.
//!
//! # Not here
//! Which other nodes there are, and who owns what: whoever holds the host tells it.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use epicserver_entity::Registry;
use epicserver_node::{Config, Message, RootTask, Saves, Shard, WakeSink};
use epicserver_store::{Keeper, TooMany};
use epicserver_wire::{NodeId, ShardId, Time, limits};
use rustix::time::{ClockId, clock_gettime};

use crate::cpus::{Allowed, Claim, ClaimError, CpusError, RunDir, RunDirError, Tenancy};
use crate::depot::Depot;
use crate::idle::{Crowd, Host as Machine, IdleError, Mode, Policy};
use crate::inlet::{Control, Door, Inlets, Probe};
use crate::io::{IoError, IoMode, IoOptions, IoSeat, IoThread, Opening, Outlet, Wires, Wiring};
use crate::park::{ParkError, Parker, parker};
use crate::ring::{Consumer, Producer, ring};
use crate::telling::{Lease, Telling};
use crate::worker::{Peer, Worker, random_bytes};

/// How a node's threads are set up.
#[derive(Debug)]
pub struct Options {
    /// How many shards; by default one for each physical core that the process may use.
    pub shards: Option<NonZeroUsize>,
    /// The entity types that the node serves.
    pub registry: Arc<Registry>,
    /// How idle shards wait.
    pub idle_mode: Mode,
    /// Bytes that the activations of one shard may take.
    pub memory_bytes_max: u64,
    /// How long an activation may be idle where its type does not say.
    pub idle: Option<Duration>,
    /// Whether same-shard calls may run inside their caller's turn.
    pub direct: bool,
    /// Whether to claim CPUs and pin the threads to them.
    pub pin: bool,
    /// Where nodes of this host claim their CPUs; [`RunDir::open`] chooses where none is named.
    pub run_dir: Option<PathBuf>,
    /// How it reaches other nodes, if it does.
    pub io: Option<IoOptions>,
    /// Whether there may be other nodes: then calls wait until [`Inlets::view`] was called.
    pub fabric: bool,
    /// Where entities are saved, if they are.
    pub store: Option<Arc<dyn Keeper>>,
    /// Bytes of states that may be changed and not saved before changes wait, of all shards together.
    pub unsaved_bytes_max: u64,
    /// What tells the chains of its shards apart from those of other nodes: a random number.
    pub origin: u32,
}

/// Why a node could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The CPUs that the process may use cannot be read.
    #[error(transparent)]
    Cpus(#[from] CpusError),
    /// The run directory cannot be used.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// CPUs cannot be claimed.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The idle policy cannot see the machine.
    #[error(transparent)]
    Idle(#[from] IdleError),
    /// A thread cannot be given a bell.
    #[error(transparent)]
    Park(#[from] ParkError),
    /// A thread cannot be started.
    #[error("cannot start the thread of shard {shard}")]
    Thread {
        /// Which shard.
        shard: usize,
        /// Why.
        source: std::io::Error,
    },
    /// Other nodes cannot be reached.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The thread of the links cannot be started.
    #[error("cannot start the I/O thread")]
    IoThread(#[source] std::io::Error),
    /// The store serves no further shards.
    #[error(transparent)]
    Store(#[from] TooMany),
    /// More shards than a node may have.
    #[error("a node has at most 65535 shards, not {shards}")]
    TooManyShards {
        /// How many were asked for.
        shards: usize,
    },
}

/// A node's running threads.
#[derive(Debug)]
pub struct Host {
    inlets: Inlets,
    threads: Vec<JoinHandle<()>>,
    wires: Option<Arc<Wires>>,
    /// The thread of the links, if they have one.
    io_thread: Option<IoThread>,
}

/// Stops the process if the thread that holds it panics (**H6**): others would wait for it for ever.
#[derive(Debug)]
pub struct StopOnPanic;

impl Drop for StopOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(
                "a thread of the runtime broke one of its invariants; the process stops"
            );
            std::process::abort();
        }
    }
}

/// What one thread needs that may cross to it; the shard itself is made on its own thread.
struct Seat {
    config: Config,
    door: Arc<Door>,
    parker: Parker,
    peers: Vec<Peer>,
    policy: Policy,
    crowd: Option<Crowd>,
    crowded: bool,
    claim: Option<Claim>,
    outlet: Option<Outlet>,
    /// Opens the links, if this thread is to drive them.
    opening: Option<Opening>,
    telling: Arc<Telling>,
    depot: Option<Depot>,
}

/// The CPUs of as many threads as `wanted`; none if they are not to be pinned.
fn claims(
    options: &Options,
    allowed: &Allowed,
    wanted: NonZeroUsize,
) -> Result<VecDeque<Claim>, StartError> {
    if !options.pin {
        return Ok(VecDeque::new());
    }
    let run_dir = options.run_dir.as_deref().map_or_else(RunDir::open, RunDir::open_at)?;
    Ok(run_dir.claim(allowed, wanted)?.into())
}

impl Host {
    /// Starts the threads.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(mut options: Options) -> Result<Self, StartError> {
        let allowed = Allowed::detect()?;
        let count = options.shards.unwrap_or_else(|| allowed.shards_default());
        let shards = u16::try_from(count.get());
        let shards = shards.map_err(|_| StartError::TooManyShards { shards: count.get() })?;
        let dedicated = options.io.as_ref().is_some_and(|io| io.mode == IoMode::Dedicated);
        let wanted = count.saturating_add(usize::from(dedicated));
        let mut claims = claims(&options, &allowed, wanted)?;
        let shared = |claim: Option<&Claim>| {
            matches!(claim.map(Claim::tenancy), Some(Tenancy::Shared { .. }))
                || allowed.quota().is_some_and(|quota| quota < wanted)
        };
        let policy = Policy::new(options.idle_mode, Machine::detect()?);
        let (mut doors, mut parkers) = (Vec::new(), Vec::new());
        for _ in 0..shards {
            let (parker, unparker) = parker()?;
            doors.push(Arc::new(Door::new(unparker)));
            parkers.push(parker);
        }
        let (io_parker, io_unparker) = parker()?;
        let mut host = Self {
            inlets: Inlets::new(doors.clone()),
            threads: Vec::new(),
            wires: None,
            io_thread: None,
        };
        let (mut outlets, mut fused, mut opened) = (VecDeque::new(), None, None);
        if let Some(io) = options.io.take() {
            let unparker = if dedicated { &io_unparker } else { doors[0].unparker() };
            let Wiring { opening, outlets: ends, wires, opened: told } =
                Wiring::new(io, &doors, unparker);
            (outlets, opened, host.wires) = (ends.into(), Some(told), Some(wires));
            if dedicated {
                let claim = claims.pop_back();
                let crowded = shared(claim.as_ref());
                let (parker, unparker) = (io_parker, io_unparker.clone());
                let crowd = Crowd::open().ok();
                let seat = IoSeat { parker, unparker, policy, crowd, crowded, claim };
                host.io_thread =
                    Some(IoThread::start(opening, seat).map_err(StartError::IoThread)?);
            } else {
                fused = Some(opening);
            }
        }
        let rings = mesh(&doors);
        for (index, (parker, peers)) in parkers.into_iter().zip(rings).enumerate() {
            let claim = claims.pop_front();
            let door = Arc::clone(&doors[index]);
            let seat = Seat {
                config: config(&options, index, shards, &door),
                door,
                parker,
                peers,
                policy,
                crowd: Crowd::open().ok(),
                crowded: shared(claim.as_ref()),
                claim,
                outlet: outlets.pop_front(),
                opening: fused.take(),
                telling: Arc::clone(host.inlets.telling()),
                depot: Depot::of(&options, &doors[index])?,
            };
            let thread = std::thread::Builder::new().name(format!("epic-shard-{index}"));
            let thread = thread.spawn(move || work(seat));
            let thread = thread.map_err(|source| StartError::Thread { shard: index, source })?;
            host.threads.push(thread);
        }
        // H12. A thread that ended without a word has stopped the process.
        match opened.map(|opened| opened.recv()) {
            Some(Ok(Err(error))) => Err(error.into()),
            Some(Ok(Ok(())) | Err(_)) | None => Ok(host),
        }
    }

    /// The way to and from the links, if the node has any.
    #[must_use]
    pub fn wires(&self) -> Option<&Arc<Wires>> {
        self.wires.as_ref()
    }

    /// How many shards a node has that was asked for so many.
    ///
    /// # Errors
    /// If the CPUs that the process may use cannot be read, or there are too many.
    pub fn shards_of(asked: Option<NonZeroUsize>) -> Result<u16, StartError> {
        let count = match asked {
            Some(count) => count,
            None => Allowed::detect()?.shards_default(),
        };
        u16::try_from(count.get()).map_err(|_| StartError::TooManyShards { shards: count.get() })
    }

    /// The way in for other threads.
    #[must_use]
    pub fn inlets(&self) -> &Inlets {
        &self.inlets
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.inlets.len()
    }

    /// Runs a task that belongs to no entity, on the first shard.
    pub fn run_root(&self, task: RootTask) {
        self.inlets.put(0, Control::Root(task));
    }

    /// Takes no more calls from outside, and waits for at most `wait` until what is under way is done. Blocks. Says
    /// whether it was done in time.
    pub fn drain(&self, wait: Duration) -> bool {
        for shard in 0..self.inlets.len() {
            self.inlets.put(shard, Control::Stop);
        }
        self.wait_for_quiet(Instant::now() + wait)
    }

    /// Collects every activation with its hook, and ends the threads (**H7**): what was not [drained](Self::drain) is
    /// refused. Blocks.
    pub fn shut_down(mut self) {
        self.close();
    }

    /// Quiet twice in a row with as many messages taken as given, and none between: so none was
    /// under way at the first look (Mattern, *Algorithms for distributed termination detection*, 1987).
    fn wait_for_quiet(&self, until: Instant) -> bool {
        let mut before = None;
        while Instant::now() < until {
            let probes = self.probe();
            let quiet = probes.iter().all(|probe| probe.quiet);
            let sent: u64 = probes.iter().map(|probe| probe.sent).sum();
            let received: u64 = probes.iter().map(|probe| probe.received).sum();
            if quiet && sent == received && before == Some(sent) {
                return true;
            }
            before = (quiet && sent == received).then_some(sent);
            std::thread::yield_now();
        }
        false
    }

    fn probe(&self) -> Vec<Probe> {
        let (answer, answers) = bounded(self.inlets.len());
        for shard in 0..self.inlets.len() {
            self.inlets.put(shard, Control::Probe(answer.clone()));
        }
        drop(answer);
        answers.iter().collect()
    }

    fn close(&mut self) {
        for shard in 0..self.inlets.len() {
            self.inlets.put(shard, Control::Close);
        }
        for thread in self.threads.drain(..) {
            // A thread of ours that panicked has stopped the process already.
            drop(thread.join());
        }
        if let Some(io_thread) = self.io_thread.take() {
            io_thread.stop();
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if !self.threads.is_empty() || self.io_thread.is_some() {
            self.close();
        }
    }
}

fn config(options: &Options, index: usize, shards: u16, door: &Arc<Door>) -> Config {
    let number = u16::try_from(index).unwrap_or(u16::MAX);
    let seed = random_bytes(8).try_into().map_or(0, u64::from_le_bytes);
    Config {
        shard: ShardId::new(number),
        shards,
        fabric: options.fabric,
        origin: options.origin.wrapping_add(u32::from(number)),
        registry: Arc::clone(&options.registry),
        memory_bytes_max: options.memory_bytes_max,
        idle: options.idle,
        direct: options.direct,
        seed,
        wakes: Arc::clone(door) as Arc<dyn WakeSink>,
        saves: options
            .store
            .as_ref()
            .map(|_| saves(options.origin, options.unsaved_bytes_max / u64::from(shards))),
        clock: Some(crate::worker::now),
        fault: None,
    }
}

/// Who saves, where the node is in no fabric: one that began later has a greater epoch.
fn saves(origin: u32, unsaved_bytes_max: u64) -> Saves {
    let wall = clock_gettime(ClockId::Realtime);
    let ms = wall.tv_sec.saturating_mul(1_000).saturating_add(wall.tv_nsec / 1_000_000);
    let now_ms = u64::try_from(ms).unwrap_or(0);
    let began_ms = now_ms.saturating_sub(crate::worker::now().as_nanos() / 1_000_000);
    let node = NodeId::new(u64::from(origin));
    Saves { node, epoch: now_ms, began_ms, unsaved_bytes_max }
}

/// A ring for each ordered pair of shards: what each shard has towards every other.
fn mesh(doors: &[Arc<Door>]) -> Vec<Vec<Peer>> {
    let count = doors.len();
    let mut producers: Vec<Vec<Option<Producer<Message>>>> = Vec::new();
    let mut consumers: Vec<Vec<Option<Consumer<Message>>>> =
        (0..count).map(|_| (0..count).map(|_| None).collect()).collect();
    for from in 0..count {
        let mut row = Vec::new();
        for (to, column) in consumers.iter_mut().enumerate() {
            let ends = (from != to).then(|| ring(limits::RING_SLOTS));
            let (producer, consumer) = ends.unzip();
            row.push(producer);
            column[from] = consumer;
        }
        producers.push(row);
    }
    let rows = producers.into_iter().zip(consumers);
    rows.map(|(outgoing, incoming)| {
        let pairs = outgoing.into_iter().zip(incoming).enumerate();
        let peers = pairs.filter_map(|(index, (outgoing, incoming))| {
            Some(Peer {
                shard: ShardId::new(u16::try_from(index).ok()?),
                incoming: incoming?,
                outgoing: outgoing?,
                door: Arc::clone(doors.get(index)?),
                unsent: VecDeque::new(),
                left: 0,
            })
        });
        peers.collect()
    })
    .collect()
}

/// The body of one shard's thread.
fn work(seat: Seat) {
    let _stop = StopOnPanic;
    let Seat { config, door, parker, peers, policy, crowd, crowded, claim, outlet, .. } = seat;
    if let Some(claim) = &claim {
        match claim.pin_current_thread() {
            Ok(()) => tracing::debug!(shard = ?config.shard, cpu = ?claim.cpu(), "pinned"),
            Err(error) => tracing::warn!(%error, "a shard runs unpinned"),
        }
    }
    let endpoint = seat.opening.and_then(|opening| opening.open(&parker));
    let (shard_id, has_lease) = (config.shard, config.fabric);
    let mut shard = Shard::new(config);
    if has_lease {
        // It does nothing before it has one.
        shard.lease(0, Time::ZERO);
    }
    let worker = Worker {
        depot: seat.depot,
        shard_id,
        shard,
        door,
        parker,
        peers,
        outlet,
        endpoint,
        policy,
        crowd,
        crowded,
        effects: Vec::new(),
        sent: 0,
        received: 0,
        closing: None,
        lease: has_lease.then_some(Lease::NONE),
        untold: VecDeque::new(),
        telling: seat.telling,
    };
    worker.run();
    drop(claim);
}
