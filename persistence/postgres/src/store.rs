//! The store `postgres`: the rows of each fabric in one table, and the owners of its slots in another; on one server, or on several
//! that share the slots.
//!
//! One thread has it, with three sessions for each server: one that writes, one that reads, and one for what takes long.
//!
//! # Invariants
//! - **PS1** Saves are done by one statement, which holds the rows of their slots' owners `FOR SHARE` until it is committed; who
//!   claims a slot changes that row. So a save and a claim wait for each other (**SO4**), and both lock slots in their order.
//! - **PS2** In one statement each entity stands once; what follows it goes into the next one.
//! - **PS3** A slot lies on the server that its index says, by the number of servers. A server knows which of how many it is for a
//!   fabric, and takes no other place.
//!
//! # Not here
//! A back-up of several servers at one moment. A server that goes over to one which lacks what this one has said was done.

mod copying;
mod link;
mod reading;
mod rows;
mod writing;

use std::fmt;
use std::thread::JoinHandle;

use epicserver_coordinator::tls::Files;
use epicserver_store::{Keeper, Lane, Lanes, Op, Store, TooMany, Wake};

use crate::coordinator::FABRIC_BYTES_MAX;
use crate::server::{Server, ServerError};
use link::Links;

/// Servers that may share a fabric's slots.
pub const SERVERS_MAX: usize = 64;

const WRITER: usize = 0;
const READER: usize = 1;
const COPIER: usize = 2;

/// What is to be opened.
#[derive(Clone, PartialEq, Eq)]
pub struct Options {
    /// How the servers are reached: see [`Server::new`]. A slot lies on the one whose place is the slot's index modulo their
    /// number, so neither that nor their order may change once something is stored.
    pub servers: Vec<String>,
    /// The certificates, if they are to be reached by TLS.
    pub tls: Option<Files>,
    /// The fabric; several may share a database.
    pub fabric: String,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // How the servers are reached may hold passwords.
        f.debug_struct("Options").field("fabric", &self.fabric).finish_non_exhaustive()
    }
}

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What is said of a server cannot be.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// There is none, or there are too many.
    #[error("a store has 1 to {SERVERS_MAX} servers, and {0} are named")]
    Count(usize),
    /// The name of the fabric cannot be kept.
    #[error("a fabric's name has 1 to {FABRIC_BYTES_MAX} bytes, none of them 0")]
    Fabric,
    /// There can be no thread, or no runtime on it.
    #[error("cannot start the store's thread: {0}")]
    Thread(#[source] std::io::Error),
}

/// Opens the store. Whether the servers are there shows when it is asked.
///
/// # Errors
/// [`Error`] if the options cannot be used.
pub fn open(options: &Options) -> Result<Postgres, Error> {
    let Options { servers, tls, fabric } = options;
    if servers.is_empty() || servers.len() > SERVERS_MAX {
        return Err(Error::Count(servers.len()));
    }
    if fabric.is_empty() || fabric.len() > FABRIC_BYTES_MAX || fabric.contains('\0') {
        return Err(Error::Fabric);
    }
    let server = |text: &String| Server::new(text, tls.as_ref());
    let servers = servers.iter().map(server).collect::<Result<Vec<_>, _>>()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .map_err(Error::Thread)?;
    let (lanes, ends) = Lanes::new(3, route);
    let links = Links::new(servers, fabric.clone());
    let thread = std::thread::Builder::new().name("epic-store".to_owned());
    let thread = thread.spawn(move || {
        runtime.block_on(serve(ends, &links));
        // A name that is being looked up is not waited for.
        runtime.shutdown_background();
    });
    Ok(Postgres { lanes, thread: Some(thread.map_err(Error::Thread)?) })
}

/// Does all that is asked, until the store is dropped.
async fn serve(mut ends: Vec<Lane>, links: &Links) {
    let (Some(copier), Some(reader), Some(writer)) = (ends.pop(), ends.pop(), ends.pop()) else {
        return;
    };
    tokio::join!(
        writing::run(writer, links.another()),
        reading::run(reader, links.another()),
        copying::run(copier, links.another()),
    );
}

/// Who does `op`. A load that has to claim is passed on by the reader.
fn route(op: &Op) -> usize {
    match op {
        Op::Claim { .. } | Op::Commit(_) | Op::Purge { .. } => WRITER,
        Op::Load { .. } | Op::Scan { .. } | Op::Verify { .. } => READER,
        Op::Backup { .. } | Op::Restore { .. } => COPIER,
    }
}

/// The store, until it is dropped.
pub struct Postgres {
    lanes: Lanes,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Postgres")
    }
}

impl Keeper for Postgres {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn handle(&self, wake: Wake) -> Result<Box<dyn Store>, TooMany> {
        Ok(Box::new(self.lanes.handle(wake)?))
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.lanes.close();
        if let Some(thread) = self.thread.take() {
            // A panic has been shown by the hook of panics, and there is nobody left to be told.
            let _ended = thread.join();
        }
    }
}
