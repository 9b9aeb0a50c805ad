//! A queue pair: one end of a reliable connection between two devices.
//!
//! Requests are staged, and go to the device in batches, one doorbell each. The device is asked to report every
//! [`SIGNAL_EVERY`]th, and the last of those that keep memory: one report stands for all requests before it.
//!
//! # Invariants
//! - **D5** A frame that is not copied as it is posted lies in memory that the device knows, and stays with the pair
//!   until the device has read it.
//! - **D6** No more requests are outstanding than the pair was made for, and one place is left for the mark that
//!   tells when a pair that has failed has let go of all of them.
//!
//! # Not here
//! What is sent, and whether the peer has a slot for it.

use std::collections::VecDeque;
use std::ffi::{c_int, c_uint};
use std::fmt;
use std::ptr::{NonNull, null_mut};
use std::rc::Rc;
use std::sync::Arc;

use epicserver_wire::frame::FrameMut;

use super::completion::RawCompletions;
use super::{
    Completions, DeviceError, Domain, Landing, Outgoing, SharedQueue, check, is_given_back,
};
use crate::ffi;

/// Parts that one message may lie in.
const PARTS: usize = 2;
/// Requests that go to the device with one doorbell.
const DOORBELL: usize = 16;
/// Requests of which one is reported.
const SIGNAL_EVERY: usize = 32;
/// What is tried for the bytes that are copied as they are posted, if a device refuses the first.
const INLINE_FALLBACKS: [u32; 3] = [128, 64, 0];
/// 4.096 us times two to this power: how long an acknowledgement is waited for. Devices make up to four times of it. With
/// the repeats a wire may carry nothing for most of a second, and at the most it is seen before a link's keep-alive does.
const TIMEOUT: u8 = 15;
/// How often that is repeated: once less than could be, which SoftRoCE takes for ever.
const RETRIES: u8 = 6;
/// The same if the peer has no slot, which a peer that keeps to the protocol always has.
const RNR_RETRIES: u8 = 3;
/// The code of 0.64 ms: how long a peer is to wait that found no slot.
const RNR_TIMER: u8 = 12;
/// Routers that a packet may pass.
const HOPS: u8 = 64;

/// How a pair is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PairOptions {
    /// Requests that may be outstanding.
    pub(crate) requests: usize,
    /// Bytes of a message that are copied as it is posted, at most.
    pub(crate) inline: u32,
}

/// This end, as packets carry it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Local {
    pub(crate) port: u8,
    pub(crate) gid: [u8; 16],
    pub(crate) gid_index: u8,
    pub(crate) lid: u16,
    pub(crate) pkey_index: u16,
    /// As in `enum ibv_mtu`.
    pub(crate) mtu: u32,
    pub(crate) ethernet: bool,
    pub(crate) traffic_class: u8,
    pub(crate) service_level: u8,
}

/// The other end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Remote {
    pub(crate) number: u32,
    /// The number of the first packet that comes from there.
    pub(crate) psn: u32,
    pub(crate) gid: [u8; 16],
    pub(crate) lid: u16,
    pub(crate) mtu: u32,
    /// Reads that it answers at a time.
    pub(crate) reads: u8,
}

/// What a request keeps until it is done.
#[derive(Debug)]
enum Kept {
    Sent { _parts: [Option<FrameMut>; PARTS] },
    Read(Landing),
}

#[derive(Clone, Copy)]
struct Staged {
    request: ffi::SendWr,
    places: [ffi::Sge; PARTS],
}

/// A queue pair. Dropping it ends it.
pub(crate) struct Pair {
    raw: NonNull<ffi::Qp>,
    number: u32,
    inline: usize,
    requests: usize,
    post: unsafe extern "C" fn(*mut ffi::Qp, *mut ffi::SendWr, *mut *mut ffi::SendWr) -> c_int,
    staged: Box<[Staged; DOORBELL]>,
    staging: usize,
    /// What is copied as it is posted.
    copied: Vec<FrameMut>,
    /// The number of the next request, of the first that may be outstanding, and of the last that is reported.
    next: u64,
    done: u64,
    signalled: u64,
    /// D2: dropped only once the pair is gone.
    kept: VecDeque<(u64, Kept)>,
    _queue: Rc<SharedQueue>,
    _completions: Rc<RawCompletions>,
    domain: Arc<Domain>,
}

