//! Memory that a device may read or fill.
//!
//! # Invariants
//! - **M1** A region is cut once, into pieces that do not overlap; each piece is one value, and only who has it
//!   looks at its bytes.
//! - **M2** Memory is registered as long as it is there, and longer only than any device can use it.
//!
//! # Not here
//! Which of it lies in a queue: see `shared` and `pair`.

use std::ffi::c_void;
use std::fmt;
use std::io;
use std::mem::ManuallyDrop;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

use epicserver_wire::frame::{FRAME_ALIGN, Frame, FrameMut};
use epicserver_wire::view::Slot;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use super::{DeviceError, Domain, is_given_back};
use crate::ffi;

/// Bytes of a huge page, where the machine has any.
const HUGE_BYTES: usize = 2 << 20;

/// Fresh memory of whole pages.
pub(crate) struct Region {
    base: NonNull<u8>,
    bytes: usize,
    /// Whether it lies in huge pages that were set aside for such.
    pub(crate) huge: bool,
}

// SAFETY: M1, a region is memory of its own, and gives no access but to whoever owns it or a piece.
unsafe impl Send for Region {}
// SAFETY: as above; a share of a region gives no access at all.
unsafe impl Sync for Region {}

impl Region {
    /// At least `bytes` zeroes, in huge pages if there are any and it is long enough for them.
    pub(crate) fn new(bytes: usize) -> io::Result<Self> {
        if bytes >= HUGE_BYTES {
            let huge = bytes.next_multiple_of(HUGE_BYTES);
            let flags = MapFlags::HUGETLB | MapFlags::HUGE_2MB | MapFlags::POPULATE;
            if let Ok(base) = map(huge, flags) {
                return Ok(Self { base, bytes: huge, huge: true });
            }
        }
        let bytes = bytes.next_multiple_of(4096);
        let region = Self { base: map(bytes, MapFlags::empty())?, bytes, huge: false };
        // SAFETY: the memory was mapped, and the advice changes nothing of what it holds.
        // A kernel without transparent huge pages knows no such advice, and ordinary pages do.
        let _advised =
            unsafe { madvise(region.base.as_ptr().cast(), bytes, Advice::LinuxHugepage) };
        Ok(region)
    }
}

fn map(bytes: usize, flags: MapFlags) -> io::Result<NonNull<u8>> {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: the kernel chooses a place where nothing of ours lies.
    let base = unsafe { mmap_anonymous(null_mut(), bytes, access, MapFlags::PRIVATE | flags) }?;
    NonNull::new(base.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this size, and M2: no registration of it is left, and no piece.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok(), "M1: the region is there");
    }
}

/// Memory, and its registration with a device.
pub(crate) struct Registered<M> {
    raw: NonNull<ffi::Mr>,
    pub(crate) lkey: u32,
    pub(crate) rkey: u32,
    /// M2: dropped only once the registration is gone.
    memory: ManuallyDrop<M>,
    domain: Arc<Domain>,
}

// SAFETY: D3, and what it holds may be sent.
unsafe impl<M: Send> Send for Registered<M> {}
// SAFETY: as above.
unsafe impl<M: Sync> Sync for Registered<M> {}

impl Registered<Region> {
    /// Registers `region` to be filled by this device, and by it alone.
    pub(crate) fn writable(domain: &Arc<Domain>, region: Region) -> Result<Self, DeviceError> {
        let place = (region.base, region.bytes);
        Self::of(domain, region, place, ffi::ACCESS_LOCAL_WRITE)
    }

    /// Cuts it into pieces of `bytes` (**M1**), as many as there are. What knows a piece again is given too.
    ///
    /// # Panics
    /// If pieces of so many bytes would not be aligned.
    pub(crate) fn cut(self, bytes: usize) -> (Vec<Piece>, Span) {
        assert!(bytes > 0 && bytes.is_multiple_of(FRAME_ALIGN), "M1: pieces are aligned");
        let count = self.memory.bytes / bytes;
        let region = Arc::new(self);
        let piece = |at: usize| Piece { region: Arc::clone(&region), start: at * bytes, bytes };
        ((0..count).map(piece).collect(), Span { region })
    }
}

impl Registered<Frame> {
    /// Registers the bytes of `frame` to be read by the peers of this device, who need the key.
    pub(crate) fn readable(domain: &Arc<Domain>, frame: Frame) -> Result<Self, DeviceError> {
        let bytes = frame.bytes();
        let place = (NonNull::from(bytes).cast(), bytes.len());
        Self::of(domain, frame, place, ffi::ACCESS_REMOTE_READ)
    }

