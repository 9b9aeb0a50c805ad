//! A machine that runs scripts: one of a lab, or this host for `--native`.
//!
//! # Not here
//! How one comes up: `lab`.

use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::job::{Ender, Job, Output};
use crate::lab::base;
use crate::vm::Vm;
use crate::{Result, Tried};

/// Where scripts run. Dropping a machine under QEMU pulls its plug; dropping the host's ends the jobs that run there.
#[derive(Debug)]
pub struct Machine(Place);

#[derive(Debug)]
enum Place {
    Vm(Vm),
    Host(Host),
}

/// This host, and the groups of processes that were started on it and have not ended.
#[derive(Debug)]
struct Host {
    folder: PathBuf,
    next: AtomicU64,
    groups: Arc<Mutex<Vec<Pid>>>,
}

impl Machine {
    /// This host, whose own kernel and devices are tested.
    ///
    /// # Errors
    /// When the area's folder cannot be made.
    pub fn native(area: &str) -> Result<Self> {
        let folder = base()?.join(area).join("native");
        if folder.exists() {
            fs::remove_dir_all(&folder).tried("empty", &folder)?;
        }
        let jobs = folder.join("jobs");
        fs::create_dir_all(&jobs).tried("make", &jobs)?;
        Ok(Self(Place::Host(Host { folder, next: AtomicU64::new(1), groups: Arc::default() })))
    }

    pub(crate) fn of_vm(vm: Vm) -> Self {
        Self(Place::Vm(vm))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        match &self.0 {
            Place::Vm(vm) => vm.name(),
            Place::Host(_) => "native",
        }
    }

    /// A folder that it and this process both see under this path, and may write to; scripts start there.
    pub fn folder(&self) -> &Path {
        match &self.0 {
            Place::Vm(vm) => vm.folder(),
            Place::Host(host) => &host.folder,
        }
    }

    /// Starts a bash script, which runs beside others.
    ///
    /// # Errors
    /// When the machine is gone.
    pub fn start(&self, script: &str) -> Result<Job> {
        match &self.0 {
            Place::Vm(vm) => vm.start_job(script),
            Place::Host(host) => host.start(script),
        }
    }

    /// Runs a bash script to its end, whatever the status is. One that hangs is ended.
    ///
    /// # Errors
    /// When the limit passes or the machine is gone.
    pub fn ask(&self, script: &str, limit: Duration) -> Result<Output> {
        self.start(script)?.wait(limit)
    }

    /// Runs a bash script that must succeed within `limit`, and gives what it printed. It stops at its first failing
    /// command.
    ///
    /// # Errors
    /// When it fails, with all that it printed; when the limit passes or the machine is gone.
    pub fn run(&self, script: &str, limit: Duration) -> Result<String> {
        self.start(&format!("set -euo pipefail\n{script}"))?.succeed(limit)
    }

    /// Pulls the plug of a machine under QEMU: nothing in it gets to say goodbye.
    pub fn kill(self) {
        drop(self);
    }
}

impl Host {
    fn start(&self, script: &str) -> Result<Job> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let stem = self.folder.join("jobs").join(number.to_string());
        let [file, out, err] = ["sh", "out", "err"].map(|kind| stem.with_extension(kind));
        fs::write(&file, script).tried("write", &file)?;
        let out = File::create(&out).tried("make", &out)?;
        let err = File::create(&err).tried("make", &err)?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "bash"]).arg(&file);
        command.current_dir(&self.folder).process_group(0);
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        let mut child = command.spawn().tried("run bash", &file)?;
        let group = Pid::from_child(&child);
        lock(&self.groups).push(group);
        let (told, ended) = channel();
        let groups = self.groups.clone();
        std::thread::spawn(move || {
            // Its number is nobody else's until it has been waited for, so the group is ended and forgotten before.
            let _ = waitid(WaitId::Pid(group), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
            let mut under_way = lock(&groups);
            end(group);
            under_way.retain(|other| *other != group);
            drop(under_way);
            let status = child.wait();
            let status = status.ok().and_then(|status| {
                status.code().or_else(|| status.signal().map(|signal| 128 + signal))
            });
            // Who dropped the job does not want to know.
            let _ = told.send(status.unwrap_or(i32::MAX));
        });
        let groups = self.groups.clone();
        let ender = Ender(Box::new(move || {
            let under_way = lock(&groups);
            if under_way.contains(&group) {
                end(group);
            }
        }));
        let (machine, script) = ("native".to_owned(), script.to_owned());
        Ok(Job { machine, script, stem, ended, console: PathBuf::new(), ender })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        lock(&self.groups).iter().copied().for_each(end);
    }
}

fn lock(groups: &Mutex<Vec<Pid>>) -> std::sync::MutexGuard<'_, Vec<Pid>> {
    groups.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A group that has ended meanwhile is as good.
fn end(group: Pid) {
    let _ = kill_process_group(group, Signal::KILL);
}
