//! Programs as they are started: each child is this program again, told by the environment with
//! which arguments to be a program.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command as Process, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::arguments::{COMMANDS, COMMANDS_OF_EPIC, Command, Request, Task};
use super::main_with;

/// The arguments of a child, a line each; the test that finds it set is a child.
const CHILD_ARGUMENTS: &str = "EPIC_TEST_CHILD_ARGUMENTS";

#[test]
fn a_child_is_a_program() {
    let Some(arguments) = std::env::var_os(CHILD_ARGUMENTS) else { return };
    let arguments = arguments.as_bytes().split(|&byte| byte == b'\n');
    let arguments = arguments.filter(|line| !line.is_empty());
    let arguments = arguments.map(|line| OsString::from_vec(line.to_vec()));
    let arguments = std::iter::once(OsString::from("/bin/counter")).chain(arguments);
    let setup = async |_pool| {
        println!("setup ran");
        if std::env::var_os("EPIC_TEST_FAIL").is_some() { Err("no luck") } else { Ok(()) }
    };
    let code = main_with(arguments.into_iter(), |_registry| Ok(()), setup);
    std::process::exit(i32::from(code));
}

/// A child's folder, in which it runs and which is its run directory.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("epic-program-{}-{name}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn child(&self, arguments: &[&str]) -> Process {
        let mut child = Process::new(std::env::current_exe().unwrap());
        child
            .args(["program::tests::a_child_is_a_program", "--exact", "--nocapture"])
            .current_dir(&self.0)
            .env(CHILD_ARGUMENTS, format!("\n{}", arguments.join("\n")))
            .env("EPIC_RUN_DIR", self.0.join("run"))
            .env("EPICSERVER_NODE__SHARDS", "1")
            .env_remove("SLURM_PROCID")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        child
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left behind is in the temporary folder.
        let _gone = fs::remove_dir_all(&self.0);
    }
}

/// The exit code, and what was written to both outputs.
fn ended(mut child: Process) -> (Option<i32>, String, String) {
    let output = child.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn parse(arguments: &[&str]) -> Result<Request, String> {
    let arguments = std::iter::once("a/b").chain(arguments.iter().copied()).map(OsString::from);
    Request::parse(arguments, COMMANDS)
}

#[test]
fn help_names_every_command_and_option_and_starts_nothing() {
    let folder = Folder::new("help");
    for help in ["--help", "-h"] {
        let (code, out, err) = ended(folder.child(&[help]));
        assert_eq!((code, err.as_str()), (Some(0), ""));
        for word in ["Usage: counter", "run", "serve", "--config PATH", "--version", "Slurm"] {
            assert!(out.contains(word), "{word} is not in {out}");
        }
        assert!(!out.contains("setup ran"));
    }
    let (code, out, _) = ended(folder.child(&["serve", "--version"]));
    assert_eq!(code, Some(0));
    assert!(out.contains(&format!("counter (epicserver {})", env!("CARGO_PKG_VERSION"))), "{out}");
}

#[test]
fn an_unknown_argument_ends_the_program_with_code_2_and_names_the_nearest() {
    let folder = Folder::new("unknown");
    let (code, out, err) = ended(folder.child(&["sevre"]));
    assert_eq!(code, Some(2));
    assert!(err.contains("unknown command `sevre`; did you mean `serve`?"), "{err}");
    assert!(!out.contains("setup ran"));
    let (code, _, err) = ended(folder.child(&["--conifg", "x"]));
    assert_eq!(code, Some(2));
    assert!(err.contains("unknown option `--conifg`; did you mean `--config`?"), "{err}");
}

#[test]
fn an_unknown_configuration_key_ends_the_program_with_code_2_and_its_line() {
    let folder = Folder::new("key");
    fs::write(folder.0.join("epicserver.toml"), "[network]\ntransprt = \"tcp\"\n").unwrap();
    let (code, out, err) = ended(folder.child(&[]));
    assert_eq!(code, Some(2));
    let wanted =
        "epicserver.toml:2:1: unknown key `transprt` in [network]; did you mean `transport`?";
    assert!(err.contains(wanted), "{err}");
    assert!(!out.contains("setup ran"));
}

#[test]
fn the_argument_names_the_configuration_before_the_environment_and_the_folder_do() {
    let folder = Folder::new("named");
    for (file, key) in [("epicserver.toml", "in_folder"), ("b.toml", "in_env"), ("c.toml", "told")]
    {
        fs::write(folder.0.join(file), format!("{key} = 1\n")).unwrap();
    }
    let (_, _, err) = ended(folder.child(&[]));
    assert!(err.contains("in_folder"), "{err}");
    let mut child = folder.child(&[]);
    child.env("EPICSERVER_CONFIG", "b.toml");
    let (_, _, err) = ended(child);
    assert!(err.contains("in_env"), "{err}");
    let mut child = folder.child(&["--config", "c.toml"]);
    child.env("EPICSERVER_CONFIG", "b.toml");
    let (_, _, err) = ended(child);
    assert!(err.contains("told"), "{err}");
    let (code, _, err) = ended(folder.child(&["--config=absent.toml"]));
    assert_eq!(code, Some(2));
    assert!(err.contains("cannot read the configuration absent.toml"), "{err}");
}

#[test]
fn a_program_without_arguments_runs_setup_and_ends_as_it_does() {
    let folder = Folder::new("run");
    let (code, out, err) = ended(folder.child(&[]));
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("setup ran"));
    let mut child = folder.child(&["run"]);
    child.env("EPIC_TEST_FAIL", "1");
    let (code, _, err) = ended(child);
    assert_eq!(code, Some(1));
    assert!(err.contains("Error: \"no luck\""), "{err}");
}

