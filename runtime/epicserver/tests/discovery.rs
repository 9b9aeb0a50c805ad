//! Nodes that share no run directory and find each other all the same.

#[expect(dead_code, reason = "its setups are of nodes that stand alone")]
mod common;
#[path = "common/run_dir.rs"]
mod run_dir;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use common::{Gate, within};
use epicserver::config::{Key, Transport};
use epicserver::{Config, Node};
use run_dir::RunDir;

fn config(run_dir: &RunDir, nodes: u32) -> Config {
    let mut config = Config::default();
    config.fabric.key = Key::new(b"what the nodes of these tests know");
    config.fabric.nodes = nodes;
    config.network.transport = Transport::Tcp;
    config.node.shards = std::num::NonZeroUsize::new(1);
    config.runtime.run_dir = Some(run_dir.path().to_owned());
    config
}

/// Blocks until as many nodes have found each other as `config` wants.
fn start(config: &Config) -> Node {
    let builder = Node::builder().entity::<Gate>().config(config).pin(false);
    builder.start().unwrap_or_else(|error| panic!("{error}"))
}

/// A port at which nobody listens now.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    listener.local_addr().expect("it is bound").port()
}

/// A node that is content alone and has this seed, and another that comes there later, goes, and comes again.
fn comes_and_goes(seed: &str, port: u16) {
    let (here, there) = (RunDir::new(), RunDir::new());
    let mut config_here = config(&here, 1);
    config_here.network.seeds = vec![epicserver_link::Address::new("tcp", seed)];
    let first = start(&config_here);
    let mut config_there = config(&there, 2);
    config_there.network.listen = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, port))];
    for _ in 0..2 {
        assert!(start(&config_there).stop());
    }
    assert!(first.stop());
}

#[test]
fn a_seed_is_dialled_until_it_is_there_and_again_when_it_was_gone() {
    within(|| {
        let port = free_port();
        comes_and_goes(&format!("127.0.0.1:{port}"), port);
    });
}

#[test]
fn a_seed_may_be_a_name() {
    within(|| {
        let port = free_port();
        comes_and_goes(&format!("localhost:{port}"), port);
    });
}
