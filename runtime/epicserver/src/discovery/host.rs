//! Discovery on one host: which nodes of the same fabric run here, and where they listen.
//!
//! Each node writes one file, its entry, into the fabric's folder below the run directory, and
//! holds a lock on it for as long as it lives. The kernel frees the lock with the process, however
//! that ends, so nobody needs to guess from a time whether an entry still counts.
//!
//! In: files of other processes   Out: [`Found`]
//!
//! # Invariants
//! - **DI1** An entry is locked before it can be seen under its name, and until it is taken away.
//! - **DI2** No reader makes a live entry look dead, nor a dead one alive: readers share their locks.
//! - **DI3** Only an entry whose node is dead is removed, and only while its file still has its name.
//! - **DI4** Nothing in the folder makes a reader wait, fail, or use more than a bounded memory.
//!
//! # Not here
//! Whether a node that is found is alive in another sense, or of the same key: the handshake tells.
//! Other hosts.

mod entry;
mod folder;
#[cfg(test)]
mod tests;
mod watch;

use std::path::{Path, PathBuf};
use std::time::Duration;

use epicserver_link::Address;
use epicserver_shard::cpus::{RunDir, RunDirError};
use epicserver_wire::NodeId;
use rustix::fd::BorrowedFd;
use rustix::io::Errno;

use crate::config::Name;
use entry::Entry;
pub(super) use entry::parse_node;
use folder::{Folder, Published};
use watch::Watch;

/// Addresses that one entry may have.
pub const ADDRESSES_MAX: usize = 16;
/// Longest address of an entry, in bytes.
pub const ADDRESS_BYTES_MAX: usize = 256;
/// Largest entry, in bytes; larger files are ignored.
pub const ENTRY_BYTES_MAX: usize = 8 << 10;
/// Nodes of one fabric that are found on one host.
pub const FOUND_MAX: usize = 1024;
/// Files of the folder that one look goes through.
pub const FILES_MAX: usize = 8 << 10;
/// How often to look although nothing seems to have changed. The kernel says that a dead process
/// has closed its entry a moment before it frees the lock, so a look at once may come too early.
pub const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// A node that was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// Which.
    pub node: NodeId,
    /// Its process.
    pub pid: u32,
    /// Where it can be reached, its best way first; at most [`ADDRESSES_MAX`].
    pub addresses: Vec<Address>,
    /// When it began, in milliseconds since 1970 by the clock of the host. To be shown.
    pub started_unix_ms: u64,
}

/// What was seen and not found to be a node, since the folder was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Entries of dead nodes that were removed.
    pub removed: u64,
    /// Files that are no entry: malformed, too large, of another user or open to others.
    pub ignored: u64,
    /// Files and nodes beyond [`FILES_MAX`] and [`FOUND_MAX`].
    pub beyond: u64,
}

/// Why this host's nodes cannot be found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiscoveryError {
    /// The run directory, or the fabric's folder in it, cannot be used.
    #[error("{0}{cause}", cause = because(.0))]
    RunDir(#[from] RunDirError),
    /// The kernel refused.
    #[error("cannot {what} in {path}: {source}", path = path.display())]
    Io {
        /// What was to be done.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What the kernel answered.
        source: Errno,
    },
    /// What was to be published is no entry.
    #[error("a node has 1 to {ADDRESSES_MAX} addresses of at most {ADDRESS_BYTES_MAX} bytes each")]
    Addresses,
}

/// The run directory's errors do not tell what the kernel said.
fn because(error: &RunDirError) -> String {
    std::error::Error::source(error).map_or_else(String::new, |source| format!(": {source}"))
}

/// The nodes of one fabric on this host. Its entry, once published, lasts until it is dropped.
///
/// Its methods make system calls on local files, and wait for nothing but [`changed`](Self::changed).
#[derive(Debug)]
pub struct Discovery {
    folder: Folder,
    watch: Watch,
    published: Option<Published>,
    counts: Counts,
}

impl Discovery {
    /// Opens the folder of `fabric` below `run_dir`, by default the one that CPU claims use, and
    /// makes it, for this user alone, if it is not there.
    ///
    /// # Errors
    /// [`DiscoveryError::RunDir`] if others own or may write to one of the two.
    pub fn open(run_dir: Option<&Path>, fabric: &Name) -> Result<Self, DiscoveryError> {
        let run_dir = run_dir.map_or_else(RunDir::open, RunDir::open_at)?;
        // The prefix keeps a fabric's name apart from the other files of the run directory.
        let fabric = RunDir::open_at(&run_dir.path().join(format!("fabric-{fabric}")))?;
        let folder = Folder::open(fabric.path())?;
        // Watching before the first look: what comes between is told twice, never missed.
        let watch = Watch::new(fabric.path());
        Ok(Self { folder, watch, published: None, counts: Counts::default() })
    }

    /// The fabric's folder on this host.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Tells others that this process is `node` and reachable at `addresses`, in place of what it
    /// told before. `started_unix_ms` is passed on as it is.
    ///
    /// # Errors
    /// [`DiscoveryError::Addresses`] if there are none, too many or too long ones;
    /// [`DiscoveryError::Io`] if the file cannot be written.
    pub fn publish(
        &mut self,
        node: NodeId,
        addresses: &[Address],
        started_unix_ms: u64,
    ) -> Result<(), DiscoveryError> {
        let pid = std::process::id();
        let found = Found { node, pid, addresses: addresses.to_vec(), started_unix_ms };
        let text = Entry::write(&found).ok_or(DiscoveryError::Addresses)?;
        let published = self.folder.publish(node, text.as_bytes())?;
        // The new file has taken the old one's name, if it was of the same node; else both stand
        // for a moment, which is better than neither.
        if let Some(before) = self.published.replace(published) {
            self.folder.withdraw(before);
        }
        Ok(())
    }

    /// The other nodes that live, at most [`FOUND_MAX`], in the order of their ids. Entries of dead
    /// ones are removed on the way.
    ///
    /// # Errors
    /// [`DiscoveryError::Io`] if the folder itself cannot be read. What is wrong with one file is
    /// counted, and no error (**DI4**).
    pub fn peers(&mut self) -> Result<Vec<Found>, DiscoveryError> {
        let ours = self.published.as_ref().map(Published::node);
        let mut found = self.folder.look(ours, &mut self.counts)?;
        found.sort_unstable_by_key(|found| found.node);
        Ok(found)
    }

    /// What was seen and not found to be a node.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Blocks until something in the folder has changed since the last time this was called, or a
    /// look is due anyway, but no longer than `wait`. Says whether to call [`peers`](Self::peers).
    pub fn changed(&mut self, wait: Duration) -> bool {
        self.watch.changed(wait)
    }

    /// A descriptor that becomes readable when something changes; [`changed`](Self::changed) with
    /// no time to wait then makes it unreadable. `None` if this kernel has none to spare: then look
    /// every [`LOOK_AGAIN`].
    #[must_use]
    pub fn watched(&self) -> Option<BorrowedFd<'_>> {
        self.watch.fd()
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        if let Some(published) = self.published.take() {
            self.folder.withdraw(published);
        }
    }
}
