//! A fabric's folder: entries written whole, locked, read with suspicion.
//!
//! # Not here
//! What entries say: that is `entry`. The invariants: they are in `host`.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use epicserver_wire::NodeId;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, Stat, flock, fstat, openat,
    renameat, statat, unlinkat,
};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::geteuid;

use super::entry::{Entry, file_name, node_of};
use super::{Counts, DiscoveryError, ENTRY_BYTES_MAX, FILES_MAX, FOUND_MAX, Found};

/// What a file that is not yet an entry ends with.
const UNFINISHED: &str = ".unfinished";
/// How often an entry is tried to be written, when a reader took its unfinished file for a dead
/// node's.
const WRITES_MAX: u32 = 8;
/// How often a name is looked at again, when its file changed meanwhile.
const LOOKS_MAX: u32 = 4;

/// The folder of one fabric.
#[derive(Debug)]
pub(super) struct Folder {
    folder: OwnedFd,
    path: PathBuf,
}

/// An entry of this process: its file, whose lock it holds.
#[derive(Debug)]
pub(super) struct Published {
    node: NodeId,
    file: File,
}

impl Published {
    pub(super) fn node(&self) -> NodeId {
        self.node
    }
}

/// What a file turned out to be.
enum Seen {
    Node(Found),
    Dead,
    Nothing,
    Gone,
}

