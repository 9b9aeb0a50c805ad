//! One end: a transport driven as an I/O thread drives it, and watched.
//!
//! # Not here
//! The other end.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use epicserver_wire::frame::{Frame, FrameMut, Slots};
use epicserver_wire::{LinkId, Time};

use super::Seat;
use super::message::Reader;
use crate::driver::Completion;
use crate::{Address, Down, Event, Io, Parcel, Refused, Transport};

/// Slots that are counted at most.
const SLOTS_COUNTED_MAX: usize = 1 << 14;

/// What one end has seen of a link.
pub(super) struct Seen {
    dialled: Option<Address>,
    pub(super) up: bool,
    pub(super) down: Option<Down>,
    slots: Option<Arc<dyn Slots>>,
    lender: Option<Weak<dyn Slots>>,
    pub(super) reader: Reader,
    pub(super) rooms: usize,
    /// How many frames are held instead of dropped, and those that are, each with what it had at first.
    pub(super) hold: usize,
    pub(super) held: Vec<(Frame, Vec<u8>)>,
}

impl Seen {
    fn new(dialled: Option<Address>) -> Self {
        Self {
            dialled,
            up: false,
            down: None,
            slots: None,
            lender: None,
            reader: Reader::default(),
            rooms: 0,
            hold: 0,
            held: Vec::new(),
        }
    }

    /// Whether it can be used.
    pub(super) fn is_up(&self) -> bool {
        self.up && self.down.is_none()
    }

    /// What lends its slots, while it is up.
    pub(super) fn slots(&self) -> Option<&Arc<dyn Slots>> {
        self.slots.as_ref()
    }

    /// What lent its slots, if anybody still has it.
    pub(super) fn lender(&self) -> Option<Arc<dyn Slots>> {
        self.lender.as_ref()?.upgrade()
    }
}

/// Slots that are free.
pub(super) fn free_slots(slots: &Arc<dyn Slots>) -> usize {
    let mut taken: Vec<FrameMut> = Vec::new();
    while taken.len() < SLOTS_COUNTED_MAX {
        let Some(slot) = Arc::clone(slots).reserve() else { return taken.len() };
        assert!(slot.is_empty(), "T4: a slot that was lent holds something");
        taken.push(slot);
    }
    panic!("T4: more than {SLOTS_COUNTED_MAX} slots are lent")
}

/// One end.
pub(super) struct End {
    seat: Seat,
    events: Vec<Event>,
    done: Vec<Completion>,
    next_link: u32,
    now: Time,
    pub(super) links: BTreeMap<LinkId, Seen>,
}

impl End {
    pub(super) fn new(seat: Seat) -> Self {
        let (events, done) = (Vec::new(), Vec::new());
        let (now, links) = (Time::from_nanos(1), BTreeMap::new());
        Self { seat, events, done, next_link: 1, now, links }
    }

    /// What is left of it when it is killed.
    pub(super) fn into_seat(self) -> Seat {
        self.seat
    }

    fn with<R>(&mut self, call: impl FnOnce(&mut dyn Transport, &mut Io<'_>) -> R) -> R {
        let mut io = Io {
            now: self.now,
            driver: &mut *self.seat.driver,
            events: &mut self.events,
            next_link: &mut self.next_link,
        };
        call(&mut *self.seat.transport, &mut io)
    }

    pub(super) fn name(&self) -> &'static str {
        self.seat.transport.name()
    }

    /// Where it can be reached.
    pub(super) fn address(&self) -> Address {
        let mut addresses = self.seat.transport.addresses();
        assert!(!addresses.is_empty(), "a transport that listens has an address");
        addresses.remove(0)
    }

    pub(super) fn waker(&self) -> Arc<dyn crate::driver::Wake> {
        self.seat.driver.waker()
    }

    /// Dials `to`, and says which link it is.
    pub(super) fn dial(&mut self, to: &Address) -> Result<LinkId, Refused> {
        let link = LinkId::new(self.next_link);
        self.next_link += 1;
        self.with(|transport, io| transport.dial(io, link, to))?;
        self.links.insert(link, Seen::new(Some(to.clone())));
        Ok(link)
    }

    pub(super) fn submit(&mut self, link: LinkId, parcel: Parcel) -> Result<(), Parcel> {
        self.with(|transport, io| transport.submit(io, link, parcel))
    }

