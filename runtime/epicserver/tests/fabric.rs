//! Fabrics of real nodes in one process, over every transport that one host has: calls, long messages,
//! clients, leaving, loss.

#[expect(dead_code, reason = "its setups are of nodes that stand alone")]
mod common;
#[path = "common/run_dir.rs"]
mod run_dir;

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

use common::{Gate, within};
use epicserver::config::{DriverKind, IoThreads, Transport};
use epicserver::prelude::*;
use epicserver::{Config, ErrorKind, Ran};
use run_dir::RunDir;

#[entity(key = u64)]
#[derive(Default)]
struct Spot {
    calls: u32,
}

#[entity]
impl Spot {
    /// Which thread runs this, and how often it was asked.
    pub fn here(&mut self) -> (u64, u32) {
        self.calls += 1;
        (this_thread(), self.calls)
    }

    pub fn echo(&self, bytes: Vec<u8>) -> Vec<u8> {
        bytes
    }
}

/// What has nothing to keep.
#[entity(key = u64, stateless)]
#[derive(Default)]
struct Gateway {
    calls: u32,
}

#[entity]
impl Gateway {
    /// Which thread runs this, and the fence that there is none of.
    pub fn here(&mut self, at: At<Self>) -> (u64, u64) {
        self.calls += 1;
        (this_thread(), at.fence())
    }
}

fn this_thread() -> u64 {
    let mut hasher = DefaultHasher::new();
    std::thread::current().id().hash(&mut hasher);
    hasher.finish()
}

fn config(run_dir: &Path, nodes: u32) -> Config {
    let mut config = Config::default();
    config.fabric.nodes = nodes;
    config.network.transport = Transport::Tcp;
    config.node.shards = std::num::NonZeroUsize::new(1);
    config.runtime.run_dir = Some(run_dir.to_owned());
    config
}

/// As many nodes as `config` wants, which have found each other. One that cannot start fails the test at
/// once: the others would wait for it.
fn nodes(config: &Config) -> Vec<Node> {
    let (give, take) = channel();
    for _ in 0..config.fabric.nodes {
        let (config, give) = (config.clone(), give.clone());
        std::thread::spawn(move || {
            let builder = Node::builder().entity::<Spot>().entity::<Gateway>().entity::<Gate>();
            drop(give.send(builder.config(&config).pin(false).start()));
        });
    }
    drop(give);
    let started = take.iter().map(|node| node.unwrap_or_else(|error| panic!("{error}")));
    started.collect()
}

