//! The files `.alive`: each kept locked by the process of its node, with the time at which the lease is over (**LO2**).
//!
//! Layout: that time in nanoseconds since the machine started (8, little-endian), its checksum (8). It is written in
//! place, so that no renewal looks like news to those who watch the folder.
//!
//! # Not here
//! Records: `leases`.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use epicserver_wire::NodeId;
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::{Errno, retry_on_intr};
use xxhash_rust::xxh3::xxh3_64;

use super::Why;
use super::folder::Folder;

/// What follows a node's number in the name of its file.
pub(super) const SUFFIX: &str = ".alive";
/// How often a time that is being written is read again.
const READS_MAX: usize = 1000;

/// The file of a node, and the lock on it if this handle got that, until it is dropped.
#[derive(Debug)]
pub(super) struct Alive {
    node: NodeId,
    file: File,
}

impl Alive {
    /// Opens the file of `node`, makes it if need be, and locks it unless somebody has; says which. To be called by
    /// whoever is alone (**LO1**): then nobody has it locked only to look.
    pub(super) fn make(folder: &Folder, node: NodeId) -> Result<(Self, bool), Why> {
        let name = file_name(node);
        let file = folder.open_file(&name, OFlags::RDWR | OFlags::CREATE);
        let file = file.map_err(|errno| folder.why("open", &name, errno))?;
        let locked = try_lock(&file, FlockOperation::NonBlockingLockExclusive);
        let locked = locked.map_err(|errno| folder.why("lock", &name, errno))?;
        Ok((Self { node, file }, locked))
    }

    /// Lets the lease last until `expires`.
    pub(super) fn write(&self, folder: &Folder, expires: Duration) -> Result<(), Why> {
        let nanos = u64::try_from(expires.as_nanos()).unwrap_or(u64::MAX).to_le_bytes();
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&nanos);
        bytes[8..].copy_from_slice(&xxh3_64(&nanos).to_le_bytes());
        let written = self.file.write_all_at(&bytes, 0);
        written.map_err(|error| folder.why("write", &file_name(self.node), error))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        // Closing it would do, were there not the moment in which a process that another thread is starting still has
        // a copy of the descriptor. If this fails, the lock goes then. If it was somebody else's, it stays.
        let _unlocked = flock(&self.file, FlockOperation::Unlock);
    }
}

/// Until when the lease of `node` lasts; `None` if its process is gone.
pub(super) fn read(folder: &Folder, node: NodeId) -> Result<Option<Duration>, Why> {
    let name = file_name(node);
    let Some(file) = open_locked(folder, node)? else { return Ok(None) };
    for _ in 0..READS_MAX {
        let mut bytes = [0; 16];
        let read = file.read_exact_at(&mut bytes, 0).is_ok();
        let [nanos, sum] = bytes.as_chunks::<8>().0 else { break };
        if read && u64::from_le_bytes(*sum) == xxh3_64(nanos) {
            return Ok(Some(Duration::from_nanos(u64::from_le_bytes(*nanos))));
        }
        std::thread::yield_now();
    }
    Err(folder.why("use", &name, "it is damaged, or its process is stopped in mid-writing"))
}

/// Whether somebody has locked the file of `node`; what cannot be found out counts as locked.
pub(super) fn is_locked(folder: &Folder, node: NodeId) -> bool {
    open_locked(folder, node).map_or(true, |file| file.is_some())
}

/// The file of `node` if somebody has locked it. Whoever looks holds the lock of the folder (**LO1**).
fn open_locked(folder: &Folder, node: NodeId) -> Result<Option<File>, Why> {
    let name = file_name(node);
    let file = match folder.open_file(&name, OFlags::RDONLY) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(folder.why("open", &name, errno)),
    };
    // Readers share the lock, so that they do not take each other for the process.
    match try_lock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(true) => Ok(None),
        Ok(false) => Ok(Some(file)),
        Err(errno) => Err(folder.why("lock", &name, errno)),
    }
}

fn try_lock(file: &File, how: FlockOperation) -> Result<bool, Errno> {
    match retry_on_intr(|| flock(file, how)) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno),
    }
}

pub(super) fn file_name(node: NodeId) -> String {
    format!("{node}{SUFFIX}")
}
