//! The coordinator `postgres` on a real server: the conformance suite, and what only it has.

mod authority;
mod common;

use std::time::Duration;

use authority::Authority;
use common::Database;
use epicserver_coordinator::conformance::{Client, Cut, Lacks, Subject, or_skip};
use epicserver_coordinator::{Answer, Ask, Coordinator, Wake};
use epicserver_postgres::coordinator::{Options, open};
use epicserver_wire::NodeId;

const LONG: Duration = Duration::from_secs(3600);

/// A fabric in a database of its own.
struct OfDatabase(Database);

impl OfDatabase {
    fn options(&self) -> Options {
        Options { server: self.0.through_proxy(), tls: None, fabric: "fabric".to_owned() }
    }
}

impl Subject for OfDatabase {
    fn open(&self, wake: Wake) -> Result<Box<dyn Coordinator>, String> {
        let near = open(&self.options(), wake).map_err(|error| error.to_string())?;
        Ok(Box::new(near))
    }

    fn another(&self) -> Box<dyn Subject> {
        Box::new(Self(self.0.another()))
    }

    fn restart(&self) -> bool {
        self.0.with_server(epicserver_coordinator::conformance::server::Server::restart);
        true
    }

    fn forget(&self, node: NodeId) -> bool {
        let node = node.as_u64().cast_signed();
        self.0.execute(&format!("DELETE FROM epicserver.lease WHERE node = {node}"));
        true
    }

    fn spoil(&self, way: usize) -> Option<&'static str> {
        let (statement, said) = match way {
            0 => ("UPDATE epicserver.view SET number = -1", "has the number -1"),
            1 => ("DELETE FROM epicserver.view", "the row of the fabric was removed"),
            2 => ("ALTER TABLE epicserver.view DROP COLUMN number", "column"),
            3 => (
                "UPDATE epicserver.lease SET record = decode(repeat('00', 9000), 'hex')",
                "9000 bytes",
            ),
            4 => ("DROP TABLE epicserver.lease", "epicserver.lease"),
            5 => (
                "INSERT INTO epicserver.lease SELECT 'fabric', n, '', now() + interval '1 hour', false \
                 FROM generate_series(100, 9000) AS n",
                "more than 8192",
            ),
            6 => ("ALTER TABLE epicserver.view ALTER COLUMN number TYPE text", "cannot convert"),
            _ => return None,
        };
        self.0.execute(statement);
        Some(said)
    }

    fn cut(&self, what: Cut) -> bool {
        self.0.proxy().cut_after(match what {
            Cut::Change => b"COMMIT",
            Cut::Renew => b"INSERT INTO epicserver.lease",
            Cut::Release => b"WITH released AS",
        });
        true
    }

    fn stall(&self, stalled: bool) -> bool {
        self.0.proxy().stall(stalled);
        true
    }
}

fn subject() -> Result<OfDatabase, Lacks> {
    Database::start(&[]).map(OfDatabase)
}

epicserver_coordinator::conformance!(mod conformance, subject());

/// The subject, or nothing after it was said that the machine lacks it.
fn subject_for(test: &str) -> Option<OfDatabase> {
    or_skip(subject(), test)
}

#[test]
fn a_change_that_waits_for_a_lock_fails_soon_and_renewals_go_on() {
    let Some(subject) = subject_for("a lock that somebody keeps") else { return };
    let (mut one, mut other) = (Client::open(&subject), Client::open(&subject));
    let node = NodeId::new(1);
    assert_eq!(one.renew(node, b"", LONG), Answer::Renewed { number: 0 });
    // Whoever holds the row of the view, as one would that was stopped amid a change.
    let holder = subject.0.hold("SELECT FROM epicserver.view FOR UPDATE", "ROLLBACK");
    let change = one.change(0, b"view", &[]);
    assert!(
        matches!(&change, Answer::Failed { why } if why.contains("lock timeout")),
        "{change:?}"
    );
    assert_eq!(other.renew(node, b"", LONG), Answer::Renewed { number: 0 });
    drop(holder);
    assert_eq!(one.change(0, b"view", &[]), Answer::Changed { number: 1 });
}

#[test]
fn a_server_that_is_frozen_is_given_up_and_found_again() {
    let Some(subject) = subject_for("a frozen server") else { return };
    let mut client = Client::open(&subject);
    assert_eq!(client.change(0, b"view", &[]), Answer::Changed { number: 1 });
    subject.0.with_server(|server| server.freeze(true));
    // Its processes that have connections are others; one that has none yet gets none.
    let late = Client::open(&subject).ask(Ask::Read);
    assert!(matches!(&late, Answer::Failed { why } if why.contains("does not answer")), "{late:?}");
    subject.0.with_server(|server| server.freeze(false));
    assert_eq!(client.read().0, Some((1, b"view".to_vec())));
}

#[test]
fn fabrics_of_one_database_know_nothing_of_each_other() {
    let Some(subject) = subject_for("two fabrics") else { return };
    let mut one = Client::open(&subject);
    assert_eq!(one.change(0, b"view", &[NodeId::new(2)]), Answer::Changed { number: 1 });
    let other = Options { fabric: "other 'fabric'".to_owned(), ..subject.options() };
    let mut other = Client::open(&Of(other));
    assert_eq!(other.read(), (None, Vec::new()));
    assert_eq!(other.renew(NodeId::new(2), b"", LONG), Answer::Renewed { number: 0 });
    assert_eq!(one.read(), (Some((1, b"view".to_vec())), Vec::new()));
}

