//! Memory for bodies: registered, filled by reads, handed up, and filled again.
//!
//! # Invariants
//! - **BK1** There are at most so many places of each size, made when they are first needed and kept.
//! - **BK2** However many a user holds, some are left: where few are, what came is copied out.
//!
//! # Not here
//! Which body is read when.

use std::collections::VecDeque;
use std::sync::Arc;

use epicserver_wire::frame::{FRAME_ALIGN, Frame};

use crate::device::{DeviceError, Domain, Landing, Region, Registered};

/// The longest piece of a body that is read at once: what an argument of 1 MiB takes, and what belongs to it.
pub(crate) const PIECE_BYTES: usize = (1 << 20) + (64 << 10);
/// Bytes of the two kinds of places: for most bodies, and for the longest piece with the head of its message.
const SMALL_BYTES: usize = 128 << 10;
pub(crate) const LARGE_BYTES: usize = PIECE_BYTES + 4096;
/// How many there may be of each, and how many are made at once.
const SMALL_MAX: usize = 64;
const SMALL_STEP: usize = 16;
const LARGE_MAX: usize = 24;
const LARGE_STEP: usize = 2;
/// Places that users cannot hold.
const KEPT_BACK: usize = 4;
/// Places that are looked at in one round, whether they are free again.
const LOOKS: usize = 32;

const _: () = assert!(SMALL_BYTES.is_multiple_of(FRAME_ALIGN), "places are aligned");
const _: () = assert!(LARGE_BYTES.is_multiple_of(FRAME_ALIGN), "places are aligned");

#[derive(Debug)]
struct Class {
    bytes: usize,
    most: usize,
    step: usize,
    made: usize,
    free: Vec<Landing>,
    held: VecDeque<Landing>,
}

impl Class {
    fn new(bytes: usize, most: usize, step: usize) -> Self {
        Self { bytes, most, step, made: 0, free: Vec::new(), held: VecDeque::new() }
    }

    fn take(&mut self, domain: &Arc<Domain>) -> Result<Option<Landing>, DeviceError> {
        if self.free.is_empty() && self.made < self.most {
            match Region::new(self.bytes * self.step) {
                Ok(region) => self.grow(domain, region)?,
                Err(source) => return Err(DeviceError { call: "mmap", source }),
            }
        }
        Ok(self.free.pop())
    }

    fn grow(&mut self, domain: &Arc<Domain>, region: Region) -> Result<(), DeviceError> {
        match Registered::writable(domain, region) {
            Ok(region) => {
                let (pieces, _) = region.cut(self.bytes);
                self.free.extend(pieces.into_iter().take(self.most - self.made).map(Landing::new));
                self.made += self.free.len();
                Ok(())
            }
            // Those that there are come back.
            Err(_) if self.made > 0 => {
                self.most = self.made;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn reclaim(&mut self) {
        for _ in 0..self.held.len().min(LOOKS) {
            let Some(mut landing) = self.held.pop_front() else { return };
            match landing.is_free() {
                true => self.free.push(landing),
                false => self.held.push_back(landing),
            }
        }
    }
}

/// All places of one device.
#[derive(Debug)]
pub(crate) struct Bulk {
    domain: Arc<Domain>,
    small: Class,
    large: Class,
}

impl Bulk {
    pub(crate) fn new(domain: &Arc<Domain>) -> Self {
        Self {
            domain: Arc::clone(domain),
            small: Class::new(SMALL_BYTES, SMALL_MAX, SMALL_STEP),
            large: Class::new(LARGE_BYTES, LARGE_MAX, LARGE_STEP),
        }
    }

    fn class(&mut self, bytes: usize) -> &mut Class {
        if bytes <= SMALL_BYTES { &mut self.small } else { &mut self.large }
    }

    /// A place for `bytes`; `None` if all are in use.
    ///
    /// # Errors
    /// If there is none of the size, and none can be made.
    pub(crate) fn take(&mut self, bytes: usize) -> Result<Option<Landing>, DeviceError> {
        debug_assert!(bytes <= LARGE_BYTES, "BK1: there are no such places");
        let (small, large) = (&mut self.small, &mut self.large);
        let class = if bytes <= SMALL_BYTES { small } else { large };
        class.take(&self.domain)
    }

    /// A place that nobody uses comes back.
    pub(crate) fn give(&mut self, mut landing: Landing) {
        let class = self.class(landing.capacity());
        match landing.is_free() {
            true => class.free.push(landing),
            false => class.held.push_back(landing),
        }
    }

    /// What lies in `landing` up to `end`, to be handed up (**BK2**).
    pub(crate) fn hand_up(&mut self, landing: Landing, end: usize) -> Option<Frame> {
        let frame = landing.frame(0, end);
        let class = self.class(landing.capacity());
        let left = class.free.len() + (class.most - class.made);
        if left >= KEPT_BACK {
            class.held.push_back(landing);
            return frame;
        }
        let copy = frame.map(|frame| Frame::copy_of(frame.bytes()));
        class.free.push(landing);
        copy
    }

    /// Looks which places are free again.
    pub(crate) fn reclaim(&mut self) {
        self.small.reclaim();
        self.large.reclaim();
    }
}
