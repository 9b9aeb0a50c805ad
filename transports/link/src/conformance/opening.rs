//! How links begin.
//!
//! # Not here
//! A peer that dies meanwhile: see `killed`.

use epicserver_wire::LinkId;

use super::Subject;
use super::flow::{Flow, SMALL};
use super::message::Writer;
use super::world::{FAR, NEAR, World};
use crate::{Down, Parcel, Refused};

pub(super) fn both_ends_come_up_and_know_who_dialled(subject: &dyn Subject) {
    let mut world = World::new(subject);
    // What each end is told is checked as it comes.
    let there = world.join();
    Flow::new(NEAR, there.near, vec![SMALL]).run(&mut world, there);
    // The other end may dial as well.
    let to = world.end(NEAR).address();
    let from_far = match world.end(FAR).dial(&to) {
        Ok(link) => link,
        Err(refused) => panic!("{to} was refused: {refused}"),
    };
    world.until("both ends are up", |world| {
        let at_far = world.end(FAR).seen(from_far).is_up();
        let at_near = world.newest(NEAR).is_some_and(|link| link != there.near);
        (at_far && at_near).then_some(())
    });
}

pub(super) fn an_address_where_nobody_listens_is_down(subject: &dyn Subject) {
    let mut world = World::new(subject);
    match world.end(NEAR).dial(&subject.nobody()) {
        Ok(link) => {
            let why = world.down(NEAR, link);
            assert!(!world.end(NEAR).seen(link).up, "nobody listens, and it came up");
            assert!(!matches!(why, Down::Here | Down::Violation(_)), "{why}");
        }
        Err(refused) => assert!(matches!(refused, Refused::Io { .. }), "{refused}"),
    }
    world.settle(1_000);
    world.join();
}

pub(super) fn a_malformed_address_is_refused_and_nothing_follows(subject: &dyn Subject) {
    let mut world = World::new(subject);
    let malformed = subject.malformed();
    assert!(!malformed.is_empty(), "a subject names addresses that are none");
    for address in malformed {
        let Err(refused) = world.end(NEAR).dial(&address) else {
            panic!("{address} was dialled");
        };
        assert!(matches!(refused, Refused::Address { .. }), "{address}: {refused}");
        let said = refused.to_string();
        assert!(said.contains(&address.to_string()), "{said} does not name {address}");
    }
    // An event of a link that was refused would be one of an unknown link.
    world.settle(1_000);
    world.join();
}

pub(super) fn a_dial_that_nobody_answers_is_down_at_its_deadline(subject: &dyn Subject) {
    let mut world = World::new(subject);
    let Some((address, _kept)) = subject.silent() else {
        return super::skip("a dial that nobody answers", "this transport knows no such address");
    };
    let link = world.dial(&address);
    world.settle(100);
    assert!(!world.end(NEAR).seen(link).up, "nobody answered, and it came up");
    assert!(world.end(NEAR).deadline().is_some(), "a dial without a deadline lasts for ever");
    let why = world.down_in_time(NEAR, link);
    assert!(matches!(why, Down::Silent(_)), "{why}");
    world.settle(100);
}

pub(super) fn a_dial_that_is_closed_is_down_and_never_up(subject: &dyn Subject) {
    let mut world = World::new(subject);
    let to = world.end(FAR).address();
    let link = world.dial(&to);
    world.end(NEAR).close(link);
    let why = world.down_in_time(NEAR, link);
    assert_eq!(why, Down::Here);
    assert!(!world.end(NEAR).seen(link).up, "a dial that was closed came up");
    // Whatever the other end has seen of it ends too.
    world.until("the other end sees the end", |world| {
        let ended = world.end(FAR).links.values().all(|seen| seen.down.is_some());
        ended.then_some(())
    });
    world.settle(1_000);
}

pub(super) fn link_numbers_are_never_used_again(subject: &dyn Subject) {
    let mut world = World::new(subject);
    let mut last = None;
    for round in 0..20 {
        // That a number is new is checked as a link is accepted.
        let joined = world.join();
        assert!(last < Some(joined.far), "the numbers of accepted links grow");
        last = Some(joined.far);
        let (end, link) = if round % 2 == 0 { (NEAR, joined.near) } else { (FAR, joined.far) };
        world.end(end).close(link);
        world.down(NEAR, joined.near);
        world.down(FAR, joined.far);
    }
}

pub(super) fn a_link_that_is_not_is_harmless(subject: &dyn Subject) {
    let mut world = World::new(subject);
    let joined = world.join();
    let slots = world.slots(NEAR, joined.near);
    let (mut writer, nowhere) = (Writer::new(0), LinkId::new(u32::MAX - 7));
    for _ in 0..3 {
        let Some(parcel) = writer.parcel(&slots, SMALL) else { panic!("a slot is free") };
        let (len, refused) = (parcel.len(), world.end(NEAR).submit(nowhere, parcel));
        assert_eq!(refused.err().map(|parcel: Parcel| parcel.len()), Some(len), "it is given back");
        world.end(NEAR).close(nowhere);
        world.settle(50);
    }
    Flow::new(NEAR, joined.near, vec![SMALL; 50]).run(&mut world, joined);
}
