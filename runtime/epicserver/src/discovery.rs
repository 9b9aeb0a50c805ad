//! Discovery: addresses at which nodes of the same fabric might be, and nothing else.
//!
//! Each [`Source`] says what it knows: this host's run directory, the seeds that were configured and
//! what their names stand for, multicast in the local network, the
//! tasks of a Slurm step, the coordinator's registry. [`Search`] puts that together, and says whom to dial.
//!
//! # Not here
//! Who is a member, and whether a node that was found knows the key: the handshake tells, and the fabric
//! decides.

mod host;
pub mod hostlist;
mod jitter;
pub mod multicast;
pub mod names;
mod registry;
mod search;
pub mod slurm;
mod source;
mod strangers;

pub use host::{
    ADDRESS_BYTES_MAX, ADDRESSES_MAX, Counts, Discovery, DiscoveryError, ENTRY_BYTES_MAX,
    FILES_MAX, FOUND_MAX, Found, LOOK_AGAIN,
};
pub use registry::Registry;
pub use search::{LEADER_AWAITED, LEADER_GRACE, PATIENCE, Search, SearchCounts};
pub use source::{CANDIDATES_MAX, Candidate, Fixed, Source};
pub use strangers::{QUIET, Strangers};
