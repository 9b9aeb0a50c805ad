//! What follows from the completion of an operation.
//!
//! # Not here
//! Which operation comes next: the socket is put on the list, and gets what it lacks.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::Duration;

use epicserver_link::driver::{Completion, Done, Driver, Handle, Receive};
use epicserver_wire::frame::{FRAME_ALIGN, Frame};
use io_uring::{cqueue, opcode, types};
use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown, sockopt};

use super::super::sockets::Role;
use super::Uring;
use super::socket::{Ending, Socket};

/// `IORING_NOTIF_USAGE_ZC_COPIED`.
const COPIED: u32 = 1 << 31;
/// How long the end of a driver waits for the kernel before it asks again.
const END_WAIT: Duration = Duration::from_millis(100);

/// What kind of operation a completion is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// The bell's poll.
    Bell,
    /// A receive, an accept or a poll.
    Input,
    /// A send.
    Send,
    /// A cancel.
    Cancel,
}

/// What an operation is known by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tag {
    pub(super) handle: Handle,
    pub(super) kind: Kind,
    pub(super) flight: u16,
}

impl Tag {
    pub(super) fn pack(self) -> u64 {
        let kind: u64 = match self.kind {
            Kind::Bell => 0,
            Kind::Input => 1,
            Kind::Send => 2,
            Kind::Cancel => 3,
        };
        u64::from(self.flight) << 48 | kind << 32 | u64::from(self.handle.0)
    }

    pub(super) fn unpack(tag: u64) -> Self {
        let kind = match (tag >> 32) & 3 {
            1 => Kind::Input,
            2 => Kind::Send,
            3 => Kind::Cancel,
            _ => Kind::Bell,
        };
        let handle = Handle(u32::try_from(tag & u64::from(u32::MAX)).unwrap_or(u32::MAX));
        Self { handle, kind, flight: u16::try_from(tag >> 48).unwrap_or(u16::MAX) }
    }
}

fn outcome(entry: &cqueue::Entry) -> Result<usize, Errno> {
    let result = entry.result();
    usize::try_from(result).map_err(|_| Errno::from_raw_os_error(result.wrapping_neg()))
}

impl Uring {
    pub(super) fn finish(
        &mut self,
        entry: &cqueue::Entry,
        done: &mut Vec<Completion>,
    ) -> io::Result<()> {
        let tag = Tag::unpack(entry.user_data());
        let over = !cqueue::more(entry.flags());
        if tag.kind == Kind::Bell {
            return if over { self.hear_bell() } else { Ok(()) };
        }
        let Some(socket) = self.sockets.get(tag.handle) else {
            unreachable!("K12: an operation has outlived its socket")
        };
        socket.pending -= usize::from(over);
        match tag.kind {
            Kind::Bell => {}
            Kind::Cancel => socket.cancelling = false,
            Kind::Send if cqueue::notif(entry.flags()) => self.landed(tag, entry, done),
            Kind::Send => self.sent(tag.handle, entry, done),
            Kind::Input => {
                socket.listening = !over;
                self.came(tag.handle, entry, done);
            }
        }
        self.list(tag.handle);
        Ok(())
    }

    fn came(&mut self, handle: Handle, entry: &cqueue::Entry, done: &mut Vec<Completion>) {
        let Some(socket) = self.sockets.get(handle) else { return };
        match (socket.role, outcome(entry)) {
            (Role::Connected(_), _) => self.received(handle, entry, done),
            (Role::Listener, Ok(_)) => self.accepted(handle, entry, done),
            // It came too late to be of interest.
            (Role::Watched | Role::Connecting(_), Ok(_)) if socket.ending == Ending::Now => {}
            (Role::Watched, Ok(_)) => self.say(handle, Done::Readable, done),
            (Role::Connecting(receive), Ok(_)) => self.connected(handle, receive, done),
            (_, Err(Errno::CANCELED | Errno::INTR)) => {}
            (Role::Listener, Err(error)) => self.not_accepted(handle, error),
            (Role::Watched | Role::Connecting(_), Err(error)) => socket.fail(error),
        }
    }

