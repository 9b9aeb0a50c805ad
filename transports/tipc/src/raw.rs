//! TIPC as the kernel wants it told: the layouts of `linux/tipc.h`, and the calls for which there is no other way.
//!
//! # Not here
//! What is said over the sockets.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::Service;

/// `TIPC_SERVICE_ADDR`.
const KIND_SERVICE: u8 = 2;
/// `TIPC_SOCKET_ADDR`.
const KIND_SOCKET: u8 = 3;
/// `TIPC_CLUSTER_SCOPE`: other machines see it too.
const SCOPE_CLUSTER: i8 = 2;
/// `TIPC_IMPORTANCE`.
const OPTION_IMPORTANCE: libc::c_int = 127;
/// `TIPC_TOP_SRV`, as type and as instance.
const TOPOLOGY: u32 = 1;

/// `struct sockaddr_tipc`.
#[derive(Clone, Copy, Default, Debug)]
#[repr(C)]
struct SocketAddress {
    family: u16,
    kind: u8,
    scope: i8,
    /// Of a service: its type, its instance, and where to look for it. Of a socket: number, node, nothing.
    rest: [u32; 3],
}

const ADDRESS_BYTES: SocketAddrLen = 16;
const _: () = assert!(size_of::<SocketAddress>() == ADDRESS_BYTES as usize);

// SAFETY: the pointer is that of a whole address of the family that it names, and its length is that.
unsafe impl SocketAddrArg for SocketAddress {
    unsafe fn with_sockaddr<R>(
        &self,
        f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R,
    ) -> R {
        f(std::ptr::from_ref(self).cast(), ADDRESS_BYTES)
    }
}

impl SocketAddress {
    fn service(kind: u32, instance: u32) -> Self {
        let family = AddressFamily::TIPC.as_raw();
        Self { family, kind: KIND_SERVICE, scope: SCOPE_CLUSTER, rest: [kind, instance, 0] }
    }
}

/// A socket of somebody, by number and by the address of its machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Port {
    pub(crate) number: u32,
    pub(crate) node: u32,
}

/// How much a connection's packets count where a machine has more to send than its links take. What is more important
/// may queue longer, and is refused later.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Importance {
    /// As any program that asks for nothing.
    Low,
    /// More than that.
    #[default]
    Medium,
    /// Before most.
    High,
    /// Before all.
    Critical,
}

/// A new socket of packets that does not block.
///
/// # Errors
/// Says what to do where the kernel has no TIPC.
pub(crate) fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    match socket_with(AddressFamily::TIPC, SocketType::SEQPACKET, flags, None) {
        Ok(socket) => Ok(socket),
        Err(Errno::AFNOSUPPORT) => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "this kernel has no TIPC: load its module by `modprobe tipc`",
        )),
        Err(error) => Err(error.into()),
    }
}

/// A socket that listens at `service`.
pub(crate) fn listen(service: Service) -> io::Result<OwnedFd> {
    let socket = socket()?;
    let address = SocketAddress::service(service.kind(), service.instance());
    rustix::net::bind(&socket, &address)?;
    // The kernel looks at the number of bytes that wait, not of connections.
    rustix::net::listen(&socket, 0)?;
    Ok(socket)
}

/// A socket that is connected to this machine's topology service, which is in the kernel and answers at once. It
/// blocks until then.
pub(crate) fn connect_to_topology() -> io::Result<OwnedFd> {
    let socket = socket()?;
    rustix::io::ioctl_fionbio(&socket, false)?;
    rustix::net::connect(&socket, &SocketAddress::service(TOPOLOGY, TOPOLOGY))?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    Ok(socket)
}

/// Sets how much what is sent over `socket` counts.
pub(crate) fn set_importance(socket: impl AsFd, importance: Importance) -> io::Result<()> {
    let level: u32 = match importance {
        Importance::Low => 0,
        Importance::Medium => 1,
        Importance::High => 2,
        Importance::Critical => 3,
    };
    let fd = socket.as_fd().as_raw_fd();
    let value = std::ptr::from_ref(&level).cast();
    // SAFETY: the value is four bytes long and outlives the call.
    let set = unsafe { libc::setsockopt(fd, libc::SOL_TIPC, OPTION_IMPORTANCE, value, 4) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Who is at the other end of a connected socket.
pub(crate) fn peer(socket: impl AsFd) -> io::Result<Port> {
    port(socket.as_fd(), libc::getpeername)
}

/// The address of this machine among those that TIPC connects, which is a hash of its identity. `None` until a second
/// after its first bearer was enabled: before, no other machine finds it.
///
/// # Errors
/// Says what to do where the kernel has no TIPC.
pub fn own_node() -> io::Result<Option<u32>> {
    let port = port(socket()?.as_fd(), libc::getsockname)?;
    Ok((port.node != 0).then_some(port.node))
}

type Name =
    unsafe extern "C" fn(libc::c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int;

fn port(socket: BorrowedFd<'_>, name: Name) -> io::Result<Port> {
    let mut address = SocketAddress::default();
    let mut len = ADDRESS_BYTES;
    let place = std::ptr::from_mut(&mut address).cast();
    // SAFETY: both places are as long as the kernel is told, and outlive the call; all bytes are valid in them.
    let named = unsafe { name(socket.as_raw_fd(), place, &raw mut len) };
    if named != 0 {
        return Err(io::Error::last_os_error());
    }
    if address.kind != KIND_SOCKET {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let [number, node, _] = address.rest;
    Ok(Port { number, node })
}
