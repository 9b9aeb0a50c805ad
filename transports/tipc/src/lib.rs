//! Links over TIPC, the protocol for clusters that the kernel has: packets that arrive once and in order, services
//! that are found by number wherever they run, and word of every one that comes and goes.
//!
//! A node listens at a [`Service`] of its own, whose type all nodes of its fabric share; [`Topology`] tells which
//! there are. Between two nodes there is one connection of packets (`SOCK_SEQPACKET`); datagrams (`SOCK_RDM`) are
//! never used, since of those the kernel drops what nobody reads in time without a word.
//!
//! # Not here
//! Encryption: the kernel's own is set up for the whole machine, see `docs/tipc.md`. Who the peer is.

#[expect(
    unsafe_code,
    reason = "addresses and options of TIPC are told to the kernel as they lie in memory"
)]
mod raw;
mod service;
mod topology;
mod transport;

pub use raw::{Importance, own_node};
pub use service::Service;
pub use topology::{SERVICES_MAX, Topology, neighbours, probe};
pub use transport::{Config, LINKS_MAX, SCHEME, Tipc};
