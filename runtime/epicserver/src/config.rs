//! Configuration: one TOML file and overrides from the environment, read once into one value.
//!
//! In: the file's text, the variables   Out: [`Config`], or every problem with its place
//!
//! # Invariants
//! - **CF1** A [`Config`] that was read is within all bounds of this page; later code does not check again.
//! - **CF2** A key or a variable that is not known is refused, never passed over.
//! - **CF3** The fabric's key is in no message and in no `Debug` output.
//!
//! # Not here
//! What the settings do: that is said where they are used. Other files than this one.

mod key;
mod problem;
mod read;
mod secret;
#[cfg(test)]
mod tests;
mod units;

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use epicserver_link::Address;
use epicserver_proto::view::WEIGHT_DEFAULT;
use epicserver_shard::idle::Mode as IdleMode;
use epicserver_wire::header::Credit;
use serde::Deserialize;

pub use key::Key;
pub(crate) use problem::nearest;
pub use problem::{ConfigError, Place, Problem};
pub use secret::Secret;
pub use units::Name;

/// The file that is read where nobody names one, if it is there.
pub const FILE: &str = "epicserver.toml";
/// The variable that names the file.
pub const FILE_VARIABLE: &str = "EPICSERVER_CONFIG";

/// Longest configuration file, in bytes.
pub const FILE_BYTES_MAX: u64 = 1 << 20;
/// Shortest fabric key, in bytes.
pub const KEY_BYTES_MIN: usize = 16;
/// Longest fabric key, in bytes.
pub const KEY_BYTES_MAX: usize = 1024;
/// Longest name of a fabric or a node, in bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// Nodes that a fabric may be told to wait for.
pub const NODES_MAX: u64 = 1024;
/// Shards that a node may be told to have.
pub const SHARDS_MAX: u64 = 1024;
/// Most that [`NodeConfig::weight`] may be.
pub const WEIGHT_MAX: u64 = 10_000;
/// Placement classes that a node may be told to offer.
pub const CLASSES_MAX: usize = 31;
/// Most that [`CoordinatorConfig::run`] may be.
pub const RUN_MAX: u64 = 1 << 62;
/// Servers that [`CoordinatorConfig::servers`] or [`StoreConfig::servers`] may name.
pub const SERVERS_MAX: usize = 16;
/// Longest of them, in bytes.
pub const SERVER_BYTES_MAX: usize = 1024;
/// Least that [`StoreConfig::cache`] may be, in bytes.
pub const CACHE_BYTES_MIN: u64 = 1 << 20;
/// Most that [`StoreConfig::cache`] may be, in bytes.
pub const CACHE_BYTES_MAX: u64 = 1 << 40;
/// Addresses that a node may be told to listen at.
pub const LISTEN_MAX: usize = 16;
/// Seeds that a node may be given.
pub const SEEDS_MAX: usize = 64;
/// Least that [`NetworkConfig::bulk_bytes`] may be.
pub const BULK_BYTES_MIN: u64 = 4 << 10;
/// Most that [`NetworkConfig::bulk_bytes`] may be: what a slot holds.
pub const BULK_BYTES_MAX: u64 = 64 << 10;
/// Least that [`NetworkConfig::window_bytes`] may be: the longest message that leaves whole.
pub const WINDOW_BYTES_MIN: u64 = 64 << 10;
/// Most that [`NetworkConfig::window_bytes`] may be: what the units of a credit can say.
pub const WINDOW_BYTES_MAX: u64 = Credit::UNIT_BYTES as u64 * u16::MAX as u64;
/// Least that [`NetworkConfig::window_messages`] may be.
pub const WINDOW_MESSAGES_MIN: u64 = 16;
/// Most that [`NetworkConfig::window_messages`] may be: what a credit can say.
pub const WINDOW_MESSAGES_MAX: u64 = u16::MAX as u64;
/// Least that [`VerbsConfig::slot_bytes`] may be.
pub const SLOT_BYTES_MIN: u64 = epicserver_verbs::SLOT_BYTES_MIN as u64;
/// Most that [`VerbsConfig::slot_bytes`] may be.
pub const SLOT_BYTES_MAX: u64 = epicserver_verbs::SLOT_BYTES_MAX as u64;
/// Most that [`VerbsConfig::slots`] may be.
pub const SLOTS_MAX: u64 = epicserver_verbs::WINDOW_MAX as u64;
/// Longest name of a device, in bytes: what the kernel has.
pub const DEVICE_BYTES_MAX: usize = 63;
/// Least that [`DiscoveryConfig::resolve_every`] may be, in milliseconds.
pub const RESOLVE_EVERY_MS_MIN: u64 = 1_000;
/// Most that [`DiscoveryConfig::resolve_every`] may be, in milliseconds: an hour.
pub const RESOLVE_EVERY_MS_MAX: u64 = 3_600_000;
/// Least that [`StoreConfig::unsaved`] may be, in bytes.
pub const UNSAVED_BYTES_MIN: u64 = 1 << 20;
/// Most that [`StoreConfig::unsaved`] may be, in bytes.
pub const UNSAVED_BYTES_MAX: u64 = 1 << 50;
/// Least that [`RuntimeConfig::memory`] may be, in bytes.
pub const MEMORY_BYTES_MIN: u64 = 1 << 20;
/// Most that [`RuntimeConfig::memory`] may be, in bytes.
pub const MEMORY_BYTES_MAX: u64 = 1 << 50;
/// Least that [`RuntimeConfig::idle_after`] may be, in milliseconds.
pub const IDLE_AFTER_MS_MIN: u64 = 1;
/// Most that [`RuntimeConfig::idle_after`] may be, in milliseconds: a year.
pub const IDLE_AFTER_MS_MAX: u64 = 365 * 24 * 3_600_000;

