//! The coordinator `local`: the conformance suite, and what it sees of real processes.
//!
//! A child is this program again, told by the environment to renew a lease and to hold it until it is killed.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use epicserver_coordinator::conformance::{Client, Lacks, Subject, server};
use epicserver_coordinator::{Answer, Coordinator, Wake, local};
use epicserver_wire::NodeId;
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

/// The folder of a child; the test that finds it set is a child.
const CHILD: &str = "EPIC_TEST_LOCAL_CHILD_FOLDER";
const LONG: Duration = Duration::from_secs(3600);
/// The node of the first child.
const NODE: NodeId = NodeId::new(5);

/// A folder of a test's own.
struct Local {
    folder: PathBuf,
    /// Held while nobody is to get on.
    stalled: Mutex<Option<File>>,
}

impl Local {
    fn new() -> Self {
        let folder = server::folder("local");
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o700)).expect("it is ours");
        Self { folder, stalled: Mutex::new(None) }
    }

    fn path(&self) -> PathBuf {
        self.folder.join("coordinator")
    }

    /// The file of node 1 that ends so.
    fn of_node(&self, suffix: &str) -> PathBuf {
        self.path().join(format!("{}.{suffix}", NodeId::new(1)))
    }

    /// Makes the lease of node 1 look as if another run of the machine, or another machine, had written it.
    fn move_lease_to_another_boot(&self) {
        let mut bytes = std::fs::read(self.of_node("lease")).expect("there is a lease");
        bytes[20] = if bytes[20] == b'0' { b'1' } else { b'0' };
        let sum = xxhash_rust::xxh3::xxh3_64(&bytes[20..]).to_le_bytes();
        bytes[12..20].copy_from_slice(&sum);
        std::fs::write(self.of_node("lease"), bytes).expect("it is ours");
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        // What is left behind is in the place for temporary files.
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

impl Subject for Local {
    fn open(&self, wake: Wake) -> Result<Box<dyn Coordinator>, String> {
        let near = local::open(&local::Options { folder: self.path() }, wake);
        near.map(|near| Box::new(near) as Box<dyn Coordinator>).map_err(|error| error.to_string())
    }

    fn another(&self) -> Box<dyn Subject> {
        Box::new(Self::new())
    }

    fn forget(&self, node: NodeId) -> bool {
        // A state that was written before anybody ended.
        let state = self.path().join("state");
        let mut bytes = std::fs::read(&state).expect("there is a view");
        let (head, ended) = (28, 4);
        let length = u32::from_le_bytes(*bytes[head..].first_chunk().expect("it is whole"));
        let length = usize::try_from(length).expect("a small number");
        bytes.drain(head + ended..head + ended + length);
        bytes[head..head + ended].fill(0);
        let sum = xxhash_rust::xxh3::xxh3_64(&bytes[20..]).to_le_bytes();
        bytes[12..20].copy_from_slice(&sum);
        std::fs::write(&state, bytes).expect("it is ours");
        for suffix in ["lease", "alive"] {
            // The lease of one that has ended is gone already.
            drop(std::fs::remove_file(self.path().join(format!("{node}.{suffix}"))));
        }
        true
    }

    fn spoil(&self, way: usize) -> Option<&'static str> {
        let state = self.path().join("state");
        let sound = std::fs::read(&state).expect("there is a view");
        let write = |path: &Path, bytes: &[u8]| std::fs::write(path, bytes).expect("it is ours");
        let replace_by_folder = |path: &Path| {
            std::fs::remove_file(path).expect("it is there");
            std::fs::create_dir(path).expect("the name is free");
        };
        match way {
            0 => write(&state, b"somebody else's"),
            1 => write(&state, &sound[..sound.len() - 1]),
            2 => write(&state, &[&b"EPICVIEW\x02"[..], &sound[9..]].concat()),
            3 => replace_by_folder(&state),
            4 => write(&self.of_node("lease"), b"somebody else's"),
            5 => write(&self.of_node("lease"), &[0; 20_000]),
            6 => write(&self.of_node("alive"), b"somebody else's time"),
            // Of a node that lives, and wrote it on another machine.
            7 => self.move_lease_to_another_boot(),
            8 => std::fs::remove_file(&state).expect("it is there"),
            _ => return None,
        }
        Some(match way {
            0 => "no file of a coordinator",
            1 => "is damaged",
            2 => "has format 2",
            3 => "state",
            4 => "no file of a coordinator",
            5 => "longer than",
            6 => "is damaged",
            7 => "for one machine",
            _ => "it is gone, and there are leases",
        })
    }

    fn stall(&self, stalled: bool) -> bool {
        let mut held = self.stalled.lock().expect("nobody panics with it");
        *held = stalled.then(|| {
            let lock = File::open(self.path().join("lock")).expect("a handle has made it");
            flock(&lock, FlockOperation::LockExclusive).expect("it can be locked");
            lock
        });
        true
    }
}

fn subject() -> Result<Local, Lacks> {
    Ok(Local::new())
}

epicserver_coordinator::conformance!(mod conformance, subject());

