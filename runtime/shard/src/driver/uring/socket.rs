//! One socket of the io_uring form: which operations it has under way, and what they still need.
//!
//! # Invariants
//! - **K12** A socket is kept until the last completion of its last operation, and with it all memory that
//!   the kernel may still read.
//! - **K13** At most one send of a socket is under way, so that its bytes keep their order (R1).
//!
//! # Not here
//! Submitting.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use epicserver_link::driver::{Owner, Receive};
use io_uring::types::Fd;
use libc::{iovec, msghdr};
use rustix::net::{AddressFamily, SocketType, sockopt};

use super::super::sockets::{PIECES_MAX, Role, Sending};

/// How far a socket is from its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ending {
    /// It is in use.
    Not,
    /// What was given is sent first.
    Flushing,
    /// Nothing can be sent any more; what the peer has sent is received to its end.
    Draining,
    /// Its operations are cancelled, and it is closed when they are over.
    Now,
}

/// A send whose memory the kernel may still read.
struct Flight {
    /// Parcels that it has made whole.
    parcels: usize,
    /// The kernel has said that it reads no more.
    over: bool,
}

/// One descriptor.
pub(super) struct Socket {
    /// `None` once it is closed and the kernel still reads what was sent.
    pub(super) fd: Option<OwnedFd>,
    pub(super) owner: Owner,
    pub(super) role: Role,
    pub(super) sending: Sending,
    /// Bytes received so far.
    pub(super) received: u64,
    /// Operations that are not over (**K12**).
    pub(super) pending: usize,
    /// A receive, an accept or a poll is under way.
    pub(super) listening: bool,
    /// There was more than the last receive took.
    pub(super) expects: bool,
    /// What the send under way points at (**K13**).
    pub(super) message: Option<Box<Message>>,
    /// Sends without a copy that the kernel may still read, and those behind them.
    flights: VecDeque<Flight>,
    /// The number of the first of them.
    first_flight: u16,
    pub(super) zero_copy: bool,
    /// One direction can be ended alone.
    pub(super) halves: bool,
    /// The peer has ended: there is nothing more to receive.
    pub(super) ended: bool,
    pub(super) ending: Ending,
    /// What was sent need not arrive.
    pub(super) abort: bool,
    pub(super) cancelling: bool,
    pub(super) error: Option<io::Error>,
    /// It waits for a buffer, or to be allowed to accept.
    pub(super) waits: bool,
    /// It stands in the list of what is to be looked at.
    pub(super) listed: bool,
}

impl Socket {
    pub(super) fn new(owner: Owner, fd: OwnedFd, role: Role) -> Self {
        Self {
            fd: Some(fd),
            owner,
            role,
            sending: Sending::default(),
            received: 0,
            pending: 0,
            listening: false,
            expects: false,
            message: None,
            flights: VecDeque::new(),
            first_flight: 0,
            zero_copy: false,
            halves: true,
            ended: false,
            ending: Ending::Not,
            abort: false,
            cancelling: false,
            error: None,
            waits: false,
            listed: false,
        }
    }

    /// The descriptor as operations name it; none has this number once it is closed.
    pub(super) fn fd(&self) -> Fd {
        Fd(self.fd.as_ref().map_or(-1, AsRawFd::as_raw_fd))
    }

    /// Whether the kernel has taken all that was given.
    pub(super) fn is_sent(&self) -> bool {
        self.sending.is_empty() && self.message.is_none()
    }

    /// Whether what is sent may be sent without a copy: not over what has no network below it.
    pub(super) fn may_zero_copy(&self) -> bool {
        let Some(fd) = &self.fd else { return false };
        matches!(sockopt::socket_domain(fd), Ok(AddressFamily::INET | AddressFamily::INET6))
            && sockopt::socket_type(fd) == Ok(SocketType::STREAM)
    }

    /// What the next send is called.
    pub(super) fn next_flight(&self) -> u16 {
        let flights = u16::try_from(self.flights.len()).unwrap_or(u16::MAX);
        self.first_flight.wrapping_add(flights)
    }

    /// Sends of which only the word is missing that the kernel reads no more.
    pub(super) fn flying(&self) -> usize {
        self.flights.iter().filter(|flight| !flight.over).count()
    }

    /// A send has taken so many bytes, and may be `over`. Says how many parcels are free by that.
    pub(super) fn sent(&mut self, bytes: usize, over: bool) -> usize {
        let parcels = self.sending.take(bytes);
        if over && self.flights.is_empty() {
            self.sending.free(parcels);
            return parcels;
        }
        self.flights.push_back(Flight { parcels, over });
        0
    }

    /// The kernel does not read the send `flight` any more. Says how many parcels are free by that: none
    /// while an earlier send, which may have begun with the same parcel, is still read.
    pub(super) fn landed(&mut self, flight: u16) -> usize {
        let at = usize::from(flight.wrapping_sub(self.first_flight));
        if let Some(flight) = self.flights.get_mut(at) {
            flight.over = true;
        }
        let mut free = 0;
        while let Some(flight) = self.flights.pop_front_if(|flight| flight.over) {
            self.first_flight = self.first_flight.wrapping_add(1);
            free += flight.parcels;
        }
        self.sending.free(free);
        free
    }
}

/// What one send points at. It stays where it is while the kernel may read it.
pub(super) struct Message {
    pub(super) header: msghdr,
    pieces: [iovec; PIECES_MAX],
}

impl Message {
    pub(super) fn new() -> Box<Self> {
        // SAFETY: a header of zeroes is one without name, pieces and control data.
        let header = unsafe { std::mem::zeroed() };
        let none = iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        Box::new(Self { header, pieces: [none; PIECES_MAX] })
    }

    /// Points it at what is to be sent next. Says how many bytes that are.
    pub(super) fn fill(&mut self, sending: &Sending, receive: Receive) -> usize {
        let (mut count, mut bytes) = (0, 0);
        for (slot, piece) in self.pieces.iter_mut().zip(sending.pieces(receive)) {
            // The kernel only reads it.
            let base = piece.as_ptr().cast_mut().cast();
            *slot = iovec { iov_base: base, iov_len: piece.len() };
            count += 1;
            bytes += piece.len();
        }
        self.header.msg_iov = self.pieces.as_mut_ptr();
        self.header.msg_iovlen = count;
        bytes
    }

    /// Where the piece lies and how long it is, if it is the only one.
    pub(super) fn only_piece(&self) -> Option<(*const u8, u32)> {
        let piece = self.pieces.first().filter(|_| self.header.msg_iovlen == 1)?;
        Some((piece.iov_base.cast_const().cast(), u32::try_from(piece.iov_len).ok()?))
    }
}