/// All that a node is told by its operator. `docs/epicserver.toml` in the repository names every
/// key with its default.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Config {
    /// The fabric that the node belongs to.
    pub fabric: FabricConfig,
    /// The node itself.
    pub node: NodeConfig,
    /// Who agrees on the members of the fabric.
    pub coordinator: CoordinatorConfig,
    /// How it reaches other nodes.
    pub network: NetworkConfig,
    /// How it finds other nodes, beside those of this host and the seeds.
    pub discovery: DiscoveryConfig,
    /// Where entities are saved.
    pub store: StoreConfig,
    /// How it uses its machine.
    pub runtime: RuntimeConfig,
}

/// `[fabric]`: the same on all nodes of a fabric.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct FabricConfig {
    /// The fabric's name, `default` unless set. Nodes of another fabric are strangers.
    pub name: Name,
    /// What a node proves to know before others listen to it. Set by `key`, or from `key_file`.
    pub key: Option<Key>,
    /// The file that the key was read from, instead of from `key`. Refused if everybody may read it.
    pub key_file: Option<PathBuf>,
    /// How many nodes, this one among them, must have found each other before calls are served;
    /// 1 to [`NODES_MAX`].
    #[serde(deserialize_with = "units::whole::<1, NODES_MAX, u32, _>")]
    pub nodes: u32,
}

impl Default for FabricConfig {
    fn default() -> Self {
        Self { name: Name::default(), key: None, key_file: None, nodes: 1 }
    }
}

/// `[coordinator]`: who agrees on the members of the fabric; the same on all of its nodes, but for `rank`.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct CoordinatorConfig {
    /// Which it is.
    pub kind: CoordinatorKind,
    /// Where the coordinator `local` keeps its files; the folder of the fabric in [`RuntimeConfig::run_dir`] if absent. It
    /// must be this user's alone, and outlive a restart of the machine where entities are stored.
    pub dir: Option<PathBuf>,
    /// Where it is reached, at most [`SERVERS_MAX`]: of PostgreSQL one `postgres://user:password@host/database`, or
    /// `host=… user=…`; of etcd one or more `http://host:2379` or `https://…`.
    #[serde(deserialize_with = "units::servers")]
    pub servers: Vec<Secret>,
    /// The user of etcd's own, if the cluster wants to know who asks.
    pub user: Option<String>,
    /// That user's password.
    pub password: Option<Secret>,
    /// What all keys in etcd begin with; `/epicserver/` unless set.
    pub prefix: String,
    /// The certificates by which it is reached; in the clear if absent.
    pub tls: Option<ServerTlsConfig>,
    /// Which of the nodes of a static fabric this is, counted from 0.
    #[serde(deserialize_with = "units::some_whole::<0, NODES_MAX, u32, _>")]
    pub rank: Option<u32>,
    /// The number of the run of a static fabric, 1 to [`RUN_MAX`]: higher than that of the run before.
    #[serde(deserialize_with = "units::some_whole::<1, RUN_MAX, u64, _>")]
    pub run: Option<u64>,
}

impl Default for CoordinatorConfig {
    fn default() -> Self {
        Self {
            kind: CoordinatorKind::Local,
            dir: None,
            servers: Vec::new(),
            user: None,
            password: None,
            prefix: "/epicserver/".to_owned(),
            tls: None,
            rank: None,
            run: None,
        }
    }
}

