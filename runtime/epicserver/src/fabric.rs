//! A node's part in its fabric: what it needs to join, and its control thread.
//!
//! # Not here
//! What the control thread does (`thread`). Whom to dial: that is `discovery`.

mod bell;
mod coordinators;
mod gate;
mod job;
mod key;
mod services;
mod sources;
mod step;
mod thread;
mod ways;

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use epicserver_coordinator::{Wake, fixed, local};
use epicserver_entity::{MethodInfo, Registry};
use epicserver_link::driver::Form;
use epicserver_proto::control;
use epicserver_proto::link::{self, FabricKey, HostId};
use epicserver_proto::session::Window;
use epicserver_proto::view::Member;
use epicserver_shard::{Host, IoMode, IoOptions, StopOnPanic};
use epicserver_wire::header::Credit;
use epicserver_wire::{ClassId, NodeId};
use sha2::{Digest as _, Sha256};

use crate::config::{Config, CoordinatorKind, DriverKind, IoThreads};
use crate::discovery::slurm::{SlurmError, Step};
use crate::discovery::{Discovery, DiscoveryError, Search};
use bell::Bell;
use coordinators::Chosen;
#[cfg(feature = "postgres")]
pub(crate) use coordinators::files;
use gate::{Gate, Progress};
pub(crate) use job::Job;
use sources::sources;
pub(crate) use step::adapted;
use thread::{Seat, Thread};
use ways::Ways;
pub(crate) use ways::verbs_of;

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
    /// Nodes of other machines cannot be found by TIPC.
    #[error("cannot use TIPC: {0}")]
    Tipc(#[source] std::io::Error),
    /// The coordinator `local` cannot be used.
    #[error("cannot use the coordinator `local`: {0}")]
    Local(#[from] local::Error),
    /// The coordinator `static` cannot be used.
    #[error("cannot use the coordinator `static`: {0}")]
    Fixed(#[from] fixed::Error),
    /// A coordinator that is reached over a network cannot be used as it is configured.
    #[error("cannot use [coordinator]: {0}")]
    Remote(String),
    /// A static fabric does not know which of its nodes this is.
    #[error(
        "a static fabric needs `rank`, which of its nodes this is, and `run`, a number that is the same for all of them and \
         higher than that of the run before, in [coordinator]; jobs of Slurm have both without being told"
    )]
    Static,
    /// There are not so many nodes.
    #[error(
        "rank {rank} is none of {nodes} nodes: ranks count from 0, and `nodes` stands in [fabric]"
    )]
    Rank {
        /// The rank.
        rank: u32,
        /// How many nodes there are.
        nodes: u32,
    },
    /// The fabric spans machines, and its coordinator does not.
    #[error(
        "the coordinator `local` agrees on the nodes of one machine, and {because}; set `kind` in [coordinator] to \
         \"static\" (the nodes are known from the start), \"postgres\" or \"etcd\", on all nodes"
    )]
    OneMachine {
        /// Why it cannot do.
        because: String,
    },
    /// The control thread has nothing to be woken by.
    #[error("cannot make the control thread's bell")]
    Bell(#[source] std::io::Error),
    /// The node has not been let in, or its coordinator is away.
    #[error("the node's control thread ended before it was ready")]
    Ended,
    /// The control thread, or one that looks for other nodes, cannot be started.
    #[error("cannot start a thread of the fabric")]
    Thread(#[source] std::io::Error),
}

/// What a node needs to be one of several.
pub(crate) struct Joining {
    seat: SeatToBe,
    config: control::Config,
}

/// What the control thread needs but for what the host has.
struct SeatToBe {
    member: Member,
    chosen: Chosen,
    kind: CoordinatorKind,
    discovery: Discovery,
    search: Search,
    ways: Ways,
    wanted: usize,
    bell: Bell,
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
        let bell = Bell::new().map_err(FabricError::Bell)?;
        let mut member = member_of(config, shards);
        let wake = Wake::new({
            let bell = bell.clone();
            move || bell.ring()
        });
        let tls = config.network.tls.is_some();
        let place = coordinators::Place { dir: discovery.path(), key: &key, tls };
        let chosen = coordinators::coordinator(config, &place, &member, wake)?;
        let node = chosen.node.unwrap_or_else(|| member.node());
        member.share.node = node;
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
            offer: link::Offer {
                schemas: schemas_of(registry),
                host: host_id(chosen.folder.as_deref()),
                ..link::Offer::default()
            },
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
            transports: ways::transports(config, (node, &key), discovery.path())?,
        };
        let wanted = usize::try_from(config.fabric.nodes).unwrap_or(usize::MAX);
        let search = Search::new(node, sources(config, step, node)?);
        let ways = Ways::new(config);
        let kind = config.coordinator.kind;
        let job = step.filter(|step| !step.leads()).map(|_| Arc::default());
        let seat = SeatToBe { member, chosen, kind, discovery, search, ways, wanted, bell, job };
        Ok((Self { seat, config: control::Config::default() }, options))
    }

    /// What tells this node's chains apart from those of others.
    pub(crate) fn origin(&self) -> u32 {
        u32::try_from(self.seat.member.node().as_u64() >> 40).unwrap_or(0)
    }
}