    fn received(&mut self, handle: Handle, entry: &cqueue::Entry, done: &mut Vec<Completion>) {
        let Some(socket) = self.sockets.get(handle) else { return };
        let group = socket.group();
        let buffer = self.groups.disarm(group, cqueue::buffer_select(entry.flags()));
        match socket.role {
            // The kernel does not say whether there is more, so the next receive looks.
            Role::Connected(Receive::Packets) => socket.expects = buffer.is_some(),
            Role::Connected(Receive::Stream)
            | Role::Connecting(_)
            | Role::Listener
            | Role::Watched => {
                socket.expects = cqueue::sock_nonempty(entry.flags());
                self.deep |= socket.expects;
            }
        }
        let mut frame = None;
        match outcome(entry) {
            Ok(0) => socket.peer_ends(),
            Ok(len) => {
                let (start, shared) = (usize::from(group), buffer.clone());
                frame = shared.and_then(|shared| Frame::new(shared, start, start + len));
                socket.received += len as u64;
                self.counters.received += len as u64;
            }
            // Bytes are there, and find a buffer when the receive is renewed.
            Err(Errno::NOBUFS) => socket.expects = true,
            Err(Errno::CANCELED | Errno::INTR | Errno::AGAIN) => {}
            Err(error) => socket.fail(error),
        }
        if let Some(buffer) = buffer {
            self.groups.give(buffer);
        }
        if let Some(frame) = frame {
            self.say(handle, Done::Received(frame), done);
        }
    }

    fn accepted(&mut self, handle: Handle, entry: &cqueue::Entry, done: &mut Vec<Completion>) {
        // SAFETY: the kernel has made this descriptor for us, and nobody else knows it.
        let accepted = unsafe { OwnedFd::from_raw_fd(entry.result()) };
        let Some(socket) = self.sockets.get(handle) else { return };
        // A listener that is closed drops who is still in its queue, too.
        if socket.ending == Ending::Not {
            self.say(handle, Done::Accepted(accepted), done);
        }
    }

    /// Out of descriptors or memory: it is tried again after a while.
    fn not_accepted(&mut self, handle: Handle, error: Errno) {
        if error == Errno::CONNABORTED || error == Errno::AGAIN {
            return;
        }
        tracing::warn!(%error, "a connection was not accepted");
        if let Some(socket) = self.sockets.get(handle) {
            socket.waits = true;
            self.refused.push(handle);
        }
    }

    fn connected(&mut self, handle: Handle, receive: Receive, done: &mut Vec<Completion>) {
        let Some(socket) = self.sockets.get(handle) else { return };
        let Some(fd) = &socket.fd else { return };
        match sockopt::socket_error(fd) {
            Ok(Ok(())) => {
                socket.role = Role::Connected(receive);
                self.say(handle, Done::Connected, done);
            }
            Ok(Err(error)) | Err(error) => socket.fail(error),
        }
    }

    fn sent(&mut self, handle: Handle, entry: &cqueue::Entry, done: &mut Vec<Completion>) {
        let Some(socket) = self.sockets.get(handle) else { return };
        self.spare.extend(socket.message.take());
        let (bytes, error) = match outcome(entry) {
            Ok(bytes) => (bytes, None),
            Err(error) => (0, Some(error)),
        };
        self.counters.sent += bytes as u64;
        let free = socket.sent(bytes, !cqueue::more(entry.flags()));
        match error {
            None | Some(Errno::CANCELED | Errno::INTR | Errno::AGAIN) => {}
            // The kernel, or this socket, does not do it without a copy.
            Some(Errno::INVAL | Errno::OPNOTSUPP) if socket.zero_copy => socket.zero_copy = false,
            Some(error) => socket.stop_sending(error),
        }
        if free > 0 {
            self.say(handle, Done::Sent(free), done);
        }
    }

    /// The kernel reads a send that was not copied no more.
    fn landed(&mut self, tag: Tag, entry: &cqueue::Entry, done: &mut Vec<Completion>) {
        let Some(socket) = self.sockets.get(tag.handle) else { return };
        if entry.result().cast_unsigned() & COPIED == 0 {
            self.counters.zero_copy += 1;
        } else {
            // To make it and to copy it costs more than to copy it.
            socket.zero_copy = false;
        }
        let free = socket.landed(tag.flight);
        if free > 0 {
            self.say(tag.handle, Done::Sent(free), done);
        }
    }

