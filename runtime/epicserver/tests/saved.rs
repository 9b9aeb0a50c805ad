//! Entities that outlive their node: one that stops, and one that is killed at any moment.

#[expect(dead_code, reason = "its setups are of nodes that save nothing")]
mod common;
#[expect(dead_code, reason = "its other settings are for the tests of the store itself")]
#[path = "../../../persistence/postgres/tests/common/mod.rs"]
mod database;
#[path = "saved/killed.rs"]
mod killed;
#[path = "common/run_dir.rs"]
mod run_dir;

use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use common::within;
use database::Database;
use epicserver::config::{CoordinatorKind, Secret, StoreKind};
use epicserver::prelude::*;
use epicserver::{Config, NodeError};
use epicserver_coordinator::conformance::or_skip;
use run_dir::RunDir;

/// Saved when its node stops, or after a while.
#[entity(key = u64)]
#[derive(Default)]
struct Counter {
    count: u64,
}

#[entity]
impl Counter {
    pub fn add(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    pub fn delete(&mut self, at: At<Self>) {
        at.delete();
    }
}

/// Saved before each reply.
#[entity(key = u64, saved = "every_turn")]
#[derive(Default)]
struct Account {
    count: u64,
}

#[entity]
impl Account {
    pub fn add(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    pub fn count(&self) -> u64 {
        self.count
    }
}

/// Notes what it is reminded of.
#[entity(key = u64)]
#[derive(Default)]
struct Alarm {
    rung: Vec<String>,
}

#[entity]
impl Alarm {
    pub async fn set(cx: Cx<Self>, label: String, ms: u64) -> Result<()> {
        cx.remind_in(label, Duration::from_millis(ms)).await
    }

    /// Ends when it has rung.
    pub async fn rung(cx: Cx<Self>) -> Result<Vec<String>> {
        while cx.with(|alarm| alarm.rung.is_empty()) {
            cx.event("rung").wait().await?;
        }
        Ok(cx.with(|alarm| alarm.rung.clone()))
    }

