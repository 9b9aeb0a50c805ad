//! One device in use: its queues, and the slots that peers may fill.
//!
//! # Invariants
//! - **E1** Each link that is there was promised its window and [`RESERVE`] slots. As many slots as were promised lie
//!   in the queue or hold what is still used: so no message finds the queue empty, whatever the others do.
//! - **E2** A queue pair ends in three steps: it fails, it has let go of all requests, and what the device had said of
//!   it by then was looked at. So the slots that it had filled come back.
//! - **E3** The completion queue has room for all that its pairs and slots can ever report.
//!
//! # Not here
//! Links.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use epicserver_link::buffers::Buffers;
use epicserver_wire::Time;

use crate::bulk::Bulk;
use crate::choose::Choice;
use crate::device::{
    Channel, Completed, Completions, Context, DeviceError, Domain, Landing, Limits, Local, Pair,
    PairOptions, Region, Registered, SharedQueue,
};
use crate::link::Conduit;
use crate::window::{PIECES, RESERVE};

/// Links that one device carries at most, if it can.
pub(crate) const LINKS_MAX: usize = 1024;
/// Bytes of a message that are copied as it is posted.
const INLINE_BYTES: u32 = 220;
/// Requests that may be outstanding and unreported beside a window: some runs between two reports.
const REQUESTS_UNREPORTED: usize = 64;
/// Reads of one link that are under way at a time, at most.
const READS_MAX: usize = 8;
/// Slots that are made at once, at least: 2 MiB of 8 KiB each.
const SLOTS_STEP: usize = 256;
/// Slots whose messages are copied out since users hold them, at most.
const COPIES_MAX: usize = 512;
/// Slots of links that are gone which are looked at in one round.
const LOOKS: usize = 32;
/// How long a pair that has failed may take to let go of its requests.
const DYING: Duration = Duration::from_secs(1);

/// A pair that has failed and is to end (**E2**).
#[derive(Debug)]
struct Dying {
    conduit: Conduit,
    until: Time,
    /// It has let go of all requests, as was seen in an earlier round.
    drained: bool,
}

/// A device in use.
#[derive(Debug)]
pub(crate) struct Engine {
    // The order is that in which they end, though shares would keep it too.
    dying: Vec<Dying>,
    pub(crate) completions: Completions,
    pub(crate) queue: Rc<SharedQueue>,
    pub(crate) free: Vec<Landing>,
    orphans: VecDeque<Landing>,
    pub(crate) bulk: Bulk,
    pub(crate) copies: Buffers,
    channel: Rc<Channel>,
    domain: Arc<Domain>,
    pub(crate) context: Arc<Context>,
    pub(crate) local: Local,
    pub(crate) limits: Limits,
    pub(crate) links_max: usize,
    slot_bytes: usize,
    window: u16,
    made: usize,
    promised: usize,
    pub(crate) armed: bool,
}

/// How much each link takes of the device: slots, and requests.
fn shares(window: u16) -> (usize, usize) {
    let window = usize::from(window);
    let slots = window + usize::from(RESERVE);
    (slots, slots + REQUESTS_UNREPORTED + usize::from(PIECES) + 1)
}

/// How many links a device of these limits carries (**E3**).
fn links_of(limits: &Limits, window: u16) -> usize {
    let (slots, requests) = shares(window);
    let most = [
        limits.pairs / 2,
        limits.slots / slots,
        limits.completions / (slots + requests),
        LINKS_MAX,
    ];
    if limits.requests < requests { 0 } else { most.into_iter().min().unwrap_or(0) }
}

impl Engine {
    /// Uses the device that was chosen.
    ///
    /// # Errors
    /// Which call it refused.
    pub(crate) fn start(
        context: &Arc<Context>,
        choice: &Choice,
        (slot_bytes, window): (usize, u16),
    ) -> Result<Self, DeviceError> {
        let limits = context.limits()?;
        let links_max = links_of(&limits, window);
        if links_max == 0 {
            let said = format!("it carries no link with a window of {window}: {limits:?}");
            let source = std::io::Error::other(said);
            return Err(DeviceError { call: "ibv_query_device", source });
        }
        let (slots, requests) = shares(window);
        let domain = Domain::new(context)?;
        let channel = Channel::new(context)?;
        let completions = Completions::new(&channel, links_max * (slots + requests))?;
        let queue = SharedQueue::new(&domain, links_max * slots, slot_bytes)?;
        let mut engine = Self {
            dying: Vec::new(),
            completions,
            queue,
            free: Vec::new(),
            orphans: VecDeque::new(),
            bulk: Bulk::new(&domain),
            copies: Buffers::new(COPIES_MAX, slot_bytes),
            channel,
            domain,
            context: Arc::clone(context),
            local: choice.local,
            limits,
            links_max,
            slot_bytes,
            window,
            made: 0,
            promised: 0,
            armed: false,
        };
        // What a first link takes is made now, so that what forbids it is known now.
        engine.grow(slots)?;
        Ok(engine)
    }

