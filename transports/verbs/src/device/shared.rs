//! The shared receive queue: slots that wait for a message of any peer.
//!
//! # Invariants
//! - **D4** A slot lies in the queue or is somebody's, never both: it goes in by value, and comes out only when
//!   the device has said that it is filled.
//!
//! # Not here
//! How many slots each peer may fill.

use std::cell::RefCell;
use std::fmt;
use std::ptr::{NonNull, null_mut};
use std::rc::Rc;
use std::sync::Arc;

use epicserver_wire::frame::{Frame, Shared};
use epicserver_wire::view::Slot as _;

use super::{DeviceError, Domain, Piece, check, is_given_back};
use crate::ffi;

/// Slots that are posted at once.
const BATCH: usize = 32;
/// The bit that tells the numbers of these requests from those of a pair.
const RECEIVE: u64 = 1 << 63;

/// Memory that a device fills.
#[derive(Debug)]
pub(crate) struct Landing {
    memory: Arc<Shared>,
    address: u64,
    lkey: u32,
    bytes: usize,
}

impl Landing {
    pub(crate) fn new(piece: Piece) -> Self {
        let (address, lkey, bytes) = (piece.address(), piece.lkey(), piece.bytes().len());
        Self { memory: Shared::of(Box::new(piece)), address, lkey, bytes }
    }

    /// How many bytes it has room for.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes
    }

    /// The bytes from `start` to `end`; `None` if there are not so many.
    pub(crate) fn frame(&self, start: usize, end: usize) -> Option<Frame> {
        Frame::new(Arc::clone(&self.memory), start, end)
    }

    /// The memory, if nobody has a frame of it.
    pub(crate) fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        Arc::get_mut(&mut self.memory).map(Shared::bytes_mut)
    }

    /// Whether nobody has a frame of it.
    pub(crate) fn is_free(&mut self) -> bool {
        Arc::get_mut(&mut self.memory).is_some()
    }

    /// So many of its bytes from `start` on, for the device, while nobody has a frame of it; `None` if
    /// somebody has, or there are not so many.
    pub(super) fn part(&mut self, start: usize, len: usize) -> Option<ffi::Sge> {
        self.bytes_mut()?.get(start..)?.get(..len)?;
        let addr = self.address + start as u64;
        Some(ffi::Sge { addr, length: u32::try_from(len).ok()?, lkey: self.lkey })
    }
}

/// The queue, of which each queue pair that receives into it has a share.
pub(crate) struct SharedQueue {
    raw: NonNull<ffi::Srq>,
    /// D4: the slots that lie in it, by the number of their request.
    posted: RefCell<Vec<Option<Landing>>>,
    free: RefCell<Vec<usize>>,
    slot_bytes: usize,
    domain: Arc<Domain>,
}

impl SharedQueue {
    /// A queue for `most` slots of `slot_bytes`.
    pub(crate) fn new(
        domain: &Arc<Domain>,
        most: usize,
        slot_bytes: usize,
    ) -> Result<Rc<Self>, DeviceError> {
        let max_wr = u32::try_from(most).unwrap_or(u32::MAX);
        let srq_context = null_mut();
        let mut attr = ffi::SrqInitAttr { srq_context, max_wr, max_sge: 1, srq_limit: 0 };
        // SAFETY: D1 and FF1.
        let raw = unsafe { (domain.context.library.call.create_srq)(domain.raw(), &raw mut attr) };
        let raw = NonNull::new(raw).ok_or_else(|| DeviceError::last("ibv_create_srq"))?;
        let posted = RefCell::new((0..most).map(|_| None).collect());
        let free = RefCell::new((0..most).rev().collect());
        Ok(Rc::new(Self { raw, posted, free, slot_bytes, domain: Arc::clone(domain) }))
    }

    pub(super) fn raw(&self) -> *mut ffi::Srq {
        self.raw.as_ptr()
    }

    /// Posts slots of which nobody has a frame (**D4**).
    ///
    /// # Errors
    /// If the device takes no more of them: then the queue is of no use.
    ///
    /// # Panics
    /// If somebody has a frame of one, or there are more than there is room for.
    pub(crate) fn post(&self, landings: &mut Vec<Landing>) -> Result<(), DeviceError> {
        while !landings.is_empty() {
            let from = landings.len().saturating_sub(BATCH);
            self.post_batch(landings.drain(from..))?;
        }
        Ok(())
    }

    fn post_batch(&self, landings: impl Iterator<Item = Landing>) -> Result<(), DeviceError> {
        let empty = ffi::RecvWr { wr_id: 0, next: null_mut(), sg_list: null_mut(), num_sge: 1 };
        let (mut requests, mut places) = ([empty; BATCH], [ffi::Sge::default(); BATCH]);
        let (mut posted, mut free) = (self.posted.borrow_mut(), self.free.borrow_mut());
        let mut count = 0;
        for (mut landing, (request, place)) in landings.zip(requests.iter_mut().zip(&mut places)) {
            let (part, at) = (landing.part(0, self.slot_bytes), free.pop());
            let (Some(part), Some(at)) = (part, at) else {
                panic!("D4: a slot that is posted is nobody's, and there is room for it");
            };
            *place = part;
            request.wr_id = at as u64 | RECEIVE;
            request.sg_list = place;
            posted[at] = Some(landing);
            count += 1;
        }
        for at in 1..count {
            let next: *mut ffi::RecvWr = &raw mut requests[at];
            requests[at - 1].next = next;
        }
        let context = &self.domain.context;
        let post = context.op(context.ops.post_srq_recv, "ibv_post_srq_recv")?;
        let mut bad = null_mut();
        // SAFETY: D1 and D2: what the requests name was just put where nobody touches it; the requests
        // themselves are read before the call returns.
        let answer = unsafe { post(self.raw(), requests.as_mut_ptr(), &raw mut bad) };
        check("ibv_post_srq_recv", answer)
    }

    /// The slot that the request was for, which has ended; `None` if it was for none.
    pub(crate) fn landed(&self, request: u64) -> Option<Landing> {
        let at = usize::try_from(request.checked_sub(RECEIVE)?).ok()?;
        let landing = self.posted.borrow_mut().get_mut(at)?.take()?;
        self.free.borrow_mut().push(at);
        Some(landing)
    }

    /// How many slots lie in it.
    pub(crate) fn len(&self) -> usize {
        self.posted.borrow().len() - self.free.borrow().len()
    }
}

impl Drop for SharedQueue {
    fn drop(&mut self) {
        // SAFETY: D1, each queue pair has a share of it.
        let answer = unsafe { (self.domain.context.library.call.destroy_srq)(self.raw()) };
        if !is_given_back("ibv_destroy_srq", answer) {
            // D2.
            std::mem::forget(self.posted.take());
        }
    }
}

impl fmt::Debug for SharedQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedQueue({} posted)", self.len())
    }
}
