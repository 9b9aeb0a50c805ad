//! Links between two processes of one host, through memory that both have mapped.
//!
//! An address is `shm://BOOT_ID/NAME`: the host, and a Unix socket in the directory that all nodes
//! of the host were given. Who dials makes the memory and sends it over that socket; from then on
//! messages go through the memory alone, and the socket only wakes a peer that sleeps and tells of
//! its end.
//!
//! # Invariants
//! - **S1** A link is told of once the peer has agreed: a greeting that fails is no link at the end
//!   that accepts, and one that is down at the end that dialled.
//!
//! # Not here
//! Who the peer is, beyond its user. How the kernel is asked to wait: that is the driver's.

pub mod doze;
#[cfg(not(loom))]
mod greeting;
#[cfg(not(loom))]
mod layout;
#[cfg(not(loom))]
mod link;
#[cfg(not(loom))]
#[expect(unsafe_code, reason = "memory that another process writes is nobody's to borrow")]
mod map;
#[cfg(not(loom))]
mod ring;
mod sync;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;
#[cfg(not(loom))]
mod transport;

#[cfg(not(loom))]
pub use transport::{LINKS_MAX, SCHEME, Shm};
