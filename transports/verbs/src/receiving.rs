//! What one end of a link receives: messages where the device put them, and bodies that it reads.
//!
//! # Invariants
//! - **RV1** What came is handed up in the order in which it was sent; what came behind a body waits until that was
//!   read.
//! - **RV2** A slot lies in the queue again only when nobody has a frame of it.
//! - **RV3** At most so many reads are under way as the peer answers at a time. Memory for a body that is longer
//!   than a place is taken as its pieces come.
//!
//! # Not here
//! The slots of others; how a body comes to be announced.

use std::collections::VecDeque;
use std::sync::Arc;

use epicserver_link::Event;
use epicserver_link::buffers::Buffers;
use epicserver_wire::LinkId;
use epicserver_wire::frame::{FRAME_ALIGN, Frame, FrameMut, Shared};
use epicserver_wire::header::Violation;
use epicserver_wire::rkyv::util::AlignedVec;

use crate::announce::{ANNOUNCEMENT_BYTES, Announcement, only_whole, unfinished};
use crate::bulk::{Bulk, LARGE_BYTES, PIECE_BYTES};
use crate::device::{DeviceError, Landing, Pair};
use crate::window::Allowed;
use crate::word::{Kind, Word};

/// Slots that are looked at in one round, whether they are free again.
const LOOKS: usize = 64;
/// Requests that reads leave to others.
const REQUESTS_SPARE: usize = 4;

/// Something that came and may have to wait for what came before.
#[derive(Debug)]
enum Arrived {
    Frame(Frame),
    /// A body, once it was read.
    Body(Option<Frame>),
    Last,
}

/// A piece that is to be read.
#[derive(Debug)]
struct Wanted {
    announcement: Announcement,
    /// Of the first piece of a body: the beginning of its message, and how long that is.
    start: Option<(Frame, usize)>,
}

impl Wanted {
    /// How long the beginning is, if the whole message comes to lie in one place.
    fn in_place(&self) -> Option<usize> {
        let (start, len) = self.start.as_ref()?;
        (self.announcement.left == 0 && *len <= LARGE_BYTES).then_some(start.len())
    }
}

/// A message that is joined.
#[derive(Debug)]
struct Joining {
    bytes: AlignedVec<FRAME_ALIGN>,
    total: usize,
}

/// What a link's other half, and what all links share, are to it while something comes.
pub(crate) struct Around<'a> {
    pub(crate) link: LinkId,
    pub(crate) bulk: &'a mut Bulk,
    /// Memory for what is copied out of slots.
    pub(crate) copies: &'a mut Buffers,
    pub(crate) events: &'a mut Vec<Event>,
    /// Slots that are free.
    pub(crate) free: &'a mut Vec<Landing>,
}

/// The receiving half of a link.
#[derive(Debug)]
pub(crate) struct Receiving {
    pub(crate) allowed: Allowed,
    /// Slots that were filled.
    held: VecDeque<Landing>,
    order: VecDeque<Arrived>,
    wanted: VecDeque<Wanted>,
    reading: VecDeque<(u64, Wanted)>,
    reads_max: usize,
    /// Bytes of a body of which further pieces are to be announced.
    unannounced: usize,
    joining: Option<Joining>,
    /// Nothing is handed up any more.
    deaf: bool,
    /// The peer has said its last.
    ended: bool,
}

impl Receiving {
    /// From a peer that may send `window` messages, and answers `reads` reads at a time.
    pub(crate) fn new(window: u16, reads: u8) -> Self {
        Self {
            allowed: Allowed::new(window),
            held: VecDeque::new(),
            order: VecDeque::new(),
            wanted: VecDeque::new(),
            reading: VecDeque::new(),
            reads_max: usize::from(reads.max(1)),
            unannounced: 0,
            joining: None,
            deaf: false,
            ended: false,
        }
    }

    /// Hands up nothing more: this end has closed the link.
    pub(crate) fn deafen(&mut self) {
        self.deaf = true;
        self.order.clear();
        for _ in self.wanted.drain(..) {
            self.allowed.was_read();
        }
    }

