//! An end against peers that do what no sound one does.

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;

use epicserver_link::Refused;
use epicserver_wire::header::Violation;
use proptest::prelude::*;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::*;
use crate::greeting::{self, Answer};
use crate::layout::{CELL_BYTES, CELLS, End as Side, MAP_BYTES, PIECE_MAX};
use crate::link::GREETING;
use crate::map::Map;
use crate::ring::Outgoing;

/// A peer that was let in and can write whatever it likes.
struct Raw {
    socket: UnixStream,
    map: Rc<Map>,
}

fn path(end: &End, dir: &Dir) -> PathBuf {
    let address = end.shm.addresses().remove(0);
    dir.0.join(address.rest().split_once('/').unwrap().1)
}

fn connect(end: &End, dir: &Dir) -> UnixStream {
    UnixStream::connect(path(end, dir)).unwrap()
}

/// Sends a greeting of `bytes` and `files`.
fn greet(socket: &UnixStream, bytes: &[u8], files: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(files.is_empty() || control.push(SendAncillaryMessage::ScmRights(files)));
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::empty()).unwrap();
}

/// A raw peer whose link is up, and what it is called here.
fn let_in(end: &mut End, dir: &Dir) -> (Raw, LinkId, Arc<dyn Slots>) {
    let socket = connect(end, dir);
    let memory = greeting::memory().unwrap();
    greet(&socket, &greeting::greeting(), &[memory.as_fd()]);
    let (link, slots) = until(std::slice::from_mut(end), |ends| ends[0].take(up));
    let map = Rc::new(Map::of(&memory).unwrap());
    (Raw { socket, map }, link, slots)
}

fn slots_of_its_own() -> Arc<dyn Slots> {
    epicserver_link::pool::HeapPool::new(2048, epicserver_link::pool::SLOT_BYTES)
}

/// What the end says of a peer that does `harm`.
fn judged(harm: impl FnOnce(&mut Raw)) -> Down {
    let dir = Dir::new();
    let mut end = End::new(Form::Epoll, &dir);
    let (mut raw, ..) = let_in(&mut end, &dir);
    harm(&mut raw);
    until(std::slice::from_mut(&mut end), |ends| ends[0].take(down))
}

/// Writes the head of a cell.
fn stamp(raw: &Raw, position: u64, word: u32) {
    let head = u64::from(word) << 32 | ((position + 1) & u64::from(u32::MAX));
    raw.map.u64_at(Side::Dialler.cell(position)).store(head, Ordering::Release);
}

