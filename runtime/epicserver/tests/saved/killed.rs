//! A node that is killed under load, again and again: what it has said was saved is there.
//!
//! `EPIC_KILL_ROUNDS` says how often, 20 times unless set.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use epicserver::Config;
use epicserver::prelude::*;
use epicserver_coordinator::conformance::or_skip;

use crate::database::Database;
use crate::run_dir::RunDir;
use crate::{Account, ENTITIES, add_to_all, config, node, on_server, within};

/// Says that a process is the node of such a test, and where its store is.
const CHILD: &str = "EPIC_TEST_SAVED_CHILD";
/// Says which server has it, if one has.
const SERVER: &str = "EPIC_TEST_SAVED_SERVER";
/// Says that a process is one of two nodes, and where their fabric meets.
const PARTNER: &str = "EPIC_TEST_SAVED_PARTNER";
const LAG: Duration = Duration::from_millis(200);
const KEYS: u64 = 16;

/// Saved within 200 ms.
#[entity(key = u64, lag = "200ms")]
#[derive(Default)]
struct Late {
    count: u64,
}

#[entity]
impl Late {
    pub fn add(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    pub fn count(&self) -> u64 {
        self.count
    }
}

fn rounds() -> u64 {
    std::env::var("EPIC_KILL_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(20)
}

/// The node of a test: it says what it begins with, and then each reply as it comes.
#[test]
fn child() {
    let Ok(folder) = std::env::var(CHILD) else { return };
    let folder = Path::new(&folder);
    let server = std::env::var(SERVER);
    run_child(&server.map_or_else(|_| config(folder), |server| on_server(folder, &server)));
}

fn run_child(config: &Config) {
    let node = Node::builder().config(config).pin(false).entity::<Account>().entity::<Late>();
    let node = node.start().expect("it starts");
    let client = node.client();
    let say = |line: String| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{line}").and_then(|()| out.flush()).expect("the test listens");
    };
    let begun = node.run(async |pool| {
        let mut begun = Vec::new();
        for key in 0..KEYS {
            let account = pool.get::<Account>(key).count().await.expect("it is loaded");
            begun.push((key, account, pool.get::<Late>(key).count().await.expect("it is loaded")));
        }
        begun
    });
    for (key, account, late) in begun.expect("it is said") {
        say(format!("begins {key} {account} {late}"));
    }
    say("begun".to_owned());
    drop(client);
    let endless = node.run(async move |pool| {
        let mut round = 0_u64;
        loop {
            round += 1;
            let accounts: Vec<_> =
                (0..KEYS).map(|key| (key, pool.get::<Account>(key).add())).collect();
            let lates: Vec<_> = (0..KEYS).map(|key| (key, pool.get::<Late>(key).add())).collect();
            for (key, late) in lates {
                say(format!("late {key} {}", late.await.expect("it runs")));
            }
            for (key, account) in accounts {
                say(format!("saved {key} {}", account.await.expect("it is saved")));
            }
            if round == u64::MAX {
                break;
            }
        }
    });
    endless.expect("it goes on until it is killed");
}

/// What a node has said of its entities.
#[derive(Default)]
struct Said {
    saved: BTreeMap<u64, u64>,
    /// Each with when it was heard.
    late: BTreeMap<u64, Vec<(Instant, u64)>>,
}

impl Said {
    fn hear(&mut self, line: &str) -> bool {
        let mut words = line.split(' ');
        let (kind, numbers) = (words.next(), words.flat_map(str::parse));
        let numbers: Vec<u64> = numbers.collect();
        match (kind, &numbers[..]) {
            (Some("saved"), [key, count]) => {
                self.saved.insert(*key, *count);
            }
            (Some("late"), [key, count]) => {
                self.late.entry(*key).or_default().push((Instant::now(), *count));
            }
            (Some("begins"), [key, account, late]) => self.begins(*key, *account, *late),
            (Some("begun"), []) => return true,
            // What the harness says.
            _ => {}
        }
        false
    }

    /// What the next node begins with is no less than this one has said was saved.
    fn begins(&mut self, key: u64, account: u64, late: u64) {
        let saved = self.saved.get(&key).copied().unwrap_or(0);
        assert!(account >= saved, "account {key} begins with {account}, and {saved} were saved");
        assert!(account <= saved + 1, "account {key} begins with {account} after {saved}");
        // What was saved and not said any more counts from now on.
        self.saved.insert(key, account);
        let heard = self.late.remove(&key).unwrap_or_default();
        let due = heard.iter().rev().find(|(_, count)| *count > 0).map_or(0, |(_, count)| *count);
        assert!(late >= due, "late {key} begins with {late}, and {due} were due");
    }

