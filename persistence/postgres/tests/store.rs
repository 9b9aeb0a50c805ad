//! The store `postgres` on real servers: the conformance suite, and what only it has.

mod common;

use std::fmt::Write as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use common::Database;
use epicserver_coordinator::conformance::or_skip;
use epicserver_postgres::store::{Error, Options, open};
use epicserver_store::conformance::{Client, Lacks, Subject, Writing, barrel, owner};
use epicserver_store::{Answer, Found, Keeper, Name, Op, Outcome, Slot, Trouble};
use epicserver_wire::ClassId;

const PATIENCE: Duration = Duration::from_secs(60);

/// A fabric of its own in some databases.
struct OfDatabases {
    databases: Vec<Database>,
    fabric: String,
}

impl OfDatabases {
    fn new(databases: Vec<Database>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let fabric = format!("fabric {}", NEXT.fetch_add(1, Ordering::Relaxed));
        Self { databases, fabric }
    }

    fn first(&self) -> &Database {
        &self.databases[0]
    }

    fn options(&self) -> Options {
        let servers = self.databases.iter().map(Database::through_proxy).collect();
        Options { servers, tls: None, fabric: self.fabric.clone() }
    }

    /// The one on which the slot of `name` lies.
    fn of(&self, name: &Name) -> &Database {
        let slot = Slot::of(&name.entity().expect("it is a name"));
        &self.databases[usize::from(slot.index) % self.databases.len()]
    }

    fn keeper(&self) -> Box<dyn Keeper> {
        Box::new(open(&self.options()).expect("the options are sound"))
    }
}

impl Subject for OfDatabases {
    fn open(&self) -> Box<dyn Keeper> {
        self.keeper()
    }

    fn another(&self) -> Box<dyn Subject> {
        Box::new(Self::new(self.databases.clone()))
    }

    fn flip(&self, name: &Name, bit: usize) -> bool {
        let database = self.of(name);
        let hex = name.as_bytes().iter().fold(String::new(), |mut hex, byte| {
            let _written = write!(hex, "{byte:02x}");
            hex
        });
        let at = format!(
            "FROM epicserver.record WHERE name = '\\x{hex}' AND fabric = '{}'",
            self.fabric
        );
        if number(database, &format!("SELECT octet_length(record)::bigint * 8 {at}"))
            <= i64::try_from(bit).expect("it is small")
        {
            return false;
        }
        database.execute(&format!(
            "UPDATE epicserver.record SET record = set_bit(record, {bit}, 1 - get_bit(record, {bit})) \
             WHERE name = '\\x{hex}' AND fabric = '{}'",
            self.fabric
        ));
        true
    }
}

/// The number that `query` gives.
fn number(database: &Database, query: &str) -> i64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let row = runtime.expect("there is a runtime").block_on(async {
        let client = database.connect().await;
        client.query_one(query, &[]).await
    });
    row.unwrap_or_else(|error| panic!("{query}: {error:?}")).get(0)
}

/// Waits until somebody waits for a lock.
fn wait_for_a_lock(database: &Database) {
    while number(database, "SELECT count(*) FROM pg_locks WHERE NOT granted") == 0 {
        std::thread::yield_now();
    }
}

/// Three databases of one server, as if they were three servers, for all behaviours.
fn shared() -> Result<Vec<Database>, Lacks> {
    static SHARED: OnceLock<Result<Vec<Database>, Lacks>> = OnceLock::new();
    let start = || {
        let first = Database::start(&[]).map_err(|lacks| Lacks(lacks.0))?;
        Ok(vec![first.clone(), first.another(), first.another()])
    };
    SHARED.get_or_init(start).clone()
}

fn one() -> Result<OfDatabases, Lacks> {
    let mut databases = shared()?;
    databases.truncate(1);
    Ok(OfDatabases::new(databases))
}

fn three() -> Result<OfDatabases, Lacks> {
    shared().map(OfDatabases::new)
}

epicserver_store::conformance!(mod on_one_server, one());
epicserver_store::conformance!(mod on_three_servers, three());

/// The subject, or nothing after it was said that the machine lacks it.
fn subject_for(test: &str) -> Option<OfDatabases> {
    let database = or_skip(Database::start(&[]), test)?;
    Some(OfDatabases::new(vec![database]))
}

#[test]
fn a_save_waits_for_a_claim_that_is_under_way_and_is_refused_then() {
    let Some(subject) = subject_for("a claim under way") else { return };
    let keeper = subject.keeper();
    let mut client = Client::owning(&*keeper, &subject);
    // As a claim of another node does that has not been committed yet.
    let claim = "UPDATE epicserver.slot SET epoch = epoch + 1, node = 2";
    let claiming = subject.first().hold(claim, "COMMIT");
    let save = client.submit(Op::Commit(vec![Writing::of(barrel(1), 0).state(b"late")]));
    let save = save.expect("there is room");
    wait_for_a_lock(subject.first());
    drop(claiming);
    let fenced = Outcome::Fenced(Some(owner(2, 2)));
    assert_eq!(client.answer(save), Ok(Answer::Committed(vec![fenced])), "PS1: it was saved");
    assert_eq!(client.load(&barrel(1)), Found::Nothing);
}

