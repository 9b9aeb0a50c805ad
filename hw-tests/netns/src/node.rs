//! A node: what its process does, and how another process starts it and treats it.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use epicserver::{Config, Node};
use rustix::process::{Pid, Signal, kill_process};

use crate::account::{self, Account};
use crate::etcd::Etcd;
use crate::{Failure, hosts};

/// The number of a node, for the process that is to be one.
const ROLE: &str = "EPIC_NETNS_NODE";
/// The folder in which a case keeps what it has.
const FOLDER: &str = "EPIC_NETNS_FOLDER";
/// What the nodes know, and nobody else.
pub(crate) const KEY: &str = "what the nodes of these cases know";

/// Who agrees on the members.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum By {
    /// Files of this machine.
    Files,
    /// An etcd that is reached over the network.
    Etcd,
}

/// Which node this process is to be, if it is to be one.
pub(crate) fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// Serves until the standard input ends.
pub(crate) fn serve(role: &str) -> Result<(), Failure> {
    let number: u32 = role.parse()?;
    let folder = PathBuf::from(std::env::var(FOLDER)?);
    let log =
        File::options().append(true).create(true).open(folder.join(format!("node{role}.log")))?;
    tracing_subscriber::fmt().with_writer(log).with_ansi(false).init();
    account::write_to(&journal(&folder), number)?;
    let config = Config::load(None)?;
    let node = Node::builder().entity::<Account>().config(&config).pin(false).start()?;
    println!("serving");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    tracing::info!("asked to stop");
    if node.stop() { Ok(()) } else { Err("not all was handed over in time".into()) }
}

/// Where the turns of a case are written down.
pub(crate) fn journal(folder: &Path) -> PathBuf {
    folder.join("journal")
}

/// How a process is to be a node of the case whose folder this is, at `address`.
pub(crate) fn settings(folder: &Path, by: By, address: &str) -> Vec<(&'static str, String)> {
    let mut settings = vec![
        ("EPICSERVER_FABRIC__KEY", KEY.to_owned()),
        ("EPICSERVER_FABRIC__NODES", "2".to_owned()),
        ("EPICSERVER_NODE__SHARDS", "1".to_owned()),
        ("EPICSERVER_NETWORK__TRANSPORT", "tcp".to_owned()),
        ("EPICSERVER_NETWORK__LISTEN", format!("[\"{address}:0\"]")),
        ("EPICSERVER_RUNTIME__IDLE", "power".to_owned()),
        ("EPICSERVER_RUNTIME__RUN_DIR", folder.join("run").display().to_string()),
    ];
    if by == By::Etcd {
        settings.push(("EPICSERVER_COORDINATOR__KIND", "etcd".to_owned()));
        settings.push(("EPICSERVER_COORDINATOR__SERVERS", format!("[\"{}\"]", Etcd::url())));
    }
    settings
}

/// A node in a process of its own, which is killed when this is dropped.
pub(crate) struct Other {
    child: Child,
}

impl Other {
    /// Starts node number `at` on the host of that number.
    pub(crate) fn start(at: usize, folder: &Path, by: By) -> Result<Self, Failure> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &hosts::name(at)]).arg(std::env::current_exe()?);
        command.env(ROLE, at.to_string()).env(FOLDER, folder);
        command.envs(settings(folder, by, &hosts::address(at)));
        let log =
            File::options().append(true).create(true).open(folder.join(format!("node{at}.log")))?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        Ok(Self { child: command.spawn()? })
    }

    /// Waits until it serves.
    pub(crate) fn serves(&mut self) -> Result<(), Failure> {
        let output = self.child.stdout.take().ok_or("its output is taken once")?;
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        if lines.any(|line| line == "serving") {
            Ok(())
        } else {
            Err("a node has not started".into())
        }
    }

    pub(crate) fn kill(&mut self) -> Result<(), Failure> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// It stands still, until [`Other::thaw`].
    pub(crate) fn freeze(&self) -> Result<(), Failure> {
        self.signal(Signal::STOP)
    }

    pub(crate) fn thaw(&self) -> Result<(), Failure> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<(), Failure> {
        let pid = Pid::from_child(&self.child);
        Ok(kill_process(pid, signal)?)
    }

    /// Lets it hand over what it has and stop, and waits until it has.
    pub(crate) fn stop(&mut self) -> Result<(), Failure> {
        drop(self.child.stdin.take());
        let status = self.child.wait()?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("a node has stopped by {status}").into())
        }
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        drop(self.kill());
    }
}
