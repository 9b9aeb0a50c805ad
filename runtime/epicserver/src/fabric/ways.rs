//! The ways to other nodes that a configuration asks for.
//!
//! # Invariants
//! - **FA4** Of the ways to one node the first is taken that did not fail lately; shared memory comes
//!   before TCP.
//!
//! # Not here
//! Whom to reach, and when.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use epicserver_link::driver::Owner;
use epicserver_link::{Address, Io, Refused, Transport};
use epicserver_shard::MakeTransports;
use epicserver_shm::Shm;
use epicserver_tcp::Tcp;
use epicserver_tipc::{Service, Tipc};
use epicserver_verbs::{Verbs, VerbsError};
use epicserver_wire::NodeId;

use super::{FabricError, key};
use crate::config::{self, Config};

/// How long a way that failed is put behind the others.
const AVOIDED: Duration = Duration::from_secs(10);

/// What of each node's addresses this node can use, the best first.
#[derive(Debug)]
pub(super) struct Ways {
    schemes: Vec<&'static str>,
    failed: BTreeMap<Address, Instant>,
}

impl Ways {
    pub(super) fn new(config: &Config) -> Self {
        let schemes = match config.network.transport {
            config::Transport::Auto => vec![epicserver_shm::SCHEME, epicserver_tcp::SCHEME],
            config::Transport::Shm => vec![epicserver_shm::SCHEME],
            config::Transport::Tcp => vec![epicserver_tcp::SCHEME],
            config::Transport::Tipc => vec![epicserver_tipc::SCHEME],
            config::Transport::Verbs => vec![epicserver_verbs::SCHEME, epicserver_tcp::SCHEME],
        };
        Self { schemes, failed: BTreeMap::new() }
    }

    /// The address of a node that is to be dialled (**FA4**).
    pub(super) fn best(&mut self, addresses: &[Address], now: Instant) -> Option<Address> {
        self.failed.retain(|_, since| now.duration_since(*since) < AVOIDED);
        let of = |scheme: &'static str| addresses.iter().filter(move |at| at.scheme() == scheme);
        let usable: Vec<&Address> = self.schemes.iter().copied().flat_map(of).collect();
        let sound = usable.iter().find(|address| !self.failed.contains_key(**address));
        sound.or_else(|| usable.first()).map(|address| (*address).clone())
    }

    /// An address was dialled in vain.
    pub(super) fn failed(&mut self, address: Address, now: Instant) {
        self.failed.insert(address, now);
    }
}

/// The service of `node` in TIPC, if `config` wants one.
pub(super) fn service(config: &Config, node: NodeId) -> Option<Service> {
    let wanted = config.network.transport == config::Transport::Tipc;
    wanted.then(|| Service::of(config.fabric.name.as_str(), node))
}

/// Makes the transports that `config` asks for; `dir` is where the nodes of this host meet.
pub(super) fn transports(
    config: &Config,
    (node, key): (NodeId, &[u8; 32]),
    dir: &Path,
) -> Result<MakeTransports, FabricError> {
    let tls = config.network.tls.as_ref();
    let tls = tls.map(|tls| epicserver_tcp::Tls::load(&tls.ca, &tls.cert, &tls.key)).transpose()?;
    let addresses = match &config.network.interface {
        Some(interface) => addresses_of(interface)?,
        None => config.network.listen.clone(),
    };
    let verbs = epicserver_verbs::Config {
        addresses: addresses.clone(),
        key: epicserver_verbs::Key(key::for_verbs(key)),
        ..verbs_of(config)
    };
    let (tcp, dir) = (epicserver_tcp::Config { addresses, tls }, dir.to_owned());
    let transport = config.network.transport;
    let tipc = epicserver_tipc::Config {
        service: Service::of(config.fabric.name.as_str(), node),
        importance: match config.network.tipc.importance {
            config::Importance::Low => epicserver_tipc::Importance::Low,
            config::Importance::Medium => epicserver_tipc::Importance::Medium,
            config::Importance::High => epicserver_tipc::Importance::High,
            config::Importance::Critical => epicserver_tipc::Importance::Critical,
        },
    };
    Ok(Box::new(move |io: &mut Io<'_>| match transport {
        config::Transport::Tcp => Ok(vec![listen_tcp(0, tcp, io)?]),
        config::Transport::Shm => Ok(vec![listen_shm(0, &dir, io)?]),
        config::Transport::Tipc => Ok(vec![Box::new(Tipc::listen(Owner(0), tipc, io)?)]),
        config::Transport::Verbs => listen_verbs(verbs, tcp, io),
        config::Transport::Auto => match listen_shm(0, &dir, io) {
            Ok(shm) => Ok(vec![shm, listen_tcp(1, tcp, io)?]),
            Err(error) => {
                tracing::warn!(%error, "nodes of this host are reached by TCP");
                Ok(vec![listen_tcp(0, tcp, io)?])
            }
        },
    }))
}

