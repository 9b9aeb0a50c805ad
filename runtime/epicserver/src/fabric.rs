//! The control thread of a node: who else is there, whom to dial, and who owns what.
//!
//! No user code runs on it. It looks for nodes of the same fabric, keeps links to them, and tells the
//! shards who the members are.
//!
//! # Invariants
//! - **FA2** A node is a member from its link's first establishment on, until it says goodbye, its process
//!   is gone, or its link has been down for [`GRACE`].
//! - **FA3** No shard is told of members before there are as many as the configuration wants.
//!
//! # Not here
//! Agreement: each node goes by the links that it has itself, so two may differ for a moment about who
//! owns an entity; a call that meets the wrong one is sent again. Whom to dial: that is `discovery`.

mod job;
mod key;
mod sources;
mod step;
mod ways;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use epicserver_entity::{MethodInfo, Registry};
use epicserver_link::driver::Form;
use epicserver_link::{Address, Down};
use epicserver_proto::Directory;
use epicserver_proto::link::{self, FabricKey};
use epicserver_proto::session::Window;
use epicserver_proto::view::Share;
use epicserver_shard::{Host, Inlets, IoMode, IoOptions, Order, Report, StopOnPanic, Wires};
use epicserver_wire::NodeId;
use epicserver_wire::header::Credit;

use crate::config::{Config, DriverKind, IoThreads};
use crate::discovery::slurm::{SlurmError, Step};
use crate::discovery::{Candidate, Discovery, DiscoveryError, Search, Strangers};
pub(crate) use job::Job;
use sources::sources;
pub(crate) use step::adapted;
use ways::Ways;