#[test]
fn the_doctor_starts_no_node_and_ends_by_what_the_configured_transport_lacks() {
    let folder = Folder::new("doctor");
    let (code, out, err) = ended(folder.child(&["doctor"]));
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains("ready for transport = \"auto\"") && !out.contains("setup ran"), "{out}");
    let mut child = folder.child(&["doctor"]);
    child.env("EPICSERVER_NETWORK__TRANSPORT", "tcp");
    child.env("EPICSERVER_NETWORK__LISTEN", "[\"192.0.2.1:0\"]");
    let (code, out, err) = ended(child);
    assert_eq!(code, Some(1));
    assert!(out.contains("cannot listen at 192.0.2.1:0"), "{out}");
    assert!(err.contains("this machine lacks"), "{err}");
}

#[test]
fn a_program_without_entities_has_no_command_that_starts_a_node() {
    let parse = |word: &str| {
        Request::parse(["epic", word].map(OsString::from).into_iter(), COMMANDS_OF_EPIC)
    };
    assert_eq!(parse("doctor").unwrap().task, Task::Command(Some(Command::Doctor)));
    assert!(parse("serve").unwrap_err().contains("there are doctor"));
}

#[test]
fn a_node_that_cannot_listen_says_where_and_why() {
    let folder = Folder::new("listen");
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let at = taken.local_addr().unwrap();
    let mut child = folder.child(&["serve"]);
    child.env("EPICSERVER_FABRIC__NODES", "2").env("EPICSERVER_NETWORK__TRANSPORT", "tcp");
    child.env("EPICSERVER_NETWORK__LISTEN", format!("[\"{at}\"]"));
    let (code, _, err) = ended(child);
    assert_eq!(code, Some(1));
    assert!(err.contains(&at.to_string()) && err.contains("in use"), "{err}");
}

/// Starts `child`, and returns when it says that it serves.
fn served(mut child: Process) -> (Child, BufReader<std::process::ChildStderr>) {
    let mut child = child.spawn().unwrap();
    let mut err = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("serving until") {
        line.clear();
        assert_ne!(err.read_line(&mut line).unwrap(), 0, "it ended before it served");
    }
    (child, err)
}

