//! A node in a process of its own, which does what a test tells it, line by line.

use std::fmt::{Debug, Display};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use epicserver::Config;
use epicserver::config::StoreKind;
use epicserver::prelude::*;
use tracing::field::Field;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::programs::{Program, program};
use crate::run_dir::RunDir;

/// Says that a process is a node of such a test, and where its fabric meets.
const FOLDER: &str = "EPIC_TEST_ROLLING_FOLDER";
/// Says which program it runs.
const PROGRAM: &str = "EPIC_TEST_ROLLING_PROGRAM";
/// What a line of its own begins with, among those of the harness.
const MARK: &str = "> ";

/// The node as its test has it, killed when this is dropped.
pub(crate) struct Replaceable {
    child: Child,
    tell: ChildStdin,
    lines: BufReader<ChildStdout>,
}

impl Replaceable {
    /// Starts a process that joins the fabric of `folder` as a node of the program of that number.
    pub(crate) fn start(folder: &RunDir, number: u32) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("tests have a file"));
        command.args(["--exact", "node::serves_until_it_is_told_to_stop", "--nocapture"]);
        command.env(FOLDER, folder.path()).env(PROGRAM, number.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it can be started");
        let tell = child.stdin.take().expect("it is piped");
        let lines = BufReader::new(child.stdout.take().expect("it is piped"));
        Self { child, tell, lines }
    }

    /// The number of its process.
    pub(crate) fn id(&self) -> u64 {
        u64::from(self.child.id())
    }

    /// Waits until it serves.
    pub(crate) fn serves(&mut self) {
        assert_eq!(self.hear(), "serves");
    }

    fn hear(&mut self) -> String {
        loop {
            let mut line = String::new();
            let bytes = self.lines.read_line(&mut line).expect("it is text");
            assert!(bytes > 0, "the node ended by itself");
            // The harness leaves its own line open.
            if let Some((_, said)) = line.trim_end().split_once(MARK) {
                return said.to_owned();
            }
        }
    }

    fn ask(&mut self, words: impl Display) -> String {
        writeln!(self.tell, "{words}").expect("it listens");
        self.hear()
    }

    /// Has it call a method of an account: `ok` and what came of it, or the error and whether the method ran.
    pub(crate) fn call(&mut self, method: &str, key: u64) -> String {
        self.ask(format_args!("call {method} {key}"))
    }

    /// The same where a number is to come of it.
    pub(crate) fn number(&mut self, method: &str, key: u64) -> u64 {
        let said = self.call(method, key);
        let number = said.strip_prefix("ok ").and_then(|number| number.parse().ok());
        number.unwrap_or_else(|| panic!("{method} of {key}: {said}"))
    }

    /// From now on it calls all accounts, again and again.
    pub(crate) fn begin_to_load(&mut self) {
        assert_eq!(self.ask("load"), "ok");
    }

    /// Waits until it has called all of them so often more.
    pub(crate) fn rounds(&mut self, count: u64) {
        assert_eq!(self.ask(format_args!("rounds {count}")), "ok");
    }

    /// Ends that. Says how often each was called, all of which went well and counted once.
    pub(crate) fn end_load(&mut self) -> u64 {
        let said = self.ask("end");
        let count = said.strip_prefix("ok ").and_then(|count| count.parse().ok());
        count.unwrap_or_else(|| panic!("{said}"))
    }

    /// What its log says of errors.
    pub(crate) fn log(&self, folder: &RunDir) -> String {
        std::fs::read_to_string(log_of(folder.path(), self.child.id())).expect("it keeps one")
    }

    /// Stops it in order. Says whether it has handed over all that it had.
    pub(crate) fn stops(mut self) -> bool {
        self.ask("stop") == "true" && self.child.wait().is_ok_and(|status| status.success())
    }
}

