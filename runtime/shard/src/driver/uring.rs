//! The io_uring form: operations that the kernel completes, submitted many at a time.
//!
//! Each socket has at most one operation that takes in (a receive, an accept, a poll) and one that sends.
//! Whatever happens to a socket puts it on a list; before and after each turn the sockets on the list
//! are given the operations that they lack. So a receive is renewed by the system call that sends the answer.
//!
//! Receives are of one shot: one of many shots would fill its next buffer before we know where in it the
//! stream has to go on, and could not keep aligned what the sender aligned.
//!
//! # Invariants
//! K8, K9, K12 and K13 stand in the parts below; R1-R4 are the trait's.
//!
//! # Not here
//! Where a message ends. The rings, the buffers, what a socket has under way: those are the parts.

mod finish;
mod groups;
mod ring;
mod socket;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use epicserver_link::Parcel;
use epicserver_link::driver::{
    Completion, Counters, Done, Driver, Form, Handle, Owner, Receive, SocketAddress, Wake,
};
use io_uring::squeue::{Entry, Flags};
use io_uring::{opcode, types};
use rustix::io::Errno;

use self::finish::{Kind, Tag};
use self::groups::Groups;
use self::ring::Ring;
use self::socket::{Ending, Message, Socket};
use super::bell::Bell;
use super::connect_to;
use super::sockets::{Role, Sockets};
use super::tipc::has_halves;

/// `IORING_RECVSEND_POLL_FIRST`: nothing is expected to be there.
const POLL_FIRST: u16 = 1;
/// `IORING_SEND_ZC_REPORT_USAGE`: say whether it was copied after all.
const REPORT_USAGE: u16 = 8;
/// From how many bytes on a send is worth the pinning of its pages.
const ZERO_COPY_MIN: usize = 16 << 10;
/// Buffers that one socket may fill in one round.
const FILLS_MAX: usize = 4;
/// How long a wait lasts at most while a socket waits for a buffer, or could not accept: no
/// completion tells that there is room again.
const RETRY: Duration = Duration::from_millis(1);
/// Rounds between two tries to accept, after one that failed.
const RETRY_ROUNDS: u32 = 4096;

/// The io_uring form of a driver.
pub(super) struct Uring {
    ring: Ring,
    bell: Arc<Bell>,
    sockets: Sockets<Socket>,
    groups: Groups,
    /// Messages that no send points at.
    #[expect(clippy::vec_box, reason = "they go from here to a socket and back without moving")]
    spare: Vec<Box<Message>>,
    /// Sockets that may lack an operation.
    listed: Vec<Handle>,
    /// Sockets that wait for a buffer, the longest waiting first.
    starved: Vec<Handle>,
    /// Listeners that could not accept.
    refused: Vec<Handle>,
    /// A socket has more than its last receive took.
    deep: bool,
    rounds: u32,
    counters: Counters,
}

impl Uring {
    pub(super) fn open() -> io::Result<Self> {
        let mut uring = Self {
            ring: Ring::open()?,
            bell: Arc::new(Bell::open()?),
            sockets: Sockets::default(),
            groups: Groups::default(),
            spare: Vec::new(),
            listed: Vec::new(),
            starved: Vec::new(),
            refused: Vec::new(),
            deep: false,
            rounds: 0,
            counters: Counters::default(),
        };
        // A kernel that has no rings of buffers says so here.
        uring.groups.prepare(&uring.ring)?;
        uring.hear_bell()?;
        Ok(uring)
    }

    /// Queues an operation that points at nothing.
    fn push(&mut self, entry: Entry, tag: Tag) -> io::Result<()> {
        // SAFETY: it points at nothing.
        unsafe { self.ring.push(&entry.user_data(tag.pack())) }
    }

    fn hear_bell(&mut self) -> io::Result<()> {
        let fd = types::Fd(self.bell.as_fd().as_raw_fd());
        let entry = opcode::PollAdd::new(fd, poll_mask(libc::POLLIN)).multi(true).build();
        self.push(entry, Tag { handle: Handle(0), kind: Kind::Bell, flight: 0 })
    }

    fn add(&mut self, owner: Owner, fd: OwnedFd, role: Role) -> io::Result<Handle> {
        if role != Role::Watched {
            // Of one that does not block, the kernel would complete operations before they are done.
            rustix::io::ioctl_fionbio(&fd, false)?;
        }
        let halves = has_halves(&fd);
        let mut socket = Socket::new(owner, fd, role);
        socket.halves = halves;
        socket.zero_copy = self.ring.zero_copy && socket.may_zero_copy();
        let full = || io::Error::from(Errno::NFILE);
        let handle = self.sockets.insert(socket).ok_or_else(full)?;
        self.list(handle);
        Ok(handle)
    }

    fn list(&mut self, handle: Handle) {
        if let Some(socket) = self.sockets.get(handle)
            && !std::mem::replace(&mut socket.listed, true)
        {
            self.listed.push(handle);
        }
    }