    /// Ends what a socket has under way, and then the socket (R2, K12).
    pub(super) fn wind_up(&mut self, handle: Handle, done: &mut Vec<Completion>) -> io::Result<()> {
        let Some(socket) = self.sockets.get(handle) else { return Ok(()) };
        if socket.pending == 0 {
            let error = socket.error.take();
            self.say(handle, Done::Closed(error), done);
            drop(self.sockets.remove(handle));
            return Ok(());
        }
        if socket.cancelling {
            return Ok(());
        }
        if socket.pending > socket.flying() {
            (socket.cancelling, socket.pending) = (true, socket.pending + 1);
            let all = types::CancelBuilder::fd(socket.fd()).all();
            let tag = Tag { handle, kind: Kind::Cancel, flight: 0 };
            return self.push(opcode::AsyncCancel2::new(all).build(), tag);
        }
        // The kernel still reads what was sent, and would do so until the peer has it.
        if socket.abort
            && let Some(fd) = socket.fd.take()
        {
            // Without it, closing takes longer, and that is all.
            let _set = sockopt::set_socket_linger(&fd, Some(Duration::ZERO));
        }
        Ok(())
    }

    /// Ends everything. Blocks until the kernel has.
    pub(super) fn end(&mut self) -> io::Result<()> {
        for handle in self.sockets.handles() {
            self.close(handle, false);
        }
        let bell = Tag { handle: Handle(0), kind: Kind::Bell, flight: 0 };
        let cancel = opcode::AsyncCancel2::new(types::CancelBuilder::user_data(bell.pack()));
        self.push(cancel.build(), bell)?;
        let mut done = Vec::new();
        self.advance_all(&mut done)?;
        while self.ring.in_flight() > 0 {
            self.ring.wait(Some(END_WAIT))?;
            while let Some(entry) = self.ring.take() {
                if Tag::unpack(entry.user_data()).kind != Kind::Bell {
                    self.finish(&entry, &mut done)?;
                }
            }
            self.advance_all(&mut done)?;
            done.clear();
        }
        self.groups.unregister(&self.ring)
    }
}

impl Socket {
    /// Where in its buffer the next byte belongs.
    pub(super) fn group(&self) -> u16 {
        match self.role {
            Role::Connected(Receive::Packets) => 0,
            Role::Connected(Receive::Stream)
            | Role::Connecting(_)
            | Role::Listener
            | Role::Watched => u16::try_from(self.received % FRAME_ALIGN as u64).unwrap_or(0),
        }
    }

    /// Nothing more can come of it.
    fn fail(&mut self, error: Errno) {
        self.error = Some(error.into());
        self.ending = Ending::Now;
    }

    /// The last byte has come. Who is closing in order still sends all that was given (R4).
    fn peer_ends(&mut self) {
        self.ended = true;
        if self.ending != Ending::Flushing {
            self.ending = Ending::Now;
        }
    }

    /// All is sent: tells the peer, and goes on to receive until it ends too. If bytes came that nobody
    /// receives, the kernel would reset the connection, and drop what it had taken to be sent (R4).
    pub(super) fn say_end(&mut self) {
        let Some(fd) = &self.fd else { return };
        if self.ended || !self.halves || !matches!(self.role, Role::Connected(_)) {
            self.ending = Ending::Now;
            return;
        }
        self.ending = Ending::Draining;
        if let Err(error) = shutdown(fd, Shutdown::Write) {
            self.fail(error);
        }
    }

    /// Nothing more can be sent. What the peer had sent before is received still.
    fn stop_sending(&mut self, error: Errno) {
        if self.ending == Ending::Now {
            return;
        }
        self.error = Some(error.into());
        self.ending = Ending::Draining;
        if !self.halves {
            // The peer has ended, which comes behind what it has sent; or there is no end to wait for.
            if error != Errno::PIPE {
                self.ending = Ending::Now;
            }
        } else if let Some(fd) = &self.fd
            && shutdown(fd, Shutdown::Both).is_err()
        {
            self.ending = Ending::Now;
        }
    }
}