impl Drop for Replaceable {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// By which schema version the account is stored, and all that is said of it.
pub(crate) fn stored(folder: &RunDir, key: u64) -> (u64, String) {
    let mut epic = Command::new(env!("CARGO_BIN_EXE_epic"));
    epic.args(["store", "show", "Account", &key.to_string()]).current_dir(folder.path());
    epic.env("EPICSERVER_STORE__KIND", "redb").env("EPICSERVER_STORE__PATH", "store.redb");
    let said = epic.output().expect("it can be started");
    assert!(said.status.success(), "{said:?}");
    let text = String::from_utf8(said.stdout).expect("it says text");
    let shown: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
    (shown["schema"].as_u64().expect("it is a number"), text)
}

fn config(folder: &Path) -> Config {
    let mut config = Config::default();
    config.fabric.nodes = 2;
    config.store.kind = StoreKind::Redb;
    config.store.path = folder.join("store.redb");
    config.node.shards = Some(NonZeroUsize::MIN);
    config.runtime.run_dir = Some(folder.to_owned());
    config
}

fn log_of(folder: &Path, process: u32) -> PathBuf {
    folder.join(format!("log-{process}"))
}

fn say(what: impl Display) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{MARK}{what}").and_then(|()| out.flush()).expect("the test listens");
}

/// What such a process runs; alone it has nothing to do.
#[test]
fn serves_until_it_is_told_to_stop() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let number = std::env::var(PROGRAM).ok().and_then(|number| number.parse().ok());
    let program = program(number.expect("the test says which program"));
    let builder = Node::builder().config(&config(Path::new(&folder))).pin(false);
    let node = (program.register)(builder).start().expect("it joins");
    let client = node.client();
    let log = File::create(log_of(Path::new(&folder), std::process::id()));
    tracing::subscriber::set_global_default(Log(log.expect("it can be made").into()))
        .expect("it is the first");
    say("serves");
    let mut load = None;
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["call", method, key] => {
                match (program.call)(&client, method, key.parse().expect("it is a key")) {
                    Ok(said) => say(format_args!("ok {said}")),
                    Err(error) => say(format_args!("{:?} {:?}", error.kind(), error.ran())),
                }
            }
            ["load"] => {
                load = Some(Load::begin(number.expect("as before"), client.clone()));
                say("ok");
            }
            ["rounds", count] => {
                let count = count.parse().expect("it is a number");
                load.as_ref().expect("it has begun").wait(count);
                say("ok");
            }
            ["end"] => say(load.take().expect("it has begun").end()),
            ["stop"] => break,
            _ => panic!("{line} is not understood"),
        }
    }
    drop(client);
    say(node.stop());
}

/// A thread that calls all accounts, again and again.
struct Load {
    rounds: Receiver<()>,
    /// It goes on until this is dropped.
    goes_on: Sender<()>,
    thread: JoinHandle<Result<u64, String>>,
}

impl Load {
    fn begin(number: u32, client: Client) -> Self {
        let (round, rounds) = channel();
        let (goes_on, over) = channel::<()>();
        let thread = std::thread::spawn(move || {
            let Program { add_to_all, .. } = program(number);
            let (mut counts, mut done) = (None, 0);
            while !matches!(over.try_recv(), Err(std::sync::mpsc::TryRecvError::Disconnected)) {
                let added: Result<Vec<u64>> = add_to_all(&client).into_iter().collect();
                let added = added.map_err(|error| format!("round {done}: {error}"))?;
                let expected: Vec<u64> =
                    counts.unwrap_or_else(|| added.iter().map(|count| count - 1).collect());
                if added.iter().zip(&expected).any(|(now, before)| *now != before + 1) {
                    return Err(format!("after {expected:?} came {added:?}"));
                }
                counts = Some(added);
                done += 1;
                // Where nobody waits any more, nobody needs to know.
                let _told = round.send(());
            }
            Ok(done)
        });
        Self { rounds, goes_on, thread }
    }

    /// Waits for so many rounds from now on, or until it has ended by itself.
    fn wait(&self, count: u64) {
        while self.rounds.try_recv().is_ok() {}
        // The one under way may have begun before.
        for _ in 0..=count {
            if self.rounds.recv().is_err() {
                return;
            }
        }
    }

    fn end(self) -> String {
        drop(self.goes_on);
        match self.thread.join() {
            Ok(Ok(count)) => format!("ok {count}"),
            Ok(Err(why)) => why,
            Err(_) => "it panicked".to_owned(),
        }
    }
}

/// Keeps what is said of errors.
struct Log(Mutex<File>);

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() == Level::ERROR
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = String::new();
        event.record(&mut |field: &Field, value: &dyn Debug| {
            line.push_str(&format!("{field}: {value:?}; "));
        });
        let mut file = self.0.lock().expect("nobody panics with it");
        writeln!(file, "{line}").expect("it is written");
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
