//! Peers that know the key and keep to nothing else.

use super::end::{End, config, header, settle};
use super::fake;
use super::raw::RawPeer;
use super::suite::choice;
use crate::Key;
use crate::announce::Announcement;
use crate::window::PIECES;
use crate::word::{Kind, Word};
use epicserver_link::Down;
use epicserver_wire::frame::FrameMut;
use epicserver_wire::header::{append, append_head};

const ONE: Announcement = Announcement { address: 4096, rkey: 1, len: 16 << 10, left: 0 };

fn bits(kind: Kind, slots: u16, pieces: u8) -> u32 {
    Word { kind, slots, pieces }.to_bits()
}

/// An end, and a peer that was let in.
fn intruded() -> (End, RawPeer) {
    let mut end = End::new(config());
    let to = end.address().rest().parse().unwrap();
    let peer = RawPeer::new(&fake::library(), choice(), (Key([3; 32]), to));
    while end.up.is_empty() {
        end.round();
    }
    (end, peer)
}

/// Why an end is rid of a peer that sends these, each with the word beside it.
fn rid(messages: &[(u32, Vec<u8>)]) -> Down {
    let (mut end, peer) = intruded();
    messages.iter().for_each(|(bits, bytes)| peer.send(*bits, bytes));
    // All are there before the first is looked at: what that one asks for must not fail before the next comes.
    let pair = end.verbs.pairs().next().unwrap();
    while fake::waiting(pair) < messages.len() {
        std::thread::yield_now();
    }
    while end.down.is_empty() {
        end.now = end.now + std::time::Duration::from_millis(1);
        end.round();
    }
    assert!(end.frames.len() < 200);
    // Others are let in as before.
    let (mut other, to) = (End::new(config()), end.address());
    other.dial(&to);
    settle(&mut [&mut end, &mut other]);
    assert_eq!(other.up.len(), 1);
    end.down.remove(0).1
}

fn whole(len: usize) -> Vec<u8> {
    let mut frame = FrameMut::detached(4096);
    assert!(append(&mut frame, &header(), &vec![1; len]));
    frame.bytes().to_vec()
}

fn head(len: usize) -> Vec<u8> {
    let mut frame = FrameMut::detached(4096);
    assert!(append_head(&mut frame, &header(), len));
    frame.bytes().to_vec()
}

fn announced(head: &[u8], announcement: Announcement) -> (u32, Vec<u8>) {
    (bits(Kind::Announcement, 0, 0), [head, &announcement.to_bytes()].concat())
}

fn violates(messages: &[(u32, Vec<u8>)]) {
    let why = rid(messages);
    assert!(matches!(why, Down::Violation(_)), "{why}");
}

#[test]
fn words_that_no_sound_peer_says_end_its_link() {
    violates(&[(0, Vec::new())]);
    violates(&[(0xf000_0000, Vec::new())]);
    violates(&[(bits(Kind::Word, 0, 0) | 1 << 22, Vec::new())]);
    violates(&[(bits(Kind::Word, 0, 0), whole(1))]);
    violates(&[(bits(Kind::Messages, 0, 0), Vec::new())]);
    violates(&[(bits(Kind::Messages, 1, 0), whole(1))]);
    violates(&[(bits(Kind::Messages, 0, 1), whole(1))]);
}

#[test]
fn announcements_that_no_sound_peer_makes_end_its_link() {
    let len = ONE.len as usize;
    violates(&[(bits(Kind::Announcement, 0, 0), vec![0; 16])]);
    violates(&[announced(&[], ONE)]);
    violates(&[announced(&whole(10), ONE)]);
    violates(&[announced(&head(len + 16), ONE)]);
    violates(&[announced(&head(len), Announcement { len: 8, ..ONE })]);
    let long = Announcement { len: 32 << 20, ..ONE };
    violates(&[announced(&head(32 << 20), long)]);
    let first = Announcement { left: 64, ..ONE };
    let begun = announced(&head(len + 64), first);
    violates(&[begun.clone(), announced(&head(len), ONE)]);
    violates(&[begun, announced(&[], Announcement { len: 16, left: 32, ..ONE })]);
}

#[test]
fn n1_a_peer_that_sends_over_the_window_is_cut_off_and_takes_no_slot_of_others() {
    let (mut end, peer) = intruded();
    for _ in 0..70 {
        peer.send(bits(Kind::Messages, 0, 0), &whole(40));
    }
    let pair = end.verbs.pairs().next().unwrap();
    while fake::waiting(pair) < 70 {
        std::thread::yield_now();
    }
    settle(&mut [&mut end]);
    assert_eq!(end.down.len(), 1);
    let why = &end.down[0].1;
    assert!(matches!(why, Down::Violation(_)), "{why}");
    assert!(end.frames.len() <= 64);
    let many: Vec<_> = (0..=PIECES).map(|_| announced(&head(ONE.len as usize), ONE)).collect();
    let why = rid(&many);
    assert!(matches!(why, Down::Violation(_) | Down::Failed(_)), "{why}");
}

#[test]
fn memory_that_was_not_offered_is_not_read_and_the_link_says_so() {
    let (mut end, peer) = intruded();
    let (bits, bytes) = announced(&head(ONE.len as usize), ONE);
    peer.send(bits, &bytes);
    while end.down.is_empty() {
        end.now = end.now + std::time::Duration::from_millis(1);
        end.round();
    }
    let [(_, Down::Failed(why))] = end.down.as_slice() else { panic!("{:?}", end.down) };
    assert!(why.contains("IBV_WC_REM_ACCESS_ERR"), "{why}");
    assert!(end.frames.is_empty());
    drop(peer);
}
