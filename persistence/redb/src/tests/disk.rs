//! A disk in memory that loses its power, fills up, fails, is slow and rots as it is told.
//!
//! # Not here
//! What is on it.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use redb::StorageBackend;

use crate::book::{Book, OpenError, Opener};

/// A disk; its clones are the same one.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    events: Vec<Event>,
    /// Bytes that there is room for.
    room: Option<u64>,
    /// Syncs that succeed before all fail.
    syncs_left: Option<u32>,
    /// Whether a sync that fails has done its work.
    fails_late: bool,
    /// Syncs wait.
    stalled: bool,
    /// Syncs that wait.
    waiting: u32,
}

/// What was done to a disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Event {
    Write(u64, Vec<u8>),
    Resize(u64),
    Sync,
}

impl Event {
    pub(super) fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(at, data) => {
                let at = usize::try_from(*at).unwrap();
                // What was written behind the end is there once the length is.
                if bytes.len() < at + data.len() {
                    bytes.resize(at + data.len(), 0);
                }
                bytes[at..at + data.len()].copy_from_slice(data);
            }
            Self::Resize(len) => bytes.resize(usize::try_from(*len).unwrap(), 0),
            Self::Sync => {}
        }
    }
}

impl Disk {
    pub(super) fn of(bytes: Vec<u8>) -> Self {
        let disk = Self::default();
        disk.state().bytes = bytes;
        disk
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    pub(super) fn opener(&self) -> Opener {
        let disk = self.clone();
        Box::new(move |builder| builder.create_with_backend(disk.clone()))
    }

    pub(super) fn book(&self) -> Result<Book, OpenError> {
        Book::open(self.opener(), "fabric".to_owned(), 4 << 20)
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.state().bytes.clone()
    }

    pub(super) fn with_bytes<T>(&self, with: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        with(&mut self.state().bytes)
    }

    pub(super) fn events(&self) -> Vec<Event> {
        self.state().events.clone()
    }

    pub(super) fn event_count(&self) -> usize {
        self.state().events.len()
    }

    pub(super) fn set_room(&self, room: Option<u64>) {
        self.state().room = room;
    }

    pub(super) fn len(&self) -> u64 {
        self.state().bytes.len() as u64
    }

    pub(super) fn fail_after(&self, syncs: Option<u32>, late: bool) {
        let mut state = self.state();
        state.syncs_left = syncs;
        state.fails_late = late;
    }

    pub(super) fn stall(&self, stalled: bool) {
        self.state().stalled = stalled;
        self.0.changed.notify_all();
    }

    /// Waits until a sync waits.
    pub(super) fn wait_for_sync(&self) {
        let state = self.state();
        drop(self.0.changed.wait_while(state, |state| state.waiting == 0).unwrap());
    }
}

fn full() -> io::Error {
    io::Error::from(io::ErrorKind::StorageFull)
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        let at = usize::try_from(offset).unwrap();
        let from = at.checked_add(out.len()).and_then(|end| state.bytes.get(at..end));
        out.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state();
        if state.room.is_some_and(|room| len > room) {
            return Err(full());
        }
        let event = Event::Resize(len);
        event.apply(&mut state.bytes);
        state.events.push(event);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state();
        state.waiting += 1;
        self.0.changed.notify_all();
        let mut state = self.0.changed.wait_while(state, |state| state.stalled).unwrap();
        state.waiting -= 1;
        if let Some(left) = &mut state.syncs_left {
            if *left == 0 {
                if state.fails_late {
                    state.events.push(Event::Sync);
                }
                return Err(io::Error::other("the disk does not answer"));
            }
            *left -= 1;
        }
        state.events.push(Event::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        if state.room.is_some_and(|room| offset + data.len() as u64 > room) {
            return Err(full());
        }
        let event = Event::Write(offset, data.to_vec());
        event.apply(&mut state.bytes);
        state.events.push(event);
        Ok(())
    }
}
