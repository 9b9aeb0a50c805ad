//! Two endpoints in one thread, joined by a transport that is a pair of queues.
//!
//! # Not here
//! Transports that are some: they have a suite of their own.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use epicserver_link::driver::{Completion, Form};
use epicserver_link::pool::HeapPool;
use epicserver_link::{Address, Down, Event, Io, Parcel, Refused, Transport};
use epicserver_proto::link as machine;
use epicserver_proto::session::Window;
use epicserver_wire::frame::Frame;
use epicserver_wire::{LinkId, NodeId, Time};

use super::wires::ORDERS_MAX;
use super::{Endpoint, IoMode, IoOptions, Order, Report, Wires};
use crate::driver::tests::forms;
use crate::park::{Parker, Unparker, parker};

/// Rounds in which a handshake is over.
const ROUNDS: usize = 20;

/// Times that an endpoint is woken.
const TURNS: u32 = 1_000;
/// How long a wait lasts that nothing ends.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the two ends know a connection by: who has dialled it, and as which link.
type Name = (usize, LinkId);

enum Said {
    Dialled,
    Bytes(Vec<u8>),
    Closed,
}

/// What is under way to each end.
type Mail = Arc<Mutex<[VecDeque<(Name, Said)>; 2]>>;

struct Pipe {
    me: usize,
    mail: Mail,
    links: BTreeMap<LinkId, Name>,
}

impl Pipe {
    fn mail(&self) -> MutexGuard<'_, [VecDeque<(Name, Said)>; 2]> {
        self.mail.lock().unwrap()
    }

    fn say(&self, name: Name, said: Said) {
        self.mail()[1 - self.me].push_back((name, said));
    }

    fn up(&mut self, io: &mut Io<'_>, link: LinkId, name: Name) {
        self.links.insert(link, name);
        let (accepted, peer) = (name.0 != self.me, Address::new("pipe", "peer"));
        io.events.push(Event::Up { link, accepted, peer, slots: HeapPool::new(16, 4096) });
    }

    fn heard(&mut self, io: &mut Io<'_>, name: Name, said: Said) {
        if let Said::Dialled = said {
            let link = io.new_link();
            return self.up(io, link, name);
        }
        let Some(link) = self.links.iter().find(|(_, known)| **known == name).map(|(id, _)| *id)
        else {
            return;
        };
        match said {
            Said::Dialled => {}
            Said::Bytes(bytes) => {
                io.events.push(Event::Frame { link, frame: Frame::copy_of(&bytes) });
            }
            Said::Closed => {
                self.links.remove(&link);
                io.events.push(Event::Down { link, why: Down::There });
            }
        }
    }
}

