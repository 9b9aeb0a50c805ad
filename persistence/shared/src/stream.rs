//! One end of a connection: frames in, frames out, and nothing that blocks.
//!
//! # Invariants
//! - **ST1** No more memory is used for what comes than has come, and no frame is longer than its reader allows.
//!
//! # Not here
//! What frames say.

use std::io;

use rustix::event::PollFlags;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::bytes::Malformed;
use crate::frame::Frame;
use crate::limits::READ_BYTES_MAX;

/// Memory that is kept while there is nothing in it.
const KEPT: usize = 1 << 20;
const CHUNK: usize = 64 << 10;

/// A connected socket that does not block.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: OwnedFd,
    inbound: Vec<u8>,
    /// How many of them were taken.
    taken: usize,
    outbound: Vec<u8>,
    /// How many of them were sent.
    sent: usize,
}

/// What has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Came {
    pub(crate) bytes: usize,
    /// Nothing more will.
    pub(crate) ended: bool,
}

impl Stream {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket, inbound: Vec::new(), taken: 0, outbound: Vec::new(), sent: 0 }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// What it waits for; `reading` says whether what comes would be read.
    pub(crate) fn interest(&self, reading: bool) -> (BorrowedFd<'_>, PollFlags) {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, reading);
        flags.set(PollFlags::OUT, self.unsent() > 0);
        (self.fd(), flags)
    }

    /// Bytes that wait to be sent.
    pub(crate) fn unsent(&self) -> usize {
        self.outbound.len() - self.sent
    }

    pub(crate) fn push(&mut self, frame: &Frame) {
        frame.push(&mut self.outbound);
    }

    /// Sends what the kernel takes; says whether that was anything.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        let before = self.sent;
        while self.unsent() > 0 {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match send(&self.socket, &self.outbound[self.sent..], flags) {
                Ok(count) => self.sent += count,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        let moved = self.sent > before;
        compact(&mut self.outbound, &mut self.sent);
        Ok(moved)
    }

    /// Reads what has come, at most [`READ_BYTES_MAX`] and a chunk.
    pub(crate) fn fill(&mut self) -> io::Result<Came> {
        compact(&mut self.inbound, &mut self.taken);
        let mut came = Came::default();
        let mut chunk = [0; CHUNK];
        while came.bytes < READ_BYTES_MAX {
            match recv(&self.socket, &mut chunk[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => {
                    came.ended = true;
                    break;
                }
                Ok((count, _)) => {
                    self.inbound.extend_from_slice(&chunk[..count]);
                    came.bytes += count;
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                // What came before it is looked at all the same.
                Err(_reset) => {
                    came.ended = true;
                    break;
                }
            }
        }
        Ok(came)
    }

    /// The next frame that is here as a whole; one that is longer than `max` bytes is refused.
    pub(crate) fn take(&mut self, max: usize) -> Result<Option<Frame>, Malformed> {
        let rest = &self.inbound[self.taken..];
        let Some((len, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let len = usize::try_from(u32::from_le_bytes(*len)).unwrap_or(usize::MAX);
        if len > max {
            return Err(Malformed("a frame that is too long"));
        }
        let Some(body) = rest.get(..len) else { return Ok(None) };
        let frame = Frame::parse(body)?;
        self.taken += 4 + len;
        Ok(Some(frame))
    }
}

/// Forgets the first `done` bytes where that costs little.
fn compact(bytes: &mut Vec<u8>, done: &mut usize) {
    if *done == bytes.len() {
        bytes.clear();
        if bytes.capacity() > KEPT {
            *bytes = Vec::new();
        }
    } else if *done > bytes.len() / 2 {
        bytes.drain(..*done);
    } else {
        return;
    }
    *done = 0;
}