#[test]
fn a_part_of_another_version_is_refused() {
    let Some(subject) = subject_for("another version") else { return };
    Client::open(&subject).read();
    subject.0.execute("UPDATE epicserver.part SET version = 99");
    let late = Client::open(&subject).ask(Ask::Read);
    assert!(matches!(&late, Answer::Failed { why } if why.contains("version 99")), "{late:?}");
}

#[test]
fn many_that_begin_at_once_make_the_tables_once() {
    let Some(subject) = subject_for("many that begin at once") else { return };
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(Client::open(&subject).read(), (None, Vec::new())));
        }
    });
}

#[test]
fn a_role_that_may_only_use_the_tables_is_enough_once_they_are_there() {
    let Some(subject) = subject_for("a role") else { return };
    Client::open(&subject).read();
    subject.0.execute(
        "CREATE ROLE node LOGIN; GRANT USAGE ON SCHEMA epicserver TO node; \
         GRANT SELECT ON epicserver.part TO node; \
         GRANT SELECT, INSERT, UPDATE ON epicserver.view TO node; \
         GRANT SELECT, INSERT, UPDATE, DELETE ON epicserver.lease TO node",
    );
    let server = subject.0.through_proxy().replace("user=postgres", "user=node");
    let mut client = Client::open(&Of(Options { server, ..subject.options() }));
    let node = NodeId::new(1);
    assert_eq!(client.renew(node, b"", LONG), Answer::Renewed { number: 0 });
    assert_eq!(client.change(0, b"view", &[NodeId::new(2)]), Answer::Changed { number: 1 });
    assert_eq!(client.release(node), Answer::Released);
}

#[test]
fn what_has_ended_is_forgotten_after_a_day_and_not_before() {
    let Some(subject) = subject_for("a day") else { return };
    let mut client = Client::open(&subject);
    let (node, recent) = (NodeId::new(1), NodeId::new(2));
    assert_eq!(client.change(0, b"view", &[node, recent]), Answer::Changed { number: 1 });
    subject.0.execute(
        "UPDATE epicserver.lease SET expires = expires - interval '25 hours' WHERE node = 1; \
         UPDATE epicserver.lease SET expires = expires - interval '23 hours' WHERE node = 2",
    );
    assert_eq!(client.change(1, b"view", &[]), Answer::Changed { number: 2 });
    assert_eq!(client.renew(recent, b"", LONG), Answer::Evicted);
    // Nobody asks so late, but whoever does finds nothing.
    assert_eq!(client.renew(node, b"", LONG), Answer::Renewed { number: 2 });
}

#[test]
fn a_server_that_cannot_be_reached_is_named() {
    let nobody = epicserver_coordinator::conformance::server::free_address();
    let server = format!("host=127.0.0.1 port={} user=nobody password=secret", nobody.port());
    let options = Options { server, tls: None, fabric: "fabric".to_owned() };
    assert!(!format!("{options:?}").contains("secret"));
    let answer = Client::open(&Of(options)).ask(Ask::Read);
    let Answer::Failed { why } = answer else { panic!("nobody is there, and it says {answer:?}") };
    assert!(why.contains(&nobody.port().to_string()) && why.contains("refused"), "{why}");
    assert!(!why.contains("secret"), "{why}");
}

#[test]
fn a_server_is_reached_by_tls_and_only_if_the_authority_has_signed_for_it() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let database = Database::start_with(&["ssl=on"], |data| {
        ours.sign_for("127.0.0.1", &data.join("server.crt"), &data.join("server.key"));
        std::fs::write(data.join("pg_hba.conf"), "hostssl all all 127.0.0.1/32 trust\n").unwrap();
    });
    let Some(database) = or_skip(database, "a server with TLS") else { return };
    let options = |tls| Options { tls, ..OfDatabase(database.clone()).options() };
    let node = NodeId::new(1);
    let mut client = Client::open(&Of(options(Some(ours.files()))));
    assert_eq!(client.renew(node, b"", LONG), Answer::Renewed { number: 0 });

    let untrusted = Client::open(&Of(options(Some(other.files())))).ask(Ask::Read);
    let Answer::Failed { why } = untrusted else {
        panic!("no authority, and it says {untrusted:?}")
    };
    assert!(why.contains("certificate"), "{why}");
    let clear = Client::open(&Of(options(None))).ask(Ask::Read);
    assert!(matches!(&clear, Answer::Failed { why } if why.contains("no encryption")), "{clear:?}");
    let mut named = options(Some(ours.files()));
    named.server = named.server.replace("host=127.0.0.1", "host=localhost");
    let misnamed = Client::open(&Of(named)).ask(Ask::Read);
    let Answer::Failed { why } = misnamed else { panic!("another name, and it says {misnamed:?}") };
    assert!(why.contains("not valid for name"), "{why}");
}

#[test]
fn options_that_cannot_be_are_refused() {
    let refused = |server: &str, fabric: &str| {
        let options = Options { server: server.to_owned(), tls: None, fabric: fabric.to_owned() };
        open(&options, Wake::new(|| ())).expect_err("it cannot be").to_string()
    };
    assert!(refused("host=a", "").contains("1 to 256 bytes"));
    assert!(refused("host=a", "a\0b").contains("none of them 0"));
    assert!(refused("user=a", "fabric").contains("names no host"));
    assert!(refused("prot=5", "fabric").contains("prot"));
    assert!(refused("postgres://h/d?sslmode=require", "fabric").contains("certificates"));
}

/// A subject of options alone.
struct Of(Options);

impl Subject for Of {
    fn open(&self, wake: Wake) -> Result<Box<dyn Coordinator>, String> {
        let near = open(&self.0, wake).map_err(|error| error.to_string())?;
        Ok(Box::new(near))
    }

    fn another(&self) -> Box<dyn Subject> {
        Box::new(Self(self.0.clone()))
    }
}
