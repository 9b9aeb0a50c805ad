//! The coordinator `etcd`: a few keys for each fabric, below a prefix.
//!
//! | key | value |
//! | --- | --- |
//! | `number` | the number of the view and where its bytes are; the first lease makes it |
//! | `ended` | the nodes that have ended last |
//! | `view/NUMBER-NONCE/PART` | the bytes of a view, in parts that are written before the number is |
//! | `record/NODE` | the record of a node whose lease has not ended |
//! | `alive/NODE` | there as long as that lease lasts: it hangs on a lease of etcd |
//! | `released/NODE` | there for a day after the node has released its lease |
//!
//! Spoken to by its JSON interface, `/v3/…`, which every server has that does not switch it off: a client of the
//! other one would need a compiler of protocol buffers wherever this is built.
//!
//! # Invariants
//! - **ET1** What is decided is decided by a transaction. Whatever begins a lease compares `number`, so that it meets every
//!   change; a change that ends leases compares that no `alive` was made since it saw that theirs are gone.
//! - **ET2** A lease of etcd is renewed by its leader alone, which asks nobody whether it still is the leader. So a renewal counts
//!   only if the same member, in the same term, answered a transaction before it was asked for and another one after it was
//!   answered: no later leader can have been there, and each that comes later lets all leases last anew.
//! - **ET3** Only keys below the prefix and the name of the fabric are touched.
//!
//! # Not here
//! How much is left of a lease is not told by etcd at once for all: until it has run out, all of it is said to be.

mod gateway;
mod http;
mod keeper;
mod keys;
mod txn;
mod watch;

use std::fmt;

use epicserver_coordinator::tls::{self, Files, TlsError};
use epicserver_coordinator::{Answer, Asked, Far, Near, Wake, start};

use gateway::Gateway;
use http::Endpoint;
use keeper::Keeper;
use keys::Keys;

/// Longest name of a fabric, and longest prefix, in bytes.
pub const NAME_BYTES_MAX: usize = 256;
/// Longest view, in bytes. Etcd is made for small values: it takes some 0.2 s for each MiB, and an ask may take two.
pub const VIEW_BYTES_MAX: usize = 4 << 20;
/// Endpoints of one cluster.
pub const ENDPOINTS_MAX: usize = 64;

const _: () =
    assert!(VIEW_BYTES_MAX <= epicserver_coordinator::VIEW_BYTES_MAX, "never more than all keep");

/// What a handle needs to know.
#[derive(Clone, PartialEq, Eq)]
pub struct Options {
    /// Where clients reach the members, as `http://host:2379` or `https://…`; one that answers is enough.
    pub endpoints: Vec<String>,
    /// The certificates, if they are reached by `https`.
    pub tls: Option<Files>,
    /// Who asks, if the cluster wants to know.
    pub user: Option<User>,
    /// What all keys begin with, as `/epicserver/`.
    pub prefix: String,
    /// The fabric; several may share a prefix.
    pub fabric: String,
}

/// A user of etcd's own. Its role needs to read and write what begins with the prefix.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// What it is called.
    pub name: String,
    /// Its password.
    pub password: String,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("endpoints", &self.endpoints)
            .field("fabric", &self.fabric)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Nobody is to read the password in a log.
        f.debug_struct("User").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Why there is no handle.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An endpoint is none.
    #[error("{0:?} is no endpoint of etcd, as http://host:2379 is one")]
    Endpoint(String),
    /// There are too few or too many of them.
    #[error("a cluster of etcd has 1 to {ENDPOINTS_MAX} endpoints, not {0}")]
    Endpoints(usize),
    /// Some are reached by TLS, and there are no certificates, or none are, and there are some.
    #[error("endpoints of etcd that begin with https need certificates, and others have none")]
    Secure,
    /// The files of TLS cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The name of the fabric, or the prefix, cannot be part of a key.
    #[error(
        "a fabric's name in etcd has 1 to {NAME_BYTES_MAX} bytes without / and 0, and its prefix at most as many"
    )]
    Name,
    /// There can be no thread, or no runtime on it.
    #[error("cannot start the coordinator's thread: {0}")]
    Thread(#[source] std::io::Error),
}

/// Opens a handle. Whether a member of the cluster is there shows when it is asked.
///
/// # Errors
/// [`Error`] if the options cannot be used.
pub fn open(options: &Options, wake: Wake) -> Result<Near, Error> {
    let gateway = gateway_of(options)?;
    let keys = Keys::new(&options.prefix, &options.fabric).ok_or(Error::Name)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .map_err(Error::Thread)?;
    let near = start("etcd", wake, move |far| {
        runtime.block_on(serve(far, gateway, keys));
        // A name that is being looked up is not waited for.
        runtime.shutdown_background();
    });
    near.map_err(Error::Thread)
}

fn gateway_of(options: &Options) -> Result<Gateway, Error> {
    let texts = &options.endpoints;
    if texts.is_empty() || texts.len() > ENDPOINTS_MAX {
        return Err(Error::Endpoints(texts.len()));
    }
    let parse = |text: &String| Endpoint::parse(text).ok_or_else(|| Error::Endpoint(text.clone()));
    let endpoints = texts.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    if endpoints.iter().any(|endpoint| endpoint.is_secure() != options.tls.is_some()) {
        return Err(Error::Secure);
    }
    let tls = options.tls.as_ref().map(tls::client).transpose()?;
    Ok(Gateway::new(endpoints, tls, options.user.clone()))
}

/// Carries out asks, one after another, until there are no more.
async fn serve(mut far: Far, gateway: Gateway, keys: Keys) {
    let watching = watch::watch(gateway.another(), keys.clone(), far.hints());
    let watching = tokio::spawn(watching);
    let mut keeper = Keeper::new(gateway, keys);
    while let Some(Asked { ask, until, ticket }) = far.next().await {
        let answer = tokio::select! {
            answer = tokio::time::timeout_at(until.into(), keeper.carry_out(ask)) => answer,
            () = far.closed() => break,
        };
        let answer = answer.unwrap_or_else(|_late| Answer::Failed { why: keeper.give_up() });
        far.answer(ticket, answer);
        keeper.tidy().await;
    }
    watching.abort();
}
