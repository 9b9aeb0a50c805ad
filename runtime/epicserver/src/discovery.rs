//! Discovery: addresses at which nodes of the same fabric might be, and nothing else.
//!
//! # Not here
//! Who is a member, and whether a node that was found knows the key: the handshake tells, and the fabric
//! decides.

mod host;
pub mod hostlist;

pub use host::{
    ADDRESS_BYTES_MAX, ADDRESSES_MAX, Counts, Discovery, DiscoveryError, ENTRY_BYTES_MAX,
    FILES_MAX, FOUND_MAX, Found, LOOK_AGAIN,
};