    /// Whether the peer has said its last, and all before it was handed up.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether the peer may soon have to wait for what is still used here.
    pub(crate) fn is_narrow(&self) -> bool {
        self.allowed.is_narrow() || !self.wanted.is_empty()
    }

    /// The slots that were filled and are not free yet.
    pub(crate) fn into_held(self) -> VecDeque<Landing> {
        self.held
    }

    /// A message of `bytes` bytes with `word` beside it came into `landing`.
    ///
    /// # Errors
    /// If no sound peer sends it now.
    pub(crate) fn came(
        &mut self,
        around: &mut Around<'_>,
        landing: Landing,
        (bytes, word): (usize, Word),
    ) -> Result<(), Violation> {
        self.allowed.came(word.kind)?;
        match word.kind {
            Kind::Word | Kind::Last if bytes > 0 => {
                Err(Violation::Unexpected("a word with something behind it"))
            }
            Kind::Word => {
                around.free.push(landing);
                Ok(())
            }
            Kind::Last => {
                around.free.push(landing);
                self.arrived(around, Arrived::Last);
                Ok(())
            }
            Kind::Messages => self.messages(around, landing, bytes),
            Kind::Announcement => self.announced(around, landing, bytes),
        }
    }

    fn messages(
        &mut self,
        around: &mut Around<'_>,
        landing: Landing,
        bytes: usize,
    ) -> Result<(), Violation> {
        let frame = landing.frame(0, bytes).ok_or(Violation::Truncated)?;
        only_whole(frame.bytes())?;
        let frame = self.spare(around, frame);
        self.held.push_back(landing);
        self.arrived(around, Arrived::Frame(frame));
        Ok(())
    }

    /// Where users hold so many slots that the peer may have to wait, what comes is copied out.
    fn spare(&self, around: &mut Around<'_>, frame: Frame) -> Frame {
        if !self.allowed.is_narrow() || self.deaf {
            return frame;
        }
        let Some(mut buffer) = around.copies.take() else { return frame };
        let memory = Arc::get_mut(&mut buffer).map(Shared::bytes_mut).unwrap_or_default();
        let room = memory.get_mut(..frame.len());
        let copied = room.map(|room| room.copy_from_slice(frame.bytes()));
        let copy = copied.and_then(|()| Frame::new(Arc::clone(&buffer), 0, frame.len()));
        around.copies.give(buffer);
        copy.unwrap_or(frame)
    }

    fn announced(
        &mut self,
        around: &mut Around<'_>,
        landing: Landing,
        bytes: usize,
    ) -> Result<(), Violation> {
        let message = landing.frame(0, bytes).ok_or(Violation::Truncated)?;
        let (head, announcement) = Announcement::split(message.bytes())?;
        let (len, left) = (announcement.len as usize, announcement.left as usize);
        if len > PIECE_BYTES {
            return Err(Violation::Unexpected("a piece of a body that is too long"));
        }
        let mut start = None;
        if self.unannounced > 0 {
            if !head.is_empty() || len + left != self.unannounced {
                return Err(Violation::Unexpected("a piece that does not fit its body"));
            }
        } else {
            let (at, total) = unfinished(head, len + left)?;
            if let Some(whole) = message.slice(0, at).filter(|whole| !whole.is_empty()) {
                self.arrived(around, Arrived::Frame(whole));
            }
            start = message.slice(at, bytes - ANNOUNCEMENT_BYTES).map(|start| (start, total));
            self.arrived(around, Arrived::Body(None));
        }
        self.unannounced = left;
        self.held.push_back(landing);
        match self.deaf {
            true => self.allowed.was_read(),
            false => self.wanted.push_back(Wanted { announcement, start }),
        }
        Ok(())
    }

    /// Something came: it is handed up, or waits (**RV1**).
    fn arrived(&mut self, around: &mut Around<'_>, what: Arrived) {
        if self.deaf && !matches!(what, Arrived::Last) {
            return;
        }
        self.order.push_back(what);
        self.hand_up(around);
    }

