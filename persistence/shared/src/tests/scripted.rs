//! One who asks, and a holder that says what a test wants it to.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use epicserver_store::conformance::{Client, Writing, barrel, owner};
use epicserver_store::{Answer, Found, Op, OpId, Outcome, Slot, Trouble};
use rustix::fd::OwnedFd;

use super::{Files, LONG};
use crate::frame::Frame;
use crate::place::Place;
use crate::{Options, Shared, open};

/// It has the lock, and no file.
struct Holder {
    listener: UnixListener,
    lock: OwnedFd,
}

impl Holder {
    fn sit(files: &Files) -> Self {
        let place = Place::open(&files.path()).unwrap();
        let lock = place.take().unwrap().expect("nobody has it");
        let seat = place.listen(lock).unwrap();
        seat.listener.set_nonblocking(false).unwrap();
        Self { listener: seat.listener, lock: seat.lock }
    }

    /// Lets the next one in, and says welcome.
    fn welcome(&self) -> Peer {
        let (stream, _) = self.listener.accept().unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        let mut peer = Peer(stream);
        assert!(matches!(peer.hear(), Frame::Hello(_)));
        peer.say(&Frame::Welcome);
        peer
    }

    /// Gets up, before the connection ends.
    fn leave(self, peer: Peer) {
        drop(self.listener);
        drop(self.lock);
        drop(peer);
    }
}

struct Peer(UnixStream);

impl Peer {
    fn say(&mut self, frame: &Frame) {
        let mut bytes = Vec::new();
        frame.push(&mut bytes);
        self.0.write_all(&bytes).unwrap();
    }

    fn hear(&mut self) -> Frame {
        let mut len = [0; 4];
        self.0.read_exact(&mut len).unwrap();
        let mut body = vec![0; u32::from_le_bytes(len) as usize];
        self.0.read_exact(&mut body).unwrap();
        Frame::parse(&body).unwrap()
    }

    fn hear_ask(&mut self) -> (u64, Op) {
        match self.hear() {
            Frame::Ask(id, op) => (id, op),
            other => panic!("{other:?}"),
        }
    }
}

fn save() -> Op {
    Op::Commit(vec![Writing::of(barrel(1), 0).state(b"x")])
}

fn load() -> Op {
    Op::Load { entity: barrel(1), claim: None }
}

fn claim() -> Op {
    Op::Claim { owner: owner(1, 1), slots: vec![Slot::of(&barrel(0))] }
}

/// Opens one that asks `holder`.
fn open_far(files: &Files, holder: &Holder, patience: Duration) -> (Shared, Peer) {
    std::thread::scope(|scope| {
        let options = Options { patience, ..files.options() };
        let far = scope.spawn(move || open(&options).unwrap());
        let peer = holder.welcome();
        (far.join().unwrap(), peer)
    })
}

fn asked(client: &mut Client, peer: &mut Peer) -> Vec<OpId> {
    let ops = [claim(), save(), load(), Op::Purge { before_ms: 5 }, load()];
    let ids = ops.iter().map(|op| client.submit(op.clone()).unwrap()).collect();
    for (id, op) in (0..).zip(ops) {
        assert_eq!(peer.hear_ask(), (id, op));
    }
    ids
}

fn is_unknown(answer: Result<Answer, Trouble>) -> bool {
    matches!(answer, Err(Trouble::Unknown(_)))
}

#[test]
fn sh2_what_changes_is_unknown_when_the_holder_dies_and_what_reads_is_asked_again() {
    let files = Files::new();
    let holder = Holder::sit(&files);
    let (far, mut peer) = open_far(&files, &holder, LONG);
    let mut client = Client::with_patience(&far, LONG);
    let ids = asked(&mut client, &mut peer);
    holder.leave(peer);
    for (id, reads) in ids.into_iter().zip([false, false, true, false, true]) {
        let answer = client.answer(id);
        if reads {
            assert_eq!(answer, Ok(Answer::Loaded(Found::Nothing)));
        } else {
            assert!(is_unknown(answer));
        }
    }
    assert!(far.holds());
}