fn stop(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn pr1_a_serving_node_ends_well_at_either_signal_and_never_runs_setup() {
    let folder = Folder::new("serve");
    for signal in [Signal::TERM, Signal::INT] {
        let (mut child, _err) = served(folder.child(&["serve"]));
        stop(&child, signal);
        let status = child.wait().unwrap();
        assert_eq!((status.code(), status.signal()), (Some(0), None));
        let mut out = String::new();
        child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        assert!(!out.contains("setup ran"), "PR2");
    }
}

#[test]
fn pr1_a_node_that_waits_for_others_ends_at_once_at_a_signal() {
    let folder = Folder::new("alone");
    let mut child = folder.child(&["serve"]);
    child.env("EPICSERVER_FABRIC__NODES", "2").env("EPIC_LOG", "info");
    let mut child = child.spawn().unwrap();
    let mut err = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("epicserver") {
        line.clear();
        assert_ne!(err.read_line(&mut line).unwrap(), 0, "it ended by itself");
    }
    stop(&child, Signal::TERM);
    assert_eq!(child.wait().unwrap().signal(), Some(Signal::TERM.as_raw()));
}

#[test]
fn pr2_under_slurm_rank_0_runs_and_the_others_serve_unless_told() {
    let folder = Folder::new("slurm");
    let ranked = |rank: &str, arguments: &[&str]| {
        let mut child = folder.child(arguments);
        child.env("SLURM_PROCID", rank);
        child
    };
    let (mut child, _err) = served(ranked("3", &[]));
    stop(&child, Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    for (rank, arguments) in [("0", &[][..]), ("3", &["run"])] {
        let (code, out, err) = ended(ranked(rank, arguments));
        assert_eq!(code, Some(0), "{err}");
        assert!(out.contains("setup ran"));
    }
    let (code, _, err) = ended(ranked("first", &[]));
    assert_eq!(code, Some(2));
    assert!(err.contains("SLURM_PROCID is no rank: `first`"), "{err}");
}

/// The first of two ports in a row at which nobody listens now.
fn free_ports() -> u16 {
    loop {
        let one = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = one.local_addr().unwrap().port();
        if port.checked_add(1).is_some_and(|next| TcpListener::bind(("127.0.0.1", next)).is_ok()) {
            return port;
        }
    }
}

#[test]
fn the_tasks_of_a_slurm_step_find_each_other_and_end_with_rank_0() {
    let folder = Folder::new("step");
    let port = free_ports().to_string();
    let task = |rank: &str| {
        let mut child = folder.child(&[]);
        // What they share is no folder, as if they were on two hosts.
        child.env("EPIC_RUN_DIR", folder.0.join(rank));
        child.env("EPICSERVER_COORDINATOR__KIND", "static");
        child.env("EPICSERVER_FABRIC__KEY", "what the tasks of this step know");
        child.env("EPICSERVER_DISCOVERY__SLURM_PORT", &port);
        for (name, value) in [
            ("SLURM_JOB_ID", "5"),
            ("SLURM_STEP_ID", "0"),
            ("SLURM_STEP_NODELIST", "localhost"),
            ("SLURM_STEP_NUM_TASKS", "2"),
            ("SLURM_STEP_TASKS_PER_NODE", "2"),
            ("SLURMD_NODENAME", "localhost"),
            ("SLURM_PROCID", rank),
            ("SLURM_LOCALID", rank),
        ] {
            child.env(name, value);
        }
        child
    };
    let first = task("0").spawn().unwrap();
    let (code, out, err) = ended(task("1"));
    assert_eq!(code, Some(0), "{err}");
    assert!(err.contains("the job is over") && !out.contains("setup ran"), "{err}");
    let first = first.wait_with_output().unwrap();
    assert_eq!(first.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&first.stdout).contains("setup ran"));
}

#[test]
fn arguments_are_understood_in_any_order_and_their_misuse_is_refused() {
    let request = parse(&["--config", "a.toml", "serve"]).unwrap();
    assert_eq!(request.program, "b");
    assert_eq!(request.task, Task::Command(Some(Command::Serve)));
    assert_eq!(request.config, Some(PathBuf::from("a.toml")));
    assert_eq!(parse(&["run", "--config=a=b"]).unwrap().config, Some(PathBuf::from("a=b")));
    assert_eq!(parse(&[]).unwrap().task, Task::Command(None));
    for wrong in [
        &["--config"][..],
        &["--config="],
        &["--config", "a", "--config", "b"],
        &["run", "serve"],
        &["run", "run"],
        &["--help=yes"],
        &["-x"],
        &[""],
    ] {
        assert!(parse(wrong).is_err(), "{wrong:?}");
    }
    let odd = [OsString::from("p"), OsString::from_vec(vec![0xff, b'r', b'u', b'n'])];
    assert!(Request::parse(odd.into_iter(), COMMANDS).is_err());
}

#[test]
fn the_command_follows_the_rank() {
    assert_eq!(Command::by_rank(None), Ok(Command::Run));
    assert_eq!(Command::by_rank(Some(OsStr::new("0"))), Ok(Command::Run));
    assert_eq!(Command::by_rank(Some(OsStr::new("17"))), Ok(Command::Serve));
    assert!(Command::by_rank(Some(OsStr::new("-1"))).is_err());
}