impl Pair {
    /// A pair that receives into `queue` and reports to `completions`, and is not connected.
    pub(crate) fn new(
        domain: &Arc<Domain>,
        queue: &Rc<SharedQueue>,
        completions: &Completions,
        options: PairOptions,
    ) -> Result<Self, DeviceError> {
        let post = domain.context.op(domain.context.ops.post_send, "ibv_post_send")?;
        let completions = completions.share();
        let mut made = Err(DeviceError::last("ibv_create_qp"));
        for inline in [options.inline].into_iter().chain(INLINE_FALLBACKS) {
            made = Self::create(domain, queue, &completions, (options.requests, inline));
            if made.is_ok() {
                break;
            }
        }
        let (raw, inline) = made?;
        // SAFETY: FF1 and D1.
        let number = unsafe { (*raw.as_ptr()).qp_num };
        let staged = Staged { request: ffi::SendWr::new(), places: [ffi::Sge::default(); PARTS] };
        Ok(Self {
            raw,
            number,
            inline: usize::try_from(inline.min(options.inline)).unwrap_or(0),
            requests: options.requests,
            post,
            staged: Box::new([staged; DOORBELL]),
            staging: 0,
            copied: Vec::with_capacity(DOORBELL * PARTS),
            next: 1,
            done: 1,
            signalled: 0,
            kept: VecDeque::new(),
            _queue: Rc::clone(queue),
            _completions: completions,
            domain: Arc::clone(domain),
        })
    }

    fn create(
        domain: &Arc<Domain>,
        queue: &Rc<SharedQueue>,
        completions: &Rc<RawCompletions>,
        (requests, inline): (usize, u32),
    ) -> Result<(NonNull<ffi::Qp>, u32), DeviceError> {
        let mut attr = ffi::QpInitAttr {
            qp_context: null_mut(),
            send_cq: completions.raw(),
            recv_cq: completions.raw(),
            srq: queue.raw(),
            cap: ffi::QpCap {
                max_send_wr: u32::try_from(requests).unwrap_or(u32::MAX),
                max_recv_wr: 0,
                max_send_sge: u32::try_from(PARTS).unwrap_or(1),
                max_recv_sge: 0,
                max_inline_data: inline,
            },
            qp_type: ffi::QPT_RC,
            sq_sig_all: 0,
        };
        // SAFETY: D1 and FF1; the pair has a share of both queues.
        let raw = unsafe { (domain.context.library.call.create_qp)(domain.raw(), &raw mut attr) };
        let raw = NonNull::new(raw).ok_or_else(|| DeviceError::last("ibv_create_qp"))?;
        Ok((raw, attr.cap.max_inline_data))
    }

    /// The number by which peers and completions call it.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// Connects it to `remote`: from then on it receives, and sends. Its own packets are numbered from `psn` on,
    /// and it answers `reads` reads at a time.
    pub(crate) fn connect(
        &mut self,
        local: &Local,
        remote: &Remote,
        (psn, reads): (u32, u8),
    ) -> Result<(), DeviceError> {
        let mut attr = ffi::QpAttr {
            qp_state: ffi::QPS_INIT,
            pkey_index: local.pkey_index,
            port_num: local.port,
            // Of one region after the other, as it is announced.
            qp_access_flags: ffi::ACCESS_REMOTE_READ.cast_unsigned(),
            ..ffi::QpAttr::default()
        };
        let mask = ffi::QP_STATE | ffi::QP_PKEY_INDEX | ffi::QP_PORT | ffi::QP_ACCESS_FLAGS;
        self.modify(&mut attr, mask)?;
        self.listen(local, remote, reads)?;
        let mut attr = ffi::QpAttr {
            qp_state: ffi::QPS_RTS,
            timeout: TIMEOUT,
            retry_cnt: RETRIES,
            rnr_retry: RNR_RETRIES,
            sq_psn: psn,
            max_rd_atomic: remote.reads,
            ..ffi::QpAttr::default()
        };
        let patience = ffi::QP_TIMEOUT | ffi::QP_RETRY_CNT | ffi::QP_RNR_RETRY;
        let mask = ffi::QP_STATE | patience | ffi::QP_SQ_PSN | ffi::QP_MAX_QP_RD_ATOMIC;
        self.modify(&mut attr, mask)
    }