/// What is answered to a greeting; and there is no link.
fn answered(bytes: &[u8], files: &[BorrowedFd<'_>]) -> Option<Answer> {
    let dir = Dir::new();
    let mut end = End::new(Form::Epoll, &dir);
    let mut socket = connect(&end, &dir);
    greet(&socket, bytes, files);
    (0..100).for_each(|_| end.round());
    let mut answer = Vec::new();
    // The end has read what came, so that nothing but its answer and the end is there.
    socket.read_to_end(&mut answer).unwrap();
    assert!(end.events.is_empty(), "S1: {:?}", end.events);
    assert_eq!(answer.len(), 1);
    Answer::of(answer[0])
}

fn memfd(len: usize, seals: SealFlags) -> OwnedFd {
    let file = memfd_create(c"test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&file, len as u64).unwrap();
    fcntl_add_seals(&file, seals).unwrap();
    file
}

#[test]
fn u2_memory_that_may_change_its_size_or_has_another_is_refused() {
    let sound = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    let good = memfd(MAP_BYTES, sound);
    let mut bad = vec![memfd(MAP_BYTES - 4096, sound), memfd(MAP_BYTES + 4096, sound)];
    for missing in [SealFlags::SHRINK, SealFlags::GROW, SealFlags::SEAL] {
        bad.push(memfd(MAP_BYTES, sound - missing));
    }
    bad.push(memfd(MAP_BYTES, sound | SealFlags::WRITE));
    bad.push(std::fs::File::open("/dev/zero").unwrap().into());
    bad.push(UnixStream::pair().unwrap().0.into());
    for file in &bad {
        assert_eq!(answered(&greeting::greeting(), &[file.as_fd()]), Some(Answer::Memory));
    }
    let two = [good.as_fd(), good.as_fd()];
    assert_eq!(answered(&greeting::greeting(), &two), Some(Answer::Memory));
    let four = [good.as_fd(); 4];
    assert_eq!(answered(&greeting::greeting(), &four), Some(Answer::Memory));
    assert_eq!(answered(&greeting::greeting(), &[]), Some(Answer::Memory));
}

#[test]
fn u2_memory_of_ours_cannot_change_its_size() {
    let memory = greeting::memory().unwrap();
    assert!(ftruncate(&memory, 4096).is_err());
    assert!(ftruncate(&memory, MAP_BYTES as u64 * 2).is_err());
    assert!(fcntl_add_seals(&memory, SealFlags::WRITE).is_err());
}

#[test]
fn garbage_for_a_greeting_is_answered_and_no_link() {
    let memory = greeting::memory().unwrap();
    let mut other = greeting::greeting();
    other[8] ^= 1;
    let half = &greeting::greeting()[..8];
    for bytes in [&other[..], half, b"GET / HTTP/1.1\r\n", &[0xee; 16]] {
        assert_eq!(answered(bytes, &[memory.as_fd()]), Some(Answer::Version));
    }
}

#[test]
fn who_connects_and_says_nothing_is_dropped_after_a_time() {
    let dir = Dir::new();
    let mut end = End::new(Form::Epoll, &dir);
    let mut socket = connect(&end, &dir);
    socket.set_nonblocking(true).unwrap();
    until(std::slice::from_mut(&mut end), |ends| ends[0].with(|shm, _| shm.deadline()));
    assert!(socket.read(&mut [0]).is_err(), "it is waited for");
    end.now = end.with(|shm, _| shm.deadline()).unwrap();
    until(std::slice::from_mut(&mut end), |_| socket.read(&mut [0]).ok().filter(|len| *len == 0));
    assert!(end.events.is_empty());
    assert_eq!(end.with(|shm, _| shm.deadline()), None);
}

#[test]
fn who_connects_and_goes_is_forgotten() {
    let dir = Dir::new();
    let mut end = End::new(Form::Epoll, &dir);
    let socket = connect(&end, &dir);
    until(std::slice::from_mut(&mut end), |ends| ends[0].with(|shm, _| shm.deadline()));
    drop(socket);
    until(std::slice::from_mut(&mut end), |ends| {
        ends[0].with(|shm, _| shm.deadline()).is_none().then_some(())
    });
    assert!(end.events.is_empty());
}

#[test]
fn there_are_no_more_links_than_there_may_be() {
    let dir = Dir::new();
    let mut end = End::new(Form::Epoll, &dir);
    let mut sockets: Vec<UnixStream> = Vec::new();
    for _ in 0..LINKS_MAX {
        sockets.push(connect(&end, &dir));
        end.round();
    }
    (0..100).for_each(|_| end.round());
    let mut answer = Vec::new();
    let mut late = connect(&end, &dir);
    (0..100).for_each(|_| end.round());
    late.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, [Answer::Full as u8]);
    let to = end.shm.addresses().remove(0);
    let refused = end.with(|shm, io| shm.dial(io, LinkId::new(1), &to));
    assert!(matches!(refused, Err(Refused::Links(LINKS_MAX))));
    drop(sockets);
}

#[test]
fn g3_a_piece_of_a_length_that_none_has_ends_the_link() {
    let over = u32::try_from(PIECE_MAX + 16).unwrap();
    for word in [0, 8, 17, over, u32::MAX, u32::MAX >> 1, 1 << 31] {
        let why = judged(|raw| stamp(raw, 0, word));
        assert!(matches!(why, Down::Violation(_)), "{word}: {why}");
    }
}

#[test]
fn t2_bytes_that_are_no_whole_messages_end_the_link() {
    let why = judged(|raw| {
        raw.map.copy_in(Side::Dialler.cell(0) + 16, &[0xee; 64]);
        stamp(raw, 0, 64);
    });
    assert!(matches!(why, Down::Violation(Violation::Version(0xee))), "{why}");
    let longer = message(&slots_of_its_own(), 1, 5_000).unwrap();
    let why = judged(|raw| {
        raw.map.copy_in(Side::Dialler.cell(0) + 16, &longer.head.bytes()[..160]);
        stamp(raw, 0, 160);
    });
    assert_eq!(why, Down::Violation(Violation::Truncated));
}

#[test]
fn g4_a_parcel_that_never_ends_is_cut_at_the_longest_there_is() {
    let dir = Dir::new();
    let mut end = End::new(Form::Epoll, &dir);
    let (raw, ..) = let_in(&mut end, &dir);
    let piece = u32::try_from(PIECE_MAX).unwrap() | 1 << 31;
    let mut position = 0;
    let why = until(std::slice::from_mut(&mut end), |ends| {
        // Ahead of what it takes in one look, and never waiting for it.
        (0..4).for_each(|_| {
            stamp(&raw, position, piece);
            position += 1;
        });
        ends[0].take(down)
    });
    assert!(matches!(why, Down::Violation(Violation::TooLong(_))), "{why}");
}

#[test]
fn g2_a_receiver_that_took_more_than_was_sent_ends_the_link() {
    let dir = Dir::new();
    for told in [[u64::MAX, 0], [0, 1], [CELLS as u64 + 1, 0]] {
        let mut end = End::new(Form::Epoll, &dir);
        let (raw, link, slots) = let_in(&mut end, &dir);
        for (index, told) in told.into_iter().enumerate() {
            raw.map.u64_at(Side::Dialler.taken() + 8 * index).store(told, Ordering::Release);
        }
        for _ in 0..=CELLS {
            assert!(end.submit(link, message(&slots, 1, 50).unwrap()));
        }
        let why = until(std::slice::from_mut(&mut end), |ends| ends[0].take(down));
        assert!(matches!(why, Down::Violation(_)), "{told:?}: {why}");
    }
}

#[test]
fn a_bell_that_does_not_stop_ends_the_link() {
    let why = judged(|raw| raw.socket.write_all(&[0; 20_000]).unwrap());
    assert!(matches!(why, Down::Violation(_)), "{why}");
}

#[test]
fn l1_a_peer_that_has_closed_cannot_go_on_for_ever() {
    let dir = Dir::new();
    let mut end = End::new(Form::Epoll, &dir);
    let (raw, ..) = let_in(&mut end, &dir);
    let slots = slots_of_its_own();
    let mut outgoing = Outgoing::new(Rc::clone(&raw.map), Side::Dialler);
    raw.socket.shutdown(std::net::Shutdown::Both).unwrap();
    let why = until(std::slice::from_mut(&mut end), |ends| {
        // Faster than it is taken, as long as there is room.
        while !outgoing.is_waiting() {
            outgoing.push(message(&slots, 1, 100).unwrap()).unwrap();
        }
        outgoing.pump();
        ends[0].events.iter().find_map(down)
    });
    assert_eq!(why, Down::There);
    let frames = end.events.iter().filter_map(frame);
    assert_eq!(frames.map(|frame| read(&frame).len()).sum::<usize>(), CELLS);
}

#[test]
fn s1_a_peer_that_does_not_let_one_in_is_down_and_says_why() {
    let to = Address::new(SCHEME, &format!("{}/epic-raw", greeting::boot_id().unwrap()));
    let dial = |answer: Option<u8>| {
        let dir = Dir::new();
        let mut end = End::new(Form::Epoll, &dir);
        let listener = UnixListener::bind(dir.0.join("epic-raw")).unwrap();
        end.dial(1, &to);
        let (mut socket, _) = listener.accept().unwrap();
        // What came is read, or closing would be a reset.
        assert_eq!(socket.read(&mut [0; 64]).unwrap(), greeting::greeting().len());
        socket.write_all(answer.as_slice()).unwrap();
        drop(socket);
        until(std::slice::from_mut(&mut end), |ends| ends[0].take(down))
    };
    assert_eq!(dial(None), Down::There);
    assert!(matches!(dial(Some(0)), Down::Violation(_)));
    for answer in [Answer::Version, Answer::Memory, Answer::User, Answer::Full] {
        assert_eq!(dial(Some(answer as u8)), Down::Failed(answer.as_str().to_owned()));
    }
}

#[test]
fn s1_a_peer_that_does_not_answer_is_given_up_after_a_time() {
    let dir = Dir::new();
    let _listener = UnixListener::bind(dir.0.join("epic-raw")).unwrap();
    let to = Address::new(SCHEME, &format!("{}/epic-raw", greeting::boot_id().unwrap()));
    let mut end = End::new(Form::Epoll, &dir);
    end.dial(1, &to);
    end.dial(2, &to);
    assert!(end.with(|shm, io| shm.arm(io)));
    end.with(|shm, io| shm.close(io, LinkId::new(2)));
    end.round();
    assert_eq!(end.take(down), Some(Down::Here));
    assert_eq!(end.take(down), None);
    end.now = end.with(|shm, _| shm.deadline()).unwrap();
    end.round();
    assert_eq!(end.take(down), Some(Down::Silent(GREETING)));
}

#[test]
fn an_address_that_is_none_of_this_host_is_refused_by_name() {
    let dir = Dir::new();
    let mut end = End::new(Form::Epoll, &dir);
    let host = greeting::boot_id().unwrap();
    let wrong = [
        "tcp://127.0.0.1:1".to_owned(),
        format!("shm://{host}"),
        "shm://00000000-0000-0000-0000-000000000000/epic-1".to_owned(),
        format!("shm://{host}/epic-../../run/docker.sock"),
        format!("shm://{host}/docker.sock"),
        format!("shm://{host}/epic-{}", "a".repeat(100)),
    ];
    for text in wrong {
        let address = Address::parse(&text).unwrap();
        let refused = end.with(|shm, io| shm.dial(io, LinkId::new(1), &address)).unwrap_err();
        assert!(matches!(refused, Refused::Address { .. }), "{refused}");
        assert!(refused.to_string().contains(&text), "{refused}");
    }
    let nobody = Address::new(SCHEME, &format!("{host}/epic-1-1"));
    let refused = end.with(|shm, io| shm.dial(io, LinkId::new(1), &nobody)).unwrap_err();
    assert!(matches!(refused, Refused::Io { call: "connect", .. }), "{refused}");
    (0..10).for_each(|_| end.round());
    assert!(end.events.is_empty());
}

/// What a peer may write: mostly what lies near what would be right.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        (0_u64..4, 0_u64..2048).prop_map(|(high, low)| high << 36 | low),
        (0_u32..40, 0_u64..64).prop_map(|(len, low)| u64::from(len * 16) << 32 | low),
        Just(0),
        Just(u64::MAX),
    ]
}

