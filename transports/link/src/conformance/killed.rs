//! A peer that dies, at every step: the link is down once, after its last frame, and nothing is lost but
//! what was under way.
//!
//! # Not here
//! Peers that live on and misbehave: see `hostile`.

use super::Subject;
use super::flow::{Flow, SMALL, run, sizes};
use super::pressure::stop;
use super::world::{FAR, Joined, NEAR, World};
use crate::Down;

/// Rounds in which whatever may still come has come.
const AFTER: usize = 1_000;

/// FAR was killed: NEAR sees it, once.
fn is_seen(world: &mut World<'_>, joined: Joined) {
    let why = world.down(NEAR, joined.near);
    assert_eq!(why, Down::There, "the peer's process ended");
    world.settle(AFTER);
}

/// NEAR is as good as new: others can be reached.
fn goes_on(world: &mut World<'_>) {
    let (other, to) = (world.add(), world.end(NEAR).address());
    let link = match world.end(other).dial(&to) {
        Ok(link) => link,
        Err(refused) => panic!("{to} was refused: {refused}"),
    };
    world.until("an end whose peer died is reached", |world| {
        world.end(other).seen(link).is_up().then_some(())
    });
}

pub(super) fn while_it_is_dialled(subject: &dyn Subject) {
    for rounds in 0..6 {
        let mut world = World::new(subject);
        let to = world.end(FAR).address();
        let link = world.dial(&to);
        for at in 0..rounds {
            world.end(if at % 2 == 0 { NEAR } else { FAR }).round();
        }
        world.kill(FAR);
        let why = world.down_in_time(NEAR, link);
        assert!(!matches!(why, Down::Here | Down::Violation(_)), "{why}");
        world.settle(AFTER);
        goes_on(&mut world);
    }
}

pub(super) fn while_it_dials(subject: &dyn Subject) {
    for rounds in 0..6 {
        let mut world = World::new(subject);
        let to = world.end(NEAR).address();
        let dialled = world.end(FAR).dial(&to);
        assert!(dialled.is_ok(), "a node that listens is dialled");
        for at in 0..rounds {
            world.end(if at % 2 == 0 { FAR } else { NEAR }).round();
        }
        world.kill(FAR);
        world.settle(AFTER);
        world.until("what came of it is down", |world| {
            world.end(NEAR).skip();
            let over = world.end(NEAR).links.values().all(|seen| seen.down.is_some());
            over.then_some(())
        });
        world.settle(AFTER);
        goes_on(&mut world);
    }
}

pub(super) fn when_it_is_up(subject: &dyn Subject) {
    let mut world = World::new(subject);
    let joined = world.join();
    Flow::new(NEAR, joined.near, vec![SMALL; 3]).run(&mut world, joined);
    world.kill(FAR);
    is_seen(&mut world, joined);
    goes_on(&mut world);
}

pub(super) fn with_parcels_submitted_to_it(subject: &dyn Subject) {
    for rounds in 0..4 {
        let mut world = World::new(subject);
        let joined = world.join();
        let at_first = world.free(NEAR, joined.near);
        let slot_bytes = world.slots(NEAR, joined.near).slot_bytes();
        let mut flow = Flow::new(NEAR, joined.near, sizes(2_000, slot_bytes));
        flow.push(&mut world);
        for _ in 0..rounds {
            world.round();
            flow.push(&mut world);
        }
        world.kill(FAR);
        is_seen(&mut world, joined);
        drop(flow);
        world.home((NEAR, joined.near), at_first);
    }
}

pub(super) fn with_parcels_submitted_by_it(subject: &dyn Subject) {
    for rounds in 0..4 {
        let mut world = World::new(subject);
        let joined = world.join();
        let at_first = world.free(NEAR, joined.near);
        let slot_bytes = world.slots(NEAR, joined.near).slot_bytes();
        let mut flow = Flow::new(FAR, joined.far, sizes(2_000, slot_bytes));
        flow.push(&mut world);
        for _ in 0..rounds {
            world.round();
            flow.push(&mut world);
        }
        let most = flow.submitted();
        world.kill(FAR);
        drop(flow);
        // That what came is whole and in order, and comes before the end, is checked as it comes.
        is_seen(&mut world, joined);
        assert!(world.came(NEAR, joined.near) <= most);
        world.home((NEAR, joined.near), at_first);
    }
}

/// A body goes from `from`, so long that the kill comes while it is under way.
fn mid_body(subject: &dyn Subject, from: usize) {
    let mut world = World::new(subject);
    let joined = world.join();
    let at_first = world.free(NEAR, joined.near);
    let plan = vec![SMALL, subject.payload_bytes_max(), SMALL];
    let mut flow = Flow::new(from, joined.at(from), plan);
    flow.push(&mut world);
    for _ in 0..3 {
        world.round();
    }
    world.kill(FAR);
    drop(flow);
    is_seen(&mut world, joined);
    world.home((NEAR, joined.near), at_first);
    goes_on(&mut world);
}

pub(super) fn in_the_middle_of_a_body_to_it(subject: &dyn Subject) {
    mid_body(subject, NEAR);
}

pub(super) fn in_the_middle_of_a_body_from_it(subject: &dyn Subject) {
    mid_body(subject, FAR);
}

pub(super) fn while_this_end_is_refused(subject: &dyn Subject) {
    let mut world = World::new(subject);
    let joined = world.join();
    let at_first = world.free(NEAR, joined.near);
    let slot_bytes = world.slots(NEAR, joined.near).slot_bytes();
    let mut flow = Flow::new(NEAR, joined.near, vec![slot_bytes - 64; (256 << 20) / slot_bytes]);
    stop(&mut world, &mut flow);
    world.kill(FAR);
    is_seen(&mut world, joined);
    drop(flow);
    world.home((NEAR, joined.near), at_first);
    goes_on(&mut world);
}

pub(super) fn with_one_link_of_many_ends(subject: &dyn Subject) {
    let mut world = World::new(subject);
    let lasting = world.join();
    let mut flow = Flow::new(NEAR, lasting.near, Vec::new());
    for _ in 0..4 {
        let other = world.add();
        let joined = world.join_from(other);
        let mut dying = Flow::new(other, joined.near, sizes(300, 4096));
        dying.push(&mut world);
        world.round();
        world.kill(other);
        flow.then(&sizes(100, 4096));
        run(&mut world, &mut [(&mut flow, lasting)]);
        assert_eq!(world.down(FAR, joined.far), Down::There);
    }
}
