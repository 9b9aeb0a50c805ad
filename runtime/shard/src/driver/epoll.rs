//! The epoll form: readiness, and calls that do not block.
//!
//! Sockets that were busy lately are simply read in each round: asking epoll first would be a system
//! call more for each message.
//!
//! # Invariants
//! - **K4** A socket is taken for unreadable or unwritable only after the kernel has said so, since
//!   each change is told once.
//! - **K10** When nothing can be sent any more, what has come is still read, to its end.
//! - **K11** A socket that is closed in order is read until its peer has ended too: if bytes came that nobody
//!   reads, the kernel would reset the connection, and drop what it had taken to be sent.
//!
//! # Not here
//! Where a message ends.

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use epicserver_link::Parcel;
use epicserver_link::buffers::Buffers;
use epicserver_link::driver::{
    Completion, Counters, Done, Driver, Form, Handle, Owner, Receive, SocketAddress, Wake,
};
use epicserver_wire::frame::{FRAME_ALIGN, Frame};
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{
    RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketFlags, accept_with, recv, sendmsg,
    shutdown, sockopt,
};

use super::bell::Bell;
use super::sockets::{PIECES_MAX, Role, Sending, Sockets};
use super::tipc::has_halves;
use super::{connect_to, receive_buffers};

/// Rounds in which a socket that was read is read again without asking epoll.
const HOT_ROUNDS: u32 = 4096;
/// Sockets that are read without asking epoll.
const HOT_MAX: usize = 8;
/// Rounds between two looks at epoll, while sockets are hot.
const LOOK_ROUNDS: u32 = 32;
/// Buffers that one socket may fill in one round.
const FILLS_MAX: usize = 4;
/// Events taken from epoll at once.
const EVENTS_MAX: usize = 256;
/// What epoll names the bell by; no handle is so high.
const BELL: u64 = u64::MAX;

/// One descriptor.
struct Socket {
    fd: OwnedFd,
    owner: Owner,
    role: Role,
    sending: Sending,
    /// Bytes received so far.
    received: u64,
    /// The kernel may have something to read.
    readable: bool,
    /// The kernel may take something.
    writable: bool,
    /// The peer has ended: what is left is read, and the end.
    ended: bool,
    /// It is closed once all is sent.
    closing: bool,
    /// It is closed in order: the peer has to end too.
    flush: bool,
    /// The peer's last byte has been read.
    peer_ended: bool,
    /// The peer was told that nothing more is sent.
    shut: bool,
    /// That can be told while it is still received.
    halves: bool,
    /// Why nothing can be sent any more.
    failed: Option<Errno>,
}

/// The epoll form of a driver.
pub(super) struct Epoll {
    epoll: OwnedFd,
    bell: Arc<Bell>,
    sockets: Sockets<Socket>,
    buffers: Buffers,
    /// Sockets with something to send that the kernel may take.
    dirty: Vec<Handle>,
    /// Sockets that may have something to read.
    readable: Vec<Handle>,
    hot: Vec<(Handle, u32)>,
    rounds: u32,
    events: Vec<epoll::Event>,
    counters: Counters,
}

