//! Processes that become one fabric, and end as processes do: killed, or frozen.

#[expect(dead_code, reason = "its setups are of nodes that stand alone")]
mod common;
#[path = "common/run_dir.rs"]
mod run_dir;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::within;
use epicserver::prelude::*;
use epicserver::{Config, ErrorKind, Ran};
use run_dir::RunDir;

/// Says that a process was started by this test, and where its fabric meets.
const CHILD: &str = "EPIC_TEST_CHILD_RUN_DIR";
/// Entities that are called: enough that each node has some.
const ENTITIES: u64 = 32;

#[entity(key = u64)]
#[derive(Default)]
struct Desk {
    waiting: u32,
}

#[entity]
impl Desk {
    /// The process that this runs in.
    pub fn process(&self) -> u32 {
        std::process::id()
    }

    /// Waits for what never comes.
    pub async fn wait(cx: Cx<Self>) -> Result<()> {
        cx.with(|desk| desk.waiting += 1);
        cx.event("waits").set();
        cx.event("never").wait().await
    }

    /// Waits until a node is gone.
    pub async fn lookout(cx: Cx<Self>) -> Result<u64> {
        let mut watch = cx.watch_nodes();
        cx.with(|desk| desk.waiting += 1);
        cx.event("waits").set();
        watch.next().await.map(|node| node.as_u64())
    }

    /// Waits until somebody waits.
    pub async fn is_waited_at(cx: Cx<Self>) -> Result<()> {
        cx.event("waits").wait().await
    }
}

fn config(run_dir: &Path) -> Config {
    let mut config = Config::default();
    config.fabric.nodes = 2;
    config.node.shards = std::num::NonZeroUsize::new(1);
    config.runtime.run_dir = Some(run_dir.to_owned());
    config
}

fn node(run_dir: &Path) -> Node {
    let builder = Node::builder().entity::<Desk>().config(&config(run_dir)).pin(false);
    builder.start().unwrap_or_else(|error| panic!("{error}"))
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

    fn id(&self) -> u32 {
        self.0.id()
    }

    fn kill(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }

    /// Waits until it says that it serves.
    fn serves(&mut self) {
        let Some(output) = self.0.stdout.take() else { panic!("its output is taken once") };
        let mut lines = BufReader::new(output).lines().map_while(std::io::Result::ok);
        assert!(lines.any(|line| line.contains("serving")), "the other process did not start");
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What the other process runs; alone it has nothing to do.
#[test]
fn serves_until_its_input_ends() {
    let Some(run_dir) = std::env::var_os(CHILD) else { return };
    let node = node(Path::new(&run_dir));
    println!("serving");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    node.stop();
}

/// Asks until an answer comes, and says whether it came from `process`.
fn is_at(client: &Client, key: u64, process: u32) -> bool {
    loop {
        if let Ok(at) = client.block_on(client.get::<Desk>(key).process()) {
            return at == process;
        }
    }
}

fn desks_of(client: &Client, process: u32) -> Vec<u64> {
    (0..ENTITIES).filter(|key| is_at(client, *key, process)).collect()
}

#[test]
fn calls_to_a_killed_process_end_at_once_and_its_entities_go_on_elsewhere() {
    within(|| {
        let dir = RunDir::new();
        let mut other = Other::start(dir.path());
        let node = node(dir.path());
        other.serves();
        let client = node.client();
        let there = desks_of(&client, other.id());
        let key = *there.first().unwrap_or_else(|| panic!("the other process has no entity"));
        let caller = node.client();
        let waiting = std::thread::spawn(move || caller.block_on(caller.get::<Desk>(key).wait()));
        client.block_on(client.get::<Desk>(key).is_waited_at()).unwrap();
        other.kill();
        let error = waiting.join().unwrap().unwrap_err();
        assert_eq!((error.kind(), error.ran()), (ErrorKind::NodeLost, Ran::Unknown));
        let here = std::process::id();
        assert_eq!(desks_of(&client, here).len() as u64, ENTITIES);
        assert!(node.stop());
    });
}

#[test]
fn whoever_watches_the_nodes_is_told_of_one_that_was_killed() {
    within(|| {
        let dir = RunDir::new();
        let mut other = Other::start(dir.path());
        let node = node(dir.path());
        other.serves();
        let client = node.client();
        let here = desks_of(&client, std::process::id());
        let key = *here.first().unwrap_or_else(|| panic!("this process has no entity"));
        let caller = node.client();
        let watching =
            std::thread::spawn(move || caller.block_on(caller.get::<Desk>(key).lookout()));
        client.block_on(client.get::<Desk>(key).is_waited_at()).unwrap();
        other.kill();
        assert_ne!(watching.join().unwrap().unwrap(), 0);
        assert!(node.stop());
    });
}

#[test]
fn a_process_that_was_killed_and_started_again_takes_part_again() {
    within(|| {
        let dir = RunDir::new();
        let mut other = Other::start(dir.path());
        let node = node(dir.path());
        other.serves();
        other.kill();
        let mut again = Other::start(dir.path());
        again.serves();
        let client = node.client();
        while desks_of(&client, again.id()).is_empty() {}
        assert!(node.stop());
    });
}

#[test]
fn a_process_whose_fabric_has_another_key_stays_outside() {
    within(|| {
        let dir = RunDir::new();
        let key_of = |key: &str| {
            let mut config = config(dir.path());
            config.fabric.key = epicserver::config::Key::new(key.as_bytes());
            config
        };
        let (ours, theirs) =
            (key_of("a key of at least 16 bytes"), key_of("and quite another one"));
        let start = |config: Config| {
            std::thread::spawn(move || {
                let builder = Node::builder().entity::<Desk>().config(&config).pin(false);
                builder.start().unwrap_or_else(|error| panic!("{error}"))
            })
        };
        let stranger = start(theirs.clone());
        let (first, second) = (start(ours.clone()), start(ours));
        let nodes = [first.join().unwrap(), second.join().unwrap()];
        assert!(!stranger.is_finished(), "it has found nobody yet");
        let friend = start(theirs);
        let strangers = [stranger.join().unwrap(), friend.join().unwrap()];
        nodes.into_iter().chain(strangers).for_each(|node| assert!(node.stop()));
    });
}
