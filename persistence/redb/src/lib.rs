//! The embedded store: one file that one process has open.
//!
//! Two threads have it. One writes: it makes durable together whatever all handles have submitted while the disk was busy. One
//! reads, from what was last made durable, and so waits for no sync.
//!
//! # Invariants
//! - **RE1** An answer about a write is given after its transaction was synced, or after it is known that it was not done.
//! - **RE2** After trouble with the disk the file is opened again before it is used. If it has not got the last transaction then,
//!   that was not done; else nobody knows, since a sync has failed.
//!
//! # Not here
//! Other processes of the machine, which have to ask the one that has the file. What a state says.

mod book;
mod reading;
#[cfg(test)]
mod tests;
mod writing;

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use book::Book;
pub use book::OpenError;
use epicserver_store::{Door, Keeper, Lane, Lanes, Op, Store, TooMany, Wake};

/// Which thread does what.
const WRITER: usize = 0;
const READER: usize = 1;

/// What is to be opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// The file; it is made if it is not there, its folder is not.
    pub path: PathBuf,
    /// The fabric whose store it is; one of another fabric is refused.
    pub fabric: String,
    /// Bytes of the file that are kept in memory, at the most.
    pub cache_bytes: usize,
}

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be used.
    #[error("cannot open the store {path}: {error}", path = .path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        error: OpenError,
    },
    /// There can be no thread.
    #[error("cannot start the store's threads: {0}")]
    Thread(#[source] io::Error),
}

/// Opens the store. Blocks: after a crash for as long as it takes to read a few pages.
///
/// # Errors
/// [`Error`].
pub fn open(options: &Options) -> Result<Redb, Error> {
    let book = open_book(options).map_err(|error| {
        let path = options.path.clone();
        Error::Open { path, error }
    })?;
    Redb::start(book).map_err(Error::Thread)
}

/// A file that is made is made beside its place: one that a loss of power has left half made could not be opened.
fn open_book(options: &Options) -> Result<Book, OpenError> {
    let Options { path, fabric, cache_bytes } = options;
    let at = |path: &Path, fabric: &str| {
        let path = path.to_owned();
        let opener = move |builder: &redb::Builder| builder.create(&path);
        Book::open(Box::new(opener), fabric.to_owned(), *cache_bytes)
    };
    if !path.exists() {
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{}.part", std::process::id()));
        let beside = PathBuf::from(beside);
        drop(at(&beside, fabric)?);
        let placed = place(&beside, path);
        // It is the same file as the one in its place, or was too late.
        let _removed = std::fs::remove_file(&beside);
        placed.map_err(|error| OpenError::Other(error.to_string()))?;
    }
    at(path, fabric)
}

/// Gives the file a second name, unless somebody was faster.
fn place(beside: &Path, path: &Path) -> io::Result<()> {
    match std::fs::hard_link(beside, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
        Ok(()) => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()
        }
    }
}

/// The embedded store, until it is dropped.
pub struct Redb {
    lanes: Lanes,
    threads: Vec<JoinHandle<()>>,
}

impl Redb {
    fn start(book: Book) -> io::Result<Self> {
        let (lanes, ends) = Lanes::new(2, route);
        let [writer, reader]: [Lane; 2] =
            ends.try_into().map_err(|_| io::Error::other("two lanes were asked for"))?;
        let book = Arc::new(book);
        let of_reader = Arc::clone(&book);
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let mut redb = Self { lanes, threads: Vec::new() };
        redb.threads.push(thread("epic-store").spawn(move || writing::run(writer, &book))?);
        redb.threads
            .push(thread("epic-store-read").spawn(move || reading::run(reader, &of_reader))?);
        Ok(redb)
    }

    /// A way in for ops that others have taken, which may outlive the store.
    #[must_use]
    pub fn door(&self) -> Door {
        self.lanes.door()
    }
}

/// Who does `op`. A load that has to claim is passed on by the reader.
fn route(op: &Op) -> usize {
    match op {
        Op::Claim { .. } | Op::Commit(_) | Op::Purge { .. } | Op::Restore { .. } => WRITER,
        Op::Load { .. } | Op::Scan { .. } | Op::Verify { .. } | Op::Backup { .. } => READER,
    }
}

impl fmt::Debug for Redb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Redb")
    }
}

impl Keeper for Redb {
    fn name(&self) -> &'static str {
        "redb"
    }

    fn handle(&self, wake: Wake) -> Result<Box<dyn Store>, TooMany> {
        Ok(Box::new(self.lanes.handle(wake)?))
    }
}

impl Drop for Redb {
    fn drop(&mut self) {
        self.lanes.close();
        for thread in self.threads.drain(..) {
            // A panic has been shown by the hook of panics, and there is nobody left to be told.
            let _ended = thread.join();
        }
    }
}