/// `[coordinator.tls]` and `[store.tls]`: TLS 1.3 to a server that is reached over a network. `ca` is needed, `cert` and `key`
/// go together.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ServerTlsConfig {
    /// The certificates that may have signed the server's, in PEM.
    pub ca: PathBuf,
    /// What this node shows, if the server wants to see something, in PEM.
    pub cert: Option<PathBuf>,
    /// The private key of `cert`, in PEM; refused if everybody may read it.
    pub key: Option<PathBuf>,
}

/// Who agrees on the members of a fabric.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum CoordinatorKind {
    /// The nodes of one machine, among themselves.
    #[default]
    Local,
    /// Nobody: as many nodes as [`FabricConfig::nodes`] says are members from the start, and no others ever.
    Static,
    /// A PostgreSQL server, or what speaks its protocol.
    Postgres,
    /// An etcd cluster.
    Etcd,
}

/// `[node]`: what makes this node differ from others.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct NodeConfig {
    /// How many execution threads, 1 to [`SHARDS_MAX`]; one for each physical core if absent.
    #[serde(deserialize_with = "units::shards")]
    pub shards: Option<NonZeroUsize>,
    /// What people call this node. It is shown, and never used to find it.
    pub name: Option<Name>,
    /// How large a share of the entities it takes beside others: 0, which is none, to [`WEIGHT_MAX`];
    /// [`WEIGHT_DEFAULT`] unless set.
    #[serde(deserialize_with = "units::whole::<0, WEIGHT_MAX, u16, _>")]
    pub weight: u16,
    /// The placement classes that it offers beside the default one, at most [`CLASSES_MAX`]; none if absent.
    #[serde(deserialize_with = "units::classes")]
    pub classes: Option<Vec<Name>>,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self { shards: None, name: None, weight: WEIGHT_DEFAULT, classes: None }
    }
}

/// `[network]`: the way to other nodes.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct NetworkConfig {
    /// What carries messages; [`Transport::Auto`] unless set.
    pub transport: Transport,
    /// The socket addresses to listen at, at most [`LISTEN_MAX`]; port 0 is any free port. Loopback
    /// alone unless set. Unused if [`interface`](Self::interface) is set: giving both is refused.
    #[serde(deserialize_with = "units::listen")]
    pub listen: Vec<SocketAddr>,
    /// The network interface to listen at, with all its addresses, instead of `listen`.
    #[serde(deserialize_with = "units::interface")]
    pub interface: Option<String>,
    /// Nodes of other machines to begin with, at most [`SEEDS_MAX`]. Each is `tcp://host:port`, or
    /// `verbs://host:port` where that is the transport; a host that is a name stands for every address that the
    /// name service knows of it.
    #[serde(deserialize_with = "units::seeds")]
    pub seeds: Vec<Address>,
    /// Which threads drive the transports; chosen by the number of CPUs if absent.
    pub io: Option<IoThreads>,
    /// How the kernel is asked; the best that it has if absent.
    pub driver: Option<DriverKind>,
    /// The certificates of TLS; no TLS if absent. All nodes of a fabric have them, or none.
    pub tls: Option<TlsConfig>,
    /// How TIPC is used, where it is the transport.
    pub tipc: TipcConfig,
    /// Which device is used and how, where verbs are the transport.
    pub verbs: VerbsConfig,
    /// Arguments and replies above so many bytes go beside the stream of small messages, so that
    /// these do not wait for them. [`BULK_BYTES_MIN`] to [`BULK_BYTES_MAX`], 64 KiB unless set.
    #[serde(deserialize_with = "units::bytes::<BULK_BYTES_MIN, BULK_BYTES_MAX, _>")]
    pub bulk_bytes: u64,
    /// How many bytes a pair of shards may have under way in one direction before the sender has to
    /// wait. [`WINDOW_BYTES_MIN`] to [`WINDOW_BYTES_MAX`]; 8 MiB unless set.
    #[serde(deserialize_with = "units::bytes::<WINDOW_BYTES_MIN, WINDOW_BYTES_MAX, _>")]
    pub window_bytes: u64,
    /// The same in messages: [`WINDOW_MESSAGES_MIN`] to [`WINDOW_MESSAGES_MAX`], 1,024 unless set.
    #[serde(deserialize_with = "units::whole::<WINDOW_MESSAGES_MIN, WINDOW_MESSAGES_MAX, u16, _>")]
    pub window_messages: u16,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            transport: Transport::Auto,
            listen: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))],
            interface: None,
            seeds: Vec::new(),
            io: None,
            driver: None,
            tls: None,
            tipc: TipcConfig::default(),
            verbs: VerbsConfig::default(),
            bulk_bytes: 64 << 10,
            window_bytes: 8 << 20,
            window_messages: 1024,
        }
    }
}

