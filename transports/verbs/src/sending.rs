//! What one end of a link sends: messages from its slots, and bodies that the peer comes to read.
//!
//! A body is announced piece by piece. Each piece is registered, for the peer to read and for nobody to write, when
//! it is announced, and its registration is gone when the peer has read it; so what a peer can read at any time is
//! what it has been offered and has not fetched.
//!
//! # Invariants
//! - **SD1** What was submitted leaves in that order, each as one message or as one announcement after the other.
//! - **SD2** A piece stays registered, and its memory where it is, until the peer has read it or the queue pair is
//!   gone.
//!
//! # Not here
//! Doorbells and reports: those are the pair's.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use epicserver_link::Parcel;
use epicserver_link::pool::HeapPool;
use epicserver_wire::frame::{FRAME_ALIGN, Frame, FrameMut, Slots};
use epicserver_wire::header::{CORE_BYTES, extent};
use epicserver_wire::rkyv::util::AlignedVec;
use epicserver_wire::view::Slot;

use crate::announce::{ANNOUNCEMENT_BYTES, ANNOUNCEMENT_ROOM, Announcement};
use crate::bulk::PIECE_BYTES;
use crate::device::{DeviceError, Domain, Pair, Region, Registered, Span};
use crate::window::{Allowed, Credit, PIECES};
use crate::word::Kind;

/// Slots of one link.
const SLOTS_MAX: usize = 128;
/// Parcels that may wait to be sent. Few, since those that wait keep slots.
const WAITING_MAX: usize = 32;
/// Requests that parcels leave to what must be said beside them.
const REQUESTS_SPARE: usize = 8;

/// Something that waits to be sent.
#[derive(Debug)]
enum Item {
    Whole(FrameMut),
    /// A head that has not left, a body, and how much of it was announced.
    Long(Option<FrameMut>, Frame, usize),
}

/// Slots in memory that the device knows.
#[derive(Debug)]
struct Pool {
    slots: Arc<HeapPool>,
    span: Span,
}

impl Pool {
    fn new(domain: &Arc<Domain>, count: usize, bytes: usize) -> Result<Self, DeviceError> {
        let region = Region::new(count * bytes);
        let region = region.map_err(|source| DeviceError { call: "mmap", source })?;
        let (pieces, span) = Registered::writable(domain, region)?.cut(bytes);
        let slots = pieces.into_iter().take(count).map(|piece| Box::new(piece) as Box<dyn Slot>);
        Ok(Self { slots: HeapPool::holding(slots.collect(), bytes), span })
    }

    fn reserve(&self) -> Option<FrameMut> {
        (Arc::clone(&self.slots) as Arc<dyn Slots>).reserve()
    }
}

/// What users reserve slots from.
#[derive(Debug)]
pub(crate) struct LinkSlots(Arc<HeapPool>);

impl Slots for LinkSlots {
    fn slot_bytes(&self) -> usize {
        self.0.slot_bytes()
    }

    fn reserve(self: Arc<Self>) -> Option<FrameMut> {
        (Arc::clone(&self.0) as Arc<dyn Slots>).reserve()
    }

    fn give_back(&self, slot: Box<dyn Slot>) {
        self.0.give_back(slot);
    }

    fn body_bytes(&self) -> usize {
        PIECE_BYTES
    }
}

/// The sending half of a link.
#[derive(Debug)]
pub(crate) struct Sending {
    waiting: VecDeque<Item>,
    credit: Credit,
    pool: Pool,
    /// Where announcements are written.
    notes: Pool,
    slot_bytes: usize,
    /// SD2, in the order in which they are read.
    announced: VecDeque<Registered<Frame>>,
    /// A piece could not be registered before others are done with.
    short: bool,
    last_sent: bool,
    domain: Arc<Domain>,
}

impl Sending {
    /// To a peer that takes `window` messages, in slots of `slot_bytes`.
    pub(crate) fn new(
        domain: &Arc<Domain>,
        slot_bytes: usize,
        window: u16,
    ) -> Result<Self, DeviceError> {
        let slot_bytes = slot_bytes - ANNOUNCEMENT_ROOM;
        Ok(Self {
            waiting: VecDeque::new(),
            credit: Credit::new(window),
            pool: Pool::new(domain, SLOTS_MAX, slot_bytes)?,
            notes: Pool::new(domain, usize::from(PIECES), ANNOUNCEMENT_ROOM)?,
            slot_bytes,
            announced: VecDeque::new(),
            short: false,
            last_sent: false,
            domain: Arc::clone(domain),
        })
    }