    /// The node was killed at `time`: what it did within the lag before need not be there.
    fn killed(&mut self, time: Instant) {
        for heard in self.late.values_mut() {
            heard.retain(|(at, _)| *at + LAG <= time);
        }
    }
}

struct Killable {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Killable {
    fn start(folder: &RunDir, server: Option<&str>) -> Self {
        let program = std::env::current_exe().expect("tests have a file");
        let mut command = Command::new(program);
        command.args(["--exact", "killed::child", "--nocapture"]).env(CHILD, folder.path());
        server.into_iter().for_each(|server| {
            command.env(SERVER, server);
        });
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it can be started");
        let lines = BufReader::new(child.stdout.take().expect("it is piped"));
        Self { child, lines }
    }

    fn hear(&mut self, said: &mut Said) -> bool {
        let mut line = String::new();
        let bytes = self.lines.read_line(&mut line).expect("it is text");
        assert!(bytes > 0, "the node ended by itself");
        said.hear(line.trim_end())
    }
}

impl Drop for Killable {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn a_node_that_is_killed_at_any_moment_has_lost_nothing_that_it_said_was_saved() {
    kill_again_and_again(None);
}

#[test]
fn on_postgres_a_node_that_is_killed_has_lost_nothing_either() {
    let name = "a node that is killed, on postgres";
    let Some(database) = or_skip(Database::start(&[]), name) else { return };
    kill_again_and_again(Some(&database.directly()));
}

fn kill_again_and_again(server: Option<&str>) {
    let folder = RunDir::new();
    let mut said = Said::default();
    let mut random = 88_172_645_463_325_252_u64;
    for _ in 0..rounds() {
        let mut node = Killable::start(&folder, server);
        while !node.hear(&mut said) {}
        // Marsaglia's xorshift: any numbers serve.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let begun = Instant::now();
        let life = Duration::from_millis(random % 600);
        while begun.elapsed() < life {
            node.hear(&mut said);
        }
        node.child.kill().expect("it is ours");
        let killed = Instant::now();
        // What it said before it was killed counts too.
        let mut rest = String::new();
        drop(std::io::Read::read_to_string(&mut node.lines, &mut rest));
        rest.lines().filter(|line| line.starts_with("saved")).for_each(|line| {
            said.hear(line);
        });
        said.killed(killed);
    }
}

/// A node of a fabric of two, which serves until it is killed.
#[test]
fn partner() {
    let Ok(folder) = std::env::var(PARTNER) else { return };
    let partner = node(&of_two(folder.as_ref())).unwrap();
    // Whoever has started it ends it, or has ended.
    drop(std::io::stdin().lines().next());
    drop(partner);
}

fn of_two(folder: &Path) -> Config {
    let mut config = config(folder);
    config.fabric.nodes = 2;
    config.node.shards = std::num::NonZeroUsize::new(1);
    config
}

#[test]
fn when_the_process_that_has_the_embedded_store_is_killed_the_other_goes_on_with_all_that_was_saved()
 {
    within(|| {
        let folder = RunDir::new();
        let program = std::env::current_exe().expect("tests have a file");
        let mut command = Command::new(program);
        command.args(["--exact", "killed::partner"]).env(PARTNER, folder.path());
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut partner = command.spawn().expect("it can be started");
        // Whoever is there first has the file.
        let store = folder.path().join("store.redb");
        while !store.exists() {
            std::thread::yield_now();
        }
        let one = node(&of_two(folder.path())).unwrap();
        assert_eq!(one.run(add_to_all).unwrap(), vec![(1, 1); 100]);
        partner.kill().expect("it is ours");
        partner.wait().expect("it was killed");
        let counts = one.run(async |pool| {
            let mut counts = Vec::new();
            for key in 0..ENTITIES {
                counts.push(until_it_answers(&pool.get::<Account>(key)).await);
            }
            counts
        });
        assert_eq!(counts.unwrap(), vec![1; 100]);
        assert!(one.stop());
    });
}

/// Until the lease of whoever had it has ended, and the store is open again.
async fn until_it_answers(account: &Ref<Account>) -> u64 {
    loop {
        match account.count().await {
            Ok(count) => return count,
            Err(error) => assert!(
                matches!(error.kind(), ErrorKind::NodeLost | ErrorKind::StoreUnavailable),
                "{error}"
            ),
        }
    }
}
