//! The driver: the way of one I/O thread to the kernel, shared by its transports.
//!
//! It has two forms, io_uring and epoll, which behave alike. Both are given sockets and buffers by
//! value, so that whatever the kernel is still using cannot be touched or freed.
//!
//! # Invariants
//! - **R1** Bytes sent on one socket leave in order, each once, whatever part of them the kernel takes
//!   at a time.
//! - **R2** A socket that was given ends in exactly one [`Done::Closed`], after its last bytes.
//! - **R3** [`Driver::wait`] returns at once if [`Wake::wake`] was called since it returned last.
//! - **R4** What was sent on a socket that is closed in order reaches a peer that reads, though that peer
//!   is sending.
//!
//! # Not here
//! Where a message ends.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use epicserver_wire::frame::Frame;

use crate::Parcel;

/// A socket or file that a driver has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Handle(pub u32);

/// Which transport a completion is for: its place in the I/O thread's list.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Owner(pub u8);

/// Which form a driver has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// io_uring.
    Uring,
    /// epoll.
    Epoll,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uring => "io_uring",
            Self::Epoll => "epoll",
        })
    }
}

/// How a socket's bytes are to be received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Receive {
    /// A stream: bytes come as the kernel has them, many messages at a time or a part of one.
    Stream,
    /// A socket with boundaries: each packet comes whole, in a buffer of its own. What is sent leaves in
    /// packets of at most [`PACKET_BYTES_MAX`]: parcels that wait together share one, and a parcel that is
    /// longer takes several.
    Packets,
}

/// Bytes of the longest packet that is sent, below the 66,000 that TIPC takes.
pub const PACKET_BYTES_MAX: usize = 64 << 10;

/// Something that a driver did.
#[derive(Debug)]
pub struct Completion {
    /// Who asked for it.
    pub owner: Owner,
    /// On what.
    pub handle: Handle,
    /// What.
    pub done: Done,
}

/// What a driver did.
#[derive(Debug)]
pub enum Done {
    /// A listener has a new connection. It is nobody's until it is [adopted](Driver::adopt).
    Accepted(OwnedFd),
    /// A connection is made, and receives from now on.
    Connected,
    /// Bytes came. Of a stream, byte `n` lies at an address that is `n` modulo 16 where the form can
    /// have it so, and what was aligned by its sender is aligned here; otherwise the first byte does.
    Received(Frame),
    /// So many parcels that were given are the kernel's, and their slots are free.
    Sent(usize),
    /// A watched descriptor can be read. It is watched on.
    Readable,
    /// The socket is closed: by the peer in order if there is no error.
    Closed(Option<io::Error>),
}

/// Wakes a thread that waits in its driver. Cheap, and does nothing if it does not wait.
pub trait Wake: Send + Sync {
    /// Ends the current [`Driver::wait`], or the next one.
    fn wake(&self);
}

/// The way of one thread to the kernel. Not `Send`.
///
/// Handles that are not, or no more, the driver's are ignored: completions may cross them.
pub trait Driver {
    /// Its form.
    fn form(&self) -> Form;

    /// Accepts connections of a listening socket, until it is closed.
    ///
    /// # Errors
    /// If the table of handles is full, or the kernel refuses.
    fn listen(&mut self, owner: Owner, socket: OwnedFd) -> io::Result<Handle>;

    /// Connects a socket. [`Done::Connected`] or [`Done::Closed`] follows.
    ///
    /// # Errors
    /// As [`listen`](Self::listen).
    fn connect(
        &mut self,
        owner: Owner,
        socket: OwnedFd,
        to: &SocketAddress,
        receive: Receive,
    ) -> io::Result<Handle>;

    /// Takes over a connected socket and receives.
    ///
    /// # Errors
    /// As [`listen`](Self::listen).
    fn adopt(&mut self, owner: Owner, socket: OwnedFd, receive: Receive) -> io::Result<Handle>;

    /// Says [`Done::Readable`] whenever `file` can be read: an eventfd, a completion channel, a
    /// listening socket that is not accepted from here.
    ///
    /// # Errors
    /// As [`listen`](Self::listen).
    fn watch(&mut self, owner: Owner, file: OwnedFd) -> io::Result<Handle>;

    /// Sends `parcel` after all that were given before. The driver batches: nothing need have
    /// left before [`poll`](Self::poll) or [`wait`](Self::wait).
    ///
    /// # Errors
    /// Gives it back if so many parcels of the socket wait that no more may, or it is not there.
    fn send(&mut self, handle: Handle, parcel: Parcel) -> Result<(), Parcel>;

    /// Closes a socket. If `flush`, in order: what was given to it is sent, then the peer is told that this
    /// was all, and what it still sends is received until it ends too; who does not want to wait for that
    /// any longer closes it again without. [`Done::Closed`] follows.
    fn close(&mut self, handle: Handle, flush: bool);

    /// Whether [`poll`](Self::poll) may have anything to do. Takes far less than that; in doubt it says yes,
    /// and what it misses is found by the next poll.
    fn stirs(&mut self) -> bool {
        true
    }

    /// Submits what was given, and takes what is done. Does not block.
    ///
    /// # Errors
    /// If the kernel refuses its own rings: the driver cannot go on.
    fn poll(&mut self, done: &mut Vec<Completion>) -> io::Result<()>;

    /// The same, and waits for at most `timeout` until something is done or somebody wakes it.
    ///
    /// # Errors
    /// As [`poll`](Self::poll).
    fn wait(&mut self, timeout: Option<Duration>, done: &mut Vec<Completion>) -> io::Result<()>;

    /// What other threads wake this one with.
    fn waker(&self) -> Arc<dyn Wake>;

    /// What it has done so far.
    fn counters(&self) -> Counters;
}

/// What a driver has done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Counters {
    /// System calls.
    pub calls: u64,
    /// Bytes sent.
    pub sent: u64,
    /// Bytes received.
    pub received: u64,
    /// Times that no receive buffer was free.
    pub starved: u64,
    /// Sends that the kernel did without copying.
    pub zero_copy: u64,
}

/// Where a socket connects to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SocketAddress {
    /// IPv4 or IPv6.
    Inet(std::net::SocketAddr),
    /// A path of this host.
    Unix(std::path::PathBuf),
    /// TIPC service address: type, instance.
    Tipc(u32, u32),
}
