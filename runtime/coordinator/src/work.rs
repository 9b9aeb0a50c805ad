//! Work that blocks: done one ask after another, by a thread that watches a descriptor meanwhile.
//!
//! # Not here
//! What is done.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;

use crate::{Answer, Ask, Asked, Far};

/// What a coordinator does, in a form that may block.
pub trait Work {
    /// Carries `ask` out. It has kept the bounds of [`check`](crate::check).
    fn carry_out(&mut self, ask: Ask, until: Instant) -> Answer;

    /// A descriptor that becomes readable when [`look`](Self::look) should be called.
    fn watched(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// How long to wait until it is called although the descriptor shows nothing.
    fn look_again(&self) -> Option<Duration> {
        None
    }

    /// Whether something may have changed.
    fn look(&mut self) -> bool {
        false
    }
}

/// Does `work` until the near end is dropped. For the thread of [`start`](crate::start).
///
/// # Errors
/// What the kernel says if it has no eventfd to spare.
pub fn work(mut far: Far, work: &mut impl Work) -> Result<(), Errno> {
    let bell = Arc::new(Bell::new()?);
    let waker = Waker::from(Arc::clone(&bell));
    let hints = far.hints();
    loop {
        match far.poll_next(&Context::from_waker(&waker)) {
            Poll::Ready(Some(Asked { ask, until, ticket })) => {
                let answer = work.carry_out(ask, until);
                far.answer(ticket, answer);
            }
            Poll::Ready(None) => return Ok(()),
            Poll::Pending => {
                if wait(&bell, work)? && work.look() {
                    hints.say_changed();
                }
            }
        }
    }
}

/// Waits until the bell is rung or it is time to look; says the latter.
fn wait(bell: &Bell, work: &impl Work) -> Result<bool, Errno> {
    let timeout = work.look_again().and_then(|wait| Timespec::try_from(wait).ok());
    let mut fds = vec![PollFd::new(&bell.0, PollFlags::IN)];
    let watched = work.watched();
    fds.extend(watched.as_ref().map(|watched| PollFd::new(watched, PollFlags::IN)));
    match poll(&mut fds, timeout.as_ref()) {
        Ok(0) => return Ok(timeout.is_some()),
        Ok(_) => {}
        Err(Errno::INTR) => return Ok(false),
        Err(errno) => return Err(errno),
    }
    if !fds[0].revents().is_empty() {
        bell.drain();
    }
    Ok(fds.get(1).is_some_and(|watched| !watched.revents().is_empty()))
}

/// What ends a wait for asks.
struct Bell(OwnedFd);

impl Bell {
    fn new() -> Result<Self, Errno> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    fn drain(&self) {
        // One that is not readable has been read.
        let _count = rustix::io::read(self.0.as_fd(), &mut [0; 8]);
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        // It fails only where it is full, and then it is readable too.
        let _rung = rustix::io::write(&self.0, &[1; 8]);
    }
}
