//! Completions: what a device has done, polled or waited for.
//!
//! # Not here
//! What follows from each.

use std::ffi::c_int;
use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr::{NonNull, null_mut};
use std::rc::Rc;
use std::sync::Arc;

use super::{Context, DeviceError, check, is_given_back};
use crate::ffi;
use crate::status::Status;

/// Completions taken at once.
const BATCH: usize = 32;

/// What wakes whoever waits for completions.
pub(crate) struct Channel {
    raw: NonNull<ffi::CompChannel>,
    context: Arc<Context>,
}

impl Channel {
    pub(crate) fn new(context: &Arc<Context>) -> Result<Rc<Self>, DeviceError> {
        // SAFETY: D1.
        let raw = unsafe { (context.library.call.create_comp_channel)(context.raw()) };
        let failed = || DeviceError::last("ibv_create_comp_channel");
        let raw = NonNull::new(raw).ok_or_else(failed)?;
        let channel = Self { raw, context: Arc::clone(context) };
        context.set_nonblocking(channel.fd())?;
        Ok(Rc::new(channel))
    }

    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: FF1 and D1.
        let fd = unsafe { (*self.raw.as_ptr()).fd };
        // SAFETY: it is open until the channel is destroyed, which the borrow forbids.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }

    /// What can be read when completions have come that somebody asked to be woken for.
    pub(crate) fn watched(&self) -> std::io::Result<OwnedFd> {
        self.fd().try_clone_to_owned()
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // SAFETY: D1, the queues that use it have a share of it.
        let answer = unsafe { (self.context.library.call.destroy_comp_channel)(self.raw.as_ptr()) };
        is_given_back("ibv_destroy_comp_channel", answer);
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").finish_non_exhaustive()
    }
}

/// How one request ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Completed {
    /// The queue pair, by its number.
    pub(crate) pair: u32,
    /// The number that the request had.
    pub(crate) request: u64,
    pub(crate) ended: Ended,
}

/// What it was, if it went well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ended {
    /// A message came: so many bytes, with this word beside them.
    Received { bytes: u32, word: Option<u32> },
    /// Something that was asked of the device is done.
    Done,
    /// It went wrong.
    Failed(Status),
}

/// A completion queue.
pub(crate) struct Completions {
    raw: NonNull<ffi::Cq>,
    batch: [ffi::Wc; BATCH],
    poll: unsafe extern "C" fn(*mut ffi::Cq, c_int, *mut ffi::Wc) -> c_int,
    shared: Rc<RawCompletions>,
}

/// The queue itself, of which each queue pair that reports to it has a share.
pub(super) struct RawCompletions {
    raw: NonNull<ffi::Cq>,
    channel: Rc<Channel>,
}

impl Completions {
    /// A queue with room for `entries`, that wakes whoever watches `channel`.
    pub(crate) fn new(channel: &Rc<Channel>, entries: usize) -> Result<Self, DeviceError> {
        let context = &channel.context;
        let poll = context.op(context.ops.poll_cq, "ibv_poll_cq")?;
        let entries = c_int::try_from(entries).unwrap_or(c_int::MAX);
        let create = context.library.call.create_cq;
        // SAFETY: D1, the channel outlives the queue.
        let raw = unsafe { create(context.raw(), entries, null_mut(), channel.raw.as_ptr(), 0) };
        let raw = NonNull::new(raw).ok_or_else(|| DeviceError::last("ibv_create_cq"))?;
        let shared = Rc::new(RawCompletions { raw, channel: Rc::clone(channel) });
        Ok(Self { raw, batch: [ffi::Wc::default(); BATCH], poll, shared })
    }

    pub(super) fn share(&self) -> Rc<RawCompletions> {
        Rc::clone(&self.shared)
    }

    /// Takes what there is, at most [`BATCH`], in order.
    pub(crate) fn take(&mut self) -> Result<impl Iterator<Item = Completed>, DeviceError> {
        let most = c_int::try_from(BATCH).unwrap_or(0);
        // SAFETY: D1, and there is room for so many.
        let count = unsafe { (self.poll)(self.raw.as_ptr(), most, self.batch.as_mut_ptr()) };
        let Ok(count) = usize::try_from(count) else {
            let source = std::io::Error::other("the completion queue is broken");
            return Err(DeviceError { call: "ibv_poll_cq", source });
        };
        Ok(self.batch.iter().take(count).map(completed))
    }

    /// From now on until the next one, a completion wakes whoever watches the channel. What has come already does
    /// not: it is to be looked for after this.
    pub(crate) fn arm(&self) -> Result<(), DeviceError> {
        let context = &self.shared.channel.context;
        let arm = context.op(context.ops.req_notify_cq, "ibv_req_notify_cq")?;
        // SAFETY: D1.
        let answer = unsafe { arm(self.raw.as_ptr(), 0) };
        check("ibv_req_notify_cq", answer)
    }

    /// Takes what woke whoever watched. Says whether there was anything.
    pub(crate) fn hear(&self) -> bool {
        let channel = &self.shared.channel;
        let mut heard = 0;
        let (mut queue, mut about) = (null_mut(), null_mut());
        loop {
            let get = channel.context.library.call.get_cq_event;
            // SAFETY: D1; it fills in both, and its descriptor does not block.
            let answer = unsafe { get(channel.raw.as_ptr(), &raw mut queue, &raw mut about) };
            if answer != 0 {
                break;
            }
            heard += 1;
        }
        if heard > 0 {
            // SAFETY: so many were taken; this queue is the only one of its channel.
            unsafe { (channel.context.library.call.ack_cq_events)(self.raw.as_ptr(), heard) }
        }
        heard > 0
    }
}

fn completed(wc: &ffi::Wc) -> Completed {
    let ended = match Status(wc.status) {
        // The other fields are of no use then.
        status if status != Status::SUCCESS => Ended::Failed(status),
        _ if wc.opcode & ffi::WC_RECV == 0 => Ended::Done,
        _ => {
            let word = wc.wc_flags & ffi::WC_WITH_IMM != 0;
            let word = word.then(|| u32::from_be(wc.imm_data));
            Ended::Received { bytes: wc.byte_len, word }
        }
    };
    Completed { pair: wc.qp_num, request: wc.wr_id, ended }
}

impl fmt::Debug for Completions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completions").finish_non_exhaustive()
    }
}

impl RawCompletions {
    pub(super) fn raw(&self) -> *mut ffi::Cq {
        self.raw.as_ptr()
    }
}

impl Drop for RawCompletions {
    fn drop(&mut self) {
        // SAFETY: D1: each queue pair has a share, and all events that were taken were acknowledged, for
        // which the call would wait.
        let answer = unsafe { (self.channel.context.library.call.destroy_cq)(self.raw()) };
        is_given_back("ibv_destroy_cq", answer);
    }
}