    fn hand_up(&mut self, around: &mut Around<'_>) {
        let link = around.link;
        loop {
            match self.order.pop_front() {
                Some(Arrived::Frame(frame) | Arrived::Body(Some(frame))) => {
                    around.events.push(Event::Frame { link, frame });
                }
                Some(Arrived::Last) if self.wanted.is_empty() && self.reading.is_empty() => {
                    self.ended = true;
                }
                Some(waits @ (Arrived::Body(None) | Arrived::Last)) => {
                    return self.order.push_front(waits);
                }
                None => return,
            }
        }
    }

    /// Reads what there is room for (**RV3**). Says whether that was anything.
    pub(crate) fn read(&mut self, pair: &mut Pair, bulk: &mut Bulk) -> Result<bool, DeviceError> {
        let mut any = false;
        while let Some(wanted) = self.wanted.pop_front() {
            if self.reading.len() >= self.reads_max || pair.room() <= REQUESTS_SPARE {
                self.wanted.push_front(wanted);
                break;
            }
            let len = wanted.announcement.len as usize;
            let start = wanted.in_place().unwrap_or(0);
            let Some(mut landing) = bulk.take(start + len)? else {
                self.wanted.push_front(wanted);
                break;
            };
            if let (Some((frame, _)), Some(memory)) = (&wanted.start, landing.bytes_mut()) {
                let beginning = frame.bytes().iter().take(start);
                memory.iter_mut().zip(beginning).for_each(|(to, byte)| *to = *byte);
            }
            let place = (wanted.announcement.address, wanted.announcement.rkey);
            let number = pair.read(place, landing, (start, len))?;
            self.reading.push_back((number, wanted));
            any = true;
        }
        Ok(any)
    }

    /// The read called `number` is done, into `landing`.
    pub(crate) fn was_read(&mut self, around: &mut Around<'_>, number: u64, landing: Landing) {
        let Some((_, wanted)) = self.reading.pop_front_if(|(reading, _)| *reading == number) else {
            return around.bulk.give(landing);
        };
        self.allowed.was_read();
        let whole = match (wanted.in_place().is_some(), self.deaf) {
            (_, true) => {
                around.bulk.give(landing);
                None
            }
            (true, false) => {
                let total = wanted.start.map_or(0, |(_, total)| total);
                around.bulk.hand_up(landing, total)
            }
            (false, false) => self.join(around, wanted, landing),
        };
        if let Some(frame) = whole {
            let first = self.order.iter_mut().find_map(|arrived| match arrived {
                Arrived::Body(body @ None) => Some(body),
                Arrived::Body(Some(_)) | Arrived::Frame(_) | Arrived::Last => None,
            });
            if let Some(body) = first {
                *body = Some(frame);
            }
        }
        self.hand_up(around);
    }

    /// Adds a piece to the message that it is of, and gives that if it was the last.
    fn join(&mut self, around: &mut Around<'_>, wanted: Wanted, landing: Landing) -> Option<Frame> {
        if let Some((start, total)) = wanted.start {
            let mut bytes = AlignedVec::new();
            bytes.extend_from_slice(start.bytes());
            self.joining = Some(Joining { bytes, total });
        }
        let piece = landing.frame(0, wanted.announcement.len as usize);
        if let (Some(joining), Some(piece)) = (&mut self.joining, piece) {
            let len = joining.bytes.len() + piece.len();
            if len > joining.bytes.capacity() {
                // RV3: as much as has come, once more.
                let wanted = joining.total.min(2 * len);
                joining.bytes.reserve_exact(wanted - joining.bytes.len());
            }
            joining.bytes.extend_from_slice(piece.bytes());
        }
        around.bulk.give(landing);
        let whole = self.joining.take_if(|joining| joining.bytes.len() >= joining.total)?;
        Some(FrameMut::holding(whole.bytes).freeze())
    }

    /// Looks which slots are free again (**RV2**): they are to lie in the queue before the peer is told.
    pub(crate) fn reclaim(&mut self, free: &mut Vec<Landing>) {
        for _ in 0..self.held.len().min(LOOKS) {
            let Some(mut landing) = self.held.pop_front() else { return };
            match landing.is_free() {
                true => {
                    free.push(landing);
                    self.allowed.freed(1);
                }
                false => self.held.push_back(landing),
            }
        }
    }
}
