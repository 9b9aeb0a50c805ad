//! A real etcd on this process's own host.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::{Failure, hosts};

/// One member, which keeps what it has on disk while it is away.
pub(crate) struct Etcd {
    folder: PathBuf,
    child: Child,
}

impl Etcd {
    /// Where it is asked.
    pub(crate) fn url() -> String {
        format!("http://{}:2379", hosts::HERE)
    }

    pub(crate) fn start(folder: &Path) -> Result<Self, Failure> {
        std::fs::create_dir_all(folder)?;
        Ok(Self { folder: folder.to_owned(), child: spawn(folder)? })
    }

    pub(crate) fn kill(&mut self) -> Result<(), Failure> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts it anew where it was killed.
    pub(crate) fn again(&mut self) -> Result<(), Failure> {
        self.child = spawn(&self.folder)?;
        Ok(())
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        drop(self.kill());
    }
}

fn spawn(folder: &Path) -> Result<Child, Failure> {
    let log = std::fs::File::options().append(true).create(true).open(folder.join("log"))?;
    let mut command = Command::new("etcd");
    command
        .args(["--name", "alone", "--log-level", "warn"])
        .arg("--data-dir")
        .arg(folder.join("data"));
    command.args(["--listen-client-urls", &Etcd::url(), "--advertise-client-urls", &Etcd::url()]);
    command.args(["--heartbeat-interval", "40", "--election-timeout", "400"]);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    Ok(command.spawn()?)
}
