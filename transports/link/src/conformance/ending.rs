//! How links are closed.
//!
//! # Not here
//! Peers that are killed: see `killed`.

use super::Subject;
use super::flow::{Flow, SMALL, sizes};
use super::message::Writer;
use super::world::{FAR, Joined, NEAR, World};
use crate::Down;

/// Rounds in which whatever may still come has come.
const AFTER: usize = 1_000;

/// Both ends are down, this one as the one that closed, and nothing is said afterwards.
fn is_over(world: &mut World<'_>, joined: Joined, closer: usize) {
    let other = if closer == NEAR { FAR } else { NEAR };
    let why = world.down(other, joined.at(other));
    assert_eq!(why, Down::There, "the peer closed it");
    assert_eq!(world.down(closer, joined.at(closer)), Down::Here, "this end closed it");
    world.settle(AFTER);
}

pub(super) fn a_close_sends_what_was_submitted(subject: &dyn Subject) {
    for closer in [NEAR, FAR] {
        let mut world = World::new(subject);
        let joined = world.join();
        let slot_bytes = world.slots(NEAR, joined.near).slot_bytes();
        let mut flow = Flow::new(closer, joined.at(closer), sizes(2_000, slot_bytes));
        flow.push(&mut world);
        world.end(closer).close(joined.at(closer));
        let sent = flow.submitted();
        assert!(sent > 0, "a link that is up takes something");
        is_over(&mut world, joined, closer);
        let other = if closer == NEAR { FAR } else { NEAR };
        assert_eq!(world.came(other, joined.at(other)), sent, "T1: a close lost messages");
    }
}

pub(super) fn a_close_sends_what_was_submitted_though_the_peer_is_sending(subject: &dyn Subject) {
    let mut world = World::new(subject);
    let joined = world.join();
    let slot_bytes = world.slots(NEAR, joined.near).slot_bytes();
    // So much that it is under way in both directions when one end closes.
    let plan = vec![slot_bytes - 64; 2_000];
    let mut out = Flow::new(NEAR, joined.near, plan.clone());
    let mut back = Flow::new(FAR, joined.far, plan);
    world.until("both directions flow", |world| {
        out.push(world);
        back.push(world);
        (world.came(FAR, joined.far) > 20 && world.came(NEAR, joined.near) > 20).then_some(())
    });
    out.push(&mut world);
    world.end(NEAR).close(joined.near);
    let sent = out.submitted();
    world.until("the other end is down", |world| {
        back.push(world);
        world.end(FAR).seen(joined.far).down.clone()
    });
    is_over(&mut world, joined, NEAR);
    assert_eq!(world.came(FAR, joined.far), sent, "T1: a close lost messages");
}

pub(super) fn a_close_from_both_ends_is_down_once_at_each(subject: &dyn Subject) {
    for rounds in 0..4 {
        let mut world = World::new(subject);
        let joined = world.join();
        let mut flow = Flow::new(NEAR, joined.near, vec![SMALL; 20]);
        flow.push(&mut world);
        world.end(NEAR).close(joined.near);
        for _ in 0..rounds {
            world.round();
        }
        world.end(FAR).close(joined.far);
        let near = world.down(NEAR, joined.near);
        let far = world.down(FAR, joined.far);
        assert_eq!(near, Down::Here);
        assert!(matches!(far, Down::Here | Down::There), "{far}");
        world.settle(AFTER);
    }
}

pub(super) fn a_close_that_is_repeated_is_one(subject: &dyn Subject) {
    let mut world = World::new(subject);
    let joined = world.join();
    let mut flow = Flow::new(NEAR, joined.near, sizes(2_000, 1024));
    flow.push(&mut world);
    world.paused = Some(FAR);
    world.end(NEAR).close(joined.near);
    let first = world.end(NEAR).deadline();
    // Later, it does not begin its short time anew.
    world.end(NEAR).pass(std::time::Duration::from_millis(1));
    world.end(NEAR).close(joined.near);
    let second = world.end(NEAR).deadline();
    assert!(first.is_none() || second <= first, "a close that is repeated takes longer");
    world.paused = None;
    is_over(&mut world, joined, NEAR);
    world.end(NEAR).close(joined.near);
    world.settle(AFTER);
}

pub(super) fn a_closed_link_takes_nothing(subject: &dyn Subject) {
    let mut world = World::new(subject);
    let joined = world.join();
    let slots = world.slots(NEAR, joined.near);
    let mut writer = Writer::new(1);
    let mut parcels: Vec<_> = (0..3).filter_map(|_| writer.parcel(&slots, SMALL)).collect();
    assert_eq!(parcels.len(), 3, "slots are free");
    world.end(NEAR).close(joined.near);
    for parcel in parcels.drain(..2) {
        assert!(world.end(NEAR).submit(joined.near, parcel).is_err(), "it was closed");
    }
    is_over(&mut world, joined, NEAR);
    for parcel in parcels {
        assert!(world.end(NEAR).submit(joined.near, parcel).is_err(), "it is down");
    }
    assert_eq!(world.came(FAR, joined.far), 0, "what was given back does not arrive");
}

pub(super) fn an_end_can_be_dialled_again(subject: &dyn Subject) {
    let mut world = World::new(subject);
    for _ in 0..5 {
        let joined = world.join();
        Flow::new(NEAR, joined.near, sizes(50, 1024)).run(&mut world, joined);
        world.end(FAR).close(joined.far);
        is_over(&mut world, joined, FAR);
    }
}