impl Epoll {
    pub(super) fn open() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let bell = Bell::open()?;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, &bell, epoll::EventData::new_u64(BELL), flags)?;
        Ok(Self {
            epoll,
            bell: Arc::new(bell),
            sockets: Sockets::default(),
            buffers: receive_buffers(),
            dirty: Vec::new(),
            readable: Vec::new(),
            hot: Vec::new(),
            rounds: 0,
            events: Vec::with_capacity(EVENTS_MAX),
            counters: Counters::default(),
        })
    }

    fn add(&mut self, owner: Owner, fd: OwnedFd, role: Role) -> io::Result<Handle> {
        if role != Role::Watched {
            rustix::io::ioctl_fionbio(&fd, true)?;
        }
        let connected = matches!(role, Role::Connected(_));
        let halves = has_halves(&fd);
        let socket = Socket {
            fd,
            owner,
            role,
            sending: Sending::default(),
            received: 0,
            readable: false,
            writable: connected,
            ended: false,
            closing: false,
            flush: false,
            peer_ended: false,
            shut: false,
            halves,
            failed: None,
        };
        let full = || io::Error::from(Errno::NFILE);
        let handle = self.sockets.insert(socket).ok_or_else(full)?;
        let flags = match role {
            Role::Listener | Role::Watched => epoll::EventFlags::IN,
            Role::Connecting(_) | Role::Connected(_) => {
                epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP
            }
        };
        let data = epoll::EventData::new_u64(u64::from(handle.0));
        let Some(socket) = self.sockets.get(handle) else { return Err(full()) };
        if let Err(error) = epoll::add(&self.epoll, &socket.fd, data, flags | epoll::EventFlags::ET)
        {
            self.sockets.remove(handle);
            return Err(error.into());
        }
        Ok(handle)
    }

    fn say(&mut self, handle: Handle, what: Done, done: &mut Vec<Completion>) {
        if let Some(socket) = self.sockets.get(handle) {
            done.push(Completion { owner: socket.owner, handle, done: what });
        }
    }

    fn closed(&mut self, handle: Handle, error: Option<io::Error>, done: &mut Vec<Completion>) {
        self.say(handle, Done::Closed(error), done);
        // Dropping the descriptor takes it out of epoll.
        drop(self.sockets.remove(handle));
    }

    /// Asks epoll what has changed.
    fn look(&mut self, timeout: Option<Duration>, done: &mut Vec<Completion>) -> io::Result<()> {
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        self.counters.calls += 1;
        let mut events = std::mem::take(&mut self.events);
        let room = rustix::buffer::spare_capacity(&mut events);
        match epoll::wait(&self.epoll, room, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events.drain(..) {
            self.changed(event, done);
        }
        self.events = events;
        Ok(())
    }

    fn changed(&mut self, event: epoll::Event, done: &mut Vec<Completion>) {
        let (data, flags) = (event.data.u64(), event.flags);
        if data == BELL {
            // Nobody reads it: each ring of it is told once.
            return;
        }
        let Ok(handle) = u32::try_from(data).map(Handle) else { return };
        let Some(socket) = self.sockets.get(handle) else { return };
        let gone = epoll::EventFlags::HUP | epoll::EventFlags::ERR | epoll::EventFlags::RDHUP;
        match socket.role {
            Role::Watched => self.say(handle, Done::Readable, done),
            Role::Listener => self.accept(handle, done),
            Role::Connecting(receive) => {
                if flags.intersects(epoll::EventFlags::OUT | gone) {
                    self.connected(handle, receive, done);
                }
            }
            Role::Connected(_) => {
                if flags.contains(epoll::EventFlags::OUT) && !socket.writable {
                    socket.writable = true;
                    self.dirty.push(handle);
                }
                socket.ended |= flags.intersects(gone);
                if flags.intersects(epoll::EventFlags::IN | gone) {
                    self.may_read(handle);
                }
            }
        }
    }

    fn may_read(&mut self, handle: Handle) {
        if let Some(socket) = self.sockets.get(handle)
            && !std::mem::replace(&mut socket.readable, true)
        {
            self.readable.push(handle);
        }
    }

    fn accept(&mut self, handle: Handle, done: &mut Vec<Completion>) {
        while let Some(socket) = self.sockets.get(handle) {
            self.counters.calls += 1;
            match accept_with(&socket.fd, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(accepted) => self.say(handle, Done::Accepted(accepted), done),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::AGAIN) => return,
                Err(error) => {
                    // Out of descriptors or memory: those that wait are accepted after the next arrival.
                    tracing::warn!(%error, "a connection was not accepted");
                    return;
                }
            }
        }
    }

    fn connected(&mut self, handle: Handle, receive: Receive, done: &mut Vec<Completion>) {
        let Some(socket) = self.sockets.get(handle) else { return };
        match sockopt::socket_error(&socket.fd) {
            Ok(Ok(())) => {
                socket.role = Role::Connected(receive);
                socket.writable = true;
                self.say(handle, Done::Connected, done);
                self.dirty.push(handle);
                self.may_read(handle);
            }
            Ok(Err(error)) | Err(error) => self.closed(handle, Some(error.into()), done),
        }
    }

    fn read_all(&mut self, done: &mut Vec<Completion>) {
        let mut readable = std::mem::take(&mut self.readable);
        for handle in readable.drain(..) {
            self.read(handle, done);
        }
        // What was not read to its end has been listed anew.
        readable.append(&mut self.readable);
        self.readable = readable;
    }

    /// Reads what a socket has, as far as its share of a round goes.
    fn read(&mut self, handle: Handle, done: &mut Vec<Completion>) {
        if let Some(socket) = self.sockets.get(handle) {
            socket.readable = false;
        }
        for _ in 0..FILLS_MAX {
            match self.read_once(handle, done) {
                Ok(true) => self.heat(handle),
                Ok(false) => return,
                Err(Errno::NOBUFS) => break,
                Err(error) => return self.closed(handle, Some(error.into()), done),
            }
        }
        self.may_read(handle);
    }

    /// Says whether there may be more.
    fn read_once(&mut self, handle: Handle, done: &mut Vec<Completion>) -> Result<bool, Errno> {
        let Some(socket) = self.sockets.get(handle) else { return Ok(false) };
        let Role::Connected(receive) = socket.role else { return Ok(false) };
        let ended = socket.ended;
        let mut buffer = self.buffers.take().ok_or(Errno::NOBUFS)?;
        let Some(memory) = Arc::get_mut(&mut buffer) else { unreachable!("K2: it is nobody's") };
        self.counters.calls += 1;
        // What the sender has aligned shall be aligned here, whatever parts the stream comes in.
        let start = match receive {
            Receive::Stream => usize::try_from(socket.received % FRAME_ALIGN as u64).unwrap_or(0),
            Receive::Packets => 0,
        };
        let memory = memory.bytes_mut().get_mut(start..).unwrap_or_default();
        let size = memory.len();
        let received = recv(&socket.fd, memory, RecvFlags::DONTWAIT);
        let len = match received {
            Ok((len, _)) => len,
            Err(error) => {
                self.buffers.give(buffer);
                let failed = socket.failed;
                return match error {
                    Errno::AGAIN => failed.map_or(Ok(false), Err),
                    Errno::INTR => Ok(true),
                    error => Err(error),
                };
            }
        };
        if len == 0 {
            self.buffers.give(buffer);
            if socket.flush && socket.failed.is_none() && !socket.sending.is_empty() {
                // It is closed in order once all is sent (K11).
                socket.peer_ended = true;
                return Ok(false);
            }
            let failed = socket.failed.map(io::Error::from);
            self.closed(handle, failed, done);
            return Ok(false);
        }
        self.counters.received += len as u64;
        socket.received += len as u64;
        let frame = Frame::new(Arc::clone(&buffer), start, start + len);
        self.buffers.give(buffer);
        if let Some(frame) = frame {
            self.say(handle, Done::Received(frame), done);
        }
        // A stream that did not fill its buffer is empty, or tells of more by epoll (K4).
        Ok(ended || receive == Receive::Packets || len == size)
    }

    fn heat(&mut self, handle: Handle) {
        let until = self.rounds.wrapping_add(HOT_ROUNDS);
        if let Some(hot) = self.hot.iter_mut().find(|(hot, _)| *hot == handle) {
            hot.1 = until;
        } else if self.hot.len() < HOT_MAX {
            self.hot.push((handle, until));
        }
    }

    fn read_hot(&mut self, done: &mut Vec<Completion>) {
        let rounds = self.rounds;
        self.hot.retain(|(_, until)| until.wrapping_sub(rounds) <= HOT_ROUNDS);
        for index in 0..self.hot.len() {
            if let Some((handle, _)) = self.hot.get(index).copied() {
                let before = done.len();
                self.read(handle, done);
                if done.len() > before {
                    self.heat(handle);
                }
            }
        }
    }

    fn write_all(&mut self, done: &mut Vec<Completion>) {
        while let Some(handle) = self.dirty.pop() {
            self.write(handle, done);
        }
    }

    /// Gives the kernel all that it takes of what a socket has to send.
    fn write(&mut self, handle: Handle, done: &mut Vec<Completion>) {
        let mut whole = 0;
        loop {
            let Some(socket) = self.sockets.get(handle) else { return };
            if socket.sending.is_empty() || !socket.writable {
                break;
            }
            let Role::Connected(receive) = socket.role else { break };
            let mut pieces = [IoSlice::new(&[]); PIECES_MAX];
            let mut count = 0;
            for (slot, piece) in pieces.iter_mut().zip(socket.sending.pieces(receive)) {
                *slot = IoSlice::new(piece);
                count += 1;
            }
            let pieces = pieces.get(..count).unwrap_or_default();
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            self.counters.calls += 1;
            let sent = sendmsg(&socket.fd, pieces, &mut SendAncillaryBuffer::default(), flags);
            match sent {
                Ok(bytes) => {
                    self.counters.sent += bytes as u64;
                    let taken = socket.sending.take(bytes);
                    socket.sending.free(taken);
                    whole += taken;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => socket.writable = false,
                Err(error) => self.failed(handle, error),
            }
        }
        if whole > 0 {
            self.say(handle, Done::Sent(whole), done);
        }
        self.close_if_done(handle, done);
    }

    /// Nothing more can be sent. What the peer has sent before is still read (**K10**).
    fn failed(&mut self, handle: Handle, error: Errno) {
        if let Some(socket) = self.sockets.get(handle) {
            socket.sending = Sending::default();
            socket.failed = Some(error);
            socket.ended = true;
            // Nobody is left to be told.
            socket.shut = true;
        }
        self.may_read(handle);
    }

    fn close_if_done(&mut self, handle: Handle, done: &mut Vec<Completion>) {
        let Some(socket) = self.sockets.get(handle) else { return };
        if !socket.closing || !socket.sending.is_empty() {
            return;
        }
        let connected = matches!(socket.role, Role::Connected(_));
        let in_order = socket.flush && connected && socket.halves && !socket.peer_ended;
        if !in_order {
            self.closed(handle, None, done);
        } else if !std::mem::replace(&mut socket.shut, true) {
            // K11.
            self.counters.calls += 1;
            match shutdown(&socket.fd, Shutdown::Write) {
                Ok(()) => self.may_read(handle),
                Err(error) => self.closed(handle, Some(error.into()), done),
            }
        }
    }
}

