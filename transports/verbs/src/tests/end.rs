//! An end that a test drives by hand.

use std::sync::Arc;
use std::time::Duration;

use epicserver_link::driver::{Completion, Driver, Form, Owner};
use epicserver_link::{Address, Down, Event, Io, Parcel, Transport as _};
use epicserver_wire::frame::{Frame, FrameMut, Slots};
use epicserver_wire::header::{Header, Kind, append, append_head};
use epicserver_wire::{LinkId, ShardId, Time};

use super::fake;
use crate::{Config, Key, Verbs};

/// Rounds in which whatever comes has come.
const ROUNDS: usize = 200;

pub(super) fn config() -> Config {
    let addresses = vec!["127.0.0.1:0".parse().unwrap()];
    Config { addresses, key: Key([3; 32]), ..Config::default() }
}

pub(super) struct End {
    pub(super) verbs: Verbs,
    driver: Box<dyn Driver>,
    events: Vec<Event>,
    done: Vec<Completion>,
    next_link: u32,
    pub(super) now: Time,
    pub(super) slots: Option<Arc<dyn Slots>>,
    pub(super) up: Vec<LinkId>,
    pub(super) frames: Vec<Frame>,
    pub(super) down: Vec<(LinkId, Down)>,
}

impl End {
    pub(super) fn new(config: Config) -> Self {
        let mut driver = epicserver_shard::driver::open(Some(Form::Epoll)).unwrap();
        let (mut events, mut next_link, now) = (Vec::new(), 0, Time::from_nanos(1));
        let mut io =
            Io { now, driver: &mut *driver, events: &mut events, next_link: &mut next_link };
        let verbs = Verbs::listen_by(&fake::library(), Owner(0), config, &mut io).unwrap();
        Self {
            verbs,
            driver,
            events,
            done: Vec::new(),
            next_link,
            now,
            slots: None,
            up: Vec::new(),
            frames: Vec::new(),
            down: Vec::new(),
        }
    }

    pub(super) fn with<R>(&mut self, call: impl FnOnce(&mut Verbs, &mut Io<'_>) -> R) -> R {
        let mut io = Io {
            now: self.now,
            driver: &mut *self.driver,
            events: &mut self.events,
            next_link: &mut self.next_link,
        };
        call(&mut self.verbs, &mut io)
    }

    pub(super) fn address(&self) -> Address {
        self.verbs.addresses().remove(0)
    }

    pub(super) fn dial(&mut self, to: &Address) -> LinkId {
        let link = LinkId::new(self.next_link);
        self.next_link += 1;
        self.with(|verbs, io| verbs.dial(io, link, to)).unwrap();
        link
    }

    pub(super) fn round(&mut self) {
        self.driver.wait(Some(Duration::ZERO), &mut self.done).unwrap();
        for completion in std::mem::take(&mut self.done) {
            self.with(|verbs, io| verbs.complete(io, completion));
        }
        self.with(|verbs, io| verbs.poll(io));
        self.with(|verbs, io| verbs.flush(io));
        for event in std::mem::take(&mut self.events) {
            match event {
                Event::Up { link, slots, .. } => {
                    self.up.push(link);
                    self.slots = Some(slots);
                }
                Event::Frame { frame, .. } => self.frames.push(frame),
                Event::Room { .. } => {}
                Event::Down { link, why } => self.down.push((link, why)),
            }
        }
    }

    /// Submits `parcel` once there is room.
    pub(super) fn submit(&mut self, link: LinkId, parcel: Parcel) {
        self.with(|verbs, io| verbs.submit(io, link, parcel)).unwrap();
    }

    /// A message with a payload of `len` bytes, in a slot.
    pub(super) fn message(&self, len: usize) -> Parcel {
        let mut slot = Arc::clone(self.slots.as_ref().unwrap()).reserve().unwrap();
        assert!(append(&mut slot, &header(), &vec![5; len]));
        Parcel::of(slot)
    }

    /// A message whose payload, a multiple of 16, lies elsewhere.
    pub(super) fn body(&self, len: usize) -> Parcel {
        let mut head = Arc::clone(self.slots.as_ref().unwrap()).reserve().unwrap();
        assert!(append_head(&mut head, &header(), len));
        let mut body = FrameMut::detached(len);
        assert!(body.extend(&vec![5; len]));
        Parcel { head, body: Some(body.freeze()) }
    }
}

pub(super) fn header() -> Header {
    Header::new(Kind::Reply, ShardId::new(0), ShardId::new(0))
}

/// Rounds of both, until nothing can be left to do.
pub(super) fn settle(ends: &mut [&mut End]) {
    for _ in 0..ROUNDS {
        ends.iter_mut().for_each(|end| end.round());
    }
}

/// Two ends and the numbers of their link.
pub(super) fn joined(near: Config, far: Config) -> (End, End, [LinkId; 2]) {
    let (mut near, mut far) = (End::new(near), End::new(far));
    let link = near.dial(&far.address());
    settle(&mut [&mut near, &mut far]);
    assert_eq!(near.up, [link], "{:?}", near.down);
    let other = far.up[0];
    (near, far, [link, other])
}
