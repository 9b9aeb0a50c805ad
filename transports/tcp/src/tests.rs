//! Two ends over the loopback, each with a driver of its own.

mod in_place;

use super::*;
use epicserver_link::driver::{Driver, Form};
use epicserver_wire::ShardId;
use epicserver_wire::frame::FrameMut;
use epicserver_wire::header::{Glance, Header, Kind, append, append_head};
use std::io::Write;

struct End {
    driver: Box<dyn Driver>,
    tcp: Tcp,
    events: Vec<Event>,
    done: Vec<Completion>,
    next_link: u32,
    now: Time,
}

impl End {
    fn new(form: Form, listen: &str) -> Self {
        let mut driver = epicserver_shard::driver::open(Some(form)).unwrap();
        let (mut events, mut next_link) = (Vec::new(), 0);
        let now = Time::ZERO;
        let mut io =
            Io { now, driver: &mut *driver, events: &mut events, next_link: &mut next_link };
        let config = Config { addresses: vec![listen.parse().unwrap()], tls: None };
        let tcp = Tcp::listen(Owner(0), config, &mut io).unwrap();
        Self { driver, tcp, events, done: Vec::new(), next_link, now }
    }

    fn with<R>(&mut self, call: impl FnOnce(&mut Tcp, &mut Io<'_>) -> R) -> R {
        let mut io = Io {
            now: self.now,
            driver: &mut *self.driver,
            events: &mut self.events,
            next_link: &mut self.next_link,
        };
        call(&mut self.tcp, &mut io)
    }

    fn round(&mut self) {
        self.driver.wait(Some(Duration::from_millis(1)), &mut self.done).unwrap();
        for completion in std::mem::take(&mut self.done) {
            self.with(|tcp, io| tcp.complete(io, completion));
        }
        self.with(|tcp, io| tcp.poll(io));
    }

    fn until<R>(&mut self, mut is: impl FnMut(&mut Self) -> Option<R>) -> R {
        for _ in 0..20_000 {
            if let Some(found) = is(self) {
                return found;
            }
            self.round();
        }
        panic!("it never came");
    }

    fn take<R>(&mut self, pick: impl Fn(&Event) -> Option<R>) -> Option<R> {
        let at = self.events.iter().position(|event| pick(event).is_some())?;
        pick(&self.events.remove(at))
    }
}

struct Joined {
    ends: [End; 2],
    links: [LinkId; 2],
    slots: Arc<dyn Slots>,
}

fn up(event: &Event) -> Option<(LinkId, Arc<dyn Slots>)> {
    match event {
        Event::Up { link, slots, .. } => Some((*link, Arc::clone(slots))),
        Event::Frame { .. } | Event::Room { .. } | Event::Down { .. } => None,
    }
}

fn down(event: &Event) -> Option<Down> {
    match event {
        Event::Down { why, .. } => Some(why.clone()),
        Event::Frame { .. } | Event::Room { .. } | Event::Up { .. } => None,
    }
}

fn frame(event: &Event) -> Option<Frame> {
    match event {
        Event::Frame { frame, .. } => Some(frame.clone()),
        Event::Down { .. } | Event::Room { .. } | Event::Up { .. } => None,
    }
}

fn until<R>(ends: &mut [End; 2], mut is: impl FnMut(&mut [End; 2]) -> Option<R>) -> R {
    for _ in 0..20_000 {
        if let Some(found) = is(ends) {
            return found;
        }
        ends.iter_mut().for_each(End::round);
    }
    panic!("it never came");
}

fn join(form: Form, listen: &str) -> Joined {
    let mut ends = [End::new(form, listen), End::new(form, listen)];
    let to = ends[1].tcp.addresses().remove(0);
    let dialled = LinkId::new(7_000);
    ends[0].with(|tcp, io| tcp.dial(io, dialled, &to)).unwrap();
    let (_, slots) = until(&mut ends, |ends| ends[0].take(up));
    let (accepted, _) = until(&mut ends, |ends| ends[1].take(up));
    Joined { ends, links: [dialled, accepted], slots }
}

fn message(slots: &Arc<dyn Slots>, fill: u8, len: usize) -> Option<Parcel> {
    let header = Header::new(Kind::Reply, ShardId::new(0), ShardId::new(0));
    let mut head = Arc::clone(slots).reserve()?;
    if append(&mut head, &header, &vec![fill; len]) {
        return Some(Parcel::of(head));
    }
    assert!(append_head(&mut head, &header, len));
    let mut body = FrameMut::detached(len.next_multiple_of(16));
    assert!(body.extend(&vec![fill; len]));
    body.set_len(len.next_multiple_of(16));
    Some(Parcel { head, body: Some(body.freeze()) })
}

/// The first byte and the length of each message.
fn read(frame: &Frame) -> Vec<(u8, usize)> {
    let (mut at, mut read) = (0, Vec::new());
    assert!(frame.is_aligned(), "T2");
    while at < frame.len() {
        let glance = Glance::at(frame.bytes(), at).expect("T2: whole messages");
        let payload = glance.payload_of(frame.bytes());
        assert!(payload.iter().all(|byte| *byte == payload[0]), "T1");
        read.push((payload.first().copied().unwrap_or(0), payload.len()));
        at = glance.end;
    }
    read
}

/// The forms of the driver that can be tried here. One that is missing is skipped aloud, or is a failure.
pub(crate) fn forms() -> Vec<Form> {
    let mut forms = vec![Form::Epoll];
    match epicserver_shard::driver::open(Some(Form::Uring)) {
        Ok(_) => forms.push(Form::Uring),
        Err(error) => {
            let set = |name| std::env::var_os(name).is_some_and(|value| value == "1");
            assert!(
                !set("EPIC_REQUIRE_ALL") || set("EPIC_NO_URING"),
                "{error}; EPIC_NO_URING=1 says that this run is the one without"
            );
            eprintln!(
                "SKIPPED: links over io_uring: {error}; it needs Linux 6.1, \
                 `sysctl kernel.io_uring_disabled=0`, and a seccomp profile that allows it"
            );
        }
    }
    forms
}

fn each_form(run: impl Fn(Form)) {
    forms().into_iter().for_each(run);
}

fn each(run: impl Fn(Form, &str)) {
    each_form(|form| ["127.0.0.1:0", "[::1]:0"].iter().for_each(|listen| run(form, listen)));
}

#[test]
fn t1_messages_of_all_sizes_arrive_in_order() {
    each(|form, listen| {
        let mut joined = join(form, listen);
        let sizes: Vec<usize> = (0..3_000_usize)
            .map(|n| match n % 100 {
                99 => 3 << 20,
                50 => 60_000,
                n => n * 7,
            })
            .collect();
        let (mut sent, mut got) = (0, Vec::new());
        let link = joined.links[0];
        until(&mut joined.ends, |ends| {
            while sent < sizes.len() {
                let fill = u8::try_from(sent % 251).unwrap();
                let Some(parcel) = message(&joined.slots, fill, sizes[sent]) else { break };
                if ends[0].with(|tcp, io| tcp.submit(io, link, parcel)).is_err() {
                    break;
                }
                sent += 1;
            }
            while let Some(frame) = ends[1].take(frame) {
                got.extend(read(&frame));
            }
            (got.len() == sizes.len()).then_some(())
        });
        for (at, (fill, len)) in got.into_iter().enumerate() {
            assert_eq!(len, sizes[at]);
            assert!(len == 0 || usize::from(fill) == at % 251);
        }
        until(&mut joined.ends, |ends| (ends[0].tcp.lent() == 0).then_some(()));
    });
}

#[test]
fn t4_a_receiver_that_does_not_read_stops_its_sender_and_nothing_is_lost() {
    each_form(|form| {
        let mut joined = join(form, "127.0.0.1:0");
        let link = joined.links[0];
        let mut sent = 0;
        loop {
            let Some(parcel) = message(&joined.slots, 1, 60_000) else { break };
            if joined.ends[0].with(|tcp, io| tcp.submit(io, link, parcel)).is_err() {
                break;
            }
            sent += 1;
            joined.ends[0].round();
        }
        assert!(sent > 10);
        let mut got = 0;
        until(&mut joined.ends, |ends| {
            while let Some(frame) = ends[1].take(frame) {
                got += read(&frame).len();
            }
            (got == sent).then_some(())
        });
        let room = |event: &Event| matches!(event, Event::Room { .. }).then_some(());
        until(&mut joined.ends, |ends| ends[0].take(room));
    });
}

#[test]
fn t3_a_peer_that_goes_is_down_once_after_its_last_message() {
    each(|form, listen| {
        let Joined { ends: [mut a, mut b], links, slots } = join(form, listen);
        let parcel = message(&slots, 5, 50).unwrap();
        b.with(|tcp, io| tcp.submit(io, links[1], parcel)).unwrap();
        b.with(|tcp, io| tcp.close(io, links[1]));
        for _ in 0..50 {
            b.round();
        }
        drop(b);
        for _ in 0..200 {
            a.round();
        }
        let at = |pick: &dyn Fn(&Event) -> bool| a.events.iter().position(pick);
        let last = at(&|event| frame(event).is_some()).expect("the message came");
        let gone = at(&|event| down(event).is_some()).expect("the link is down");
        assert!(last < gone);
        assert_eq!(a.events.iter().filter_map(down).collect::<Vec<_>>(), [Down::There]);
    });
}

#[test]
fn t3_what_a_peer_sent_before_it_went_is_read_though_a_send_fails() {
    let mut end = End::new(Form::Epoll, "127.0.0.1:0");
    let address = end.tcp.addresses().remove(0);
    let mut raw = std::net::TcpStream::connect(address.rest()).unwrap();
    let (link, slots) = end.until(|end| end.take(up));
    let to_it = message(&slots, 1, 100).unwrap();
    end.with(|tcp, io| tcp.submit(io, link, to_it)).unwrap();
    end.until(|end| (end.tcp.lent() == 0).then_some(()));
    raw.peek(&mut [0; 1]).unwrap();
    for fill in 0..10 {
        raw.write_all(message(&slots, fill, 40).unwrap().head.bytes()).unwrap();
    }
    // Unread bytes: the kernel resets the connection, and the next send fails.
    drop(raw);
    let into_the_void = message(&slots, 2, 100).unwrap();
    end.with(|tcp, io| tcp.submit(io, link, into_the_void)).unwrap();
    end.until(|end| end.events.iter().find_map(down));
    let came: Vec<_> = end.events.iter().filter_map(frame).flat_map(|f| read(&f)).collect();
    assert_eq!(came, (0..10).map(|fill| (fill, 40)).collect::<Vec<_>>());
    assert_eq!(end.events.iter().filter_map(down).collect::<Vec<_>>(), [Down::There]);
}

#[test]
fn garbage_ends_the_link_with_a_violation() {
    each_form(|form| {
        let mut end = End::new(form, "127.0.0.1:0");
        let address = end.tcp.addresses().remove(0);
        let mut raw = std::net::TcpStream::connect(address.rest()).unwrap();
        raw.write_all(&[0xee; 200]).unwrap();
        for _ in 0..1000 {
            end.round();
            if let Some(why) = end.take(down) {
                assert!(matches!(why, Down::Violation(_)), "{why}");
                return;
            }
        }
        panic!("the link stayed up");
    });
}

#[test]
fn an_address_where_nobody_listens_is_down_and_no_error() {
    each_form(|form| {
        let mut end = End::new(form, "127.0.0.1:0");
        let nobody = Address::parse("tcp://127.0.0.1:1").unwrap();
        end.with(|tcp, io| tcp.dial(io, LinkId::new(1), &nobody)).unwrap();
        for _ in 0..1000 {
            end.round();
            if let Some(why) = end.take(down) {
                assert!(matches!(why, Down::Failed(_)), "{why}");
                return;
            }
        }
        panic!("the dial did not end");
    });
}

#[test]
fn an_address_that_is_none_is_refused_by_name() {
    each_form(|form| {
        let mut end = End::new(form, "127.0.0.1:0");
        let wrong = Address::parse("tcp://localhost").unwrap();
        let refused = end.with(|tcp, io| tcp.dial(io, LinkId::new(1), &wrong)).unwrap_err();
        assert!(refused.to_string().contains("tcp://localhost"), "{refused}");
    });
}

#[test]
fn a_message_that_came_whole_lies_where_the_kernel_put_it() {
    each_form(|form| {
        let mut joined = join(form, "127.0.0.1:0");
        let parcel = message(&joined.slots, 9, 4_000).unwrap();
        let link = joined.links[0];
        joined.ends[0].with(|tcp, io| tcp.submit(io, link, parcel)).unwrap();
        until(&mut joined.ends, |ends| ends[1].take(frame));
        let counters = joined.ends[1].tcp.counters();
        assert_eq!((counters.frames, counters.copied), (1, 0));
    });
}