    fn listen(&mut self, local: &Local, remote: &Remote, reads: u8) -> Result<(), DeviceError> {
        let subnet = |gid: &[u8; 16]| gid.first_chunk::<8>().copied();
        let mut attr = ffi::QpAttr {
            qp_state: ffi::QPS_RTR,
            path_mtu: local.mtu.min(remote.mtu),
            rq_psn: remote.psn,
            dest_qp_num: remote.number,
            max_dest_rd_atomic: reads,
            min_rnr_timer: RNR_TIMER,
            ah_attr: ffi::AhAttr {
                grh: ffi::GlobalRoute {
                    dgid: ffi::Gid(remote.gid),
                    flow_label: 0,
                    sgid_index: local.gid_index,
                    hop_limit: HOPS,
                    traffic_class: local.traffic_class,
                },
                dlid: remote.lid,
                sl: local.service_level,
                src_path_bits: 0,
                static_rate: 0,
                // Over Ethernet there is no other way; within one subnet of InfiniBand a LID is enough.
                is_global: u8::from(local.ethernet || subnet(&local.gid) != subnet(&remote.gid)),
                port_num: local.port,
            },
            ..ffi::QpAttr::default()
        };
        let path = ffi::QP_AV | ffi::QP_PATH_MTU | ffi::QP_DEST_QPN | ffi::QP_RQ_PSN;
        let mask = ffi::QP_STATE | path | ffi::QP_MAX_DEST_RD_ATOMIC | ffi::QP_MIN_RNR_TIMER;
        self.modify(&mut attr, mask)
    }

    fn modify(&mut self, attr: &mut ffi::QpAttr, mask: c_int) -> Result<(), DeviceError> {
        let modify = self.domain.context.library.call.modify_qp;
        // SAFETY: D1 and FF1.
        let answer = unsafe { modify(self.raw.as_ptr(), attr, mask) };
        check("ibv_modify_qp", answer)
    }

    /// How many requests may be staged now (**D6**).
    pub(crate) fn room(&self) -> usize {
        let outstanding = usize::try_from(self.next - self.done).unwrap_or(usize::MAX);
        self.requests.saturating_sub(outstanding + 1)
    }

    /// Whether a message of so many bytes is copied as it is posted.
    pub(crate) fn is_inline(&self, bytes: usize) -> bool {
        bytes <= self.inline
    }

    /// Stages a message that lies in `parts`, with `word` beside it. If `reported`, the device is asked to say
    /// when the peer's has it. The request's number is given.
    ///
    /// # Panics
    /// If there is no [room](Self::room), or a part lies elsewhere and is not copied (**D5**).
    pub(crate) fn send(
        &mut self,
        word: u32,
        parts: [Option<Outgoing>; PARTS],
        reported: bool,
    ) -> Result<u64, DeviceError> {
        let bytes = parts.iter().flatten().map(Outgoing::len).sum();
        let inline = self.is_inline(bytes);
        let sound = inline || parts.iter().flatten().all(Outgoing::is_registered);
        assert!(sound, "D5: a frame that is not copied lies in memory that the device knows");
        let mut places = [ffi::Sge::default(); PARTS];
        let mut count = 0;
        for (part, place) in parts.iter().flatten().zip(&mut places) {
            *place = part.part();
            count += 1;
        }
        let mut request = ffi::SendWr::new();
        request.opcode = ffi::WR_SEND_WITH_IMM;
        request.imm_data = word.to_be();
        request.num_sge = count;
        request.send_flags = if inline { ffi::SEND_INLINE } else { 0 };
        let number = self.stage(request, places, reported)?;
        let frames = parts.map(|part| part.map(Outgoing::into_frame));
        match inline {
            true => self.copied.extend(frames.into_iter().flatten()),
            false => self.kept.push_back((number, Kept::Sent { _parts: frames })),
        }
        Ok(number)
    }

    /// Stages a read of `len` bytes from `address` of the peer, whose key for them is `rkey`, to `landing` from
    /// `start` on. It is reported; the request's number is given.
    ///
    /// # Errors
    /// If the device refuses; or, with the landing, if it has not so many bytes, or somebody has a frame of it.
    ///
    /// # Panics
    /// If there is no [room](Self::room).
    pub(crate) fn read(
        &mut self,
        (address, rkey): (u64, u32),
        mut landing: Landing,
        (start, len): (usize, usize),
    ) -> Result<u64, DeviceError> {
        let Some(place) = landing.part(start, len) else {
            panic!("D4: what is read into is nobody's, and long enough")
        };
        let mut request = ffi::SendWr::new();
        request.opcode = ffi::WR_RDMA_READ;
        request.num_sge = 1;
        request.remote_addr = address;
        request.rkey = rkey;
        let number = self.stage(request, [place, ffi::Sge::default()], true)?;
        self.kept.push_back((number, Kept::Read(landing)));
        Ok(number)
    }