    /// Where users reserve slots.
    pub(crate) fn slots(&self) -> Arc<dyn Slots> {
        Arc::new(LinkSlots(Arc::clone(&self.pool.slots)))
    }

    /// Whether somebody was refused a slot since this was asked last, and would not be now.
    pub(crate) fn has_slots_again(&self) -> bool {
        self.pool.slots.has_room_again()
    }

    pub(crate) fn credit(&mut self) -> &mut Credit {
        &mut self.credit
    }

    /// Takes `parcel` to be sent, unless so many wait that no more may.
    pub(crate) fn push(&mut self, parcel: Parcel) -> Result<(), Parcel> {
        if self.waiting.len() >= WAITING_MAX {
            return Err(parcel);
        }
        let Parcel { mut head, body } = parcel;
        match body {
            None if head.len() <= self.slot_bytes => self.waiting.push_back(Item::Whole(head)),
            None => self.push_long(&head.freeze()),
            Some(body) if head.len() + body.len() <= self.slot_bytes.min(head.capacity()) => {
                let fits = head.extend(body.bytes());
                debug_assert!(fits, "SD1: it was seen to fit");
                self.waiting.push_back(Item::Whole(head));
            }
            Some(body) if head.len() <= self.slot_bytes => {
                self.waiting.push_back(Item::Long(Some(head), body, 0));
            }
            Some(body) => {
                let mut bytes = AlignedVec::with_capacity(head.len() + body.len());
                bytes.extend_from_slice(head.bytes());
                bytes.extend_from_slice(body.bytes());
                self.push_long(&FrameMut::holding(bytes).freeze());
            }
        }
        Ok(())
    }

    /// Takes messages that lie in no slot of ours, such as a long handshake.
    fn push_long(&mut self, messages: &Frame) {
        let mut at = 0;
        while at < messages.len() {
            let rest = messages.bytes().get(at..).unwrap_or_default();
            let (head, len) = beginning(rest);
            let owned = |start: usize, end: usize| {
                let mut frame = FrameMut::detached(end - start);
                let fits = frame.extend(messages.bytes().get(start..end).unwrap_or_default());
                debug_assert!(fits, "SD1: it was made for them");
                frame
            };
            let body = messages.slice(at + head, at + len);
            match body.filter(|_| len > self.slot_bytes) {
                Some(body) => {
                    self.waiting.push_back(Item::Long(Some(owned(at, at + head)), body, 0));
                }
                None => self.waiting.push_back(Item::Whole(owned(at, at + len))),
            }
            at += len;
        }
    }

    /// Whether so few parcels wait that it is worth telling who was refused.
    pub(crate) fn has_room_again(&self) -> bool {
        self.waiting.len() <= WAITING_MAX / 2
    }

    /// Whether all that was submitted, and the last word if there was to be one, is with the device.
    pub(crate) fn is_finished(&self) -> bool {
        self.last_sent
    }

    /// The peer has read so many pieces.
    pub(crate) fn were_read(&mut self, pieces: u8) {
        self.short &= pieces == 0;
        // SD2.
        drop(self.announced.drain(..usize::from(pieces).min(self.announced.len())));
    }

    /// Stages what may be sent now, with what the peer is owed; then, if this is the end, the last word. Says
    /// whether that was anything.
    pub(crate) fn pump(
        &mut self,
        pair: &mut Pair,
        allowed: &mut Allowed,
        ending: bool,
    ) -> Result<bool, DeviceError> {
        let mut sent = false;
        while let Some(item) = self.waiting.pop_front() {
            match self.send(pair, allowed, item)? {
                Some(stays) => {
                    self.waiting.push_front(stays);
                    break;
                }
                None => sent = true,
            }
        }
        if ending && self.waiting.is_empty() && !self.last_sent && pair.room() > 0 {
            pair.send(allowed.word(Kind::Last).to_bits(), [None, None], true)?;
            self.last_sent = true;
            sent = true;
        }
        if allowed.is_due() && !self.last_sent && pair.room() > 0 {
            pair.send(allowed.word(Kind::Word).to_bits(), [None, None], false)?;
            sent = true;
        }
        pair.ring()?;
        Ok(sent)
    }

