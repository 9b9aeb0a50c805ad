//! The coordinator `postgres`: one row for the view of each fabric, and one for each lease.
//!
//! Everything is decided by one transaction under locks on those rows, by the server's clock. Whoever changes the view
//! locks its row first, and then the leases that end, in their order; whoever renews or releases locks one lease alone.
//!
//! # Invariants
//! - **PC1** A lease and the mark that it has ended are one row, and nobody writes it but under its lock; a row that is marked
//!   stays so until it is removed, a day later at the soonest.
//!
//! # Not here
//! A server that goes over to another one which lacks what this one has said was done: synchronous standbys are needed.
//! A server whose clock is put forward: leases end too early then, and only what the stores refuse is safe.

mod asks;
mod line;

use std::fmt;

use epicserver_coordinator::tls::Files;
use epicserver_coordinator::{Answer, Asked, Far, Near, Wake, start};

use crate::server::{Server, ServerError};
use line::Line;

/// Longest name of a fabric, in bytes.
pub const FABRIC_BYTES_MAX: usize = 256;

/// What a handle needs to know.
#[derive(Clone, PartialEq, Eq)]
pub struct Options {
    /// How the server is reached: see [`Server::new`]. Its role may make the schema `epicserver` in the database, or somebody
    /// has made it and lets the role use it.
    pub server: String,
    /// The certificates, if it is to be reached by TLS.
    pub tls: Option<Files>,
    /// The fabric; several may share a database.
    pub fabric: String,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // How the server is reached may hold a password.
        f.debug_struct("Options").field("fabric", &self.fabric).finish_non_exhaustive()
    }
}

/// Why there is no handle.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What is said of the server cannot be.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The name of the fabric cannot be kept.
    #[error("a fabric's name has 1 to {FABRIC_BYTES_MAX} bytes, none of them 0")]
    Fabric,
    /// There can be no thread, or no runtime on it.
    #[error("cannot start the coordinator's thread: {0}")]
    Thread(#[source] std::io::Error),
}

/// Opens a handle. Whether the server is there shows when it is asked.
///
/// # Errors
/// [`Error`] if the options cannot be used.
pub fn open(options: &Options, wake: Wake) -> Result<Near, Error> {
    let server = Server::new(&options.server, options.tls.as_ref())?;
    let fabric = options.fabric.clone();
    if fabric.is_empty() || fabric.len() > FABRIC_BYTES_MAX || fabric.contains('\0') {
        return Err(Error::Fabric);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .map_err(Error::Thread)?;
    let near = start("postgres", wake, move |far| {
        let line = Line::new(server, fabric, far.hints());
        runtime.block_on(serve(far, line));
        // A name that is being looked up is not waited for.
        runtime.shutdown_background();
    });
    near.map_err(Error::Thread)
}

/// Carries out asks, one after another, until there are no more.
async fn serve(mut far: Far, mut line: Line) {
    loop {
        let asked = tokio::select! {
            asked = far.next() => asked,
            () = line.tend() => continue,
        };
        let Some(Asked { ask, until, ticket }) = asked else { return };
        let answer = tokio::select! {
            answer = tokio::time::timeout_at(until.into(), line.carry_out(ask)) => answer,
            () = far.closed() => return,
        };
        let answer = answer.unwrap_or_else(|_late| Answer::Failed { why: line.give_up() });
        far.answer(ticket, answer);
    }
}