#[test]
fn sh2_what_was_not_taken_before_a_bye_is_asked_of_the_next() {
    let files = Files::new();
    let holder = Holder::sit(&files);
    let (far, mut peer) = open_far(&files, &holder, LONG);
    let mut client = Client::with_patience(&far, LONG);
    let ids = asked(&mut client, &mut peer);
    // The first load alone was taken.
    let lie = Found::Fenced(owner(7, 7));
    peer.say(&Frame::Done(2, Ok(Answer::Loaded(lie.clone()))));
    peer.say(&Frame::Bye);
    assert_eq!(client.answer(ids[2]), Ok(Answer::Loaded(lie)));
    let late = client.submit(load()).unwrap();
    holder.leave(peer);
    assert_eq!(client.answer(ids[0]), Ok(Answer::Claimed { refused: Vec::new() }));
    assert_eq!(client.answer(ids[1]), Ok(Answer::Committed(vec![Outcome::Saved])));
    assert_eq!(client.answer(ids[3]), Ok(Answer::Purged { count: 0, more: false }));
    for id in [ids[4], late] {
        assert!(matches!(client.answer(id), Ok(Answer::Loaded(_))));
    }
    assert_eq!(client.payload(&barrel(1)), Some(b"x".to_vec()));
}

#[test]
fn sh2_a_holder_that_says_what_it_must_not_is_left() {
    let files = Files::new();
    for way in 0..6 {
        let holder = Holder::sit(&files);
        let (far, mut peer) = open_far(&files, &holder, LONG);
        let mut client = Client::with_patience(&far, LONG);
        let id = client.submit(load()).unwrap();
        assert!(matches!(peer.hear(), Frame::Ask(..)));
        match way {
            0 => peer.say(&Frame::Done(0, Ok(Answer::Committed(vec![Outcome::Saved])))),
            1 => peer.say(&Frame::Done(9, Ok(Answer::Loaded(Found::Nothing)))),
            2 => peer.say(&Frame::Ask(0, load())),
            3 => peer.0.write_all(&[255; 64]).unwrap(),
            4 => peer.0.write_all(&[3, 0, 0, 0, 5, 1, 1]).unwrap(),
            _ => peer.0.write_all(&[1, 0, 0, 0, 99]).unwrap(),
        }
        assert!(is_unknown(client.answer(id)));
        drop(far);
        holder.leave(peer);
    }
}

#[test]
fn ke2_where_nobody_has_the_file_ops_wait_for_as_long_as_patience_lasts() {
    let files = Files::new();
    let holder = Holder::sit(&files);
    let (far, mut peer) = open_far(&files, &holder, Duration::from_millis(100));
    let mut client = Client::with_patience(&far, LONG);
    let first = client.submit(load()).unwrap();
    assert!(matches!(peer.hear(), Frame::Ask(..)));
    // The lock stays with one that does not listen.
    drop(holder.listener);
    drop(peer);
    assert!(matches!(client.answer(first), Err(Trouble::Unavailable(_))));
    for op in [claim(), save(), load()] {
        assert!(matches!(client.ask(op), Err(Trouble::Unavailable(_))));
    }
    drop(holder.lock);
    // Whichever meets it first is told the same, until it has the file.
    while matches!(client.ask(load()), Err(Trouble::Unavailable(_))) {}
    assert!(far.holds());
    assert_eq!(client.ask(claim()), Ok(Answer::Claimed { refused: Vec::new() }));
}

#[test]
fn sh5_a_silent_holder_in_this_very_process_is_left_alive_and_asked_again() {
    let files = Files::new();
    let holder = Holder::sit(&files);
    let (far, mut silent) = open_far(&files, &holder, Duration::from_millis(100));
    let mut client = Client::with_patience(&far, LONG);
    let (commit, read) = (client.submit(save()).unwrap(), client.submit(load()).unwrap());
    assert_eq!(silent.hear_ask(), (0, save()));
    assert_eq!(silent.hear_ask(), (1, load()));
    assert!(is_unknown(client.answer(commit)), "the connection was given up");
    let mut peer = holder.welcome();
    assert_eq!(peer.hear_ask(), (0, load()));
    peer.say(&Frame::Done(0, Ok(Answer::Loaded(Found::Nothing))));
    assert_eq!(client.answer(read), Ok(Answer::Loaded(Found::Nothing)));
}

#[test]
fn whoever_is_dropped_while_it_asks_answers_all_that_wait() {
    let files = Files::new();
    let holder = Holder::sit(&files);
    let (far, mut peer) = open_far(&files, &holder, LONG);
    let mut client = Client::with_patience(&far, LONG);
    let ids = asked(&mut client, &mut peer);
    drop(far);
    for id in ids {
        assert!(is_unknown(client.answer(id)));
    }
    assert!(matches!(client.ask(load()), Err(Trouble::Unavailable(_))));
}
