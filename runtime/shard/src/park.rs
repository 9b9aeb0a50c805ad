//! Parker: how a thread goes to sleep without losing a message, and how others wake it.
//!
//! The sleeper says that it is going to sleep, looks at its queues once more, and only then
//! blocks. Whoever sends looks, after sending, whether the receiver said so. A full fence stands
//! between the two steps on both sides, so at least one of them sees the other's first step.
//!
//! ```text
//! sleeper: flag = ASLEEP; fence; queues still empty? then block      [announce, wait]
//! sender:  push, push, push; fence; flag == ASLEEP?  then ring bell  [unpark]
//! ```
//!
//! # Invariants
//! - **P1** What was pushed before a call of `unpark` is seen by the sleeper's re-check, or the
//!   sleeper is woken. There is no third outcome.
//! - **P2** One sleep is ended by at most one ring of the bell, however many senders there are:
//!   only the one that takes the flag down rings.
//! - **P3** `owed` is the number of rings that were promised (the flag was taken down) and not yet
//!   read from the bell. The bell is read only while some are owed. A ring that comes late makes a
//!   later sleep shorter; it is never lost.
//!
//! # Not here
//! When to sleep: `idle`. Which queues to look at: the caller's re-check. An I/O driver that waits
//! for more than the bell takes [`Announced`] and blocks by itself.
//!
//! Checked by `tests/loom_park.rs`, which also shows that without the re-check, or without either
//! fence, a wake-up is lost.

use std::{fmt, time::Duration};

use rustix::io::Errno;

use self::bell::Bell;
use crate::sync::{Arc, AtomicU32, Ordering, fence};

#[cfg(test)]
#[cfg(not(loom))]
mod tests;

/// A parker for one thread, and the handle by which others wake it.
///
/// # Errors
/// [`ParkError::Create`] if the kernel gives no descriptor.
pub fn parker() -> Result<(Parker, Unparker), ParkError> {
    let bell = Bell::new().map_err(|source| ParkError::Create { source })?;
    let shared = Arc::new(Shared { flag: Flag(AtomicU32::new(AWAKE)), bell });
    Ok((Parker { shared: Arc::clone(&shared), owed: 0 }, Unparker { shared }))
}

/// The sleeper's side.
pub struct Parker {
    shared: Arc<Shared>,
    /// P3.
    owed: u64,
}

impl Parker {
    /// Sleeps until somebody calls [`Unparker::unpark`] or `timeout` has passed, unless `has_work`,
    /// the re-check of every queue this thread serves, says that there is work.
    ///
    /// It may return early, so the caller looks at its queues whatever the answer is.
    ///
    /// # Errors
    /// [`ParkError::Wait`] if the kernel refuses to wait.
    pub fn park(
        &mut self,
        timeout: Option<Duration>,
        has_work: impl FnOnce() -> bool,
    ) -> Result<Woken, ParkError> {
        let announced = self.announce();
        if has_work() { Ok(Woken::Work) } else { announced.wait(timeout) }
    }

    /// Says that this thread is about to sleep. From here on, whoever sends to it rings the bell.
    ///
    /// The caller must look at its queues after this and before it blocks (P1).
    #[must_use = "dropping it means being awake again"]
    pub fn announce(&mut self) -> Announced<'_> {
        // A swap and not a store, so that a waker which came too late for the last sleep, and swapped
        // a flag that was down already, comes before this. A store would do by the rules of C++,
        // but loom does not see that, and beside a sleep a swap costs nothing.
        self.shared.flag.0.swap(ASLEEP, Ordering::Acquire);
        fence(Ordering::SeqCst);
        Announced { parker: self }
    }

    /// The time of being announced is over.
    fn wake_up(&mut self) {
        // Acquire, so that what a waker wrote before `unpark` is seen after a sleep that it ended.
        if self.shared.flag.0.swap(AWAKE, Ordering::Acquire) == AWAKE {
            self.owed += 1;
        }
        if self.owed > 0 {
            let rung = self.shared.bell.take();
            assert!(rung <= self.owed, "P3: the bell was rung without taking the flag down");
            self.owed -= rung;
        }
    }
}

impl fmt::Debug for Parker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parker").field("owed", &self.owed).finish_non_exhaustive()
    }
}

/// A thread that has said it is going to sleep; it is awake again when this is dropped.
///
/// An I/O driver waits for its own descriptors and for this one (`AsFd`), which becomes readable
/// when the bell is rung. It must not read from it.
#[derive(Debug)]
pub struct Announced<'a> {
    parker: &'a mut Parker,
}

impl Announced<'_> {
    /// Blocks until the bell is rung or `timeout` has passed. The caller has made its re-check.
    ///
    /// # Errors
    /// [`ParkError::Wait`] if the kernel refuses to wait.
    pub fn wait(self, timeout: Option<Duration>) -> Result<Woken, ParkError> {
        match self.parker.shared.bell.wait(timeout) {
            Ok(true) => Ok(Woken::Bell),
            Ok(false) => Ok(Woken::Timeout),
            // A signal was handled; to the caller that is a wake-up like any other.
            Err(Errno::INTR) => Ok(Woken::Signal),
            Err(source) => Err(ParkError::Wait { source }),
        }
    }
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        self.parker.wake_up();
    }
}

