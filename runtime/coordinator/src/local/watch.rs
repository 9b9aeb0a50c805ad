//! Watching the folder: what in it is news to those who read.
//!
//! # Not here
//! What has changed: the reader looks, since events can be lost.

use std::mem::MaybeUninit;
use std::path::Path;
use std::time::Duration;

use epicserver_wire::NodeId;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

use super::alive;
use super::leases::node_of;

/// How often to look where the kernel has no watch to spare.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// How long until it is looked again whether a process that ends has lost its lock: the kernel says that the file is
/// closed a moment before.
const GOING: Duration = Duration::from_millis(1);
/// How often at the most.
const GOING_MAX: u32 = 100;
/// Bytes for events that are read at once.
const EVENTS_BYTES: usize = 4096;
/// Processes that are watched going.
const GOERS_MAX: usize = 256;

/// A folder that is watched.
#[derive(Debug)]
pub(super) struct Watch {
    /// None if a user's watches are used up.
    inotify: Option<OwnedFd>,
    /// Nodes whose processes may be ending, with how often they were looked at.
    going: Vec<(NodeId, u32)>,
}

impl Watch {
    pub(super) fn new(path: &Path) -> Self {
        let watched = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK);
        // Views and records are moved to their names; an `.alive` is closed when its process ends.
        let what = WatchFlags::MOVED_TO | WatchFlags::CLOSE_WRITE | WatchFlags::ONLYDIR;
        let inotify = watched.ok().filter(|fd| inotify::add_watch(fd, path, what).is_ok());
        Self { inotify, going: Vec::new() }
    }

    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(AsFd::as_fd)
    }

    pub(super) fn look_again(&self) -> Option<Duration> {
        if !self.going.is_empty() {
            return Some(GOING);
        }
        self.inotify.is_none().then_some(LOOK_AGAIN)
    }

    /// Whether there is news. `lives` says whether a node's process lives, or nothing if it cannot be told now.
    pub(super) fn look(&mut self, lives: impl Fn(NodeId) -> Option<bool>) -> bool {
        let mut news = self.inotify.is_none() || self.take_events();
        let was_going = self.going.len();
        self.going.retain_mut(|(node, looked)| {
            *looked += 1;
            lives(*node) != Some(false) && *looked < GOING_MAX
        });
        news |= self.going.len() < was_going;
        news
    }

    /// Takes all events; whether one is news by itself.
    fn take_events(&mut self) -> bool {
        let Some(fd) = &self.inotify else { return false };
        let mut buffer = [MaybeUninit::<u8>::uninit(); EVENTS_BYTES];
        let mut reader = inotify::Reader::new(fd, &mut buffer);
        let mut news = false;
        while let Ok(event) = reader.next() {
            let name = event.file_name().and_then(|name| name.to_str().ok());
            let closed = event.events().contains(ReadFlags::CLOSE_WRITE);
            match name.and_then(|name| node_of(name, alive::SUFFIX)) {
                Some(node) if closed && self.going.len() < GOERS_MAX => self.going.push((node, 0)),
                Some(_) => news = true,
                // A file that is written under a name that it does not keep.
                None => news |= !closed,
            }
        }
        news
    }
}
