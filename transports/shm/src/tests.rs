//! Two ends on one host, each with a driver of its own, and what they have to do with each other.

mod hostile;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::*;
use epicserver_link::driver::{Completion, Driver, Form, Owner};
use epicserver_link::{Address, Down, Event, Io, Parcel, Transport};
use epicserver_wire::frame::{Frame, FrameMut, Slots};
use epicserver_wire::header::{Glance, Header, Kind, append, append_head};
use epicserver_wire::{LinkId, ShardId, Time};

/// A directory that goes with its test.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("epicserver-shm-{}-{next}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn sockets(&self) -> usize {
        std::fs::read_dir(&self.0).unwrap().count()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

struct End {
    driver: Box<dyn Driver>,
    shm: Shm,
    events: Vec<Event>,
    done: Vec<Completion>,
    next_link: u32,
    now: Time,
}

impl End {
    fn new(form: Form, dir: &Dir) -> Self {
        let mut driver = epicserver_shard::driver::open(Some(form)).unwrap();
        let (mut events, mut next_link) = (Vec::new(), 0);
        let now = Time::ZERO;
        let mut io =
            Io { now, driver: &mut *driver, events: &mut events, next_link: &mut next_link };
        let shm = Shm::listen(Owner(0), &dir.0, &mut io).unwrap();
        Self { driver, shm, events, done: Vec::new(), next_link, now }
    }