    fn say(&mut self, handle: Handle, what: Done, done: &mut Vec<Completion>) {
        if let Some(socket) = self.sockets.get(handle) {
            done.push(Completion { owner: socket.owner, handle, done: what });
        }
    }

    /// Gives each socket on the list the operations that it lacks.
    fn advance_all(&mut self, done: &mut Vec<Completion>) -> io::Result<()> {
        for _ in 0..self.listed.len() {
            let Some(handle) = self.listed.pop() else { break };
            if let Some(socket) = self.sockets.get(handle) {
                socket.listed = false;
                self.advance(handle, done)?;
            }
        }
        Ok(())
    }

    fn advance(&mut self, handle: Handle, done: &mut Vec<Completion>) -> io::Result<()> {
        self.output(handle)?;
        let Some(socket) = self.sockets.get(handle) else { return Ok(()) };
        if socket.ending == Ending::Flushing && socket.is_sent() {
            self.counters.calls += 1;
            socket.say_end();
        }
        match socket.ending {
            Ending::Now => self.wind_up(handle, done),
            Ending::Not | Ending::Flushing | Ending::Draining => self.input(handle),
        }
    }

    /// Takes in from a socket, unless it does already.
    fn input(&mut self, handle: Handle) -> io::Result<()> {
        let Some(socket) = self.sockets.get(handle) else { return Ok(()) };
        if socket.listening || socket.waits || socket.ended || socket.ending == Ending::Now {
            return Ok(());
        }
        let fd = socket.fd();
        let entry = match socket.role {
            Role::Listener => opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build(),
            Role::Watched => opcode::PollAdd::new(fd, poll_mask(libc::POLLIN)).multi(true).build(),
            Role::Connecting(_) => opcode::PollAdd::new(fd, poll_mask(libc::POLLOUT)).build(),
            Role::Connected(_) => return self.receive_or_starve(handle),
        };
        (socket.listening, socket.pending) = (true, socket.pending + 1);
        self.push(entry, Tag { handle, kind: Kind::Input, flight: 0 })
    }

    /// Receives. Says whether there is a buffer for it, or it needs none any more.
    fn receive(&mut self, handle: Handle) -> io::Result<bool> {
        let Some(socket) = self.sockets.get(handle) else { return Ok(true) };
        if socket.ending == Ending::Now {
            return Ok(true);
        }
        let group = socket.group();
        if !self.groups.arm(group, &self.ring)? {
            return Ok(false);
        }
        let how = if socket.expects { 0 } else { POLL_FIRST };
        let receive = opcode::Recv::new(socket.fd(), std::ptr::null_mut(), 0);
        let entry = receive.ioprio(how).buf_group(group).build().flags(Flags::BUFFER_SELECT);
        let entry = entry.user_data(Tag { handle, kind: Kind::Input, flight: 0 }.pack());
        (socket.waits, socket.listening) = (false, true);
        socket.pending += 1;
        // SAFETY: the buffers of a group stay, and nobody touches them, until they are taken (K9).
        unsafe { self.ring.push(&entry) }?;
        Ok(true)
    }

    fn receive_or_starve(&mut self, handle: Handle) -> io::Result<()> {
        if !self.receive(handle)?
            && let Some(socket) = self.sockets.get(handle)
        {
            socket.waits = true;
            self.counters.starved += 1;
            self.starved.push(handle);
        }
        Ok(())
    }

    /// Sends what a socket has, unless it does already (K13).
    fn output(&mut self, handle: Handle) -> io::Result<()> {
        let Some(socket) = self.sockets.get(handle) else { return Ok(()) };
        let Role::Connected(receive) = socket.role else { return Ok(()) };
        let sends = matches!(socket.ending, Ending::Not | Ending::Flushing);
        if !sends || socket.message.is_some() || socket.sending.is_empty() {
            return Ok(());
        }
        let message = self.spare.pop().unwrap_or_else(Message::new);
        let (fd, flags) = (socket.fd(), libc::MSG_NOSIGNAL | libc::MSG_WAITALL);
        let message = socket.message.insert(message);
        let bytes = message.fill(&socket.sending, receive);
        let header = &raw const message.header;
        let without_copy = socket.zero_copy && bytes >= ZERO_COPY_MIN;
        let entry = if without_copy {
            opcode::SendMsgZc::new(fd, header)
                .flags(flags.cast_unsigned())
                .ioprio(REPORT_USAGE)
                .build()
        } else if let Some((piece, len)) = message.only_piece() {
            // The kernel takes it in faster than a list of one.
            opcode::Send::new(fd, piece, len).flags(flags).build()
        } else {
            opcode::SendMsg::new(fd, header).flags(flags.cast_unsigned()).build()
        };
        let tag = Tag { handle, kind: Kind::Send, flight: socket.next_flight() };
        socket.pending += 1;
        // SAFETY: the message is boxed, and the parcels that it names are neither changed nor freed, until
        // the send is over (K12).
        unsafe { self.ring.push(&entry.user_data(tag.pack())) }
    }