/// What carries messages between two nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Transport {
    /// Shared memory between processes of one host, TCP otherwise.
    #[default]
    Auto,
    /// TCP, to processes of the same host too.
    Tcp,
    /// Shared memory alone: nodes of other hosts are not reached.
    Shm,
    /// TIPC, to processes of the same host too. Nodes of all machines that it connects find each other.
    Tipc,
    /// InfiniBand or RoCE, to processes of the same host too; TCP, and a warning, on a machine that has no
    /// device or no library for it.
    Verbs,
}

impl Transport {
    /// Its name in a configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Tcp => "tcp",
            Self::Shm => "shm",
            Self::Tipc => "tipc",
            Self::Verbs => "verbs",
        }
    }
}

/// Which threads drive the transports.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum IoThreads {
    /// Threads of their own: for machines with CPUs to spare.
    Dedicated,
    /// The execution threads: the lowest latency on few CPUs.
    Fused,
}

/// How the kernel is asked for input and output.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DriverKind {
    /// By shared rings, of Linux 6.1 or later; some distributions and containers switch it off.
    IoUring,
    /// By readiness; any Linux.
    Epoll,
}

/// `[network.tls]`: TLS over TCP, certificates at both ends. All three paths are needed.
///
/// Names in certificates are not compared: whoever has one of `ca` is let in, so it must sign for this
/// fabric alone.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct TlsConfig {
    /// The certificates that may have signed a peer's, in PEM.
    pub ca: PathBuf,
    /// This node's certificate and those between it and `ca`, in PEM.
    pub cert: PathBuf,
    /// The private key of `cert`, in PEM; refused if everybody may read it.
    pub key: PathBuf,
}

/// `[network.tipc]`: the use of TIPC. Its encryption is the kernel's, and set up for the whole machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct TipcConfig {
    /// How much messages count where a machine has more to send than its links take; [`Importance::Medium`] unless set.
    pub importance: Importance,
}

/// How much messages over TIPC count: what is more important may queue longer, and is refused later.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Importance {
    /// As those of any program that asks for nothing.
    Low,
    /// More than that.
    #[default]
    Medium,
    /// Before most.
    High,
    /// Before all.
    Critical,
}

/// `[network.verbs]`: the device for InfiniBand or RoCE, and its use. What is absent is chosen, and the choice logged.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct VerbsConfig {
    /// The device by the kernel's name, of at most [`DEVICE_BYTES_MAX`] bytes; the first with an active port if absent.
    #[serde(deserialize_with = "units::device")]
    pub device: Option<String>,
    /// Its port, 1 to 254; the first that is active if absent.
    #[serde(deserialize_with = "units::device_port")]
    pub port: Option<u8>,
    /// The index of its GID, 0 to 255; RoCE v2 before v1 and IPv4 before IPv6 if absent.
    #[serde(deserialize_with = "units::gid_index")]
    pub gid_index: Option<u8>,
    /// The bytes of one packet, at most: 256, 512, 1,024, 2,048 or 4,096; what the port has if absent.
    #[serde(deserialize_with = "units::mtu")]
    pub mtu: Option<epicserver_verbs::Mtu>,
    /// The partition, as the subnet manager numbers it, 1 to 65,535; the port's first if absent.
    #[serde(deserialize_with = "units::pkey")]
    pub pkey: Option<u16>,
    /// The traffic class of packets, 0 to 255, by which switches and routers tell them apart.
    #[serde(deserialize_with = "units::whole::<0, 255, u8, _>")]
    pub traffic_class: u8,
    /// The service level of InfiniBand, or the priority of Ethernet, 0 to 15.
    #[serde(deserialize_with = "units::whole::<0, 15, u8, _>")]
    pub service_level: u8,
    /// Bytes of a slot in which messages are received, [`SLOT_BYTES_MIN`] to [`SLOT_BYTES_MAX`] in whole KiB; 8 KiB
    /// unless set. Links take the lesser of both ends.
    #[serde(deserialize_with = "units::slot_bytes")]
    pub slot_bytes: u64,
    /// Slots that each peer may fill before it has to wait, 1 to [`SLOTS_MAX`]; 64 unless set.
    #[serde(deserialize_with = "units::whole::<1, SLOTS_MAX, u16, _>")]
    pub slots: u16,
}

impl Default for VerbsConfig {
    fn default() -> Self {
        Self {
            device: None,
            port: None,
            gid_index: None,
            mtu: None,
            pkey: None,
            traffic_class: 0,
            service_level: 0,
            slot_bytes: SLOT_BYTES_MIN,
            slots: 64,
        }
    }
}