    fn with<R>(&mut self, call: impl FnOnce(&mut Shm, &mut Io<'_>) -> R) -> R {
        let mut io = Io {
            now: self.now,
            driver: &mut *self.driver,
            events: &mut self.events,
            next_link: &mut self.next_link,
        };
        call(&mut self.shm, &mut io)
    }

    /// One round that does not wait.
    fn round(&mut self) {
        self.driver.poll(&mut self.done).unwrap();
        self.digest();
    }

    fn digest(&mut self) {
        for completion in std::mem::take(&mut self.done) {
            self.with(|shm, io| shm.complete(io, completion));
        }
        self.with(|shm, io| shm.poll(io));
        self.with(|shm, io| shm.flush(io));
    }

    /// Sleeps until something comes, if nothing has.
    fn sleep(&mut self) {
        if self.with(|shm, io| shm.arm(io)) && self.events.is_empty() {
            self.driver.wait(Some(Duration::from_secs(60)), &mut self.done).unwrap();
            assert!(!self.done.is_empty(), "nobody woke it");
        }
        self.digest();
    }

    fn take<R>(&mut self, pick: impl Fn(&Event) -> Option<R>) -> Option<R> {
        let at = self.events.iter().position(|event| pick(event).is_some())?;
        pick(&self.events.remove(at))
    }

    fn dial(&mut self, link: u32, to: &Address) {
        self.with(|shm, io| shm.dial(io, LinkId::new(link), to)).unwrap();
    }

    fn submit(&mut self, link: LinkId, parcel: Parcel) -> bool {
        self.with(|shm, io| shm.submit(io, link, parcel)).is_ok()
    }
}

struct Joined {
    ends: [End; 2],
    links: [LinkId; 2],
    slots: [Arc<dyn Slots>; 2],
    dir: Dir,
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

fn room(event: &Event) -> Option<()> {
    matches!(event, Event::Room { .. }).then_some(())
}

fn until<R>(ends: &mut [End], mut is: impl FnMut(&mut [End]) -> Option<R>) -> R {
    for _ in 0..200_000 {
        if let Some(found) = is(ends) {
            return found;
        }
        ends.iter_mut().for_each(End::round);
    }
    panic!("it never came");
}

fn join(form: Form) -> Joined {
    let dir = Dir::new();
    let mut ends = [End::new(form, &dir), End::new(form, &dir)];
    let to = ends[1].shm.addresses().remove(0);
    ends[0].dial(7_000, &to);
    let (dialled, ours) = until(&mut ends, |ends| ends[0].take(up));
    let (accepted, theirs) = until(&mut ends, |ends| ends[1].take(up));
    Joined { ends, links: [dialled, accepted], slots: [ours, theirs], dir }
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

/// Runs a test with each form of the driver. One that is missing is skipped aloud, or is a failure.
fn each(run: impl Fn(Form)) {
    for form in [Form::Epoll, Form::Uring] {
        match epicserver_shard::driver::open(Some(form)) {
            Ok(_) => run(form),
            Err(error) => {
                let set = |name| std::env::var_os(name).is_some_and(|value| value == "1");
                assert!(
                    !set("EPIC_REQUIRE_ALL") || (form == Form::Uring && set("EPIC_NO_URING")),
                    "{error}; EPIC_NO_URING=1 says that this run is the one without io_uring"
                );
                eprintln!(
                    "SKIPPED: shared memory with {form}: {error}; io_uring needs Linux 6.1, \
                     `sysctl kernel.io_uring_disabled=0`, and a seccomp profile that allows it"
                );
            }
        }
    }
}

#[test]
fn t1_messages_of_all_sizes_arrive_in_order() {
    each(|form| {
        let mut joined = join(form);
        let sizes: Vec<usize> = (0..4_000_usize)
            .map(|n| match n % 100 {
                99 => (n + 1) << 12,
                50 => 60_000,
                51 => 130_000,
                n => n * 7,
            })
            .collect();
        let (mut sent, mut got) = (0, Vec::new());
        let (link, slots) = (joined.links[0], Arc::clone(&joined.slots[0]));
        until(&mut joined.ends, |ends| {
            while sent < sizes.len() {
                let fill = u8::try_from(sent % 251).unwrap();
                let Some(parcel) = message(&slots, fill, sizes[sent]) else { break };
                if !ends[0].submit(link, parcel) {
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
        assert_eq!(joined.ends[0].shm.lent(), 0);
    });
}

#[test]
fn t1_the_longest_message_there_is_arrives_whole() {
    let mut joined = join(Form::Epoll);
    let link = joined.links[0];
    let len = 64 << 20;
    let parcel = message(&joined.slots[0], 3, len).unwrap();
    assert!(joined.ends[0].submit(link, parcel));
    let frame = until(&mut joined.ends, |ends| ends[1].take(frame));
    assert_eq!(read(&frame), [(3, len)]);
}

#[test]
fn t4_a_receiver_that_does_not_read_stops_its_sender_and_nothing_is_lost() {
    each(|form| {
        let mut joined = join(form);
        let (link, mut sent) = (joined.links[0], 0);
        while let Some(parcel) = message(&joined.slots[0], 1, 60_000) {
            if !joined.ends[0].submit(link, parcel) {
                break;
            }
            sent += 1;
            joined.ends[0].round();
        }
        assert!(sent > 16, "{sent}");
        assert!(joined.ends[0].take(room).is_none());
        let mut got = 0;
        until(&mut joined.ends, |ends| {
            while let Some(frame) = ends[1].take(frame) {
                got += read(&frame).len();
            }
            (got == sent).then_some(())
        });
        until(&mut joined.ends, |ends| ends[0].take(room));
        assert_eq!(joined.ends[0].shm.lent(), 0);
    });
}

#[test]
fn t4_frames_that_are_held_stop_the_sender_and_outlive_the_link() {
    let mut joined = join(Form::Epoll);
    let (link, mut held, mut sent) = (joined.links[0], Vec::new(), 0_usize);
    // Each is taken alone, so that each has a buffer of its own.
    loop {
        let fill = u8::try_from(sent % 251).unwrap();
        let Some(parcel) = message(&joined.slots[0], fill, 100) else { break };
        assert!(joined.ends[0].submit(link, parcel));
        sent += 1;
        joined.ends[1].round();
        let Some(frame) = joined.ends[1].take(frame) else { break };
        held.push(frame);
    }
    assert_eq!(held.len(), transport::BUFFERS_MAX);
    assert!(held.iter().enumerate().all(|(at, frame)| usize::from(read(frame)[0].0) == at % 251));
    drop(held.split_off(10));
    joined.ends[1].round();
    held.extend(joined.ends[1].take(frame));
    assert_eq!(held.len(), 11);
    drop(joined);
    assert_eq!(usize::from(read(&held[10])[0].0), (sent - 1) % 251);
}

#[test]
fn many_links_carry_each_its_own_messages() {
    const LINKS: u8 = 20;
    each(|form| {
        let dir = Dir::new();
        let mut ends = [End::new(form, &dir), End::new(form, &dir)];
        let to = ends[1].shm.addresses().remove(0);
        (0..LINKS).for_each(|link| ends[0].dial(u32::from(link), &to));
        for link in 0..LINKS {
            let of_link = |event: &Event| up(event).filter(|up| up.0 == LinkId::new(link.into()));
            let (id, slots) = until(&mut ends, |ends| ends[0].take(of_link));
            (0..50).for_each(|_| assert!(ends[0].submit(id, message(&slots, link, 90).unwrap())));
        }
        let mut got = vec![(None, 0); LINKS.into()];
        let mine = |event: &Event| match event {
            Event::Frame { link, frame } => Some((*link, frame.clone())),
            Event::Up { .. } | Event::Room { .. } | Event::Down { .. } => None,
        };
        until(&mut ends, |ends| {
            while let Some((link, frame)) = ends[1].take(mine) {
                for (fill, _) in read(&frame) {
                    let (of, count) = &mut got[usize::from(fill)];
                    assert_eq!(*of.get_or_insert(link), link, "it came over another link");
                    *count += 1;
                }
            }
            got.iter().all(|(_, count)| *count == 50).then_some(())
        });
    });
}

#[test]
fn t3_a_peer_that_closes_is_down_once_after_its_last_message() {
    each(|form| {
        let Joined { ends: [mut a, mut b], links, slots, dir: _dir } = join(form);
        for _ in 0..30 {
            // More than there is room for: the rest leaves while it closes.
            assert!(b.submit(links[1], message(&slots[1], 5, 60_000).unwrap()));
        }
        b.with(|shm, io| shm.close(io, links[1]));
        assert!(!b.submit(links[1], message(&slots[1], 5, 60_000).unwrap()));
        let mut ends = [a, b];
        until(&mut ends, |ends| ends[0].events.iter().find_map(down));
        [a, b] = ends;
        let frames = a.events.iter().filter_map(frame);
        assert_eq!(frames.map(|frame| read(&frame).len()).sum::<usize>(), 30);
        (0..50).for_each(|_| a.round());
        assert_eq!(a.events.iter().filter_map(down).collect::<Vec<_>>(), [Down::There]);
        assert!(a.events.last().is_some_and(|event| down(event).is_some()));
        assert_eq!(b.events.iter().filter_map(down).collect::<Vec<_>>(), [Down::Here]);
    });
}

#[test]
fn a_link_that_is_closed_ends_although_its_peer_takes_nothing() {
    let mut joined = join(Form::Epoll);
    let link = joined.links[0];
    for _ in 0..30 {
        assert!(joined.ends[0].submit(link, message(&joined.slots[0], 5, 60_000).unwrap()));
    }
    let [a, _] = &mut joined.ends;
    a.with(|shm, io| shm.close(io, link));
    a.round();
    assert!(a.take(down).is_none());
    a.now = a.with(|shm, _| shm.deadline()).unwrap();
    a.round();
    assert_eq!(a.take(down), Some(Down::Here));
}

#[test]
fn t3_a_process_that_is_killed_is_down_after_what_it_had_sent() {
    const ROLE: &str = "EPICSERVER_SHM_TEST_DIALS";
    const NAME: &str = "tests::t3_a_process_that_is_killed_is_down_after_what_it_had_sent";
    if let Ok(text) = std::env::var(ROLE) {
        return be_killed(&text);
    }
    let dir = Dir::new();
    let mut end = End::new(Form::Epoll, &dir);
    let order = format!("{} {}", dir.0.display(), end.shm.addresses().remove(0));
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(ROLE, order)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    until(std::slice::from_mut(&mut end), |ends| {
        ends[0].sleep();
        ends[0].take(up)
    });
    // It says so once it has sent all, and lives on until it is killed.
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    assert!(lines.any(|line| line.unwrap().contains("all is sent")));
    child.kill().unwrap();
    child.wait().unwrap();
    let why = until(std::slice::from_mut(&mut end), |ends| {
        ends[0].sleep();
        ends[0].events.iter().find_map(down)
    });
    assert_eq!(why, Down::There);
    let frames = end.events.iter().filter_map(frame);
    assert_eq!(frames.map(|frame| read(&frame).len()).sum::<usize>(), 700);
    assert!(end.events.last().is_some_and(|event| down(event).is_some()));
    assert_eq!(dir.sockets(), 2, "it had no time to remove its socket");
    let other = End::new(Form::Epoll, &dir);
    assert_eq!(dir.sockets(), 2, "whoever comes next removes it");
    drop((end, other));
    assert_eq!(dir.sockets(), 0);
}

/// Dials, sends, and waits to be killed.
fn be_killed(order: &str) {
    let (path, to) = order.split_once(' ').unwrap();
    let dir = std::mem::ManuallyDrop::new(Dir(path.into()));
    let mut end = End::new(Form::Epoll, &dir);
    end.dial(1, &Address::parse(to).unwrap());
    let (link, slots) = until(std::slice::from_mut(&mut end), |ends| {
        ends[0].sleep();
        ends[0].take(up)
    });
    for _ in 0..700 {
        assert!(end.submit(link, message(&slots, 8, 500).unwrap()));
    }
    println!("all is sent");
    // Its death is what the other end waits for. If that dies first, this input ends.
    std::io::stdin().lines().for_each(drop);
}

/// The end that sends, in a thread of its own; it sleeps whenever it is refused.
fn sends(form: Form, dir: &Dir, to: &Address, total: usize) {
    let mut end = End::new(form, dir);
    end.dial(1, to);
    let (link, slots) = loop {
        end.sleep();
        if let Some(up) = end.take(up) {
            break up;
        }
    };
    let mut sent = 0;
    while sent < total {
        let taken = message(&slots, 4, 9_000).is_some_and(|parcel| end.submit(link, parcel));
        sent += usize::from(taken);
        while !taken && end.take(room).is_none() {
            end.sleep();
        }
    }
    end.with(|shm, io| shm.flush(io));
    while end.take(down).is_none() {
        end.sleep();
    }
}

#[test]
fn d1_ends_that_sleep_are_woken_for_mail_and_for_room() {
    each(|form| {
        let (dir, total) = (Dir::new(), 20_000);
        let mut end = End::new(form, &dir);
        let to = end.shm.addresses().remove(0);
        std::thread::scope(|scope| {
            scope.spawn(|| sends(form, &dir, &to, total));
            let mut got = 0;
            while got < total {
                end.sleep();
                while let Some(frame) = end.take(frame) {
                    got += read(&frame).len();
                }
            }
            assert_eq!(got, total);
            drop(end);
        });
    });
}