fn listen_tcp(
    owner: u8,
    config: epicserver_tcp::Config,
    io: &mut Io<'_>,
) -> Result<Box<dyn Transport>, Refused> {
    Ok(Box::new(Tcp::listen(Owner(owner), config, io)?))
}

/// Verbs; on a machine that has none, TCP in its place.
fn listen_verbs(
    verbs: epicserver_verbs::Config,
    tcp: epicserver_tcp::Config,
    io: &mut Io<'_>,
) -> Result<Vec<Box<dyn Transport>>, Refused> {
    if tcp.tls.is_some() {
        tracing::warn!("[network.tls] is of TCP alone: what goes over verbs is in the clear");
    }
    match Verbs::listen(Owner(0), verbs, io) {
        Ok(verbs) => Ok(vec![Box::new(verbs)]),
        Err(VerbsError::Refused(refused)) => Err(refused),
        Err(unavailable) => {
            tracing::warn!(
                "{unavailable}; messages go over TCP, and nodes with verbs are not reached"
            );
            Ok(vec![listen_tcp(0, tcp, io)?])
        }
    }
}

/// What `config` says of the device for verbs. Whoever only looks at that listens nowhere and has no key.
pub(crate) fn verbs_of(config: &Config) -> epicserver_verbs::Config {
    let verbs = &config.network.verbs;
    epicserver_verbs::Config {
        addresses: config.network.listen.clone(),
        key: epicserver_verbs::Key([0; 32]),
        device: verbs.device.clone(),
        port: verbs.port,
        gid_index: verbs.gid_index,
        mtu: verbs.mtu,
        pkey: verbs.pkey,
        traffic_class: verbs.traffic_class,
        service_level: verbs.service_level,
        slot_bytes: usize::try_from(verbs.slot_bytes).unwrap_or(usize::MAX),
        window: verbs.slots,
    }
}

fn listen_shm(owner: u8, dir: &Path, io: &mut Io<'_>) -> Result<Box<dyn Transport>, Refused> {
    Ok(Box::new(Shm::listen(Owner(owner), dir, io)?))
}

/// Any free port at each address of the interface that a peer could dial.
pub(super) fn addresses_of(interface: &str) -> Result<Vec<SocketAddr>, FabricError> {
    let wrong = |source| FabricError::Interface { interface: interface.to_owned(), source };
    let all = if_addrs::get_if_addrs().map_err(wrong)?;
    let own = all.iter().filter(|own| own.name == interface).map(if_addrs::Interface::ip);
    // An address that means another node on each link is no address to be told.
    let told = |ip: &IpAddr| match ip {
        IpAddr::V4(_) => true,
        IpAddr::V6(ip) => !ip.is_unicast_link_local(),
    };
    let addresses: Vec<SocketAddr> = own.filter(told).map(|ip| SocketAddr::new(ip, 0)).collect();
    if addresses.is_empty() {
        let names: Vec<&str> = all.iter().map(|own| own.name.as_str()).collect();
        let text = format!("it is none, or has no address; there are: {}", names.join(", "));
        return Err(wrong(io::Error::new(io::ErrorKind::NotFound, text)));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses() -> Vec<Address> {
        vec![Address::new("tcp", "127.0.0.1:1"), Address::new("shm", "boot/one")]
    }

    fn ways(transport: config::Transport) -> Ways {
        let mut config = Config::default();
        config.network.transport = transport;
        Ways::new(&config)
    }

    #[test]
    fn fa4_shared_memory_comes_first_and_tcp_when_that_has_failed() {
        let (mut ways, now) = (ways(config::Transport::Auto), Instant::now());
        let [tcp, shm] = <[Address; 2]>::try_from(addresses()).unwrap();
        assert_eq!(ways.best(&addresses(), now).as_ref(), Some(&shm));
        ways.failed(shm.clone(), now);
        assert_eq!(ways.best(&addresses(), now).as_ref(), Some(&tcp));
        ways.failed(tcp, now);
        assert_eq!(ways.best(&addresses(), now).as_ref(), Some(&shm));
        assert_eq!(ways.best(&addresses(), now + AVOIDED), Some(shm));
    }

    #[test]
    fn a_way_that_is_not_configured_is_not_taken() {
        let now = Instant::now();
        let scheme = |mut ways: Ways| ways.best(&addresses(), now).unwrap().scheme().to_owned();
        assert_eq!(scheme(ways(config::Transport::Tcp)), "tcp");
        assert_eq!(scheme(ways(config::Transport::Shm)), "shm");
        assert_eq!(ways(config::Transport::Shm).best(&addresses()[..1], now), None);
        // A node that has no verbs is reached by what it has.
        assert_eq!(scheme(ways(config::Transport::Verbs)), "tcp");
    }

    #[test]
    fn an_interface_stands_for_its_addresses_and_an_unknown_one_is_named() {
        let loopback = addresses_of("lo").unwrap();
        assert!(loopback.iter().all(|address| address.ip().is_loopback() && address.port() == 0));
        let error = addresses_of("none0").unwrap_err();
        assert!(error.to_string().contains("none0"), "{error}");
    }
}