impl Folder {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the folder `path`, whose owner and mode were checked.
    pub(super) fn open(path: &Path) -> Result<Self, DiscoveryError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = openat(CWD, path, flags, Mode::empty());
        let path = path.to_owned();
        match folder {
            Ok(folder) => Ok(Self { folder, path }),
            Err(source) => Err(DiscoveryError::Io { what: "open the folder", path, source }),
        }
    }

    /// Writes `text` as the entry of `node`, whole from the first moment (**DI1**).
    pub(super) fn publish(&self, node: NodeId, text: &[u8]) -> Result<Published, DiscoveryError> {
        let pid = std::process::id();
        let mut last = Errno::AGAIN;
        for attempt in 0..WRITES_MAX {
            let name = format!("{node}.{pid}.{attempt}{UNFINISHED}");
            match self.try_publish(node, &name, text) {
                Ok(published) => return Ok(published),
                // Somebody else's remains have that name, or a reader removed the file before it
                // was locked.
                Err(errno @ (Errno::EXIST | Errno::WOULDBLOCK | Errno::NOENT)) => last = errno,
                Err(source) => return Err(self.failed("write an entry", source)),
            }
        }
        Err(self.failed("write an entry", last))
    }

    fn try_publish(&self, node: NodeId, name: &str, text: &[u8]) -> Result<Published, Errno> {
        // Open for writing as long as it lives: its end then shows as an event to who watches.
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(openat(&self.folder, name, flags, Mode::RUSR | Mode::WUSR)?);
        let written = lock(&file, FlockOperation::NonBlockingLockExclusive).and_then(|()| {
            (&file)
                .write_all(text)
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
            renameat(&self.folder, name, &self.folder, file_name(node))
        });
        match written {
            Ok(()) => Ok(Published { node, file }),
            Err(errno) => {
                // If this fails too, the next look removes what is left.
                let _left = unlinkat(&self.folder, name, AtFlags::empty());
                Err(errno)
            }
        }
    }

    /// Takes the entry away, unless another file has its name by now.
    pub(super) fn withdraw(&self, published: Published) {
        self.remove(&file_name(published.node), &published.file);
        // Closing it would do, were there not the moment in which a process that another thread
        // is starting still has a copy of the descriptor. If this fails, the lock goes then.
        let _unlocked = flock(&published.file, FlockOperation::Unlock);
    }

    /// All nodes that live but `ours`. Removes the entries of dead ones.
    pub(super) fn look(
        &self,
        ours: Option<NodeId>,
        counts: &mut Counts,
    ) -> Result<Vec<Found>, DiscoveryError> {
        let folder = Dir::read_from(&self.folder);
        let folder = folder.map_err(|source| self.failed("list the entries", source))?;
        let mut found = Vec::new();
        for (at, file) in folder.enumerate() {
            let file = file.map_err(|source| self.failed("list the entries", source))?;
            if at >= FILES_MAX {
                counts.beyond += 1;
                break;
            }
            let name = file.file_name().to_string_lossy();
            if matches!(name.as_ref(), "." | "..") || (ours.is_some() && node_of(&name) == ours) {
                continue;
            }
            let seen = self.see(&name);
            match seen.map_err(|source| self.failed("look at an entry", source))? {
                Seen::Node(_) if found.len() >= FOUND_MAX => counts.beyond += 1,
                Seen::Node(node) => found.push(node),
                Seen::Dead => counts.removed += 1,
                Seen::Nothing => counts.ignored += 1,
                Seen::Gone => {}
            }
        }
        Ok(found)
    }

    /// Looks at the file `name`, and removes it if it was a dead node's. Fails only for want of
    /// something of our own: then a node that lives must not look as if it did not (**DI2**).
    fn see(&self, name: &str) -> Result<Seen, Errno> {
        let node = node_of(name);
        if node.is_none() && !name.ends_with(UNFINISHED) {
            return Ok(Seen::Nothing);
        }
        for _ in 0..LOOKS_MAX {
            let file = match self.open_file(name) {
                Ok(file) => file,
                Err(Errno::NOENT) => return Ok(Seen::Gone),
                Err(errno @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM)) => return Err(errno),
                Err(_) => return Ok(Seen::Nothing),
            };
            match lock(&file, FlockOperation::NonBlockingLockShared) {
                // Its process is dead (DI1), or the file has just lost its name to a newer one.
                Ok(()) if self.remove(name, &file) => return Ok(Seen::Dead),
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => {
                    let found = node.map(|node| read(file, node).map_or(Seen::Nothing, Seen::Node));
                    return Ok(found.unwrap_or(Seen::Gone));
                }
                Err(errno) => return Err(errno),
            }
        }
        Ok(Seen::Gone)
    }

    /// Opens a file that somebody else put there: no link, no device, no pipe, not of another user
    /// and not for others to write (**DI4**).
    fn open_file(&self, name: &str) -> Result<File, Errno> {
        let flags =
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = openat(&self.folder, name, flags, Mode::empty())?;
        let stat = fstat(&file)?;
        let size = usize::try_from(stat.st_size).unwrap_or(usize::MAX);
        let sound = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && stat.st_uid == geteuid().as_raw()
            && stat.st_mode & 0o022 == 0
            && size <= ENTRY_BYTES_MAX;
        if sound { Ok(File::from(file)) } else { Err(Errno::PERM) }
    }

    /// Removes `name` if it is still that of `file`, whose lock the caller holds (**DI3**). A node's
    /// number is never used twice, so nobody else gives the name away between the two calls.
    fn remove(&self, name: &str, file: &File) -> bool {
        let there = statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW);
        let same = match (there, fstat(file)) {
            (Ok(there), Ok(held)) => identity(&there) == identity(&held),
            (Err(_), _) | (_, Err(_)) => false,
        };
        same && unlinkat(&self.folder, name, AtFlags::empty()).is_ok()
    }

    fn failed(&self, what: &'static str, source: Errno) -> DiscoveryError {
        DiscoveryError::Io { what, path: self.path.clone(), source }
    }
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// Readers share the lock, so that they do not take each other for the node (**DI2**).
fn lock(file: impl AsFd, how: FlockOperation) -> Result<(), Errno> {
    retry_on_intr(|| flock(&file, how))
}

fn read(file: File, node: NodeId) -> Option<Found> {
    let mut text = String::new();
    // Its size was checked, but it may have grown.
    let most = u64::try_from(ENTRY_BYTES_MAX).map_or(u64::MAX, |most| most + 1);
    file.take(most).read_to_string(&mut text).ok()?;
    Entry::read(&text, node)
}