    pub(super) fn close(&mut self, link: LinkId) {
        self.with(|transport, io| transport.close(io, link));
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.seat.transport.deadline()
    }

    /// So much time passes (**Y1**).
    pub(super) fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
    }

    /// The time is that of the transport's next deadline, if it has one (**Y1**).
    pub(super) fn skip(&mut self) {
        self.now = self.deadline().map_or(self.now, |deadline| deadline.max(self.now));
    }

    /// One round of the loop. Says whether anything happened.
    pub(super) fn round(&mut self) -> bool {
        if let Err(error) = self.seat.driver.poll(&mut self.done) {
            panic!("the driver failed: {error}");
        }
        let mut busy = !self.done.is_empty();
        for completion in std::mem::take(&mut self.done) {
            self.with(|transport, io| transport.complete(io, completion));
        }
        busy |= self.with(|transport, io| transport.poll(io));
        self.with(|transport, io| transport.flush(io));
        busy | self.digest()
    }

    /// Whether it may wait in its driver.
    pub(super) fn arm(&mut self) -> bool {
        self.with(|transport, io| transport.arm(io)) && !self.digest()
    }

    /// Waits in the driver, whether armed or not.
    pub(super) fn wait(&mut self, timeout: Duration) {
        if let Err(error) = self.seat.driver.wait(Some(timeout), &mut self.done) {
            panic!("the driver failed: {error}");
        }
    }

    fn digest(&mut self) -> bool {
        let busy = !self.events.is_empty();
        for event in std::mem::take(&mut self.events) {
            match event {
                Event::Up { link, accepted, peer, slots } => {
                    self.is_up(link, accepted, &peer, slots);
                }
                Event::Frame { link, frame } => self.came(link, frame),
                Event::Room { link } => self.living(link, "room was said").rooms += 1,
                Event::Down { link, why } => self.is_down(link, why),
            }
        }
        busy
    }

    fn is_up(&mut self, link: LinkId, accepted: bool, peer: &Address, slots: Arc<dyn Slots>) {
        assert_eq!(peer.scheme(), self.name(), "the peer's address is of another transport");
        let bytes = slots.slot_bytes();
        assert!(bytes >= 64 && bytes.is_multiple_of(16), "slots of {bytes} bytes");
        if accepted {
            let known = self.links.insert(link, Seen::new(None)).is_some();
            assert!(!known, "{link:?} was accepted, and had been there before");
            assert!(link.serial() < self.next_link, "{link:?} is no number of this end's");
        }
        let seen = self.known(link, "it came up");
        assert!(seen.down.is_none(), "T3: {link:?} came up after it was down");
        assert!(!seen.up, "{link:?} came up twice");
        assert_eq!(seen.dialled.is_none(), accepted, "{link:?} is not as it began");
        if let Some(dialled) = &seen.dialled {
            assert_eq!(peer, dialled, "the peer is where it was dialled");
        }
        seen.up = true;
        seen.lender = Some(Arc::downgrade(&slots));
        seen.slots = Some(slots);
    }

    fn came(&mut self, link: LinkId, frame: Frame) {
        let seen = self.living(link, "a frame came");
        seen.reader.frame(&frame);
        if seen.held.len() < seen.hold {
            let bytes = frame.bytes().to_vec();
            seen.held.push((frame, bytes));
        }
    }

    fn is_down(&mut self, link: LinkId, why: Down) {
        let seen = self.known(link, "it went down");
        assert!(seen.down.is_none(), "T3: {link:?} was down twice: {:?}, {why:?}", seen.down);
        seen.down = Some(why);
        seen.slots = None;
    }

    fn known(&mut self, link: LinkId, what: &str) -> &mut Seen {
        match self.links.get_mut(&link) {
            Some(seen) => seen,
            None => panic!("{link:?} was neither dialled nor accepted, and {what}"),
        }
    }

    fn living(&mut self, link: LinkId, what: &str) -> &mut Seen {
        let seen = self.known(link, what);
        assert!(seen.up, "{link:?} was not up, and {what}");
        assert!(seen.down.is_none(), "T3: {link:?} was down, and {what}");
        seen
    }

    /// What it has seen of `link`.
    pub(super) fn seen(&mut self, link: LinkId) -> &mut Seen {
        self.known(link, "somebody asked")
    }
}