    pub(crate) fn domain(&self) -> &Arc<Domain> {
        &self.domain
    }

    /// What can be read when something was completed, after [`arm`](Completions::arm).
    pub(crate) fn watched(&self) -> std::io::Result<OwnedFd> {
        self.channel.watched()
    }

    /// How many reads of one link this end answers at a time.
    pub(crate) fn reads_answered(&self) -> u8 {
        u8::try_from(self.limits.reads_in.min(READS_MAX)).unwrap_or(1)
    }

    /// How many it may have under way to a peer that answers `reads`.
    pub(crate) fn reads_asked(&self, reads: u8) -> u8 {
        u8::try_from(self.limits.reads_out.min(READS_MAX)).unwrap_or(1).min(reads)
    }

    /// Makes at least `slots` more slots, all in the queue.
    fn grow(&mut self, slots: usize) -> Result<(), DeviceError> {
        let count = slots.max(SLOTS_STEP);
        let region = Region::new(count * self.slot_bytes);
        let region = region.map_err(|source| DeviceError { call: "mmap", source })?;
        let huge = region.huge;
        let (pieces, _) = Registered::writable(&self.domain, region)?.cut(self.slot_bytes);
        let room = self.links_max * shares(self.window).0 - self.made;
        let mut landings: Vec<Landing> = pieces.into_iter().take(room).map(Landing::new).collect();
        let count = landings.len();
        self.queue.post(&mut landings)?;
        self.made += count;
        tracing::debug!(slots = self.made, huge, "receive slots of verbs");
        Ok(())
    }

    /// A pair for one more link, and the slots that it is promised (**E1**).
    ///
    /// # Errors
    /// What the device refuses.
    pub(crate) fn pair(&mut self) -> Result<Pair, DeviceError> {
        let (slots, requests) = shares(self.window);
        if self.made < self.promised + slots {
            self.grow(self.promised + slots - self.made)?;
        }
        let options = PairOptions { requests, inline: INLINE_BYTES };
        let pair = Pair::new(&self.domain, &self.queue, &self.completions, options)?;
        self.promised += slots;
        Ok(pair)
    }

    /// A pair that was never connected is not needed.
    pub(crate) fn forget(&mut self, pair: Pair) {
        drop(pair);
        self.promised -= shares(self.window).0;
    }

    /// A link is gone: its pair is to end.
    pub(crate) fn bury(&mut self, mut conduit: Conduit, now: Time) {
        let drained = match conduit.pair.fail() {
            Ok(()) => false,
            Err(error) => {
                tracing::warn!(%error, why = %error.source, "a queue pair does not fail in order");
                true
            }
        };
        self.dying.push(Dying { conduit, until: now + DYING, drained });
    }

    /// When a pair that does not let go is ended all the same.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.dying.iter().map(|dying| dying.until).min()
    }

    /// The device has nothing more to say at the moment: pairs that have let go of everything end (**E2**). Says
    /// whether one did.
    pub(crate) fn end_pairs(&mut self, now: Time) -> bool {
        let mut any = false;
        let ready = |dying: &mut Dying| {
            let drained = dying.conduit.pair.is_drained();
            let ready = dying.drained || dying.until <= now;
            any |= ready | drained;
            dying.drained |= drained;
            ready
        };
        let ended: Vec<Dying> = self.dying.extract_if(.., ready).collect();
        for Dying { conduit, .. } in ended {
            let Conduit { pair, receiving, .. } = conduit;
            drop(pair);
            let held = receiving.into_held();
            self.promised -= shares(self.window).0 - held.len();
            self.orphans.extend(held);
        }
        any
    }

    /// Something was completed of a pair that is no link's any more.
    pub(crate) fn late(&mut self, completed: Completed) {
        if let Some(landing) = self.queue.landed(completed.request) {
            return self.free.push(landing);
        }
        let mut dying = self.dying.iter_mut().map(|dying| &mut dying.conduit.pair);
        let pair = dying.find(|pair| pair.number() == completed.pair);
        let read = pair.and_then(|pair| pair.completed(completed.request));
        read.into_iter().for_each(|landing| self.bulk.give(landing));
    }

    /// Looks what is free again of slots that are no link's any more, and of places for bodies.
    pub(crate) fn reclaim(&mut self) {
        for _ in 0..self.orphans.len().min(LOOKS) {
            let Some(mut landing) = self.orphans.pop_front() else { break };
            match landing.is_free() {
                true => {
                    self.free.push(landing);
                    self.promised -= 1;
                }
                false => self.orphans.push_back(landing),
            }
        }
        self.bulk.reclaim();
    }

    /// Whether users hold what is to be looked at again soon.
    pub(crate) fn is_narrow(&self) -> bool {
        !self.orphans.is_empty()
    }

    /// The slots that are free go into the queue.
    pub(crate) fn post(&mut self) -> Result<(), DeviceError> {
        self.queue.post(&mut self.free)
    }
}