    fn stage(
        &mut self,
        mut request: ffi::SendWr,
        places: [ffi::Sge; PARTS],
        reported: bool,
    ) -> Result<u64, DeviceError> {
        assert!(self.room() > 0, "D6: there is room for a request");
        if self.staging == DOORBELL {
            self.post()?;
        }
        let number = self.next;
        request.wr_id = number;
        let every = u64::try_from(SIGNAL_EVERY).unwrap_or(1);
        if reported || number - self.signalled >= every {
            request.send_flags |= ffi::SEND_SIGNALED;
            self.signalled = number;
        }
        self.staged[self.staging] = Staged { request, places };
        self.staging += 1;
        self.next += 1;
        Ok(number)
    }

    /// Everything that was staged goes to the device.
    ///
    /// # Errors
    /// If the device refuses: then the pair is of no use any more.
    pub(crate) fn ring(&mut self) -> Result<(), DeviceError> {
        let Some(last) = self.staging.checked_sub(1) else { return Ok(()) };
        // Whoever waits for the memory is told when it is free.
        if self.kept.back().is_some_and(|(number, _)| *number > self.signalled) {
            self.staged[last].request.send_flags |= ffi::SEND_SIGNALED;
            self.signalled = self.next - 1;
        }
        self.post()
    }

    fn post(&mut self) -> Result<(), DeviceError> {
        let count = std::mem::take(&mut self.staging);
        let mut next: *mut ffi::SendWr = null_mut();
        for staged in self.staged.iter_mut().take(count).rev() {
            staged.request.next = next;
            staged.request.sg_list = staged.places.as_mut_ptr();
            next = &raw mut staged.request;
        }
        if next.is_null() {
            return Ok(());
        }
        let mut bad = null_mut();
        // SAFETY: D1; the requests are read before the call returns, and with them what is copied; D5:
        // what is not copied stays where it is until it is done.
        let answer = unsafe { (self.post)(self.raw.as_ptr(), next, &raw mut bad) };
        self.copied.clear();
        check("ibv_post_send", answer)
    }

    /// The request called `number` has ended, and all before it. What it read into is given, if it did.
    pub(crate) fn completed(&mut self, number: u64) -> Option<Landing> {
        if !(self.done..self.next).contains(&number) {
            return None;
        }
        self.done = number + 1;
        let mut read = None;
        while self.kept.front().is_some_and(|(kept, _)| *kept <= number) {
            match self.kept.pop_front() {
                Some((_, Kept::Read(landing))) => read = Some(landing),
                Some((_, Kept::Sent { .. })) | None => {}
            }
        }
        read
    }

    /// Whether the device has ended all requests.
    pub(crate) fn is_drained(&self) -> bool {
        self.done == self.next
    }

    /// Ends all requests: each that is reported fails from now on, and a last one tells that all have. Nothing more
    /// is received, and no peer reads anything.
    pub(crate) fn fail(&mut self) -> Result<(), DeviceError> {
        self.staging = 0;
        self.copied.clear();
        let mut attr = ffi::QpAttr { qp_state: ffi::QPS_ERR, ..ffi::QpAttr::default() };
        self.modify(&mut attr, ffi::QP_STATE)?;
        let mut mark = ffi::SendWr::new();
        (mark.wr_id, self.next) = (self.next, self.next + 1);
        mark.opcode = ffi::WR_SEND_WITH_IMM;
        mark.send_flags = ffi::SEND_SIGNALED as c_uint;
        let mut bad = null_mut();
        // SAFETY: D1; it names no memory.
        let answer = unsafe { (self.post)(self.raw.as_ptr(), &raw mut mark, &raw mut bad) };
        check("ibv_post_send", answer)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // SAFETY: D1; events about it were acknowledged when they were got.
        let answer = unsafe { (self.domain.context.library.call.destroy_qp)(self.raw.as_ptr()) };
        if !is_given_back("ibv_destroy_qp", answer) {
            // D2.
            std::mem::forget(std::mem::take(&mut self.kept));
        }
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pair({})", self.number)
    }
}