impl Transport for Pipe {
    fn name(&self) -> &'static str {
        "pipe"
    }

    fn addresses(&self) -> Vec<Address> {
        vec![Address::new("pipe", "here")]
    }

    fn dial(&mut self, io: &mut Io<'_>, link: LinkId, _: &Address) -> Result<(), Refused> {
        let name = (self.me, link);
        self.say(name, Said::Dialled);
        self.up(io, link, name);
        Ok(())
    }

    fn submit(&mut self, _: &mut Io<'_>, link: LinkId, parcel: Parcel) -> Result<(), Parcel> {
        let Some(name) = self.links.get(&link) else { return Err(parcel) };
        let body = parcel.body.as_ref().map_or(&[][..], Frame::bytes);
        self.say(*name, Said::Bytes([parcel.head.bytes(), body].concat()));
        Ok(())
    }

    fn flush(&mut self, _: &mut Io<'_>) {}

    fn complete(&mut self, _: &mut Io<'_>, _: Completion) {}

    fn poll(&mut self, io: &mut Io<'_>) -> bool {
        let mail = std::mem::take(&mut self.mail()[self.me]);
        let any = !mail.is_empty();
        for (name, said) in mail {
            self.heard(io, name, said);
        }
        any
    }

    fn arm(&mut self, _: &mut Io<'_>) -> bool {
        self.mail()[self.me].is_empty()
    }

    fn deadline(&self) -> Option<Time> {
        None
    }

    fn close(&mut self, io: &mut Io<'_>, link: LinkId) {
        if let Some(name) = self.links.remove(&link) {
            self.say(name, Said::Closed);
            io.events.push(Event::Down { link, why: Down::Here });
        }
    }
}

struct End {
    endpoint: Endpoint,
    wires: Arc<Wires>,
    parker: Parker,
    unparker: Unparker,
}

impl End {
    fn new(me: usize, mail: &Mail, form: Form) -> Self {
        Self::with_key(me, mail, form, 7)
    }

    fn with_key(me: usize, mail: &Mail, form: Form, key: u8) -> Self {
        let identity = machine::Config {
            fabric: "test".to_owned(),
            key: machine::FabricKey([key; 32]),
            node: node(me),
            shards: 1,
            window: Window::DEFAULT,
            offer: machine::Offer::default(),
            handshake: machine::HANDSHAKE,
            keep_alive: machine::KEEP_ALIVE,
            silent: machine::SILENT,
        };
        let mail = Arc::clone(mail);
        let options = IoOptions {
            mode: IoMode::Fused,
            driver: Some(form),
            bulk_bytes: usize::MAX,
            identity,
            transports: Box::new(move |_| {
                Ok(vec![Box::new(Pipe { me, mail, links: BTreeMap::new() })])
            }),
        };
        let (parker, unparker) = parker().unwrap();
        let wires = Wires::new(unparker.clone());
        let opened = Endpoint::open(options, Vec::new(), Arc::clone(&wires), (&parker, Time::ZERO));
        Self { endpoint: opened.unwrap(), wires, parker, unparker }
    }

    fn dial(&self) {
        assert!(self.wires.order(Order::Dial(Address::new("pipe", "there"))));
    }

    /// What it has reported of links, and how each that went did so.
    fn reports(&self) -> (usize, Vec<Down>) {
        let (mut ups, mut downs) = (0, Vec::new());
        while let Some(report) = self.wires.report() {
            match report {
                Report::Up { .. } => ups += 1,
                Report::Down { why, .. } => downs.push(why),
                Report::Listening(_) | Report::Control { .. } | Report::Unreachable { .. } => {}
            }
        }
        (ups, downs)
    }
}

/// The node of each end; the first has the smaller id.
fn node(me: usize) -> NodeId {
    NodeId::new(1 + me as u64)
}

fn pair() -> [End; 2] {
    let mail = Mail::default();
    [End::new(0, &mail, Form::Epoll), End::new(1, &mail, Form::Epoll)]
}

fn go_round(ends: &mut [End; 2]) {
    for round in 0..ROUNDS {
        let now = Time::ZERO + Duration::from_millis(round as u64);
        for end in ends.iter_mut() {
            end.endpoint.round(now);
        }
    }
}

/// The link by which each end reaches the other, as both know it.
fn kept(ends: &[End; 2]) -> Vec<Option<LinkId>> {
    let other = |(me, end): (usize, &End)| end.endpoint.links.of_node(node(1 - me));
    ends.iter().enumerate().map(other).collect()
}

#[test]
fn h10_of_two_links_from_both_ends_one_is_kept_and_no_end_takes_the_other_for_gone() {
    // Who dials when the first link is there, or both at once.
    for (first, second) in [(&[1][..], &[0][..]), (&[0], &[1]), (&[0, 1], &[])] {
        let mut ends = pair();
        for dials in [first, second] {
            dials.iter().for_each(|me: &usize| ends[*me].dial());
            go_round(&mut ends);
        }
        let kept = kept(&ends);
        assert!(kept.iter().all(Option::is_some), "{first:?}, {second:?}: {kept:?}");
        for end in &ends {
            assert_eq!(end.endpoint.links.ids().len(), 1, "one link is left");
            let (ups, downs) = end.reports();
            assert_eq!(ups, downs.len() + 1, "it is linked in the end");
            let gone = |why: &Down| matches!(why, Down::Here | Down::There);
            assert!(!downs.iter().any(gone), "{first:?}, {second:?}: {downs:?}");
        }
    }
}

#[test]
fn h10_a_link_that_is_established_stays_when_its_node_is_dialled_once_more() {
    for (first, second) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let mut ends = pair();
        ends[first].dial();
        go_round(&mut ends);
        let before = kept(&ends);
        ends[second].dial();
        go_round(&mut ends);
        assert_eq!(kept(&ends), before);
        assert_eq!(before.iter().flatten().count(), 2);
        for end in &ends {
            assert_eq!(end.reports(), (1, Vec::new()), "first {first}, then {second}");
            assert_eq!(end.wires.refused(machine::Refusal::Duplicate), 1);
        }
    }
}