/// `[discovery]`: how other nodes are found.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct DiscoveryConfig {
    /// Where nodes find each other by multicast; nowhere if absent.
    #[serde(deserialize_with = "units::multicast")]
    pub multicast: Option<Multicast>,
    /// How often the names of seeds are resolved again: [`RESOLVE_EVERY_MS_MIN`] to
    /// [`RESOLVE_EVERY_MS_MAX`], 30 s unless set.
    #[serde(deserialize_with = "units::duration::<RESOLVE_EVERY_MS_MIN, RESOLVE_EVERY_MS_MAX, _>")]
    pub resolve_every: Duration,
    /// In a step of a Slurm job, the port of the first task of each host; the next ones have those that
    /// follow. The step's tasks are then the nodes of the fabric, and [`FabricConfig::nodes`] is their number
    /// unless set. Not used elsewhere; without it Slurm is not asked. 1 to 65,535.
    #[serde(deserialize_with = "units::port")]
    pub slurm_port: Option<u16>,
}

impl Default for DiscoveryConfig {
    fn default() -> Self {
        Self { multicast: None, resolve_every: Duration::from_secs(30), slurm_port: None }
    }
}

/// The networks in which nodes find each other by multicast.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Multicast {
    /// Those of all interfaces but the loopback: `all`.
    All,
    /// That of the interface of this name.
    Interface(String),
}

/// `[store]`: where entities are saved; the same on all nodes of a fabric.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct StoreConfig {
    /// Which it is; [`StoreKind::None`] unless set.
    pub kind: StoreKind,
    /// The file of the embedded store, which is made if it is not there; its folder is not. `epicserver.redb` unless set.
    pub path: PathBuf,
    /// Bytes of that file that are kept in memory, [`CACHE_BYTES_MIN`] to [`CACHE_BYTES_MAX`]; 64 MiB unless set.
    #[serde(deserialize_with = "units::bytes::<CACHE_BYTES_MIN, CACHE_BYTES_MAX, _>")]
    pub cache: u64,
    /// Bytes of states of this node that may be changed and not saved, [`UNSAVED_BYTES_MIN`] to [`UNSAVED_BYTES_MAX`]; 1 GiB unless set. Calls that
    /// would change others wait then for the store.
    #[serde(deserialize_with = "units::bytes::<UNSAVED_BYTES_MIN, UNSAVED_BYTES_MAX, _>")]
    pub unsaved: u64,
    /// The PostgreSQL servers that share the entities, at most [`SERVERS_MAX`], as `postgres://user:password@host/database` or
    /// `host=… user=…`. Neither their number nor their order may change once something is saved.
    #[serde(deserialize_with = "units::servers")]
    pub servers: Vec<Secret>,
    /// The certificates by which they are reached; in the clear if absent.
    pub tls: Option<ServerTlsConfig>,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            kind: StoreKind::None,
            path: PathBuf::from("epicserver.redb"),
            cache: 64 << 20,
            unsaved: 1 << 30,
            servers: Vec::new(),
            tls: None,
        }
    }
}

/// Where entities are saved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum StoreKind {
    /// Nowhere: what leaves memory is forgotten.
    #[default]
    None,
    /// In the memory of this process, until it ends: for tests of a node that is alone.
    Memory,
    /// In one file of this machine, by the embedded store.
    Redb,
    /// On PostgreSQL servers.
    Postgres,
}

impl StoreKind {
    /// Its name in a configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Memory => "memory",
            Self::Redb => "redb",
            Self::Postgres => "postgres",
        }
    }
}

/// `[runtime]`: the use of the machine.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RuntimeConfig {
    /// How idle threads wait; [`IdleMode::Balanced`] unless set.
    #[serde(deserialize_with = "units::idle_mode")]
    pub idle: IdleMode,
    /// Bytes that the activations of one shard may take, [`MEMORY_BYTES_MIN`] to
    /// [`MEMORY_BYTES_MAX`]; unbounded if absent.
    #[serde(deserialize_with = "units::memory")]
    pub memory: Option<u64>,
    /// After how long idle activations are collected, where their type does not say,
    /// [`IDLE_AFTER_MS_MIN`] to [`IDLE_AFTER_MS_MAX`]; they stay if absent.
    #[serde(deserialize_with = "units::idle_after")]
    pub idle_after: Option<Duration>,
    /// Where the processes of this user on this host meet; chosen by the environment if absent.
    pub run_dir: Option<PathBuf>,
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        Self { idle: IdleMode::Balanced, memory: None, idle_after: None, run_dir: None }
    }
}
