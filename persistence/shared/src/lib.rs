//! The embedded store, shared by the processes of one machine: one has the file and serves the others.
//!
//! In:  ops of this process's handles, and of others over a socket beside the file   Out: their answers
//!
//! Whoever gets the lock beside the file has it, until it leaves, dies, or is silent: then another ends it, opens the file, and
//! serves. What was asked meanwhile waits.
//!
//! Beside the file lie `<file>.lock`, which is never removed, and `<file>.sock`. A back-up or a restore is done by the process
//! that has the file, as that process sees the path.
//!
//! # Invariants
//! - **SH1** At most one process has the file open.
//! - **SH2** Each op has one answer (**SO1**), over any change of who has the file. One that was on its way when a process died, and
//!   that changes something, is unknown; whoever leaves in order loses none.
//! - **SH3** What was answered as saved is there under whoever has the file next.
//! - **SH4** A hostile peer costs its own connection, and nothing else.
//! - **SH5** A process is ended only if it has the file and has said nothing for as long as patience lasts.
//!
//! # Not here
//! The file: `epicserver_redb`. Settling what is unknown: whoever asked it does so by its version.
//!
//! One that is stopped in the few microseconds between taking the lock and listening is not known to the others, and keeps them
//! out until it goes on or is killed. Processes in different namespaces of processes cannot end each other, and do not share.

mod asking;
mod bell;
mod bytes;
mod code;
mod frame;
mod holding;
mod keeping;
pub mod limits;
mod other;
mod peers;
mod place;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bell::Bell;
use epicserver_store::{Keeper, Lanes, Store, TooMany, Wake};
use keeping::Keeping;
use limits::{FABRIC_BYTES_MAX, PATIENCE_MAX, PATIENCE_MIN};
use place::Place;

/// What is to be opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// The file; it is made if it is not there, its folder is not. All processes name the same one.
    pub path: PathBuf,
    /// The fabric whose store it is, at most [`FABRIC_BYTES_MAX`] bytes; one of another fabric is refused.
    pub fabric: String,
    /// Bytes of the file that are kept in memory while this process has it, at the most.
    pub cache_bytes: usize,
    /// For how long a process that has the file may be silent until it is ended, and for how long ops then wait for the next;
    /// [`PATIENCE`](limits::PATIENCE) suits most. At least [`PATIENCE_MIN`] and at most [`PATIENCE_MAX`].
    pub patience: Duration,
}

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] epicserver_redb::Error),
    /// The name of the fabric is too long.
    #[error("a fabric's name of {0} bytes, and {FABRIC_BYTES_MAX} are the most")]
    Fabric(usize),
    /// What lies beside the file, or the process that has it, cannot be used.
    #[error("cannot share the store {path}: {source}", path = .path.display())]
    Beside {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The process that has the file does not serve this one.
    #[error("process {pid} has the store {path}: {why}", path = .path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// The process.
        pid: i32,
        /// What it says.
        why: String,
    },
    /// Nobody serves it and it cannot be had, for twice as long as patience lasts.
    #[error("nobody serves the store {path}: {why}", path = .path.display())]
    Nobody {
        /// The file.
        path: PathBuf,
        /// What has failed last.
        why: String,
    },
    /// There can be no thread, or no descriptor for it.
    #[error("cannot start the store's threads: {0}")]
    Thread(#[source] io::Error),
}

/// Opens the store, or finds the process that has it open. Blocks for as long as that takes: where a process that has it is
/// silent, for as long as patience lasts and the file takes to open, and at most about twice as long as patience lasts.
///
/// # Errors
/// [`Error`].
pub fn open(options: &Options) -> Result<Shared, Error> {
    if options.fabric.len() > FABRIC_BYTES_MAX {
        return Err(Error::Fabric(options.fabric.len()));
    }
    let beside = |source| Error::Beside { path: options.path.clone(), source };
    let place = Place::open(&options.path).map_err(beside)?;
    let bell = Bell::new().map_err(|errno| Error::Thread(errno.into()))?;
    let (lanes, mut ends) = Lanes::new(1, |_| 0);
    let lane = ends.pop().ok_or_else(|| Error::Thread(io::Error::other("no lane")))?;
    let (told, hears) = channel();
    let holds = Arc::new(AtomicBool::new(false));
    let patience = options.patience.clamp(PATIENCE_MIN, PATIENCE_MAX);
    let keeping = Keeping {
        options: Options { patience, ..options.clone() },
        place,
        lane,
        bell: Arc::clone(&bell),
        waker: Waker::from(Arc::clone(&bell)),
        holds: Arc::clone(&holds),
        again: VecDeque::new(),
        apart: Some(Instant::now()),
        rest: None,
        ending: None,
        why: String::new(),
        told: Some(told),
    };
    let thread = std::thread::Builder::new().name("epic-store-share".to_owned());
    let thread = thread.spawn(move || keeping.run()).map_err(Error::Thread)?;
    let shared = Shared { lanes, bell, holds, thread: Some(thread) };
    match hears.recv() {
        Ok(opened) => opened.map(|()| shared),
        // A panic, which the hook of panics has shown.
        Err(_) => Err(Error::Thread(io::Error::other("the thread has ended"))),
    }
}

/// The shared store, until it is dropped. To drop it where this process has the file waits until the others have heard what they
/// asked, at most for as long as patience lasts, and until the file is closed.
pub struct Shared {
    lanes: Lanes,
    bell: Arc<Bell>,
    holds: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Shared {
    /// Whether this process has the file, as far as is known.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.holds.load(Ordering::SeqCst)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("holds", &self.holds()).finish_non_exhaustive()
    }
}

impl Keeper for Shared {
    fn name(&self) -> &'static str {
        "redb, shared"
    }

    fn handle(&self, wake: Wake) -> Result<Box<dyn Store>, TooMany> {
        Ok(Box::new(self.lanes.handle(wake)?))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.lanes.close();
        self.bell.ring();
        if let Some(thread) = self.thread.take() {
            // A panic has been shown by the hook of panics, and there is nobody left to be told.
            let _ended = thread.join();
        }
    }
}
