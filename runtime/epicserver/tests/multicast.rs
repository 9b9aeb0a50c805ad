//! Nodes of two hosts that know nothing of each other, and find each other by multicast. The hosts are network
//! namespaces, joined by a wire.

#[expect(dead_code, reason = "its setups are of nodes that stand alone")]
mod common;
#[path = "common/run_dir.rs"]
mod run_dir;
#[path = "common/skip.rs"]
mod skip;

use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, ChildStdout, Command, Stdio};

use common::{Gate, within};
use epicserver::config::{Key, Multicast};
use epicserver::{Config, Node};
use run_dir::RunDir;

/// What a child is: the address of its host, the interface there, its run directory, the name of its fabric.
const CHILD: &str = "EPIC_TEST_CHILD_HOST";
const ADDRESSES: [&str; 2] = ["10.86.1.1", "10.86.1.2"];

/// Two hosts; each has one interface, called as it is itself.
struct Hosts([String; 2]);

impl Hosts {
    fn new() -> Result<Self, String> {
        let process = std::process::id();
        let hosts = Self([format!("em{process}a"), format!("em{process}b")]);
        let [a, b] = &hosts.0;
        for host in [a, b] {
            ip(&["netns", "add", host])?;
        }
        ip(&["-n", a, "link", "add", a, "type", "veth", "peer", "name", b, "netns", b])?;
        for (host, address) in hosts.0.iter().zip(ADDRESSES) {
            ip(&["-n", host, "address", "add", &format!("{address}/24"), "dev", host])?;
            ip(&["-n", host, "link", "set", host, "up"])?;
        }
        for host in &hosts.0 {
            while !ip(&["-n", host, "link", "show", host])?.contains("state UP") {}
        }
        Ok(hosts)
    }

    /// A node of the fabric called `fabric` on host `at`.
    fn node(&self, at: usize, fabric: &str, run_dir: &RunDir) -> Other {
        let (host, address) = (&self.0[at], ADDRESSES[at]);
        let exe = std::env::current_exe().unwrap_or_else(|error| panic!("{error}"));
        let mut command = Command::new("ip");
        command.args(["netns", "exec", host]).arg(exe);
        command.args(["--exact", "is_a_node_until_its_input_ends", "--nocapture"]);
        command.env(CHILD, format!("{address} {host} {} {fabric}", run_dir.path().display()));
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{error}"));
        let output = BufReader::new(child.stdout.take().unwrap_or_else(|| panic!("it is piped")));
        Other { child, output }
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for host in &self.0 {
            // The wire goes with them.
            drop(ip(&["netns", "delete", host]));
        }
    }
}

/// What `ip` says, or why it does not do what it should.
fn ip(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("ip").args(arguments).output();
    let output = output.map_err(|error| format!("ip cannot be run: {error}"))?;
    let said = |bytes| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        return Ok(said(&output.stdout));
    }
    Err(format!("ip {}: {}", arguments.join(" "), said(&output.stderr)))
}

/// A node in a process of its own, which is killed when this is dropped.
struct Other {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Other {
    fn says(&mut self, wanted: &str) {
        let mut lines = self.output.by_ref().lines().map_while(std::io::Result::ok);
        assert!(lines.any(|line| line.contains(wanted)), "it has ended");
    }

    /// Lets it stop, and waits until it has.
    fn stop(&mut self) {
        drop(self.child.stdin.take());
        let status = self.child.wait().unwrap_or_else(|error| panic!("{error}"));
        assert!(status.success());
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What the processes run; alone it has nothing to do.
#[test]
fn is_a_node_until_its_input_ends() {
    let Some(told) = std::env::var_os(CHILD) else { return };
    let told = told.into_string().unwrap();
    let told: Vec<&str> = told.split(' ').collect();
    let [address, interface, run_dir, fabric] = told[..] else { panic!("{told:?}") };
    let mut config = Config::default();
    config.fabric.key = Key::new(b"what the nodes of these tests know");
    config.fabric.name = epicserver::config::Name::new(fabric).unwrap();
    config.fabric.nodes = 2;
    config.network.listen = vec![SocketAddr::new(address.parse::<IpAddr>().unwrap(), 0)];
    config.discovery.multicast = Some(Multicast::Interface(interface.to_owned()));
    config.node.shards = std::num::NonZeroUsize::new(1);
    config.runtime.run_dir = Some(run_dir.into());
    let node = Node::builder().entity::<Gate>().config(&config).pin(false).start().unwrap();
    println!("found another");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    assert!(node.stop());
}

#[test]
fn nodes_of_two_hosts_find_each_other_and_whoever_comes_later() {
    within(|| {
        let hosts = match Hosts::new() {
            Ok(hosts) => hosts,
            Err(why) => {
                let remedy = "run it as root, with `apt-get install iproute2`";
                return skip::skip("nodes of two hosts find each other by multicast", &why, remedy);
            }
        };
        let dirs = [(); 5].map(|()| RunDir::new());
        let stranger = hosts.node(0, "strangers", &dirs[0]);
        let mut first = hosts.node(0, "friends", &dirs[1]);
        let mut second = hosts.node(1, "friends", &dirs[2]);
        first.says("found another");
        second.says("found another");
        second.stop();
        let mut later = hosts.node(1, "friends", &dirs[3]);
        later.says("found another");
        let mut friend = hosts.node(1, "strangers", &dirs[4]);
        friend.says("found another");
        later.stop();
        first.stop();
        drop((stranger, friend));
    });
}
