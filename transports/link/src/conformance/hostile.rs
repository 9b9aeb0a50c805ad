//! Peers that send what no sound peer sends, or nothing, or take nothing.
//!
//! # Not here
//! What a parser makes of every byte: that is for the wire's own tests.

use std::collections::BTreeSet;

use epicserver_wire::LinkId;

use super::flow::{Flow, SMALL};
use super::message::Writer;
use super::world::{FAR, Joined, NEAR, World};
use super::{Raw, Subject};
use crate::Down;

/// A byte that is no version, no kind and no flags, and of which no length is short enough.
const GARBAGE: u8 = 0xee;
/// Payloads of the sound beginning of what a hostile peer sends.
const SOUND: [usize; 3] = [0, 5, 40];
/// More than any message of that beginning lacks at any byte, and a header.
const GARBAGE_BYTES: usize = 256;
/// Bytes that a peer which reads nothing is sent at most.
const BYTES_MAX: usize = 256 << 20;

/// NEAR and FAR are joined soundly, and a raw peer has come to FAR.
struct Intruded<'s> {
    world: World<'s>,
    joined: Joined,
    flow: Flow,
}

impl<'s> Intruded<'s> {
    /// `None` if the subject has no raw peers; that is said.
    fn new(subject: &'s dyn Subject) -> Option<Self> {
        // A world of its own: a peer that only asks may be let in later, and what comes of it ends here.
        let mut asked = World::new(subject);
        let to = asked.end(FAR).address();
        if subject.raw(&to).is_none() {
            super::skip("a hostile peer", "this transport knows no raw peers");
            return None;
        }
        drop(asked);
        let mut world = World::new(subject);
        let joined = world.join();
        let flow = Flow::new(NEAR, joined.near, Vec::new());
        Some(Self { world, joined, flow })
    }

    fn raw(&mut self) -> Box<dyn Raw> {
        let to = self.world.end(FAR).address();
        match self.world.subject.raw(&to) {
            Some(raw) => raw,
            None => panic!("a raw peer was there before, and now is not"),
        }
    }

    fn links(&mut self) -> BTreeSet<LinkId> {
        self.world.end(FAR).links.keys().copied().collect()
    }

    /// The link that is not in `before`, if the transport shows it.
    fn link_since(&mut self, before: &BTreeSet<LinkId>) -> Option<LinkId> {
        self.links().difference(before).next().copied()
    }

    /// Waits until FAR is rid of `raw`, whose link is not in `before`. Says why, if it ever was up.
    fn rid(&mut self, raw: &mut dyn Raw, before: &BTreeSet<LinkId>) -> Option<Down> {
        self.world.until("a hostile peer is cut off", |world| {
            let mut links = world.end(FAR).links.iter();
            match links.find(|(link, _)| !before.contains(link)) {
                Some((_, seen)) => seen.down.clone().map(Some),
                None => raw.has_ended().then_some(None),
            }
        })
    }

    /// The sound link is as it was.
    fn goes_on(&mut self) {
        self.flow.then(&[SMALL; 5]);
        self.flow.run(&mut self.world, self.joined);
    }
}

pub(super) fn garbage_is_a_violation_at_every_offset(subject: &dyn Subject) {
    let Some(mut intruded) = Intruded::new(subject) else { return };
    let sound = Writer::new(99).stream(&SOUND);
    for offset in 0..=sound.len() {
        let mut bytes = sound.get(..offset).unwrap_or(&[]).to_vec();
        bytes.resize(offset + GARBAGE_BYTES, GARBAGE);
        let (before, mut raw) = (intruded.links(), intruded.raw());
        raw.write(&bytes);
        let why = intruded.rid(&mut *raw, &before);
        let violated = why.as_ref().is_none_or(|why| matches!(why, Down::Violation(_)));
        assert!(violated, "garbage after {offset} sound bytes ended a link so: {why:?}");
        intruded.goes_on();
    }
    intruded.world.settle(500);
}

pub(super) fn half_a_message_is_never_handed_up(subject: &dyn Subject) {
    let Some(mut intruded) = Intruded::new(subject) else { return };
    let sound = Writer::new(99).stream(&[40]);
    for offset in 1..sound.len() {
        let (before, mut raw) = (intruded.links(), intruded.raw());
        raw.write(sound.get(..offset).unwrap_or(&[]));
        for _ in 0..3 {
            intruded.world.round();
        }
        drop(raw);
        intruded.world.until("the end of half a message is seen", |world| {
            world.end(FAR).skip();
            let mut links = world.end(FAR).links.iter();
            let living = links.any(|(link, seen)| !before.contains(link) && seen.down.is_none());
            (!living).then_some(())
        });
        intruded.goes_on();
    }
    // A half that was handed up would not have been whole, which is checked as frames come.
    let came = intruded.world.end(FAR).links.values().map(|seen| seen.reader.messages).sum();
    assert_eq!(intruded.flow.written(), came, "half a message was handed up");
}

pub(super) fn a_peer_that_says_nothing_blocks_nobody(subject: &dyn Subject) {
    let Some(mut intruded) = Intruded::new(subject) else { return };
    let (before, mut raw) = (intruded.links(), intruded.raw());
    for _ in 0..20 {
        intruded.goes_on();
    }
    if let Some(link) = intruded.link_since(&before) {
        intruded.world.end(FAR).close(link);
        assert_eq!(intruded.world.down_in_time(FAR, link), Down::Here);
    } else {
        intruded.world.until("a peer that says nothing is cut off", |world| {
            world.end(FAR).skip();
            raw.has_ended().then_some(())
        });
    }
    intruded.goes_on();
}

pub(super) fn a_peer_that_stops_reading_blocks_nobody(subject: &dyn Subject) {
    let Some(mut intruded) = Intruded::new(subject) else { return };
    let (before, raw) = (intruded.links(), intruded.raw());
    intruded.world.settle(500);
    let Some(link) = intruded.link_since(&before) else { return };
    let at_first = intruded.world.free(FAR, link);
    let slot_bytes = intruded.world.slots(FAR, link).slot_bytes();
    let mut stuck = Flow::new(FAR, link, vec![slot_bytes - 64; BYTES_MAX / slot_bytes]);
    let (mut written, mut rounds) = (0, 0);
    intruded.world.until("a sender to a peer that does not read is refused", |world| {
        stuck.push(world);
        assert!(!stuck.is_done(), "T4: nothing was refused while the peer did not read");
        let stopped = stuck.is_refused() && stuck.written() == written;
        rounds = if stopped { rounds + 1 } else { 0 };
        written = stuck.written();
        (rounds > 40).then_some(())
    });
    intruded.goes_on();
    intruded.world.end(FAR).close(link);
    intruded.world.settle(100);
    assert!(intruded.world.end(FAR).deadline().is_some(), "a close that waits has a deadline");
    intruded.goes_on();
    assert_eq!(intruded.world.down_in_time(FAR, link), Down::Here);
    drop(stuck);
    intruded.world.home((FAR, link), at_first);
    intruded.goes_on();
    drop(raw);
}