impl Driver for Epoll {
    fn form(&self) -> Form {
        Form::Epoll
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
        let handle = self.add(owner, socket, Role::Connected(receive))?;
        self.may_read(handle);
        Ok(handle)
    }

    fn watch(&mut self, owner: Owner, file: OwnedFd) -> io::Result<Handle> {
        self.add(owner, file, Role::Watched)
    }

    fn send(&mut self, handle: Handle, parcel: Parcel) -> Result<(), Parcel> {
        let open = |socket: &&mut Socket| !socket.closing && socket.failed.is_none();
        let Some(socket) = self.sockets.get(handle).filter(open) else {
            return Err(parcel);
        };
        let was_empty = socket.sending.is_empty();
        socket.sending.push(parcel)?;
        if was_empty && socket.writable {
            self.dirty.push(handle);
        }
        Ok(())
    }

    fn close(&mut self, handle: Handle, flush: bool) {
        let Some(socket) = self.sockets.get(handle) else { return };
        socket.closing = true;
        socket.flush = flush;
        if !flush {
            socket.sending = Sending::default();
        }
        self.dirty.push(handle);
    }

    fn poll(&mut self, done: &mut Vec<Completion>) -> io::Result<()> {
        self.rounds = self.rounds.wrapping_add(1);
        self.write_all(done);
        self.read_hot(done);
        if self.hot.is_empty() || self.rounds.is_multiple_of(LOOK_ROUNDS) {
            self.look(Some(Duration::ZERO), done)?;
        }
        self.read_all(done);
        self.write_all(done);
        Ok(())
    }

    fn wait(&mut self, timeout: Option<Duration>, done: &mut Vec<Completion>) -> io::Result<()> {
        self.write_all(done);
        self.read_all(done);
        let nothing = done.is_empty() && self.readable.is_empty() && self.bell.sleep();
        let looked = self.look(if nothing { timeout } else { Some(Duration::ZERO) }, done);
        self.bell.awake();
        looked?;
        self.read_all(done);
        self.write_all(done);
        Ok(())
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::clone(&self.bell) as Arc<dyn Wake>
    }

    fn counters(&self) -> Counters {
        let mut counters = self.counters;
        counters.starved = self.buffers.starved();
        counters
    }
}