#[test]
fn control_threads_hear_each_other_over_a_link_and_nobody_else() {
    let mut ends = pair();
    let say = |ends: &[End; 2], to: usize| {
        let order = Order::Say { node: node(to), bytes: b"hello".to_vec() };
        assert!(ends[1 - to].wires.order(order));
    };
    say(&ends, 1);
    go_round(&mut ends);
    ends[0].dial();
    go_round(&mut ends);
    say(&ends, 0);
    say(&ends, 1);
    go_round(&mut ends);
    for (me, end) in ends.iter().enumerate() {
        let heard = std::iter::from_fn(|| end.wires.report()).filter_map(|report| match report {
            Report::Control { node, bytes } => Some((node, bytes)),
            Report::Listening(_)
            | Report::Up { .. }
            | Report::Down { .. }
            | Report::Unreachable { .. } => None,
        });
        assert_eq!(heard.collect::<Vec<_>>(), [(node(1 - me), b"hello".to_vec())]);
    }
}

#[test]
fn a_peer_with_another_key_is_counted_at_both_ends_and_told_apart_from_one_that_is_not_there() {
    let mail = Mail::default();
    let mut ends = [End::new(0, &mail, Form::Epoll), End::with_key(1, &mail, Form::Epoll, 8)];
    ends[0].dial();
    go_round(&mut ends);
    for end in &ends {
        let counts = machine::Refusal::ALL.map(|why| end.wires.refused(why));
        assert_eq!(counts, [0, 0, 1, 0, 0, 0]);
    }
    let reports = || std::iter::from_fn(|| ends[0].wires.report());
    let refused = reports().find_map(|report| match report {
        Report::Unreachable { refused, .. } => Some(refused),
        Report::Listening(_) | Report::Up { .. } | Report::Down { .. } | Report::Control { .. } => {
            None
        }
    });
    assert_eq!(refused, Some(Some(machine::Refusal::Key)));
}

#[test]
fn a_node_that_is_over_loses_its_link_and_gets_no_other_until_it_is_another_one() {
    let mut ends = pair();
    ends[0].dial();
    go_round(&mut ends);
    assert!(ends[0].wires.order(Order::Ban(node(1))));
    go_round(&mut ends);
    for dials in [0, 1] {
        ends[dials].dial();
        go_round(&mut ends);
        assert_eq!(kept(&ends), [None, None]);
    }
    assert_eq!(ends[1].wires.refused(machine::Refusal::Ended), 3);
    assert!(ends[1].wires.order(Order::Become(node(7))));
    ends[1].dial();
    go_round(&mut ends);
    assert!(ends[0].endpoint.links.of_node(node(7)).is_some());
}

/// Lets `end` wait while `has_work`, and says whether something has ended that before its time was up.
fn ends(end: &mut End, has_work: impl FnOnce() -> bool) -> bool {
    let began = Instant::now();
    end.endpoint.wait(&mut end.parker, (Time::ZERO, Some(PATIENCE)), has_work);
    began.elapsed() < PATIENCE
}

#[test]
fn h11_whoever_rings_after_the_flag_is_up_ends_the_wait() {
    for form in forms() {
        let mut end = End::new(0, &Mail::default(), form);
        let unparker = end.unparker.clone();
        for turn in 0..TURNS {
            let rings = || {
                unparker.unpark();
                false
            };
            assert!(ends(&mut end, rings), "{form}: turn {turn}");
            end.endpoint.round(Time::ZERO);
        }
    }
}

#[test]
fn h11_what_was_there_before_the_flag_was_up_prevents_the_wait() {
    let mail = Mail::default();
    let mut end = End::new(0, &mail, Form::Epoll);
    assert!(ends(&mut end, || true), "work of the thread's own");
    assert!(end.wires.order(Order::Close));
    assert!(ends(&mut end, || false), "an order");
    end.endpoint.round(Time::ZERO);
    for _ in 0..=ORDERS_MAX {
        let (address, why) = (Address::new("pipe", "there"), String::new());
        end.endpoint.reports.tell(Report::Unreachable { address, why, refused: None });
    }
    end.endpoint.reports.tell(Report::Down { node: node(1), why: Down::There });
    assert!(ends(&mut end, || false), "a report for which there is no room");
    end.reports();
    end.endpoint.round(Time::ZERO);
    mail.lock().unwrap()[0].push_back(((1, LinkId::new(0)), Said::Dialled));
    assert!(ends(&mut end, || false), "something that a transport has");
}
