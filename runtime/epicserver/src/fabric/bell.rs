//! The bell of the control thread: what wakes it beside the time and the run directory.
//!
//! # Not here
//! What there is to hear.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};

/// A bell that any thread may ring and one waits for. Rung while nobody waits, it ends the next wait at once.
#[derive(Clone, Debug)]
pub(super) struct Bell(Arc<OwnedFd>);

impl Bell {
    pub(super) fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new(fd)))
    }

    /// Rings. Does not block.
    pub(super) fn ring(&self) {
        // It fails only if it has been rung more often than a number can say.
        let _rung = rustix::io::write(&*self.0, &1_u64.to_le_bytes());
    }

    /// Waits until it is rung or `other` can be read, but no longer than `wait`.
    pub(super) fn wait(&self, other: Option<BorrowedFd<'_>>, wait: Duration) {
        let mut fds = vec![PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN)];
        fds.extend(other.map(|other| PollFd::from_borrowed_fd(other, PollFlags::IN)));
        let wait = Timespec::try_from(wait).ok();
        // A signal may end it early, and whoever waits looks round and waits again.
        let _ready = poll(&mut fds, wait.as_ref());
        let _rung = rustix::io::read(&*self.0, &mut [0; 8]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_bell_that_was_rung_before_ends_one_wait() {
        let bell = Bell::new().unwrap();
        let began = Instant::now();
        bell.ring();
        bell.ring();
        bell.wait(None, LONG);
        assert!(began.elapsed() < LONG, "it was rung");
        let mut byte = [0; 8];
        assert!(rustix::io::read(&*bell.0, &mut byte).is_err(), "and is silent again");
    }

    #[test]
    fn something_else_that_can_be_read_ends_the_wait() {
        let (bell, other) = (Bell::new().unwrap(), Bell::new().unwrap());
        let began = Instant::now();
        other.ring();
        bell.wait(Some(other.0.as_fd()), LONG);
        assert!(began.elapsed() < LONG);
    }
}
