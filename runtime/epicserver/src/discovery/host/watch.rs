//! Watching a folder for changes: by inotify where the kernel grants it, else by the clock.
//!
//! # Not here
//! What changed: the caller looks at the whole folder, since events can be lost.

use std::mem::MaybeUninit;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::LOOK_AGAIN;

/// Bytes for events that are read at once.
const EVENTS_BYTES: usize = 4096;

/// A folder that is watched.
#[derive(Debug)]
pub(super) struct Watch {
    /// None if a user's watches are used up.
    inotify: Option<OwnedFd>,
    looked: Instant,
}

impl Watch {
    pub(super) fn new(path: &Path) -> Self {
        let watched = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK);
        // An entry appears by its new name, goes by being removed, and is closed after writing
        // when its process ends.
        let what = WatchFlags::MOVED_TO
            | WatchFlags::DELETE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::ONLYDIR;
        let inotify = watched.ok().filter(|fd| inotify::add_watch(fd, path, what).is_ok());
        Self { inotify, looked: Instant::now() }
    }

    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(AsFd::as_fd)
    }

    /// Waits for an event, the next look or the end of `wait`; whether there was one of the first
    /// two.
    pub(super) fn changed(&mut self, wait: Duration) -> bool {
        let due = LOOK_AGAIN.saturating_sub(self.looked.elapsed());
        self.sleep(wait.min(due));
        let changed = self.drain() || self.looked.elapsed() >= LOOK_AGAIN;
        if changed {
            self.looked = Instant::now();
        }
        changed
    }

    fn sleep(&self, wait: Duration) {
        let wait = Timespec::try_from(wait).ok();
        // A signal may end it early: then there is nothing to be drained, and the caller waits again.
        let _ready = match &self.inotify {
            Some(fd) => poll(&mut [PollFd::new(fd, PollFlags::IN)], wait.as_ref()),
            None => poll(&mut [], wait.as_ref()),
        };
    }

    /// Whether there were events. All are taken.
    fn drain(&self) -> bool {
        let Some(fd) = &self.inotify else { return false };
        let mut events = [MaybeUninit::<u8>::uninit(); EVENTS_BYTES];
        let mut any = false;
        while rustix::io::read(fd, &mut events).is_ok_and(|(read, _)| !read.is_empty()) {
            any = true;
        }
        any
    }
}
