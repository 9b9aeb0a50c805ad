//! The process at the other end of a connection.
//!
//! # Invariants
//! - **OT1** Only the very process that was connected to is ever ended, and never this one: it is known by a descriptor that was
//!   opened while the connection lived, and the connection ends with its process.
//! - **OT2** Only processes of this user are spoken to.
//!
//! # Not here
//! When one is ended: `asking`.

use std::io;

use rustix::event::PollFlags;
use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, PidfdFlags, Signal, geteuid, getpid, pidfd_open, pidfd_send_signal};

use crate::bell::is_ready;

/// A process.
#[derive(Debug)]
pub(crate) struct Other {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Other {
    /// The process at the other end of `socket`, to which this one has just connected.
    pub(crate) fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let pid = user_at(socket)?;
        let gone = io::Error::from(io::ErrorKind::ConnectionReset);
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH) => return Err(gone),
            Err(errno) => return Err(errno.into()),
        };
        // OT1: had it ended before, its number might be another's by now.
        if is_ready(socket, PollFlags::RDHUP) {
            return Err(gone);
        }
        Ok(Self { pid, pidfd })
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw_pid()
    }

    /// Whether it is this process itself, as where one has the file open twice.
    pub(crate) fn is_self(&self) -> bool {
        self.pid == getpid()
    }

    /// Ends it, whatever it does.
    pub(crate) fn end(&self) -> io::Result<()> {
        if self.is_self() {
            return Err(io::Error::other("it is this process"));
        }
        match pidfd_send_signal(&self.pidfd, Signal::KILL) {
            // It has ended by itself.
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Readable once it has ended.
    pub(crate) fn ended(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// The process at the other end, if it is one of this user (**OT2**). The kernel names none that is in another namespace of
/// processes.
pub(crate) fn user_at(socket: BorrowedFd<'_>) -> io::Result<Pid> {
    let peer =
        socket_peercred(socket).map_err(|_| io::Error::other("a process of another namespace"))?;
    if peer.uid != geteuid() {
        let why = format!("process {} is of another user", peer.pid.as_raw_pid());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    Ok(peer.pid)
}