    #[reminded]
    fn ring(&mut self, at: At<Self>, reminder: Reminder) {
        self.rung.push(reminder.label);
        at.event("rung").set();
    }
}

fn config(folder: &Path) -> Config {
    let mut config = Config::default();
    config.store.kind = StoreKind::Redb;
    config.store.path = folder.join("store.redb");
    config.node.shards = NonZeroUsize::new(2);
    config.runtime.run_dir = Some(folder.to_owned());
    config
}

/// The same with its entities on a server of PostgreSQL.
fn on_server(folder: &Path, server: &str) -> Config {
    let mut config = config(folder);
    config.store.kind = StoreKind::Postgres;
    config.store.servers = vec![Secret::new(server)];
    config
}

fn node(config: &Config) -> Result<Node, NodeError> {
    Node::builder()
        .config(config)
        .pin(false)
        .entity::<Counter>()
        .entity::<Account>()
        .entity::<Alarm>()
        .start()
}

/// Two nodes of one fabric, which wait for each other.
fn two_nodes(config: &Config) -> (Node, Node) {
    let other = config.clone();
    let other = std::thread::spawn(move || node(&other).expect("it joins"));
    (node(config).expect("it joins"), other.join().expect("it has started"))
}

const ENTITIES: u64 = 100;

async fn add_to_all(pool: Pool) -> Vec<(u64, u64)> {
    let mut counts = Vec::new();
    for key in 0..ENTITIES {
        let (counter, account) = (pool.get::<Counter>(key), pool.get::<Account>(key));
        let both = (counter.add(), account.add());
        counts.push((both.0.await.expect("it runs"), both.1.await.expect("it is saved")));
    }
    counts
}

#[test]
fn entities_go_on_where_they_were_when_their_node_is_started_again() {
    within(|| {
        let folder = RunDir::new();
        for run in 1..=3 {
            let node = node(&config(folder.path())).unwrap();
            let counts = node.run(add_to_all).unwrap();
            assert_eq!(counts, vec![(run, run); 100]);
            assert!(node.stop());
        }
    });
}

#[test]
fn entities_that_go_to_another_node_take_along_what_they_are() {
    let folder = RunDir::new();
    go_to_another_node(config(folder.path()));
    let name = "entities that go to another node, on postgres";
    let Some(database) = or_skip(Database::start(&[]), name) else { return };
    go_to_another_node(on_server(folder.path(), &database.directly()));
}

fn go_to_another_node(mut config: Config) {
    within(move || {
        config.fabric.nodes = 2;
        config.node.shards = NonZeroUsize::new(1);
        let (one, other) = two_nodes(&config);
        assert_eq!(one.run(add_to_all).expect("it runs"), vec![(1, 1); 100]);
        assert!(one.stop(), "it hands over what it has, and has it saved");
        assert_eq!(other.run(add_to_all).expect("it runs"), vec![(2, 2); 100]);
        assert!(other.stop());
    });
}

#[test]
fn reminders_go_with_their_slots_and_come_after_a_stop_of_everything() {
    let folder = RunDir::new();
    are_reminded(config(folder.path()));
    let Some(database) = or_skip(Database::start(&[]), "reminders on postgres") else { return };
    are_reminded(on_server(folder.path(), &database.directly()));
}

#[test]
fn requests_that_are_sent_again_over_the_fabric_and_after_a_restart_run_once() {
    within(|| {
        let folder = RunDir::new();
        let mut config = config(folder.path());
        config.fabric.nodes = 2;
        for repeats in 1..=2 {
            let (one, other) = two_nodes(&config);
            for node in [&one, &other] {
                let counts = node.run(async move |pool| add_by_requests(&pool, repeats).await);
                let first_and_own = (0..ENTITIES).flat_map(|_| [1, 1 + repeats]);
                assert!(counts.expect("it runs").into_iter().eq(first_and_own));
            }
            assert!(one.stop() && other.stop());
        }
    });
}

/// Of each account one request that is always the same, and one that is only of this turn.
async fn add_by_requests(pool: &Pool, turn: u64) -> Vec<u64> {
    let mut counts = Vec::new();
    for key in 0..ENTITIES {
        let account = pool.get::<Account>(key);
        for of in [0, turn] {
            let request = Uuid::from_u128(of.into());
            counts.push(account.add().request_id(request).await.expect("it is saved"));
        }
    }
    counts
}

fn are_reminded(mut config: Config) {
    within(move || {
        config.fabric.nodes = 2;
        let (one, other) = two_nodes(&config);
        one.run(async |pool| {
            for key in 0..ENTITIES {
                pool.get::<Alarm>(key).set("soon".to_owned(), 500).await.expect("it is saved");
                pool.get::<Alarm>(key + ENTITIES).set("late".to_owned(), 3_000).await.expect("so");
            }
        })
        .expect("it runs");
        assert!(one.stop(), "what it has goes to the other one");
        let have_rung = async |pool: Pool, from: u64, label: &str| {
            for key in from..from + ENTITIES {
                let rung = pool.get::<Alarm>(key).rung().await.expect("it rings");
                assert_eq!(rung, [label], "{key} rings once");
            }
        };
        other.run(async move |pool| have_rung(pool, 0, "soon").await).expect("it runs");
        assert!(other.stop());
        let (one, other) = two_nodes(&config);
        one.run(async move |pool| have_rung(pool, ENTITIES, "late").await).expect("it runs");
        assert!(other.stop() && one.stop());
    });
}

#[test]
fn what_was_deleted_begins_anew_in_the_next_node_too() {
    within(|| {
        let folder = RunDir::new();
        for _ in 0..2 {
            let node = node(&config(folder.path())).unwrap();
            let count = node.run(async |pool| {
                let counter = pool.get::<Counter>(1);
                let count = counter.add().await.unwrap();
                counter.delete().await.unwrap();
                count
            });
            assert_eq!(count.unwrap(), 1);
            assert!(node.stop());
        }
    });
}

#[test]
fn a_store_that_cannot_be_opened_or_that_other_nodes_could_not_read_is_refused_with_what_to_choose()
{
    let folder = RunDir::new();
    let mut config = config(folder.path());
    config.store.path = folder.path().join("nowhere/store.redb");
    let error = node(&config).unwrap_err().to_string();
    assert!(error.contains("nowhere/store.redb"), "{error}");
    config.fabric.nodes = 2;
    config.store.kind = StoreKind::Memory;
    let error = node(&config).unwrap_err().to_string();
    assert!(error.contains("memory") && error.contains("postgres"), "{error}");
    config.store.kind = StoreKind::Redb;
    config.coordinator.kind = CoordinatorKind::Etcd;
    config.coordinator.servers = vec![Secret::new("http://127.0.0.1:1")];
    let error = node(&config).unwrap_err().to_string();
    assert!(error.contains("redb") && error.contains("postgres"), "{error}");
}

/// What `epic store` says, and whether it ended well.
fn epic_store(folder: &Path, words: &[&str]) -> (bool, String, String) {
    let mut epic = std::process::Command::new(env!("CARGO_BIN_EXE_epic"));
    epic.arg("store").args(words).current_dir(folder);
    epic.env("EPICSERVER_STORE__KIND", "redb").env("EPICSERVER_STORE__PATH", "store.redb");
    let said = epic.output().expect("it can be started");
    let text = |bytes| String::from_utf8(bytes).expect("it says text");
    (said.status.success(), text(said.stdout), text(said.stderr))
}

#[test]
fn an_operator_sees_what_is_stored_while_the_node_runs_and_moves_it_to_another_store() {
    within(|| {
        let (folder, other) = (RunDir::new(), RunDir::new());
        let node = node(&config(folder.path())).unwrap();
        assert_eq!(node.run(add_to_all).unwrap(), vec![(1, 1); 100]);
        let (well, shown, _) = epic_store(folder.path(), &["show", "Account", "7"]);
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert!(well && shown["version"] == 1 && shown["deleted"] == false, "{shown}");
        assert!(node.stop());
        let (well, verified, _) = epic_store(folder.path(), &["verify"]);
        assert!(well && verified.starts_with("200 rows"), "{verified}");
        let file = other.path().join("rows");
        let file = file.to_str().unwrap();
        assert!(epic_store(folder.path(), &["export", file]).0);
        assert!(epic_store(other.path(), &["import", file]).0);
        let (_, listed, _) = epic_store(folder.path(), &["list"]);
        assert_eq!(listed.lines().count(), 3, "{listed}");
        assert_eq!(epic_store(other.path(), &["list"]).1, listed);
        let (well, _, why) = epic_store(other.path(), &["show", "Account", "7000"]);
        assert!(!well && why.contains("there is no Account with the key 7000"), "{why}");
        let (well, purged, _) = epic_store(other.path(), &["purge", "1d"]);
        assert!(well && purged == "0 tombstones are gone\n", "{purged}");
    });
}
