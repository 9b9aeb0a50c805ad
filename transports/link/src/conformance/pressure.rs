//! Bounds: what is lent, refused, and comes home.
//!
//! # Not here
//! Peers that never go on: see `hostile`.

use std::sync::Arc;

use epicserver_wire::header::CORE_BYTES;

use super::Subject;
use super::flow::{Flow, SMALL, run, sizes};
use super::world::{FAR, NEAR, World};

/// Messages after which a sender whose receiver sleeps must have been refused, if they are small.
const MESSAGES_MAX: usize = 1 << 20;
/// Bytes after which it must have been.
const BYTES_MAX: usize = 256 << 20;
/// Bytes that a user holds, as far as they come.
const HELD_BYTES: usize = 48 << 20;
/// Rounds without progress after which a sender counts as stopped.
const STOPPED_ROUNDS: usize = 40;

/// NEAR sends while FAR sleeps, from now on, until it is stopped.
pub(super) fn stop(world: &mut World<'_>, flow: &mut Flow) {
    world.paused = Some(FAR);
    let (mut written, mut rounds) = (0, 0);
    world.until("a sender whose receiver sleeps is stopped", |world| {
        flow.push(world);
        assert!(!flow.is_done(), "T4: nothing was refused while the receiver slept");
        let stopped = flow.is_refused() && flow.written() == written;
        rounds = if stopped { rounds + 1 } else { 0 };
        written = flow.written();
        (rounds > STOPPED_ROUNDS).then_some(())
    });
}

fn stop_and_go(subject: &dyn Subject, plan: impl FnOnce(usize) -> Vec<usize>) {
    let mut world = World::new(subject);
    let joined = world.join();
    let slot_bytes = world.slots(NEAR, joined.near).slot_bytes();
    let mut flow = Flow::new(NEAR, joined.near, plan(slot_bytes));
    stop(&mut world, &mut flow);
    // What comes now needs room, so that it is said is seen too.
    flow.then(&[SMALL; 500]);
    world.paused = None;
    flow.run(&mut world, joined);
}

pub(super) fn a_receiver_that_does_not_poll_stops_its_sender(subject: &dyn Subject) {
    stop_and_go(subject, |slot_bytes| vec![slot_bytes - CORE_BYTES; BYTES_MAX / slot_bytes]);
}

pub(super) fn small_parcels_are_bounded_too(subject: &dyn Subject) {
    stop_and_go(subject, |_| vec![SMALL; MESSAGES_MAX]);
}

pub(super) fn bodies_are_bounded_too(subject: &dyn Subject) {
    stop_and_go(subject, |slot_bytes| vec![slot_bytes + 16; BYTES_MAX / slot_bytes]);
}

/// A user may hold so many frames that its end can receive nothing. It goes on once they are dropped.
pub(super) fn an_end_goes_on_when_held_frames_are_dropped(subject: &dyn Subject) {
    let mut world = World::new(subject);
    let joined = world.join();
    let size = world.slots(NEAR, joined.near).slot_bytes() - CORE_BYTES;
    let plan = vec![size; HELD_BYTES / size];
    let all = plan.len();
    let mut flow = Flow::new(NEAR, joined.near, plan);
    world.end(FAR).seen(joined.far).hold = all;
    let (mut came, mut rounds) = (0, 0);
    world.until("all has come, or nothing more does", |world| {
        flow.push(world);
        let now = world.came(FAR, joined.far);
        rounds = if now == came { rounds + 1 } else { 0 };
        came = now;
        (came == all || rounds > STOPPED_ROUNDS).then_some(())
    });
    let seen = world.end(FAR).seen(joined.far);
    seen.hold = 0;
    for (frame, bytes) in seen.held.drain(..) {
        assert!(frame.bytes() == bytes, "T2: a frame that is held was overwritten");
    }
    flow.run(&mut world, joined);
}

pub(super) fn room_is_said_when_a_slot_comes_back_unused(subject: &dyn Subject) {
    let mut world = World::new(subject);
    let joined = world.join();
    let slots = world.slots(NEAR, joined.near);
    let mut taken = Vec::new();
    while let Some(slot) = Arc::clone(&slots).reserve() {
        taken.push(slot);
    }
    world.settle(50);
    let before = world.end(NEAR).seen(joined.near).rooms;
    let refused = Arc::clone(&slots).reserve();
    assert!(refused.is_none(), "no slot came back, and there was one");
    drop(taken);
    world.until("room is said after slots came back", |world| {
        (world.end(NEAR).seen(joined.near).rooms > before).then_some(())
    });
}

pub(super) fn slots_come_home_while_a_link_is_up(subject: &dyn Subject) {
    let mut world = World::new(subject);
    let joined = world.join();
    let at_first = [world.free(NEAR, joined.near), world.free(FAR, joined.far)];
    let plan = sizes(400, world.slots(NEAR, joined.near).slot_bytes());
    let mut out = Flow::new(NEAR, joined.near, Vec::new());
    let mut back = Flow::new(FAR, joined.far, Vec::new());
    for _ in 0..3 {
        out.then(&plan);
        back.then(&plan);
        run(&mut world, &mut [(&mut out, joined), (&mut back, joined)]);
        world.home((NEAR, joined.near), at_first[NEAR]);
        world.home((FAR, joined.far), at_first[FAR]);
    }
}

pub(super) fn slots_come_home_after_a_close(subject: &dyn Subject) {
    let mut world = World::new(subject);
    let joined = world.join();
    let at_first = [world.free(NEAR, joined.near), world.free(FAR, joined.far)];
    let slot_bytes = world.slots(NEAR, joined.near).slot_bytes();
    let mut out = Flow::new(NEAR, joined.near, sizes(1_000, slot_bytes));
    out.push(&mut world);
    world.end(FAR).close(joined.far);
    world.down_in_time(FAR, joined.far);
    world.down_in_time(NEAR, joined.near);
    drop(out);
    world.home((NEAR, joined.near), at_first[NEAR]);
    world.home((FAR, joined.far), at_first[FAR]);
}
