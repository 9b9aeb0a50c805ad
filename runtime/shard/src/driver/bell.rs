//! The bell of a driver: what other threads wake its thread with.
//!
//! A waker says that it was here, and rings only if the driver had said that it sleeps. Both change
//! one word, so one of them always sees the other; the fences make what was written before a wake
//! visible after the sleep that it ended or prevented.
//!
//! # Invariants
//! - **K7** A sleep begins only if nobody woke the driver since the last one ended.
//!
//! # Not here
//! Waiting: the form's system call waits for the descriptor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering, fence};

use epicserver_link::driver::Wake;
use rustix::event::{EventfdFlags, eventfd};

const AWAKE: u32 = 0;
const ASLEEP: u32 = 1;
const WOKEN: u32 = 2;

/// The bell. Its descriptor need not be read: who waits for changes of it hears each ring.
pub(super) struct Bell {
    eventfd: OwnedFd,
    state: AtomicU32,
}

impl Bell {
    pub(super) fn open() -> io::Result<Self> {
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { eventfd, state: AtomicU32::new(AWAKE) })
    }

    /// The driver is going to sleep. Says whether it may (**K7**).
    pub(super) fn sleep(&self) -> bool {
        self.state.compare_exchange(AWAKE, ASLEEP, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// The driver does not sleep any more.
    pub(super) fn awake(&self) {
        self.state.swap(AWAKE, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }
}

impl Wake for Bell {
    #[expect(clippy::host_endian_bytes, reason = "an eventfd's count is in the host's order")]
    fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.state.load(Ordering::Relaxed) != WOKEN
            && self.state.swap(WOKEN, Ordering::SeqCst) == ASLEEP
        {
            // It cannot fail: the count is far from its end.
            let _written = rustix::io::write(&self.eventfd, &1_u64.to_ne_bytes());
        }
    }
}