#[test]
fn a_child_renews_its_lease_and_holds_it() {
    let Some(folder) = std::env::var_os(CHILD) else { return };
    let options = local::Options { folder: PathBuf::from(folder) };
    let mut client = Client::open(&Options(options));
    let mut line = String::new();
    for word in io::stdin().lines() {
        let word = word.expect("its input is text");
        let answer = match word.as_str() {
            "renew" => client.renew(NODE, b"child", LONG),
            "briefly" => client.renew(NODE, b"child", Duration::from_millis(200)),
            from => client.change(from.parse().expect("a number"), from.as_bytes(), &[]),
        };
        line.clear();
        writeln!(io::stdout(), "\nsays {answer:?}").expect("somebody listens");
    }
}

/// A subject of a folder that is there.
struct Options(local::Options);

impl Subject for Options {
    fn open(&self, wake: Wake) -> Result<Box<dyn Coordinator>, String> {
        let near = local::open(&self.0, wake).map_err(|error| error.to_string())?;
        Ok(Box::new(near))
    }

    fn another(&self) -> Box<dyn Subject> {
        Box::new(Local::new())
    }
}

/// A process that has a handle of its own.
struct Other {
    child: Child,
    says: io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Other {
    fn start(of: &Local) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this program has a path"))
            .args(["a_child_renews_its_lease_and_holds_it", "--exact", "--nocapture"])
            .env(CHILD, of.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program starts again");
        let says = BufReader::new(child.stdout.take().expect("its output is piped")).lines();
        Self { child, says }
    }

    fn say(&mut self, word: &str) {
        let input = self.child.stdin.as_mut().expect("its input is piped");
        writeln!(input, "{word}").expect("it listens");
    }

    fn answer(&mut self) -> String {
        let said = self.says.by_ref().map_while(Result::ok);
        let mut said = said.filter_map(|line| Some(line.strip_prefix("says ")?.to_owned()));
        said.next().expect("it answers")
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("it runs");
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // One that has ended already is as good.
        let _ended = (self.child.kill(), self.child.wait());
    }
}

#[test]
fn a_process_that_is_killed_loses_its_lease_at_once_and_it_is_hinted() {
    let local = Local::new();
    let mut client = Client::open(&local);
    let mut other = Other::start(&local);
    other.say("renew");
    assert_eq!(other.answer(), "Renewed { number: 0 }");
    client.wait_for_hint();
    assert_eq!(client.change(0, b"", &[NODE]), Answer::Alive { node: NODE });
    // Hints of what was before are over.
    client.read();
    client.handle().take_changed();
    other.signal(Signal::KILL);
    // Long before it would run out by itself.
    client.wait_out(NODE);
    client.wait_for_hint();
    assert_eq!(client.change(0, b"", &[NODE]), Answer::Changed { number: 1 });
}

#[test]
fn a_process_that_is_stopped_past_its_lease_is_ended_and_evicted_when_it_goes_on() {
    let local = Local::new();
    let mut client = Client::open(&local);
    let mut other = Other::start(&local);
    other.say("briefly");
    assert_eq!(other.answer(), "Renewed { number: 0 }");
    other.signal(Signal::STOP);
    client.wait_out(NODE);
    assert_eq!(client.change(0, b"", &[NODE]), Answer::Changed { number: 1 });
    other.say("renew");
    other.signal(Signal::CONT);
    assert_eq!(other.answer(), "Evicted");
}

#[test]
fn one_of_many_processes_wins_each_change() {
    const ROUNDS: u64 = 10;
    let local = Local::new();
    let mut others: Vec<Other> = (0..4).map(|_| Other::start(&local)).collect();
    for from in 0..ROUNDS {
        for other in &mut others {
            other.say(&from.to_string());
        }
        let answers: Vec<String> = others.iter_mut().map(Other::answer).collect();
        let won = format!("Changed {{ number: {} }}", from + 1);
        let lost = format!("Overtaken {{ number: {} }}", from + 1);
        assert_eq!(answers.iter().filter(|answer| **answer == won).count(), 1, "{answers:?}");
        assert_eq!(answers.iter().filter(|answer| **answer == lost).count(), 3, "{answers:?}");
    }
    let (view, _) = Client::open(&local).read();
    assert_eq!(view.map(|(number, _)| number), Some(ROUNDS));
}

#[test]
fn processes_that_are_killed_amid_changes_leave_a_whole_state() {
    let local = Local::new();
    let mut client = Client::open(&local);
    let mut number = 0;
    for _ in 0..20 {
        let mut other = Other::start(&local);
        // Once one was made, the others follow without pause; some are under way when it is killed.
        for from in number..number + 200 {
            other.say(&from.to_string());
        }
        assert_eq!(other.answer(), format!("Changed {{ number: {} }}", number + 1));
        drop(other);
        let (view, _) = client.read();
        let (now, view) = view.expect("a change was made");
        assert!(now > number, "{now} is not after {number}");
        assert_eq!(view, (now - 1).to_string().into_bytes(), "the view is of another number");
        number = now;
    }
    assert_eq!(client.change(number, b"", &[]), Answer::Changed { number: number + 1 });
    let left = std::fs::read_dir(local.path()).expect("it is there");
    let left: Vec<_> = left.map(|entry| entry.expect("it is read").file_name()).collect();
    let unfinished = left.iter().filter(|name| name.to_string_lossy().ends_with(".new")).count();
    assert_eq!(unfinished, 0, "what was left unfinished is removed: {left:?}");
}

#[test]
fn lo3_a_process_that_is_killed_before_it_removes_what_it_ended_has_ended_it() {
    let local = Local::new();
    let (mut client, mut other) = (Client::open(&local), Client::open(&local));
    let node = NodeId::new(1);
    let brief = Duration::from_millis(100);
    assert_eq!(client.renew(node, b"record", brief), Answer::Renewed { number: 0 });
    other.wait_out(node);
    // The same files, the locked one too, where nobody removes them.
    for suffix in ["lease", "alive"] {
        std::fs::hard_link(local.of_node(suffix), local.folder.join(suffix)).expect("it is ours");
    }
    assert_eq!(other.change(0, b"view", &[node]), Answer::Changed { number: 1 });
    for suffix in ["lease", "alive"] {
        std::fs::rename(local.folder.join(suffix), local.of_node(suffix)).expect("it is ours");
    }
    assert_eq!(other.read().1, []);
    assert_eq!(client.renew(node, b"record", LONG), Answer::Evicted);
    assert_eq!(other.change(1, b"view", &[node]), Answer::Changed { number: 2 });
    for suffix in ["lease", "alive"] {
        assert!(!local.of_node(suffix).exists(), "the next change removes what was left");
    }
}

#[test]
fn what_a_crash_of_the_machine_leaves_behind_stops_nobody() {
    let local = Local::new();
    let mut client = Client::open(&local);
    assert_eq!(client.change(0, b"view", &[]), Answer::Changed { number: 1 });
    assert_eq!(client.renew(NodeId::new(1), b"record", LONG), Answer::Renewed { number: 1 });
    drop(client);
    // Files whose bytes never reached the disk.
    for torn in ["lease", "alive"] {
        std::fs::write(local.of_node(torn), b"").expect("it is ours");
    }
    std::fs::write(local.path().join("state.77.0.new"), b"half").expect("it is ours");
    let mut client = Client::open(&local);
    let (view, leases) = client.read();
    assert_eq!((view, leases.len()), (Some((1, b"view".to_vec())), 0));
    let ends = [NodeId::new(1)];
    assert_eq!(client.change(1, b"next", &ends), Answer::Changed { number: 2 });
    assert_eq!(client.renew(NodeId::new(2), b"", LONG), Answer::Renewed { number: 2 });
    assert_eq!(client.read().1.len(), 1);
}

#[test]
fn a_lease_of_before_the_machine_started_again_is_over_and_goes() {
    let local = Local::new();
    let mut client = Client::open(&local);
    assert_eq!(client.renew(NodeId::new(1), b"record", LONG), Answer::Renewed { number: 0 });
    drop(client);
    local.move_lease_to_another_boot();
    let mut client = Client::open(&local);
    assert!(client.read().1.iter().all(|lease| lease.left.is_zero()));
    assert_eq!(client.change(0, b"view", &[]), Answer::Changed { number: 1 });
    assert_eq!(client.read().1, []);
    assert!(!local.of_node("alive").exists());
}

#[test]
fn a_folder_that_is_exchanged_under_a_handle_fails_it() {
    let local = Local::new();
    let mut client = Client::open(&local);
    assert_eq!(client.change(0, b"view", &[]), Answer::Changed { number: 1 });
    std::fs::remove_file(local.path().join("state")).expect("it is there");
    let answer = client.ask(epicserver_coordinator::Ask::Read);
    assert!(
        matches!(&answer, Answer::Failed { why } if why.contains("gone back from view 1 to 0")),
        "CN6: {answer:?}"
    );
    std::fs::remove_dir_all(local.path()).expect("it is ours");
    let answer = client.ask(epicserver_coordinator::Ask::Read);
    assert!(matches!(&answer, Answer::Failed { why } if why.contains("was removed")), "{answer:?}");
}

#[test]
fn who_holds_the_lock_for_too_long_is_named() {
    let local = Local::new();
    let mut client = Client::open(&local);
    local.stall(true);
    let answer = client.ask(epicserver_coordinator::Ask::Read);
    let Answer::Failed { why } = answer else { panic!("it is locked, and it says {answer:?}") };
    assert!(why.contains(&format!("process {} holds it", std::process::id())), "{why}");
}

#[test]
fn a_folder_that_others_may_write_to_is_refused() {
    let local = Local::new();
    std::fs::create_dir(local.path()).expect("the name is free");
    std::fs::set_permissions(local.path(), PermissionsExt::from_mode(0o770)).expect("it is ours");
    let why = Client::try_open(&local).expect_err("others may write to it");
    assert!(why.contains("chmod 700"), "{why}");
    std::fs::remove_dir(local.path()).expect("it is empty");
    std::os::unix::fs::symlink(&local.folder, local.path()).expect("the name is free");
    let why = Client::try_open(&local).expect_err("it is a link");
    assert!(why.contains("cannot open the folder"), "{why}");
}
