//! What the drivers have to know of TIPC: its addresses, and that its connections have no halves.
//!
//! # Not here
//! Who is where: that is for the transport.

use std::os::fd::AsFd;

use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::{AddressFamily, sockopt};

/// `TIPC_SERVICE_ADDR`.
const SERVICE: u8 = 2;

/// `struct sockaddr_tipc` of a service, looked up in the whole cluster.
#[repr(C)]
pub(super) struct ServiceAddress {
    family: u16,
    kind: u8,
    scope: i8,
    service: u32,
    instance: u32,
    /// The node to look at; 0 for all.
    node: u32,
}

const ADDRESS_BYTES: SocketAddrLen = 16;
const _: () = assert!(size_of::<ServiceAddress>() == ADDRESS_BYTES as usize);

impl ServiceAddress {
    pub(super) fn new(service: u32, instance: u32) -> Self {
        let family = AddressFamily::TIPC.as_raw();
        Self { family, kind: SERVICE, scope: 0, service, instance, node: 0 }
    }
}

// SAFETY: the pointer is that of a whole address of the family that it names, and its length is that.
unsafe impl SocketAddrArg for ServiceAddress {
    unsafe fn with_sockaddr<R>(
        &self,
        f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R,
    ) -> R {
        f(std::ptr::from_ref(self).cast(), ADDRESS_BYTES)
    }
}

/// Whether one direction of a connection can be ended alone. One of TIPC cannot, and what is meant to end one
/// would throw away what has come. It need not either: what was sent arrives before the end does, whatever
/// the peer sends meanwhile.
pub(super) fn has_halves(socket: &impl AsFd) -> bool {
    !matches!(sockopt::socket_domain(socket), Ok(AddressFamily::TIPC))
}