/// Where it may write: the words of both ends, the heads of cells, and the cells.
fn place() -> impl Strategy<Value = usize> {
    let cells = Side::Dialler.cell(0);
    prop_oneof![
        (0_usize..64).prop_map(|word| word * 8),
        (0_usize..64).prop_map(move |cell| cells + cell * CELL_BYTES),
        (0_usize..64).prop_map(|cell| Side::Acceptor.cell(0) + cell * CELL_BYTES),
        (0_usize..16 * CELL_BYTES / 8).prop_map(move |word| cells + word * 8),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn g3_whatever_a_peer_writes_its_link_ends_once_and_nothing_else_does(
        scribbles in prop::collection::vec((place(), word()), 1..300),
    ) {
        let dir = Dir::new();
        let mut end = End::new(Form::Epoll, &dir);
        let (raw, link, slots) = let_in(&mut end, &dir);
        let (other, neighbour, _) = let_in(&mut end, &dir);
        let mut outgoing = Outgoing::new(Rc::clone(&raw.map), Side::Dialler);
        let theirs = slots_of_its_own();
        for (place, word) in scribbles {
            raw.map.u64_at(place).store(word, Ordering::Release);
            drop(outgoing.push(message(&theirs, 1, 700).unwrap()));
            if let Some(parcel) = message(&slots, 2, 300) {
                end.submit(link, parcel);
            }
            end.round();
            end.with(|shm, io| shm.arm(io));
            // Who holds all frames gets no more of them.
            end.events.retain(|event| frame(event).is_none());
        }
        drop(raw);
        let gone = |event: &Event| match event {
            Event::Down { link, .. } => Some(*link),
            Event::Up { .. } | Event::Frame { .. } | Event::Room { .. } => None,
        };
        until(std::slice::from_mut(&mut end), |ends| ends[0].events.iter().find_map(gone));
        (0..10).for_each(|_| end.round());
        prop_assert_eq!(end.events.iter().filter_map(gone).collect::<Vec<_>>(), [link]);
        let mut sound = Outgoing::new(Rc::clone(&other.map), Side::Dialler);
        sound.push(message(&slots_of_its_own(), 9, 40).unwrap()).unwrap();
        let of_neighbour = |event: &Event| match event {
            Event::Frame { link, frame } if *link == neighbour => Some(read(frame)),
            Event::Up { .. } | Event::Frame { .. } | Event::Room { .. } | Event::Down { .. } => None,
        };
        let got = until(std::slice::from_mut(&mut end), |ends| ends[0].take(of_neighbour));
        prop_assert_eq!(got, [(9, 40)]);
    }
}