#[test]
fn a_server_that_is_restarted_is_found_again_and_has_what_was_answered() {
    let Some(subject) = subject_for("a restart") else { return };
    let keeper = subject.keeper();
    let mut client = Client::owning(&*keeper, &subject);
    for version in 0..5 {
        client.must_save(vec![Writing::of(barrel(1), version).state(b"x")]);
        subject.first().with_server(epicserver_coordinator::conformance::server::Server::restart);
        // The first to ask finds that the session has ended, or that the server still starts.
        let load = || Op::Load { entity: barrel(1), claim: None };
        let found = (0..200).find_map(|_| client.ask(load()).ok()).expect("it comes back");
        let Answer::Loaded(Found::State(record)) = found else { panic!("{found:?}") };
        assert_eq!(record.envelope().version, version + 1);
        let claim = || Op::Claim { owner: owner(1, 1), slots: vec![Slot::of(&barrel(1))] };
        (0..200).find_map(|_| client.ask(claim()).ok()).expect("it comes back");
    }
}

#[test]
fn a_save_whose_answer_is_lost_is_unknown_and_seen_when_it_is_asked_again() {
    let Some(subject) = subject_for("a lost answer") else { return };
    let keeper = subject.keeper();
    let mut client = Client::owning(&*keeper, &subject);
    subject.first().proxy().cut_after(b"WITH want AS");
    let save = || Op::Commit(vec![Writing::of(barrel(1), 0).state(b"x")]);
    let answer = client.ask(save());
    assert!(matches!(answer, Err(Trouble::Unknown(_))), "{answer:?}");
    let again = (0..200).find_map(|_| client.ask(save()).ok()).expect("it comes back");
    let seen = Outcome::Conflict { found: 1, by: Some(owner(1, 1)) };
    assert_eq!(again, Answer::Committed(vec![seen]));
}

#[test]
fn slots_lie_where_their_index_says_and_servers_keep_their_places() {
    let Some(subject) = subject_for("three servers") else { return };
    let first = subject.first().clone();
    let databases = vec![first.clone(), first.another(), first.another()];
    let subject = OfDatabases::new(databases);
    let keeper = subject.keeper();
    let mut client = Client::with_patience(&*keeper, PATIENCE);
    let slots: Vec<Slot> = (0..30).map(|index| Slot { class: ClassId::DEFAULT, index }).collect();
    assert_eq!(client.claim(owner(1, 1), &slots), []);
    for (at, database) in (0_i64..).zip(&subject.databases) {
        let count = "SELECT count(*) FROM epicserver.slot";
        assert_eq!(number(database, count), 10);
        let here = format!("{count} WHERE slot % 3 = {at}");
        assert_eq!(number(database, &here), 10, "PS3");
    }
    drop(keeper);
    for servers in [[0, 1].as_slice(), &[1, 0, 2], &[0, 1, 2, 2]] {
        let servers = servers.iter().map(|at| subject.databases[*at].through_proxy()).collect();
        let keeper = open(&Options { servers, ..subject.options() }).expect("they can be named");
        let answer =
            Client::with_patience(&keeper, PATIENCE).ask(Op::Verify { after: None, limit: 9 });
        assert!(
            matches!(&answer, Err(Trouble::Unavailable(why)) if why.contains("it is server")),
            "PS3: {answer:?}"
        );
    }
}

#[test]
fn fabrics_of_one_database_know_nothing_of_each_other() {
    let Some(subject) = subject_for("two fabrics") else { return };
    let keeper = subject.keeper();
    let mut client = Client::owning(&*keeper, &subject);
    client.must_save(vec![Writing::of(barrel(1), 0).state(b"x")]);
    let other = Options { fabric: "other 'fabric'".to_owned(), ..subject.options() };
    let other = open(&other).expect("the options are sound");
    let mut other = Client::with_patience(&other, PATIENCE);
    assert_eq!(other.load(&barrel(1)), Found::Nothing);
    assert_eq!(other.claim(owner(2, 0), &[Slot::of(&barrel(1))]), []);
    assert_eq!(other.save(Writing::of(barrel(1), 0).by(owner(2, 0)).state(b"y")), Outcome::Saved);
    assert_eq!(client.payload(&barrel(1)), Some(b"x".to_vec()));
}

#[test]
fn a_server_that_cannot_be_reached_is_named() {
    let nobody = epicserver_coordinator::conformance::server::free_address();
    let server = format!("host=127.0.0.1 port={} user=nobody password=secret", nobody.port());
    let options = Options { servers: vec![server], tls: None, fabric: "fabric".to_owned() };
    assert!(!format!("{options:?}").contains("secret"));
    let keeper = open(&options).expect("the options are sound");
    let mut client = Client::with_patience(&keeper, PATIENCE);
    let answer = client.ask(Op::Commit(vec![Writing::of(barrel(1), 0).state(b"x")]));
    let Err(Trouble::Unavailable(why)) = answer else { panic!("nobody is there: {answer:?}") };
    assert!(why.contains(&nobody.port().to_string()) && !why.contains("secret"), "{why}");
}

#[test]
fn options_that_cannot_be_are_refused() {
    let refused = |servers: &[&str], fabric: &str| {
        let servers = servers.iter().map(|server| (*server).to_owned()).collect();
        let options = Options { servers, tls: None, fabric: fabric.to_owned() };
        open(&options).expect_err("it cannot be")
    };
    assert!(matches!(refused(&[], "fabric"), Error::Count(0)));
    assert!(matches!(refused(&["host=a"; 65], "fabric"), Error::Count(65)));
    assert!(matches!(refused(&["host=a"], ""), Error::Fabric));
    assert!(matches!(refused(&["host=a", "user=a"], "fabric"), Error::Server(_)));
}
