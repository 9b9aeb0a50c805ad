//! The coordinator that a configuration asks for.
//!
//! # Not here
//! What coordinators do: each is a crate, or a module of `epicserver-coordinator`.

use std::path::{Path, PathBuf};

use epicserver_coordinator::fixed::{self, Static};
use epicserver_coordinator::{Coordinator, Wake, local};
use epicserver_proto::view::{Member, Record, View, Wants};
use epicserver_wire::NodeId;
use sha2::{Digest as _, Sha256};

use super::FabricError;
#[cfg(any(feature = "postgres", feature = "etcd"))]
use crate::config::ServerTlsConfig;
use crate::config::{Config, CoordinatorKind, StoreKind};

/// What becomes of a node by the coordinator of its fabric.
pub(super) struct Chosen {
    pub(super) coordinator: Box<dyn Coordinator>,
    /// The node's id, where that is not drawn.
    pub(super) node: Option<NodeId>,
    /// The folder of this host in which it agrees, if it agrees by one.
    pub(super) folder: Option<PathBuf>,
}

/// Where the nodes of a fabric meet at their coordinator: apart from those of the same name that have another key, or
/// TLS where these have none, since they could not talk to each other.
pub(super) struct Place<'a> {
    /// The fabric's folder on this host.
    pub(super) dir: &'a Path,
    /// The fabric's key.
    pub(super) key: &'a [u8; 32],
    /// Whether its links have TLS.
    pub(super) tls: bool,
}

