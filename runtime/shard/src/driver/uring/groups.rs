//! Groups of receive buffers: the kernel takes one when bytes are there, so that a socket on which
//! nothing comes holds none.
//!
//! A buffer of group `n` begins `n` bytes behind a multiple of 16. A receive takes its buffer from the
//! group of its stream's position, so that what the sender aligned is aligned here. Each group is given
//! as many buffers as it has receives under way, within bounds: few buffers stay warmer than many.
//!
//! # Invariants
//! - **K9** Nobody but the kernel touches a buffer that lies in a group.
//!
//! # Not here
//! System calls, but for one that makes a group known.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use epicserver_link::buffers::Buffers;
use epicserver_wire::frame::{FRAME_ALIGN, Shared};

use super::super::{BUFFERS_MAX, receive_buffers};
use super::ring::Ring;

/// Entries of each ring of buffers; a power of two.
const ENTRIES: u16 = 64;
/// Buffers in the group of streams that stand at a multiple of 16, as nearly all do.
const EVEN_MAX: usize = ENTRIES as usize;
/// Buffers in each of the others.
const ODD_MAX: usize = 4;
// Most buffers can be filled and read, however many lie in groups.
const _: () = assert!(EVEN_MAX + (FRAME_ALIGN - 1) * ODD_MAX < BUFFERS_MAX / 2);

/// `struct io_uring_buf`. The last field of a ring's first entry is the ring's tail.
#[derive(Default)]
#[repr(C)]
struct Entry {
    address: AtomicU64,
    len: AtomicU32,
    id: AtomicU16,
    tail: AtomicU16,
}

/// What the kernel reads; it asks for whole pages.
#[repr(C, align(4096))]
struct Page([Entry; ENTRIES as usize]);

const _: () = assert!(size_of::<Entry>() == 16);

struct Group {
    page: Box<Page>,
    /// The buffers that lie in it, by the number that the kernel calls them (**K9**).
    lent: Vec<Option<Arc<Shared>>>,
    /// The numbers that are free.
    free: Vec<u16>,
    tail: u16,
    /// Receives under way.
    armed: usize,
}

impl Group {
    fn register(ring: &Ring, number: u16) -> io::Result<Self> {
        let page = Box::new(Page(std::array::from_fn(|_| Entry::default())));
        let address = std::ptr::from_ref(&*page).expose_provenance() as u64;
        // SAFETY: the page has so many entries, and lives as long as the group, which is dropped after
        // it was unregistered or the ring was dropped.
        unsafe { ring.register(address, ENTRIES, number) }?;
        let lent = (0..ENTRIES).map(|_| None).collect();
        Ok(Self { page, lent, free: (0..ENTRIES).rev().collect(), tail: 0, armed: 0 })
    }

    fn published(&self) -> usize {
        usize::from(ENTRIES) - self.free.len()
    }

    /// Puts a buffer into the ring, whose memory begins `start` bytes behind its own beginning.
    fn publish(&mut self, mut buffer: Arc<Shared>, start: usize) {
        let Some(memory) = Arc::get_mut(&mut buffer) else { unreachable!("K2: it is nobody's") };
        let memory = memory.bytes_mut().get_mut(start..).unwrap_or_default();
        let (address, len) = (memory.as_mut_ptr().expose_provenance() as u64, memory.len());
        let Some(id) = self.free.pop() else { return };
        let at = usize::from(self.tail % ENTRIES);
        let (Some(entry), Some(first)) = (self.page.0.get(at), self.page.0.first()) else { return };
        entry.address.store(address, Ordering::Relaxed);
        entry.len.store(u32::try_from(len).unwrap_or(0), Ordering::Relaxed);
        entry.id.store(id, Ordering::Relaxed);
        self.tail = self.tail.wrapping_add(1);
        first.tail.store(self.tail, Ordering::Release);
        if let Some(slot) = self.lent.get_mut(usize::from(id)) {
            *slot = Some(buffer);
        }
    }
}

/// The groups of one driver, and the buffers that lie in none.
pub(super) struct Groups {
    groups: [Option<Group>; FRAME_ALIGN],
    buffers: Buffers,
}

impl Default for Groups {
    fn default() -> Self {
        Self { groups: Default::default(), buffers: receive_buffers() }
    }
}

impl Groups {
    /// Makes the first group known, so that a kernel which has none says so at once.
    pub(super) fn prepare(&mut self, ring: &Ring) -> io::Result<()> {
        if let Some(slot) = self.groups.first_mut() {
            *slot = Some(Group::register(ring, 0)?);
        }
        Ok(())
    }

    /// A receive into `group` is to begin. Says whether there is a buffer for it.
    pub(super) fn arm(&mut self, group: u16, ring: &Ring) -> io::Result<bool> {
        let start = usize::from(group);
        let Some(slot) = self.groups.get_mut(start) else { return Ok(false) };
        let group = match slot {
            Some(group) => group,
            None => slot.insert(Group::register(ring, group)?),
        };
        let most = if start == 0 { EVEN_MAX } else { ODD_MAX };
        while group.published() < (group.armed + 1).min(most) {
            let Some(buffer) = self.buffers.take() else { break };
            group.publish(buffer, start);
        }
        let ready = group.published() > 0;
        group.armed += usize::from(ready);
        Ok(ready)
    }

    /// A receive into `group` is over; it may have taken the buffer `id`, which is ours again.
    pub(super) fn disarm(&mut self, group: u16, id: Option<u16>) -> Option<Arc<Shared>> {
        let group = self.groups.get_mut(usize::from(group))?.as_mut()?;
        group.armed = group.armed.saturating_sub(1);
        let buffer = group.lent.get_mut(usize::from(id?))?.take()?;
        group.free.extend(id);
        Some(buffer)
    }

    /// A buffer has been shared out, or was not needed.
    pub(super) fn give(&mut self, buffer: Arc<Shared>) {
        self.buffers.give(buffer);
    }

    /// No operation is under way any more: takes the groups back from the kernel.
    pub(super) fn unregister(&mut self, ring: &Ring) -> io::Result<()> {
        for (number, group) in (0..).zip(&mut self.groups) {
            if group.is_some() {
                ring.unregister(number)?;
                *group = None;
            }
        }
        Ok(())
    }
}