    /// Sends `item`, or gives back what of it cannot be sent now.
    fn send(
        &mut self,
        pair: &mut Pair,
        allowed: &mut Allowed,
        item: Item,
    ) -> Result<Option<Item>, DeviceError> {
        match item {
            Item::Whole(frame) => self.send_whole(pair, allowed, frame),
            Item::Long(mut head, body, mut at) => {
                while at < body.len() {
                    let end = body.len().min(at + PIECE_BYTES);
                    let Some(piece) = body.slice(at, end).filter(|_| !self.short) else { break };
                    let left = body.len() - end;
                    match self.announce(pair, allowed, (head.take(), piece, left))? {
                        Announced::Yes => at = end,
                        Announced::NotYet(stays) => {
                            head = stays;
                            break;
                        }
                    }
                }
                Ok((at < body.len()).then_some(Item::Long(head, body, at)))
            }
        }
    }

    fn may_send(&self, pair: &Pair, kind: Kind) -> bool {
        pair.room() > REQUESTS_SPARE && self.credit.allows(kind)
    }

    fn send_whole(
        &mut self,
        pair: &mut Pair,
        allowed: &mut Allowed,
        frame: FrameMut,
    ) -> Result<Option<Item>, DeviceError> {
        if !self.may_send(pair, Kind::Messages) {
            return Ok(Some(Item::Whole(frame)));
        }
        match self.at_home(pair, frame, 0) {
            Ok(frame) => {
                let outgoing = self.pool.span.outgoing(frame);
                self.credit.sent(Kind::Messages);
                pair.send(allowed.word(Kind::Messages).to_bits(), [Some(outgoing), None], false)?;
                Ok(None)
            }
            Err(frame) => Ok(Some(Item::Whole(frame))),
        }
    }

    /// `frame`, in a slot of ours unless it is short enough to be copied anyway, with so many bytes beside it; given
    /// back if no slot is free.
    fn at_home(&self, pair: &Pair, frame: FrameMut, beside: usize) -> Result<FrameMut, FrameMut> {
        let outgoing = self.pool.span.outgoing(frame);
        if outgoing.is_registered() || pair.is_inline(outgoing.len() + beside) {
            return Ok(outgoing.into_frame());
        }
        let frame = outgoing.into_frame();
        let Some(mut slot) = self.pool.reserve() else { return Err(frame) };
        if slot.extend(frame.bytes()) { Ok(slot) } else { Err(frame) }
    }

    fn announce(
        &mut self,
        pair: &mut Pair,
        allowed: &mut Allowed,
        (head, piece, left): (Option<FrameMut>, Frame, usize),
    ) -> Result<Announced, DeviceError> {
        if !self.may_send(pair, Kind::Announcement) {
            return Ok(Announced::NotYet(head));
        }
        let head = head.map(|head| self.at_home(pair, head, ANNOUNCEMENT_BYTES));
        let head = match head.transpose() {
            Ok(head) => head,
            Err(head) => return Ok(Announced::NotYet(Some(head))),
        };
        let Some(mut note) = self.notes.reserve() else { return Ok(Announced::NotYet(head)) };
        let len = u32::try_from(piece.len()).unwrap_or(0);
        let piece = match Registered::readable(&self.domain, piece) {
            Ok(piece) => piece,
            // What others take comes back.
            Err(error) if is_short(&error) && !self.announced.is_empty() => {
                self.short = true;
                return Ok(Announced::NotYet(head));
            }
            Err(error) => return Err(error),
        };
        let left = u32::try_from(left).unwrap_or(0);
        let (address, rkey) = (piece.address(), piece.rkey);
        let fits = note.extend(&Announcement { address, rkey, len, left }.to_bytes());
        debug_assert!(fits && note.len() == ANNOUNCEMENT_BYTES, "SD1: notes have room for one");
        self.announced.push_back(piece);
        self.credit.sent(Kind::Announcement);
        let head = head.map(|head| self.pool.span.outgoing(head));
        let parts = [head, Some(self.notes.span.outgoing(note))];
        pair.send(allowed.word(Kind::Announcement).to_bits(), parts, false)?;
        Ok(Announced::Yes)
    }
}

/// What became of a piece.
enum Announced {
    Yes,
    /// The head, if it has not left.
    NotYet(Option<FrameMut>),
}

/// Whether registering failed for want of memory that may be pinned.
fn is_short(error: &DeviceError) -> bool {
    error.source.kind() == io::ErrorKind::OutOfMemory
        || error.source.kind() == io::ErrorKind::WouldBlock
}

/// How much of the message at the beginning of `messages` tells its length, and that length.
fn beginning(messages: &[u8]) -> (usize, usize) {
    let mut head = CORE_BYTES;
    while head <= messages.len() {
        let told = extent(messages.get(..head).unwrap_or_default());
        if let Ok(Some(len)) = told {
            return (head, len.min(messages.len()));
        }
        head += FRAME_ALIGN;
    }
    unreachable!("SD1: what is submitted are whole messages")
}