/// Where each of `keys` is, as `node` finds it.
fn places(node: &Node, keys: std::ops::Range<u64>) -> Vec<(u64, u32)> {
    let asked = node.run(async move |pool| {
        let mut places = Vec::new();
        for key in keys {
            places.push(pool.get::<Spot>(key).here().await?);
        }
        Ok::<_, CallError>(places)
    });
    asked.unwrap_or_else(|error| panic!("{error}")).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn entities_live_on_all_nodes_and_each_in_one_place() {
    within(|| {
        let dir = RunDir::new();
        let nodes = nodes(&config(dir.path(), 3));
        let found: Vec<_> = nodes.iter().map(|node| places(node, 0..64)).collect();
        for (key, (place, _)) in found[0].iter().enumerate() {
            let seen: Vec<_> = found.iter().map(|places| places[key]).collect();
            assert_eq!(seen, [(*place, 1), (*place, 2), (*place, 3)], "entity {key}");
        }
        let threads: BTreeSet<u64> = found[0].iter().map(|(place, _)| *place).collect();
        assert_eq!(threads.len(), 3, "every node has some of 64 entities");
        nodes.into_iter().for_each(|node| assert!(node.stop()));
    });
}

/// Sizes about the bounds of slots and chunks.
const SIZES: [usize; 8] = [0, 1, 255, 4_096, 65_400, 65_536, 200_001, 3 << 20];

fn echoes(config: &Config) {
    let nodes = nodes(config);
    let done = nodes[0].run(async |pool: Pool| {
        for size in SIZES {
            let bytes: Vec<u8> = (0..=250).cycle().take(size).collect();
            for key in 0..4 {
                let back = pool.get::<Spot>(key).echo(bytes.clone()).await?;
                assert!(back == bytes, "{size} bytes come back as they went");
            }
        }
        Ok::<(), CallError>(())
    });
    assert!(matches!(done, Ok(Ok(()))), "{done:?}");
    nodes.into_iter().for_each(|node| assert!(node.stop()));
}

#[test]
fn long_arguments_and_replies_arrive_whole_over_every_transport() {
    within(|| {
        for transport in [Transport::Tcp, Transport::Shm, Transport::Auto, Transport::Verbs] {
            let dir = RunDir::new();
            let mut config = config(dir.path(), 2);
            config.network.transport = transport;
            echoes(&config);
        }
    });
}

#[test]
fn threads_of_their_own_and_epoll_do_what_the_default_does() {
    within(|| {
        for io in [IoThreads::Dedicated, IoThreads::Fused] {
            let dir = RunDir::new();
            let mut config = config(dir.path(), 2);
            config.network.io = Some(io);
            config.network.driver = Some(DriverKind::Epoll);
            echoes(&config);
        }
    });
}

#[test]
fn a_client_reaches_entities_of_other_nodes() {
    within(|| {
        let dir = RunDir::new();
        let nodes = nodes(&config(dir.path(), 2));
        let client = nodes[0].client();
        let place = |key| client.block_on(client.get::<Spot>(key).here()).unwrap().0;
        let threads: BTreeSet<u64> = (0..64).map(place).collect();
        assert_eq!(threads.len(), 2);
        nodes.into_iter().for_each(|node| assert!(node.stop()));
    });
}

#[test]
fn a_node_that_stops_leaves_its_entities_to_the_others() {
    within(|| {
        let dir = RunDir::new();
        let mut nodes = nodes(&config(dir.path(), 2));
        let (left, gone) = (nodes.remove(0), nodes.remove(0));
        let before: BTreeSet<u64> = places(&left, 0..64).iter().map(|(place, _)| *place).collect();
        assert_eq!(before.len(), 2);
        assert!(gone.stop());
        // Who calls at the very moment of the change is told so, and calls again.
        let client = left.client();
        for key in 0..64 {
            while client.block_on(client.get::<Spot>(key).here()).is_err() {}
        }
        let after: BTreeSet<u64> = places(&left, 0..64).iter().map(|(place, _)| *place).collect();
        assert_eq!(after.len(), 1);
        assert!(left.stop());
    });
}

#[test]
fn a_call_under_way_to_a_node_that_goes_does_not_claim_that_it_did_not_run() {
    within(|| {
        let dir = RunDir::new();
        let mut nodes = nodes(&config(dir.path(), 2));
        let (here, there) = (nodes.remove(0), nodes.remove(0));
        let client = here.client();
        let passing = std::thread::spawn(move || {
            let ends = here.run(async |pool: Pool| {
                let calls: Vec<_> = (0..16).map(|key| pool.get::<Gate>(key).pass()).collect();
                let mut ends = Vec::new();
                for call in calls {
                    ends.push(call.await);
                }
                ends
            });
            (here, ends.unwrap())
        });
        for key in 0..16 {
            client.block_on(client.get::<Gate>(key).came(1)).unwrap();
        }
        there.shut_down(Duration::ZERO);
        for key in 0..16 {
            while client.block_on(client.get::<Gate>(key).open()).is_err() {}
        }
        let (here, ends) = passing.join().unwrap();
        let lost: Vec<_> = ends.into_iter().filter_map(std::result::Result::err).collect();
        assert!(!lost.is_empty(), "some gates were on the node that went");
        for error in lost {
            assert_ne!(error.ran(), Ran::No, "{error}");
            assert_ne!(error.kind(), ErrorKind::Deadline, "{error}");
        }
        assert!(here.stop());
    });
}

#[test]
fn stateless_entities_run_where_they_are_called_on_every_node() {
    within(|| {
        let dir = RunDir::new();
        let nodes = nodes(&config(dir.path(), 2));
        for node in &nodes {
            let ran = node.run(async |pool: Pool| {
                let mut ran = Vec::new();
                for key in 0..64 {
                    ran.push((pool.get::<Gateway>(key).here().await?, this_thread()));
                }
                Ok::<_, CallError>(ran)
            });
            let ran = ran.unwrap().unwrap();
            assert!(ran.iter().all(|((thread, fence), caller)| thread == caller && *fence == 0));
        }
        nodes.into_iter().for_each(|node| assert!(node.stop()));
    });
}
