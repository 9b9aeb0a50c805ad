//! The rings that this process shares with the kernel, and the one system call for them.
//!
//! Completions are made by this thread alone, while it is in the kernel and asks for them. The kernel
//! raises a flag when there are some to be made, so that looking costs no system call.
//!
//! # Invariants
//! - **K8** What has been pushed is counted until its last completion has been taken.
//!
//! # Not here
//! What the operations mean.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use io_uring::{IoUring, Probe, cqueue, opcode, squeue, types};
use rustix::io::Errno;

/// Operations that are submitted at once.
const SUBMISSIONS: u32 = 256;
/// Completions that the kernel keeps in the ring; it holds back what is over.
const COMPLETIONS: u32 = 4096;
/// `IORING_ENTER_GETEVENTS`: make the completions that are due.
const GETEVENTS: u32 = 1;
/// `IORING_ENTER_EXT_ARG`: the argument has a timeout.
const EXT_ARG: u32 = 8;

/// The operations without which there is no driver; the kernel that has the newest flags has them.
const NEEDED: [(u8, &str); 5] = [
    (opcode::AsyncCancel2::CODE, "IORING_OP_ASYNC_CANCEL"),
    (opcode::PollAdd::CODE, "IORING_OP_POLL_ADD"),
    (opcode::AcceptMulti::CODE, "IORING_OP_ACCEPT"),
    (opcode::Recv::CODE, "IORING_OP_RECV"),
    (opcode::SendMsg::CODE, "IORING_OP_SENDMSG"),
];

/// The rings.
pub(super) struct Ring {
    ring: IoUring,
    /// **K8**.
    in_flight: usize,
    /// Completions that made room for others while operations were pushed.
    early: VecDeque<cqueue::Entry>,
    /// System calls so far.
    pub(super) calls: u64,
    /// Whether it can send without copying.
    pub(super) zero_copy: bool,
}

impl Ring {
    pub(super) fn open() -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
        builder.setup_submit_all().setup_cqsize(COMPLETIONS);
        let ring = builder.build(SUBMISSIONS)?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let lacks =
            |(code, name): &(u8, &'static str)| (!probe.is_supported(*code)).then_some(*name);
        if let Some(name) = NEEDED.iter().find_map(lacks) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, name));
        }
        if !ring.params().is_feature_nodrop() || !ring.params().is_feature_ext_arg() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let zero_copy = probe.is_supported(opcode::SendMsgZc::CODE);
        Ok(Self { ring, in_flight: 0, early: VecDeque::new(), calls: 0, zero_copy })
    }

    /// Operations that were pushed and are not over.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Registers a ring of buffers as `group`.
    ///
    /// # Safety
    /// `address` is that of `entries` entries, which stay there until the group is
    /// [unregistered](Self::unregister) or this is dropped.
    pub(super) unsafe fn register(&self, address: u64, entries: u16, group: u16) -> io::Result<()> {
        let submitter = self.ring.submitter();
        // SAFETY: the caller says that the entries are there and stay.
        unsafe { submitter.register_buf_ring_with_flags(address, entries, group, 0) }
    }

    pub(super) fn unregister(&self, group: u16) -> io::Result<()> {
        self.ring.submitter().unregister_buf_ring(group)
    }

    /// Queues an operation; it is submitted by the next turn or wait.
    ///
    /// # Safety
    /// All that `entry` points at, and all that its buffer group points at, stays where it is and is
    /// not changed until the last completion of the operation has been [taken](Self::take).
    pub(super) unsafe fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        loop {
            let mut queue = self.ring.submission();
            // SAFETY: the caller says that what it points at stays.
            let pushed = unsafe { queue.push(entry) };
            drop(queue);
            if pushed.is_ok() {
                self.in_flight += 1;
                return Ok(());
            }
            self.make_room()?;
        }
    }

    /// The submission ring is full. The kernel may want room for completions before it empties it.
    fn make_room(&mut self) -> io::Result<()> {
        self.early.extend(self.ring.completion());
        self.enter(0, None)
    }

    /// Whether there is anything to submit, to make or to take.
    pub(super) fn stirs(&mut self) -> bool {
        let queue = self.ring.submission();
        let stirs = !queue.is_empty() || queue.taskrun() || queue.cq_overflow();
        drop(queue);
        stirs || !self.early.is_empty() || !self.ring.completion().is_empty()
    }

    /// Submits, and has the kernel make the completions that are due. Does not block, and makes no system
    /// call if there is nothing to submit or to make.
    pub(super) fn turn(&mut self) -> io::Result<()> {
        let queue = self.ring.submission();
        let idle = queue.is_empty() && !queue.taskrun() && !queue.cq_overflow();
        drop(queue);
        if idle { Ok(()) } else { self.enter(0, None) }
    }

    /// Submits, and waits for a completion for at most `timeout`.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let least = u32::from(self.early.is_empty());
        self.enter(least, timeout)
    }

    /// It may return early, and may leave something unsubmitted; the next one goes on.
    fn enter(&mut self, least: u32, timeout: Option<Duration>) -> io::Result<()> {
        let queued = u32::try_from(self.ring.submission().len()).unwrap_or(u32::MAX);
        let time = timeout.map(types::Timespec::from);
        let mut args = types::SubmitArgs::new();
        if let Some(time) = &time {
            args = args.timespec(time);
        }
        self.calls += 1;
        let submitter = self.ring.submitter();
        // SAFETY: the argument is of the kind that the flag says, and lives longer than the call.
        let entered = unsafe { submitter.enter(queued, least, GETEVENTS | EXT_ARG, Some(&args)) };
        match entered.map_err(|error| Errno::from_io_error(&error).ok_or(error)) {
            // A signal; the time; no memory for now; completions that wait for room.
            Ok(_) | Err(Ok(Errno::INTR | Errno::TIME | Errno::AGAIN | Errno::BUSY)) => Ok(()),
            Err(Ok(error)) => Err(error.into()),
            Err(Err(error)) => Err(error),
        }
    }

    /// The next completion.
    pub(super) fn take(&mut self) -> Option<cqueue::Entry> {
        let entry = self.early.pop_front().or_else(|| self.ring.completion().next())?;
        if !cqueue::more(entry.flags()) {
            self.in_flight -= 1;
        }
        Some(entry)
    }
}
