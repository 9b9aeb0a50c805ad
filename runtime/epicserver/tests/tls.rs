//! Fabrics whose nodes speak TLS: processes that call each other, and who does not get in.

#[path = "common/authority.rs"]
mod authority;
#[expect(dead_code, reason = "its setups are of nodes that stand alone")]
mod common;
#[path = "common/run_dir.rs"]
mod run_dir;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

use authority::certify;
use common::within;
use epicserver::Config;
use epicserver::config::{TlsConfig, Transport};
use epicserver::prelude::*;
use run_dir::RunDir;

/// Says that a process was started by this test, and where its fabric meets.
const CHILD: &str = "EPIC_TEST_TLS_CHILD_RUN_DIR";
/// Sizes about the bounds of records, slots and chunks.
const SIZES: [usize; 9] = [0, 1, 255, 16_384, 65_400, 65_536, 200_001, 3 << 20, 9_000_001];

#[entity(key = u64)]
#[derive(Default)]
struct Desk;

#[entity]
impl Desk {
    /// The process that this runs in.
    pub fn process(&self) -> u32 {
        std::process::id()
    }

    pub fn echo(&self, bytes: Vec<u8>) -> Vec<u8> {
        bytes
    }
}

fn config(run_dir: &Path, tls: TlsConfig) -> Config {
    let mut config = Config::default();
    config.fabric.nodes = 2;
    config.network.transport = Transport::Tcp;
    config.network.tls = Some(tls);
    config.node.shards = std::num::NonZeroUsize::new(1);
    config.runtime.run_dir = Some(run_dir.to_owned());
    config
}

fn start(config: &Config) -> Result<Node, epicserver::NodeError> {
    Node::builder().entity::<Desk>().config(config).pin(false).start()
}

fn starting(config: Config) -> JoinHandle<Node> {
    let node = move || start(&config).unwrap_or_else(|error| panic!("{error}"));
    std::thread::spawn(node)
}

/// A node in a process of its own, which is killed when this is dropped.
struct Other(Child);

impl Other {
    fn start(run_dir: &Path) -> Self {
        let exe = std::env::current_exe().unwrap_or_else(|error| panic!("{error}"));
        let mut command = Command::new(exe);
        command.args(["--exact", "serves_until_its_input_ends", "--nocapture"]);
        command.env(CHILD, run_dir).stdin(Stdio::piped()).stdout(Stdio::piped());
        Self(command.spawn().unwrap_or_else(|error| panic!("{error}")))
    }

    /// Waits until it says that it serves.
    fn serves(&mut self) {
        let Some(output) = self.0.stdout.take() else { panic!("its output is taken once") };
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains("serving")), "the other process did not start");
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// What the other process runs; alone it has nothing to do.
#[test]
fn serves_until_its_input_ends() {
    let Some(run_dir) = std::env::var_os(CHILD) else { return };
    let run_dir = Path::new(&run_dir);
    let node = start(&config(run_dir, authority::files(run_dir, "ours"))).unwrap();
    println!("serving");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    node.stop();
}

#[test]
fn processes_of_one_authority_call_each_other_with_short_and_long_arguments() {
    within(|| {
        let dir = RunDir::new();
        let tls = certify(dir.path(), "ours");
        let mut other = Other::start(dir.path());
        let node = start(&config(dir.path(), tls)).unwrap();
        other.serves();
        let client = node.client();
        // Who calls at the very moment that a node joins is told so, and calls again.
        let process = |key| loop {
            if let Ok(process) = client.block_on(client.get::<Desk>(key).process()) {
                return process;
            }
        };
        let there = (0..64).find(|key| process(*key) == other.0.id());
        let desk = there.expect("the other process has some of 64 entities");
        for size in SIZES {
            let bytes: Vec<u8> = (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let back = client.block_on(client.get::<Desk>(desk).echo(bytes.clone())).unwrap();
            assert!(back == bytes, "{size} bytes come back as they went");
        }
        assert!(node.stop());
    });
}

#[test]
fn a_node_with_a_certificate_of_another_authority_stays_outside() {
    within(|| {
        let dir = RunDir::new();
        let ours = config(dir.path(), certify(dir.path(), "ours"));
        let theirs = config(dir.path(), certify(dir.path(), "theirs"));
        let stranger = starting(theirs.clone());
        let pair = [starting(ours.clone()), starting(ours)];
        let nodes = pair.map(|node| node.join().unwrap());
        assert!(!stranger.is_finished(), "it has found nobody yet");
        let friend = starting(theirs);
        let strangers = [stranger, friend].map(|node| node.join().unwrap());
        nodes.into_iter().chain(strangers).for_each(|node| assert!(node.stop()));
    });
}

#[test]
fn a_node_in_the_clear_stays_outside() {
    within(|| {
        let dir = RunDir::new();
        let secure = config(dir.path(), certify(dir.path(), "ours"));
        let mut clear = secure.clone();
        clear.network.tls = None;
        let stranger = starting(clear.clone());
        let pair = [starting(secure.clone()), starting(secure)];
        let nodes = pair.map(|node| node.join().unwrap());
        assert!(!stranger.is_finished(), "it has found nobody yet");
        let friend = starting(clear);
        let strangers = [stranger, friend].map(|node| node.join().unwrap());
        nodes.into_iter().chain(strangers).for_each(|node| assert!(node.stop()));
    });
}

#[test]
fn a_node_whose_certificates_cannot_be_used_does_not_start_and_says_which_file_it_is() {
    let dir = RunDir::new();
    let mut tls = certify(dir.path(), "ours");
    tls.ca = dir.path().join("no-ca.pem");
    let error = start(&config(dir.path(), tls.clone())).unwrap_err().to_string();
    let said = format!("cannot use [network.tls]: cannot read {}: ", tls.ca.display());
    assert!(error.starts_with(&said), "{error}");
}
