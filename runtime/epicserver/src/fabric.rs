//! The control thread of a node: who else is there, whom to dial, and who owns what.
//!
//! No user code runs on it. It looks for nodes of the same fabric, keeps links to them, and tells the
//! shards who the members are.
//!
//! # Invariants
//! - **FA1** Of two nodes that find each other by the run directory, the one with the smaller id dials.
//! - **FA2** A node is a member from its link's first establishment on, until it says goodbye, its process
//!   is gone, or its link has been down for [`GRACE`].
//! - **FA3** No shard is told of members before there are as many as the configuration wants.
//!
//! # Not here
//! Agreement: each node goes by the links that it has itself, so two may differ for a moment about who
//! owns an entity; a call that meets the wrong one is sent again.

mod dials;
mod key;
mod services;
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
use crate::discovery::{Discovery, DiscoveryError};
use dials::{Dials, REDIAL};
use services::Services;
use ways::Ways;
pub(crate) use ways::verbs_of;

/// How long a member may be unreachable before it is none any more.
const GRACE: Duration = Duration::from_secs(3);
/// How long the control thread waits for news of the run directory before it looks at its links.
const TICK: Duration = Duration::from_millis(20);
/// How long it waits until it writes its entry in the run directory again, when that failed.
const REPUBLISH: Duration = Duration::from_secs(1);
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
    /// The interface has no address.
    #[error("cannot listen at the interface `{interface}`")]
    Interface {
        /// What was asked for.
        interface: String,
        /// Why it cannot be.
        source: std::io::Error,
    },
    /// Nodes of other machines cannot be found by TIPC.
    #[error("cannot use TIPC: {0}")]
    Tipc(#[source] std::io::Error),
    /// The control thread cannot be started.
    #[error("cannot start the control thread")]
    Thread(#[source] std::io::Error),
}

/// What a node needs to be one of several.
pub(crate) struct Joining {
    node: NodeId,
    discovery: Discovery,
    services: Option<Services>,
    seeds: Vec<Address>,
    wanted: usize,
    ways: Ways,
}

impl Joining {
    /// Gets ready to join the fabric of `config` with a node of so many shards that serves what is in
    /// `registry`.
    pub(crate) fn new(
        config: &Config,
        shards: u16,
        registry: &Registry,
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
            transports: ways::transports(config, (node, &key), discovery.path())?,
        };
        let service = ways::service(config, node);
        let services = service.map(Services::watch).transpose().map_err(FabricError::Tipc)?;
        let wanted = usize::try_from(config.fabric.nodes).unwrap_or(usize::MAX);
        let seeds = config.network.seeds.clone();
        let ways = Ways::new(config);
        Ok((Self { node, discovery, services, seeds, wanted, ways }, options))
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
    thread: Option<JoinHandle<()>>,
}

impl Fabric {
    /// Starts the control thread of `host`, and blocks until as many nodes are there as are wanted.
    pub(crate) fn join(joining: Joining, host: &Host) -> Result<Self, FabricError> {
        let (stop, gate) = (Arc::new(AtomicBool::new(false)), Arc::new(Gate::default()));
        let Some(wires) = host.wires().map(Arc::clone) else {
            return Ok(Self { stop, gate, thread: None });
        };
        let control = Control {
            joining,
            inlets: host.inlets().clone(),
            wires,
            links: BTreeMap::new(),
            dials: Dials::default(),
            listening: false,
            unpublished: None,
            missing: None,
            members: BTreeSet::new(),
        };
        let (told, shared) = (Arc::clone(&stop), Arc::clone(&gate));
        let thread = std::thread::Builder::new().name("epic-control".to_owned());
        let thread = thread.spawn(move || {
            let _stop = StopOnPanic;
            control.run(&told, &shared);
        });
        let thread = Some(thread.map_err(FabricError::Thread)?);
        let fabric = Self { stop, gate, thread };
        fabric.wait();
        Ok(fabric)
    }

    fn wait(&self) {
        let mut open = self.gate.open.lock().unwrap_or_else(PoisonError::into_inner);
        while !*open {
            let waited = self.gate.opened.wait_timeout(open, PATIENCE);
            let (guard, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            open = guard;
            if timeout.timed_out() && !*open {
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
    dials: Dials,
    listening: bool,
    /// The addresses of which others could not be told, and when that was tried.
    unpublished: Option<(Vec<Address>, Instant)>,
    /// When somebody to whom there should be a link and is none was looked for last.
    missing: Option<Instant>,
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
            if self.listening && (changed || self.redials()) {
                self.look();
            }
            if changed || self.links.values().any(|seen| matches!(seen, Seen::Lost(_))) {
                self.agree(gate);
            }
            changed = self.joining.discovery.changed(TICK);
            changed |= self.joining.services.as_mut().is_some_and(Services::changed);
        }
    }

    /// Whether somebody who could not be reached is to be tried again.
    fn redials(&self) -> bool {
        self.missing.is_some_and(|since| since.elapsed() >= REDIAL)
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
                if let Some(services) = &mut self.joining.services {
                    services.listening(&addresses);
                }
                self.publish(addresses);
                self.listening = true;
            }
            Report::Up { node, shards, dialled } => {
                tracing::info!(%node, shards, "linked");
                if let Some(address) = dialled {
                    if let Some(services) = &mut self.joining.services {
                        services.reached(&address, node);
                    }
                    self.dials.end(address, Instant::now());
                }
                self.links.insert(node, Seen::Linked);
            }
            Report::Down { node, why } => {
                tracing::info!(%node, %why, "unlinked");
                let left = matches!(why, Down::There | Down::Here);
                match left {
                    true => drop(self.links.remove(&node)),
                    false => drop(self.links.insert(node, Seen::Lost(Instant::now()))),
                }
            }
            Report::Unreachable { address, why } => {
                tracing::debug!(%address, %why, "unreachable");
                self.dials.end(address.clone(), Instant::now());
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
        let now = Instant::now();
        let here: Vec<Address> = found
            .into_iter()
            // FA1.
            .filter(|found| self.joining.node < found.node)
            .filter(|found| !matches!(self.links.get(&found.node), Some(Seen::Linked)))
            .filter_map(|found| self.joining.ways.best(&found.addresses, now))
            .collect();
        let is_linked = |node| matches!(self.links.get(&node), Some(Seen::Linked));
        let services = self.joining.services.as_mut();
        let elsewhere = services.map(|services| services.unreached(is_linked)).unwrap_or_default();
        let seeds = self.joining.seeds.clone();
        let lonely = self.links.len() + 1 < self.joining.wanted;
        let wanted: Vec<Address> =
            here.into_iter().chain(elsewhere).chain(seeds.into_iter().filter(|_| lonely)).collect();
        self.missing = (!wanted.is_empty()).then_some(now);
        for address in wanted {
            self.dial(address, now);
        }
    }

    fn dial(&mut self, address: Address, now: Instant) {
        if !self.dials.may_begin(&address, now) {
            return;
        }
        if self.wires.order(Order::Dial(address.clone())) {
            self.dials.begin(address, now);
        } else {
            tracing::warn!("the I/O endpoint does not keep up with what it is to dial");
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