/// The wakers' side; each thread that sends holds one.
#[derive(Clone)]
pub struct Unparker {
    shared: Arc<Shared>,
}

impl Unparker {
    /// Wakes the sleeper if it sleeps or is about to. To be called after a batch was pushed.
    ///
    /// While the sleeper is awake this is a fence and a load, and while it sleeps only the first
    /// of all wakers makes a system call.
    #[inline]
    pub fn unpark(&self) {
        fence(Ordering::SeqCst);
        if self.shared.flag.0.load(Ordering::Relaxed) == ASLEEP {
            self.ring_once();
        }
    }

    #[cold]
    fn ring_once(&self) {
        if self.shared.flag.0.swap(AWAKE, Ordering::Release) == ASLEEP {
            self.shared.bell.ring();
        }
    }
}

impl fmt::Debug for Unparker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unparker").finish_non_exhaustive()
    }
}

/// Why a sleep ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// The re-check found work, so there was no sleep.
    Work,
    /// Somebody called [`Unparker::unpark`], now or during an earlier sleep (P3).
    Bell,
    /// The time is up.
    Timeout,
    /// A signal was handled by this thread.
    Signal,
}

/// Parking failed; only the kernel can be the reason.
#[derive(Debug, thiserror::Error)]
pub enum ParkError {
    /// No descriptor to wait on.
    #[error("cannot create the parker's bell (eventfd)")]
    Create {
        /// What `eventfd` answered.
        source: Errno,
    },
    /// The wait itself was refused.
    #[error("cannot wait for the parker's bell (ppoll)")]
    Wait {
        /// What `ppoll` answered.
        source: Errno,
    },
}

const AWAKE: u32 = 0;
const ASLEEP: u32 = 1;

struct Shared {
    flag: Flag,
    bell: Bell,
}

/// On lines of its own: every sender reads it, and only going to sleep and waking write it.
#[repr(align(128))]
struct Flag(AtomicU32);

#[cfg(not(loom))]
mod bell {
    //! The bell is an eventfd, so that an I/O driver can wait for it beside its own descriptors.

    use std::{
        os::fd::{AsFd, BorrowedFd, OwnedFd},
        time::Duration,
    };

    use rustix::{
        event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
        io::{Errno, read, write},
    };

    use super::{Announced, Parker};

    pub(super) struct Bell(OwnedFd);

    impl Bell {
        pub(super) fn new() -> Result<Self, Errno> {
            Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
        }

        #[expect(clippy::host_endian_bytes, reason = "an eventfd's count is in the host's order")]
        pub(super) fn ring(&self) {
            // A bell that is not heard is a message that is not seen, so this may not fail quietly;
            // nor can it: the descriptor is open, and the count is far from its end.
            let written = write(&self.0, &1_u64.to_ne_bytes());
            assert!(written == Ok(8), "P1: cannot ring the parker's bell (write): {written:?}");
        }

        /// How often it was rung since the last take.
        #[expect(clippy::host_endian_bytes, reason = "an eventfd's count is in the host's order")]
        pub(super) fn take(&self) -> u64 {
            let mut count = [0; 8];
            match read(&self.0, &mut count) {
                Ok(8) => u64::from_ne_bytes(count),
                // Promised, but the waker has not come to it yet.
                Err(Errno::AGAIN) => 0,
                other => unreachable!("P3: cannot read the parker's bell (read): {other:?}"),
            }
        }

        /// Whether it rang before the time was up.
        pub(super) fn wait(&self, timeout: Option<Duration>) -> Result<bool, Errno> {
            // Too long for the kernel is for ever.
            let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
            let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
            Ok(poll(&mut fds, timeout.as_ref())? > 0)
        }
    }

    impl AsFd for Parker {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.shared.bell.0.as_fd()
        }
    }

    impl AsFd for Announced<'_> {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.parker.as_fd()
        }
    }
}

#[cfg(loom)]
mod bell {
    //! The eventfd's likeness for the model checker, in which time never runs out.

    use std::time::Duration;

    use loom::sync::{Condvar, Mutex};
    use rustix::io::Errno;

    pub(super) struct Bell {
        count: Mutex<u64>,
        rung: Condvar,
    }

    impl Bell {
        pub(super) fn new() -> Result<Self, Errno> {
            Ok(Self { count: Mutex::new(0), rung: Condvar::new() })
        }

        pub(super) fn ring(&self) {
            *self.count.lock().expect("no waker panics") += 1;
            self.rung.notify_one();
        }

        pub(super) fn take(&self) -> u64 {
            std::mem::take(&mut *self.count.lock().expect("no waker panics"))
        }

        pub(super) fn wait(&self, _timeout: Option<Duration>) -> Result<bool, Errno> {
            let mut count = self.count.lock().expect("no waker panics");
            while *count == 0 {
                count = self.rung.wait(count).expect("no waker panics");
            }
            Ok(true)
        }
    }
}
