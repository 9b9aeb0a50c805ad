//! An end that sleeps in its driver: whatever arrives ends its sleep.
//!
//! # Not here
//! What other threads of a node wake it for.

use std::time::{Duration, Instant};

use super::Subject;
use super::flow::{Flow, SMALL};
use super::world::{FAR, NEAR, World};

/// How long a wait lasts that nothing ends: so long that no slow machine is taken for one.
const ASLEEP: Duration = Duration::from_secs(5);
/// Waits that may end for nothing.
const WAITS_MAX: usize = 10_000;

/// FAR sleeps, `arrives` happens at NEAR, and FAR has to wake until it sees what `seen` looks for.
fn wakes(
    world: &mut World<'_>,
    mut arrives: impl FnMut(&mut World<'_>),
    mut seen: impl FnMut(&mut World<'_>) -> bool,
) {
    world.settle(200);
    for _ in 0..WAITS_MAX {
        if world.end(FAR).arm() {
            break;
        }
        world.end(FAR).round();
    }
    arrives(world);
    for _ in 0..WAITS_MAX {
        let started = Instant::now();
        world.end(FAR).wait(ASLEEP);
        assert!(started.elapsed() < ASLEEP, "what arrived did not end the wait of an armed end");
        // What woke it may be a part of what is to come.
        while !seen(world) && (world.end(FAR).round() || !world.end(FAR).arm()) {}
        if seen(world) {
            return;
        }
    }
    panic!("an end woke {WAITS_MAX} times for nothing");
}

pub(super) fn what_arrives_ends_the_wait(subject: &dyn Subject) {
    let mut world = World::new(subject);
    let joined = world.join();
    let mut flow = Flow::new(NEAR, joined.near, Vec::new());
    for round in 1..30 {
        let arrives = |world: &mut World<'_>| {
            flow.then(&[SMALL]);
            flow.push(world);
            // Not both ends: this one sleeps.
            world.end(NEAR).round();
        };
        wakes(&mut world, arrives, |world| world.came(FAR, joined.far) == round);
    }
}

pub(super) fn a_dial_ends_the_wait(subject: &dyn Subject) {
    let mut world = World::new(subject);
    let to = world.end(FAR).address();
    let arrives = |world: &mut World<'_>| {
        world.dial(&to);
        world.end(NEAR).round();
    };
    wakes(&mut world, arrives, |world| {
        world.end(NEAR).round();
        world.newest(FAR).is_some()
    });
}

pub(super) fn a_close_ends_the_wait(subject: &dyn Subject) {
    let mut world = World::new(subject);
    let joined = world.join();
    let arrives = |world: &mut World<'_>| {
        world.end(NEAR).close(joined.near);
        world.end(NEAR).round();
    };
    wakes(&mut world, arrives, |world| {
        world.end(NEAR).round();
        world.end(FAR).seen(joined.far).down.is_some()
    });
}

pub(super) fn a_death_ends_the_wait(subject: &dyn Subject) {
    let mut world = World::new(subject);
    let joined = world.join();
    let arrives = |world: &mut World<'_>| world.kill(NEAR);
    wakes(&mut world, arrives, |world| world.end(FAR).seen(joined.far).down.is_some());
}

pub(super) fn a_wake_ends_the_wait(subject: &dyn Subject) {
    let mut world = World::new(subject);
    let waker = world.end(FAR).waker();
    let mut woken = false;
    for _ in 0..3 {
        // A wake before the wait counts as much as one during it.
        let arrives = |_: &mut World<'_>| waker.wake();
        wakes(&mut world, arrives, |_| std::mem::replace(&mut woken, true));
        woken = false;
    }
}