impl Place<'_> {
    /// What the fabric is called at a coordinator that it shares with others.
    #[cfg(any(feature = "postgres", feature = "etcd"))]
    fn fabric(&self, config: &Config) -> String {
        format!("{}-{}", config.fabric.name, self.mark())
    }

    /// Where nodes of this machine agree.
    fn folder(&self, config: &Config) -> Result<PathBuf, FabricError> {
        if let Some(dir) = &config.coordinator.dir {
            return Ok(dir.join(format!("{}-{}", config.fabric.name, self.mark())));
        }
        // Whoever has named a folder means nodes that share it.
        refuse_other_hosts(config)?;
        if config.store.kind == StoreKind::Redb {
            // A store refuses what saves under an earlier view, so that these are counted as long as it is there.
            let mut beside = config.store.path.clone().into_os_string();
            beside.push(format!(".fabric-{}", self.mark()));
            return Ok(PathBuf::from(beside));
        }
        Ok(self.dir.join(format!("coordinator-{}", self.mark())))
    }

    /// What tells such fabrics apart, and says nothing of the key.
    fn mark(&self) -> String {
        let hash = Sha256::new().chain_update(b"epicserver coordinator 1").chain_update(self.key);
        let hash = hash.chain_update([u8::from(self.tls)]);
        hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Sets the coordinator up for a node that is, but for its id and its addresses, `member`.
pub(super) fn coordinator(
    config: &Config,
    place: &Place<'_>,
    member: &Member,
    wake: Wake,
) -> Result<Chosen, FabricError> {
    match config.coordinator.kind {
        CoordinatorKind::Local => {
            let folder = place.folder(config)?;
            let coordinator =
                Box::new(local::open(&local::Options { folder: folder.clone() }, wake)?);
            Ok(Chosen { coordinator, node: None, folder: Some(folder) })
        }
        CoordinatorKind::Static => fixed(config, member, wake),
        CoordinatorKind::Postgres => postgres(config, place, wake),
        CoordinatorKind::Etcd => etcd(config, place, wake),
    }
}

#[cfg(feature = "postgres")]
fn postgres(config: &Config, place: &Place<'_>, wake: Wake) -> Result<Chosen, FabricError> {
    let given = &config.coordinator;
    let options = epicserver_postgres::coordinator::Options {
        server: given.servers.first().map(|server| server.reveal().to_owned()).unwrap_or_default(),
        tls: given.tls.as_ref().map(files),
        fabric: place.fabric(config),
    };
    let opened = epicserver_postgres::coordinator::open(&options, wake);
    let coordinator = opened.map_err(|error| FabricError::Remote(error.to_string()))?;
    Ok(Chosen { coordinator: Box::new(coordinator), node: None, folder: None })
}

#[cfg(not(feature = "postgres"))]
fn postgres(_: &Config, _: &Place<'_>, _: Wake) -> Result<Chosen, FabricError> {
    Err(FabricError::Remote("this program was built without the feature `postgres`".to_owned()))
}

#[cfg(feature = "etcd")]
fn etcd(config: &Config, place: &Place<'_>, wake: Wake) -> Result<Chosen, FabricError> {
    let given = &config.coordinator;
    let user = given.user.as_ref().zip(given.password.as_ref());
    let options = epicserver_etcd::Options {
        endpoints: given.servers.iter().map(|server| server.reveal().to_owned()).collect(),
        tls: given.tls.as_ref().map(files),
        user: user.map(|(name, password)| epicserver_etcd::User {
            name: name.clone(),
            password: password.reveal().to_owned(),
        }),
        prefix: given.prefix.clone(),
        fabric: place.fabric(config),
    };
    let opened = epicserver_etcd::open(&options, wake);
    let coordinator = opened.map_err(|error| FabricError::Remote(error.to_string()))?;
    Ok(Chosen { coordinator: Box::new(coordinator), node: None, folder: None })
}

#[cfg(not(feature = "etcd"))]
fn etcd(_: &Config, _: &Place<'_>, _: Wake) -> Result<Chosen, FabricError> {
    Err(FabricError::Remote("this program was built without the feature `etcd`".to_owned()))
}

#[cfg(any(feature = "postgres", feature = "etcd"))]
pub(crate) fn files(tls: &ServerTlsConfig) -> epicserver_coordinator::tls::Files {
    use epicserver_coordinator::tls::{Files, Own};
    let own = tls.cert.clone().zip(tls.key.clone()).map(|(cert, key)| Own { cert, key });
    Files { ca: tls.ca.clone(), own }
}

/// A fabric that is told to look for nodes of other machines cannot agree by files of this one.
fn refuse_other_hosts(config: &Config) -> Result<(), FabricError> {
    let is_here = |seed: &epicserver_link::Address| {
        let host = seed.rest().rsplit_once(':').map_or("", |(host, _)| host);
        let number = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
        host == "localhost" || number.is_ok_and(|ip| ip.is_loopback())
    };
    let elsewhere = config.network.seeds.iter().find(|seed| !is_here(seed));
    if let Some(seed) = elsewhere {
        return Err(FabricError::OneMachine { because: format!("the seed {seed} is of another") });
    }
    if config.discovery.multicast.is_some() {
        return Err(FabricError::OneMachine { because: "multicast finds others".to_owned() });
    }
    Ok(())
}

/// All nodes are members from the start, each by its rank.
fn fixed(config: &Config, member: &Member, wake: Wake) -> Result<Chosen, FabricError> {
    let given = &config.coordinator;
    let (Some(rank), Some(run)) = (given.rank, given.run) else {
        return Err(FabricError::Static);
    };
    if rank >= config.fabric.nodes {
        return Err(FabricError::Rank { rank, nodes: config.fabric.nodes });
    }
    let id = |rank: u32| id_of(config.fabric.name.as_str(), run, rank);
    let mut members: Vec<Member> = (0..config.fabric.nodes)
        .map(|rank| {
            let mut member = member.clone();
            member.share.node = id(rank);
            member
        })
        .collect();
    members.sort_by_key(Member::node);
    let record = |member: &Member| {
        Record { member: member.clone(), wants: Wants::Stay, settled: run }.write()
    };
    let records = members.iter().map(|member| (member.node(), record(member))).collect();
    let view = View { number: run, members, history: Vec::new() };
    let options = fixed::Options { number: run, view: view.write(), members: records };
    Ok(Chosen {
        coordinator: Box::new(Static::new(options, wake)?),
        node: Some(id(rank)),
        folder: None,
    })
}

/// The id of the node of `rank` in one run of a static fabric: all know it from the start.
fn id_of(fabric: &str, run: u64, rank: u32) -> NodeId {
    let mut hash = Sha256::new();
    hash.update(b"epicserver static node 1");
    hash.update((fabric.len() as u64).to_le_bytes());
    hash.update(fabric.as_bytes());
    hash.update(run.to_le_bytes());
    hash.update(rank.to_le_bytes());
    let bytes: [u8; 32] = hash.finalize().into();
    let first = bytes.first_chunk().copied().unwrap_or([0; 8]);
    NodeId::new(u64::from_le_bytes(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_of_a_static_fabric_differ_by_fabric_run_and_rank_and_are_known_to_all() {
        let ids = [("a", 1, 0), ("a", 1, 1), ("a", 2, 0), ("b", 1, 0)];
        let ids = ids.map(|(fabric, run, rank)| id_of(fabric, run, rank));
        assert_eq!(id_of("a", 1, 0), ids[0]);
        for (at, id) in ids.iter().enumerate() {
            assert!(!ids[at + 1..].contains(id), "{ids:?}");
        }
    }

    #[test]
    fn fabrics_of_one_name_meet_apart_if_they_could_not_talk() {
        let mark = |key, tls| Place { dir: Path::new("."), key: &[key; 32], tls }.mark();
        assert_ne!(mark(1, false), mark(2, false));
        assert_ne!(mark(1, false), mark(1, true));
        assert_eq!(mark(1, false).len(), 16);
    }

    #[test]
    fn seeds_and_multicast_beyond_this_machine_want_another_coordinator() {
        let mut config = Config::default();
        let seed = |text| epicserver_link::Address::parse(text).unwrap();
        config.network.seeds =
            vec![seed("tcp://127.0.0.1:1"), seed("tcp://[::1]:2"), seed("tcp://localhost:3")];
        assert!(refuse_other_hosts(&config).is_ok());
        config.network.seeds.push(seed("tcp://other.example:1"));
        let why = refuse_other_hosts(&config).unwrap_err().to_string();
        assert!(why.contains("other.example") && why.contains("postgres"), "{why}");
        config.network.seeds.pop();
        config.discovery.multicast = Some(crate::config::Multicast::All);
        assert!(refuse_other_hosts(&config).is_err());
    }
}