/// How long a member may be unreachable before it is none any more.
const GRACE: Duration = Duration::from_secs(3);
/// How long the control thread waits for news of the run directory before it looks at its links.
const TICK: Duration = Duration::from_millis(20);
/// How long it waits until it writes its entry in the run directory again, when that failed.
const REPUBLISH: Duration = Duration::from_secs(1);
/// What log lines call the nodes of this host.
const HOST: &str = "run directory";
/// How often a node that waits for others says so.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a node cannot join a fabric.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FabricError {
    /// Nodes of this host cannot be found.
    #[error(transparent)]
    Discovery(#[from] DiscoveryError),
    /// There is no key, and none can be made.
    #[error("cannot use the fabric's key in {path}")]
    Key {
        /// Where it should be.
        path: std::path::PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The certificates of TLS cannot be used.
    #[error("cannot use [network.tls]: {0}")]
    Tls(#[from] epicserver_tcp::TlsError),
    /// What Slurm says of this task is not understood.
    #[error(transparent)]
    Slurm(#[from] SlurmError),
    /// The task of a Slurm step is to listen where the others do not look for it.
    #[error("`{address}` is not where others look for this Slurm task: write port 0, for {port}")]
    Listen {
        /// Where it is to listen.
        address: std::net::SocketAddr,
        /// The port at which the others look for it.
        port: u16,
    },
    /// This host's own name has no address.
    #[error("cannot find out the addresses of this host, `{host}`")]
    Host {
        /// How Slurm calls it.
        host: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The interface has no address.
    #[error("cannot use the interface `{interface}`")]
    Interface {
        /// What was asked for.
        interface: String,
        /// Why it cannot be.
        source: std::io::Error,
    },
    /// The control thread, or one that looks for other nodes, cannot be started.
    #[error("cannot start a thread of the fabric")]
    Thread(#[source] std::io::Error),
}

/// What a node needs to be one of several.
pub(crate) struct Joining {
    node: NodeId,
    discovery: Discovery,
    search: Search,
    wanted: usize,
    ways: Ways,
    job: Option<Arc<Job>>,
}

impl Joining {
    /// Gets ready to join the fabric of `config`, as a task of `step` if that is one, with a node of so many
    /// shards that serves what is in `registry`.
    pub(crate) fn new(
        config: &Config,
        step: Option<&Step>,
        (shards, registry): (u16, &Registry),
    ) -> Result<(Self, IoOptions), FabricError> {
        let run_dir = config.runtime.run_dir.as_deref();
        let discovery = Discovery::open(run_dir, &config.fabric.name)?;
        let key = key::of(config, discovery.path())?;
        let node = NodeId::new(random());
        let units = config.network.window_bytes / Credit::UNIT_BYTES as u64;
        let identity = link::Config {
            fabric: config.fabric.name.to_string(),
            key: FabricKey(key),
            node,
            shards,
            window: Window {
                messages: config.network.window_messages,
                units: u16::try_from(units).unwrap_or(u16::MAX),
            },
            offer: link::Offer { schemas: schemas_of(registry), ..link::Offer::default() },
            handshake: link::HANDSHAKE,
            keep_alive: link::KEEP_ALIVE,
            silent: link::SILENT,
        };
        let options = IoOptions {
            mode: mode(config),
            driver: config.network.driver.map(|driver| match driver {
                DriverKind::IoUring => Form::Uring,
                DriverKind::Epoll => Form::Epoll,
            }),
            identity,
            bulk_bytes: usize::try_from(config.network.bulk_bytes).unwrap_or(usize::MAX),
            transports: ways::transports(config, discovery.path())?,
        };
        let wanted = usize::try_from(config.fabric.nodes).unwrap_or(usize::MAX);
        let search = Search::new(node, sources(config, step, node)?);
        let ways = Ways::new(config);
        let job = step.filter(|step| !step.leads()).map(|_| Arc::default());
        Ok((Self { node, discovery, search, wanted, ways, job }, options))
    }

    /// What tells this node's chains apart from those of others.
    pub(crate) fn origin(&self) -> u32 {
        u32::try_from(self.node.as_u64() >> 40).unwrap_or(0)
    }
}

/// What peers are told of the methods here.
fn schemas_of(registry: &Registry) -> link::Schemas {
    let schema = |method: &MethodInfo| link::Schema { method: method.id, hash: (method.form)() };
    link::Schemas::of(registry.methods().map(schema))
}

/// Threads of their own only where there are CPUs to spare.
fn mode(config: &Config) -> IoMode {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    match config.network.io {
        Some(IoThreads::Dedicated) => IoMode::Dedicated,
        Some(IoThreads::Fused) => IoMode::Fused,
        None if cpus > 2 => IoMode::Dedicated,
        None => IoMode::Fused,
    }
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    // Without the kernel's randomness, time and process tell nodes of one fabric apart.
    if rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) != Ok(8) {
        return unix_ms() << 16 ^ u64::from(std::process::id());
    }
    u64::from_le_bytes(bytes)
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Whether as many nodes are there as are wanted.
#[derive(Debug, Default)]
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

/// A node's part in its fabric.
#[derive(Debug)]
pub(crate) struct Fabric {
    stop: Arc<AtomicBool>,
    gate: Arc<Gate>,
    job: Option<Arc<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Fabric {
    /// Starts the control thread of `host`, and blocks until as many nodes are there as are wanted, or the job
    /// is over that wants them.
    pub(crate) fn join(joining: Joining, host: &Host) -> Result<Self, FabricError> {
        let (stop, gate) = (Arc::new(AtomicBool::new(false)), Arc::new(Gate::default()));
        let job = joining.job.clone();
        let Some(wires) = host.wires().map(Arc::clone) else {
            return Ok(Self { stop, gate, job, thread: None });
        };
        let control = Control {
            joining,
            inlets: host.inlets().clone(),
            wires,
            links: BTreeMap::new(),
            listening: false,
            unpublished: None,
            strangers: Strangers::default(),
            members: BTreeSet::new(),
        };
        let (told, shared) = (Arc::clone(&stop), Arc::clone(&gate));
        let thread = std::thread::Builder::new().name("epic-control".to_owned());
        let thread = thread.spawn(move || {
            let _stop = StopOnPanic;
            control.run(&told, &shared);
        });
        let thread = Some(thread.map_err(FabricError::Thread)?);
        let fabric = Self { stop, gate, job, thread };
        fabric.wait();
        Ok(fabric)
    }

    /// The job on whose account this node is there, if another node leads it.
    pub(crate) fn job(&self) -> Option<&Arc<Job>> {
        self.job.as_ref()
    }

    fn wait(&self) {
        let mut open = self.gate.open.lock().unwrap_or_else(PoisonError::into_inner);
        let over = || self.job.as_ref().is_some_and(|job| job.is_over());
        while !*open && !over() {
            let waited = self.gate.opened.wait_timeout(open, PATIENCE);
            let (guard, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            open = guard;
            if timeout.timed_out() && !*open && !over() {
                tracing::info!("waiting for other nodes of the fabric");
            }
        }
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // One that panicked has stopped the process already.
            drop(thread.join());
        }
    }
}

/// What is known of another node.
#[derive(Debug)]
enum Seen {
    Linked,
    /// It was linked until then.
    Lost(Instant),
}

struct Control {
    joining: Joining,
    inlets: Inlets,
    wires: Arc<Wires>,
    links: BTreeMap<NodeId, Seen>,
    listening: bool,
    /// The addresses of which others could not be told, and when that was tried.
    unpublished: Option<(Vec<Address>, Instant)>,
    strangers: Strangers,
    members: BTreeSet<NodeId>,
}

impl Control {
    fn run(mut self, stop: &AtomicBool, gate: &Gate) {
        let mut changed = true;
        while !stop.load(Ordering::SeqCst) {
            while let Some(report) = self.wires.report() {
                self.note(report);
                changed = true;
            }
            if let Some((addresses, _)) =
                self.unpublished.take_if(|(_, tried)| tried.elapsed() >= REPUBLISH)
            {
                self.publish(addresses);
            }
            if let Some(job) = &self.joining.job
                && self.joining.search.is_job_over(Instant::now())
            {
                job.end();
                // Whoever still waits for others waits in vain.
                gate.opened.notify_all();
            }
            self.strangers.watch(|why| self.wires.refused(why), Instant::now());
            if self.joining.search.poll(Instant::now()) | changed && self.listening {
                self.look();
            }
            if changed || self.links.values().any(|seen| matches!(seen, Seen::Lost(_))) {
                self.agree(gate);
            }
            changed = self.joining.discovery.changed(TICK);
        }
    }

    /// Tells the nodes of this host where this one is. Those with smaller ids find it by that alone, so what
    /// fails is tried again.
    fn publish(&mut self, addresses: Vec<Address>) {
        let node = self.joining.node;
        match self.joining.discovery.publish(node, &addresses, unix_ms()) {
            Ok(()) => tracing::info!(?addresses, %node, "listening"),
            Err(error) => {
                tracing::warn!(%error, "nodes of this host cannot find this one");
                self.unpublished = Some((addresses, Instant::now()));
            }
        }
    }

    fn note(&mut self, report: Report) {
        match report {
            Report::Listening(addresses) => {
                self.joining.search.listening(&addresses);
                self.publish(addresses);
                self.listening = true;
            }
            Report::Up { node, shards, dialled } => {
                tracing::info!(%node, shards, "linked");
                self.joining.search.linked(node, dialled.as_ref(), Instant::now());
                self.links.insert(node, Seen::Linked);
            }
            Report::Down { node, why } => {
                tracing::info!(%node, %why, "unlinked");
                self.joining.search.unlinked(node, why == Down::There, Instant::now());
                let left = matches!(why, Down::There | Down::Here);
                match left {
                    true => drop(self.links.remove(&node)),
                    false => drop(self.links.insert(node, Seen::Lost(Instant::now()))),
                }
            }
            Report::Unreachable { address, why, refused } => {
                tracing::debug!(%address, %why, "unreachable");
                self.joining.search.unreachable(&address, refused, Instant::now());
                self.joining.ways.failed(address, Instant::now());
            }
        }
    }

    /// Dials whom it should have a link to and has none.
    fn look(&mut self) {
        let found = self.joining.discovery.peers().unwrap_or_else(|error| {
            tracing::warn!(%error, "the run directory cannot be read");
            Vec::new()
        });
        let here = found.into_iter().map(|found| Candidate::node(found.node, found.addresses));
        let Joining { search, ways, .. } = &mut self.joining;
        search.hear(HOST, true, here.collect());
        let now = Instant::now();
        for address in search.due(now, |addresses| ways.best(addresses, now)) {
            if !self.wires.order(Order::Dial(address.clone())) {
                tracing::warn!("the I/O endpoint does not keep up with what it is to dial");
                search.unreachable(&address, None, now);
            }
        }
    }

    /// Tells the shards who the members are, when that has changed.
    fn agree(&mut self, gate: &Gate) {
        // FA2.
        self.links.retain(|_, seen| match seen {
            Seen::Linked => true,
            Seen::Lost(since) => since.elapsed() < GRACE,
        });
        let me = self.joining.node;
        let members: BTreeSet<NodeId> = self.links.keys().copied().chain([me]).collect();
        let mut open = gate.open.lock().unwrap_or_else(PoisonError::into_inner);
        // FA3.
        let enough = *open || members.len() >= self.joining.wanted;
        if !enough || members == self.members {
            return;
        }
        tracing::info!(members = members.len(), "the members of the fabric");
        self.inlets.members(me, &Arc::new(Directory::of(members.iter().copied().map(Share::of))));
        self.members = members;
        *open = true;
        gate.opened.notify_all();
    }
}
