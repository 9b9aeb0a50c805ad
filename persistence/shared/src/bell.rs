//! What ends the wait of the thread that everything else waits for.
//!
//! # Not here
//! What it does then.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::task::Wake;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;

/// Rung from any thread.
#[derive(Debug)]
pub(crate) struct Bell(OwnedFd);

impl Bell {
    pub(crate) fn new() -> Result<Arc<Self>, Errno> {
        Ok(Arc::new(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    pub(crate) fn ring(&self) {
        // It fails only where it is full, and then it is readable too.
        let _rung = rustix::io::write(&self.0, &[1; 8]);
    }

    /// Waits until it is rung, one of `others` is ready, or the time is up.
    pub(crate) fn wait(&self, others: &[(BorrowedFd<'_>, PollFlags)], timeout: Duration) {
        let mut fds = vec![PollFd::new(&self.0, PollFlags::IN)];
        fds.extend(others.iter().map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)));
        let timeout = Timespec::try_from(timeout).ok();
        // Where it fails, whoever waits looks at everything anyway.
        let ready = poll(&mut fds, timeout.as_ref());
        if ready.is_ok_and(|ready| ready > 0) && !fds[0].revents().is_empty() {
            // One that is not readable has been read.
            let _count = rustix::io::read(self.0.as_fd(), &mut [0; 8]);
        }
    }

    /// Does `work`, which blocks, on a thread of its own; rings when it is done.
    pub(crate) fn aside<T: Send + 'static>(
        self: &Arc<Self>,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<Receiver<T>> {
        let (say, said) = channel();
        let bell = Arc::clone(self);
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            // Whoever asked may have gone.
            let _heard = say.send(work());
            drop(say);
            bell.ring();
        })?;
        Ok(said)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }
}

/// Whether `fd` is ready for any of `flags`, or has ended.
pub(crate) fn is_ready(fd: BorrowedFd<'_>, flags: PollFlags) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, flags)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}