/// What tells the chains of a node that is in no fabric apart from those of others.
pub(crate) fn origin() -> u32 {
    u32::try_from(random() >> 40).unwrap_or(0)
}

/// The node as a member, but for its addresses.
fn member_of(config: &Config, shards: u16) -> Member {
    let mut member = Member::of(NodeId::new(random()), shards);
    member.share.weight = config.node.weight;
    if let Some(classes) = &config.node.classes {
        let named = classes.iter().map(|name| ClassId::of(name.as_str()));
        member.share.classes = named.chain([ClassId::DEFAULT]).collect();
        member.share.classes.sort_unstable();
        member.share.classes.dedup();
    }
    member.name = config.node.name.as_ref().map(ToString::to_string).unwrap_or_default();
    member
}

/// What tells this host, while it runs, from all others; and nodes that agree in `folder` from those that do not. `None`
/// if the kernel does not say.
fn host_id(folder: Option<&Path>) -> Option<HostId> {
    let boot = std::fs::read("/proc/sys/kernel/random/boot_id").ok()?;
    let mut hash = Sha256::new().chain_update(b"epicserver host 1").chain_update(boot);
    if let Some(folder) = folder {
        let of = std::fs::metadata(folder).ok()?;
        hash.update(of.dev().to_le_bytes());
        hash.update(of.ino().to_le_bytes());
    }
    let hash: [u8; 32] = hash.finalize().into();
    hash.first_chunk().copied().map(HostId)
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

/// A node's part in its fabric.
#[derive(Debug)]
pub(crate) struct Fabric {
    gate: Arc<Gate>,
    bell: Bell,
    job: Option<Arc<Job>>,
    /// Whether others take over what a node has.
    hands_over: bool,
    thread: Option<JoinHandle<()>>,
}

impl Fabric {
    /// Starts the control thread of `host`, and blocks until as many nodes are there as are wanted, or the job
    /// is over that wants them.
    pub(crate) fn join(joining: Joining, host: &Host) -> Result<Self, FabricError> {
        let Joining { seat, config } = joining;
        let gate = Arc::new(Gate::default());
        let (bell, job) = (seat.bell.clone(), seat.job.clone());
        let mut fabric = Self {
            gate: Arc::clone(&gate),
            bell: bell.clone(),
            job,
            hands_over: seat.kind != CoordinatorKind::Static,
            thread: None,
        };
        let Some(wires) = host.wires().map(Arc::clone) else { return Ok(fabric) };
        let ring = |bell: &Bell| {
            let bell = bell.clone();
            move || bell.ring()
        };
        wires.on_report(ring(&bell));
        host.inlets().on_told(ring(&bell));
        let seat = Seat {
            member: seat.member,
            coordinator: seat.chosen.coordinator,
            kind: seat.kind,
            discovery: seat.discovery,
            search: seat.search,
            ways: seat.ways,
            wanted: seat.wanted,
            inlets: host.inlets().clone(),
            wires,
            gate,
            bell,
            job: seat.job,
        };
        let thread = std::thread::Builder::new().name("epic-control".to_owned());
        let thread = thread.spawn(move || {
            let _stop = StopOnPanic;
            Thread::new(seat, config).run();
        });
        fabric.thread = Some(thread.map_err(FabricError::Thread)?);
        while !fabric.gate.wait(Progress::Ready, PATIENCE) {
            tracing::info!("waiting for other nodes of the fabric");
        }
        if fabric.gate.wait(Progress::Over, Duration::ZERO) {
            return Err(FabricError::Ended);
        }
        Ok(fabric)
    }

    /// Hands everything over to the other nodes; nothing in a fabric in which nobody takes over. Blocks for at most
    /// `wait`. Says whether that was enough.
    pub(crate) fn hand_over(&self, wait: Duration) -> bool {
        if !self.hands_over {
            return true;
        }
        self.gate.leave();
        self.bell.ring();
        self.gate.wait(Progress::HandedOver, wait)
    }

    /// Leaves, where everything is handed over and nothing is under way any more or waited for. Until then what comes back
    /// to shards finds its way by the views of the others. Blocks for at most `wait`. Says whether that was enough; if not,
    /// the node's lease runs out.
    pub(crate) fn leave(&self, wait: Duration) -> bool {
        if !self.hands_over {
            return true;
        }
        self.gate.be_quiet();
        self.bell.ring();
        self.gate.wait(Progress::Over, wait)
    }

    /// The job on whose account this node is there, if another node leads it.
    pub(crate) fn job(&self) -> Option<&Arc<Job>> {
        self.job.as_ref()
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        self.gate.stop();
        self.bell.ring();
        if let Some(thread) = self.thread.take() {
            // One that panicked has stopped the process already.
            drop(thread.join());
        }
    }
}
