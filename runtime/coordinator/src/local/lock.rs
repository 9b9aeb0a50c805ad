//! The lock under which the folder is looked at and changed (**LO1**).
//!
//! # Not here
//! The locks that show which processes live: `alive`.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::{Errno, retry_on_intr};

use super::folder::Folder;
use super::{Error, Why};

const NAME: &str = "lock";
/// How long to wait at first, and at the most, until a lock that somebody holds is tried again.
const AGAIN_MIN: Duration = Duration::from_micros(100);
const AGAIN_MAX: Duration = Duration::from_millis(5);

/// The file that is locked.
#[derive(Debug)]
pub(super) struct Locks(File);

/// The lock, until it is dropped.
#[derive(Debug)]
pub(super) struct Lock<'a>(&'a File);

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        // It cannot fail for a descriptor that is open, and what is not unlocked here is so when that is closed.
        let _unlocked = flock(self.0, FlockOperation::Unlock);
    }
}

impl Locks {
    pub(super) fn open(folder: &Folder) -> Result<Self, Error> {
        let opened = folder.open_file(NAME, OFlags::RDWR | OFlags::CREATE);
        let path = folder.path().join(NAME);
        opened.map(Self).map_err(|source| Error::Io { what: "open", path, source })
    }

    /// Waits until nobody else changes anything.
    pub(super) fn shared(&self, folder: &Folder, until: Instant) -> Result<Lock<'_>, Why> {
        self.wait(folder, FlockOperation::NonBlockingLockShared, until)
    }

    /// Waits until nobody else does anything.
    pub(super) fn alone(&self, folder: &Folder, until: Instant) -> Result<Lock<'_>, Why> {
        self.wait(folder, FlockOperation::NonBlockingLockExclusive, until)
    }

    /// The lock, if nobody changes anything right now.
    pub(super) fn try_shared(&self) -> Option<Lock<'_>> {
        self.try_lock(FlockOperation::NonBlockingLockShared).ok()
    }

    fn try_lock(&self, how: FlockOperation) -> Result<Lock<'_>, Errno> {
        retry_on_intr(|| flock(&self.0, how)).map(|()| Lock(&self.0))
    }

    fn wait(&self, folder: &Folder, how: FlockOperation, until: Instant) -> Result<Lock<'_>, Why> {
        let mut again = AGAIN_MIN;
        loop {
            match self.try_lock(how) {
                Ok(lock) => {
                    self.check(folder)?;
                    return Ok(lock);
                }
                Err(Errno::WOULDBLOCK) if Instant::now() < until => std::thread::sleep(again),
                Err(Errno::WOULDBLOCK) => return Err(folder.why("lock", NAME, self.holders())),
                Err(errno) => return Err(folder.why("lock", NAME, errno)),
            }
            again = (again * 2).min(AGAIN_MAX);
        }
    }

    /// Whether this is still the file that others lock.
    fn check(&self, folder: &Folder) -> Result<(), Why> {
        let there = self.0.metadata().map_err(|error| folder.why("look at", NAME, error))?;
        if there.nlink() > 0 {
            return Ok(());
        }
        Err(folder.why("use", NAME, "it was removed while this process used it"))
    }

    /// Who holds it, for people.
    fn holders(&self) -> String {
        let inode = self.0.metadata().map_or(0, |there| there.ino());
        let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
        let ending = format!(":{inode}");
        let holder = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [_, "FLOCK", _, _, pid, file, ..] = words[..] else { return None };
            file.ends_with(&ending).then(|| pid.to_owned())
        };
        let pids: Vec<String> = locks.lines().filter_map(holder).collect();
        if pids.is_empty() {
            return "another process holds it; is it stopped?".to_owned();
        }
        format!("process {} holds it; is it stopped?", pids.join(" and "))
    }
}