    /// Where peers find it.
    pub(crate) fn address(&self) -> u64 {
        self.memory.bytes().as_ptr().addr() as u64
    }
}

impl<M> Registered<M> {
    /// Registers the `bytes` at `base`, which `memory` keeps where they are.
    fn of(
        domain: &Arc<Domain>,
        memory: M,
        (base, bytes): (NonNull<u8>, usize),
        access: i32,
    ) -> Result<Self, DeviceError> {
        let base: *mut c_void = base.as_ptr().cast();
        // SAFETY: D2: the bytes stay there as long as `memory` lives, which is longer than the
        // registration does. Only regions are registered to be written.
        let raw =
            unsafe { (domain.context.library.call.reg_mr)(domain.raw(), base, bytes, access) };
        let raw = NonNull::new(raw).ok_or_else(|| DeviceError::last("ibv_reg_mr"))?;
        // SAFETY: FF1 and D1.
        let keys = unsafe { raw.as_ref() };
        let (lkey, rkey) = (keys.lkey, keys.rkey);
        let (memory, domain) = (ManuallyDrop::new(memory), Arc::clone(domain));
        Ok(Self { raw, lkey, rkey, memory, domain })
    }
}

impl<M> Drop for Registered<M> {
    fn drop(&mut self) {
        // SAFETY: D1.
        let answer = unsafe { (self.domain.context.library.call.dereg_mr)(self.raw.as_ptr()) };
        if is_given_back("ibv_dereg_mr", answer) {
            // SAFETY: M2; and nobody uses it any more.
            unsafe { ManuallyDrop::drop(&mut self.memory) }
        }
    }
}

impl<M> fmt::Debug for Registered<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registered").finish_non_exhaustive()
    }
}

/// Knows the pieces of a region, and the frames that lie in them.
#[derive(Debug)]
pub(crate) struct Span {
    region: Arc<Registered<Region>>,
}

impl Span {
    /// `frame`, ready to be read by the device that the region is registered with; if it lies elsewhere, only
    /// inline.
    pub(crate) fn outgoing(&self, frame: FrameMut) -> Outgoing {
        let (start, bytes) = (self.region.memory.base.addr().get(), self.region.memory.bytes);
        let at = frame.bytes().as_ptr().addr();
        let here = at.checked_sub(start).is_some_and(|offset| offset + frame.len() <= bytes);
        Outgoing { frame, lkey: here.then_some(self.region.lkey) }
    }
}

/// A frame that a device is to read. The key fits its memory: no other memory can lie where a region does, of which
/// the frame itself has a share.
#[derive(Debug)]
pub(crate) struct Outgoing {
    frame: FrameMut,
    lkey: Option<u32>,
}

impl Outgoing {
    /// Whether a device can read it where it lies.
    pub(crate) fn is_registered(&self) -> bool {
        self.lkey.is_some()
    }

    pub(crate) fn len(&self) -> usize {
        self.frame.len()
    }

    pub(crate) fn into_frame(self) -> FrameMut {
        self.frame
    }

    /// Where it lies, and the key, for the device.
    pub(super) fn part(&self) -> ffi::Sge {
        let bytes = self.frame.bytes();
        let length = u32::try_from(bytes.len()).unwrap_or(0);
        ffi::Sge { addr: bytes.as_ptr().addr() as u64, length, lkey: self.lkey.unwrap_or(0) }
    }
}

/// A part of a region that is nobody else's.
#[derive(Debug)]
pub(crate) struct Piece {
    region: Arc<Registered<Region>>,
    start: usize,
    bytes: usize,
}

impl Piece {
    fn place(&self) -> *mut u8 {
        self.region.memory.base.as_ptr().wrapping_add(self.start)
    }

    /// Where it lies, for the device.
    pub(crate) fn address(&self) -> u64 {
        self.place().addr() as u64
    }

    /// The key by which this device uses it.
    pub(crate) fn lkey(&self) -> u32 {
        self.region.lkey
    }
}

// SAFETY: W11: the region stays where it is for as long as a piece has a share of it. Nobody but the owner of the
// piece writes there (M1), and a device does so only while the piece lies in a queue, where nobody looks at it (D2).
unsafe impl Slot for Piece {
    fn bytes(&self) -> &[u8] {
        // SAFETY: M1, so many bytes of the region are this piece's; they were zeroes at first, so any
        // of them may be read.
        unsafe { std::slice::from_raw_parts(self.place(), self.bytes) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the borrow is the only one.
        unsafe { std::slice::from_raw_parts_mut(self.place(), self.bytes) }
    }
}