    /// Receives where a buffer was missing. As long as there is none for the first, the others need not try.
    fn feed(&mut self) -> io::Result<()> {
        let mut fed = 0;
        while let Some(handle) = self.starved.get(fed).copied() {
            if !self.receive(handle)? {
                break;
            }
            fed += 1;
        }
        self.starved.drain(..fed);
        Ok(())
    }

    /// Accepts again where that failed.
    fn accept_again(&mut self) -> io::Result<()> {
        for handle in std::mem::take(&mut self.refused) {
            if let Some(socket) = self.sockets.get(handle) {
                socket.waits = false;
            }
            self.input(handle)?;
        }
        Ok(())
    }

    /// Takes what is done, and while a socket has more than it had a buffer for, receives on: what lies
    /// in the kernel for long falls out of the cache.
    fn take_all(&mut self, done: &mut Vec<Completion>) -> io::Result<()> {
        self.take_once(done)?;
        for _ in 1..FILLS_MAX {
            if !self.deep {
                break;
            }
            self.ring.turn()?;
            self.take_once(done)?;
        }
        Ok(())
    }

    fn take_once(&mut self, done: &mut Vec<Completion>) -> io::Result<()> {
        self.deep = false;
        while let Some(entry) = self.ring.take() {
            self.finish(&entry, done)?;
        }
        self.advance_all(done)
    }
}

impl Driver for Uring {
    fn form(&self) -> Form {
        Form::Uring
    }

    fn listen(&mut self, owner: Owner, socket: OwnedFd) -> io::Result<Handle> {
        self.add(owner, socket, Role::Listener)
    }

    fn connect(
        &mut self,
        owner: Owner,
        socket: OwnedFd,
        to: &SocketAddress,
        receive: Receive,
    ) -> io::Result<Handle> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        match connect_to(&socket, to) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        self.add(owner, socket, Role::Connecting(receive))
    }

    fn adopt(&mut self, owner: Owner, socket: OwnedFd, receive: Receive) -> io::Result<Handle> {
        self.add(owner, socket, Role::Connected(receive))
    }

    fn watch(&mut self, owner: Owner, file: OwnedFd) -> io::Result<Handle> {
        self.add(owner, file, Role::Watched)
    }

    fn send(&mut self, handle: Handle, parcel: Parcel) -> Result<(), Parcel> {
        let Some(socket) = self.sockets.get(handle) else { return Err(parcel) };
        if socket.ending != Ending::Not {
            return Err(parcel);
        }
        socket.sending.push(parcel)?;
        self.list(handle);
        Ok(())
    }

    fn close(&mut self, handle: Handle, flush: bool) {
        let Some(socket) = self.sockets.get(handle) else { return };
        socket.ending = match socket.ending {
            Ending::Not if flush => Ending::Flushing,
            as_before @ (Ending::Flushing | Ending::Draining) if flush => as_before,
            Ending::Not | Ending::Flushing | Ending::Draining | Ending::Now => Ending::Now,
        };
        socket.abort |= !flush;
        self.list(handle);
    }

    fn stirs(&mut self) -> bool {
        !self.listed.is_empty() || self.ring.stirs()
    }

    fn poll(&mut self, done: &mut Vec<Completion>) -> io::Result<()> {
        self.rounds = self.rounds.wrapping_add(1);
        self.feed()?;
        if self.rounds.is_multiple_of(RETRY_ROUNDS) {
            self.accept_again()?;
        }
        self.advance_all(done)?;
        self.ring.turn()?;
        self.take_all(done)
    }

    fn wait(&mut self, timeout: Option<Duration>, done: &mut Vec<Completion>) -> io::Result<()> {
        self.feed()?;
        self.accept_again()?;
        self.advance_all(done)?;
        let waits = !self.starved.is_empty() || !self.refused.is_empty();
        let timeout = if waits { timeout.into_iter().chain([RETRY]).min() } else { timeout };
        let quiet = done.is_empty() && self.bell.sleep();
        let waited = if quiet { self.ring.wait(timeout) } else { self.ring.turn() };
        self.bell.awake();
        waited?;
        self.take_all(done)
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::clone(&self.bell) as Arc<dyn Wake>
    }

    fn counters(&self) -> Counters {
        let mut counters = self.counters;
        counters.calls += self.ring.calls;
        counters
    }
}

impl Drop for Uring {
    /// Cancels all that is under way and waits for it: the kernel may touch our memory until then (K12).
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            // It must not be freed under the kernel's hands.
            tracing::error!(%error, "memory is lost: the kernel does not end what it has under way");
            std::mem::forget(std::mem::take(&mut self.sockets));
            std::mem::forget(std::mem::take(&mut self.groups));
        }
    }
}

/// What a poll looks for.
fn poll_mask(events: libc::c_short) -> u32 {
    u32::from(events.cast_unsigned())
}
