//! Many links between two ends.
//!
//! # Not here
//! Shares of a bandwidth: only that nobody starves.

use super::Subject;
use super::flow::{Flow, SMALL, run, sizes};
use super::message::Numbers;
use super::world::{FAR, Joined, NEAR, World};

/// Links of a crowd.
const LINKS: usize = 64;
/// Messages that each of the small links sends, one after the other.
const SMALL_MESSAGES: usize = 20;
/// Rounds in which they have arrived, however much goes over the other link.
const ROUNDS_MAX: usize = 5_000;
/// Messages of the bulk link: more than go over it in so many rounds.
const BULK_MESSAGES: usize = 1 << 20;

pub(super) fn many_links_keep_their_messages_apart(subject: &dyn Subject) {
    let mut world = World::new(subject);
    let joined: Vec<Joined> = (0..LINKS).map(|_| world.join()).collect();
    let mut numbers = Numbers::new(64);
    let mut flows = Vec::new();
    for link in joined {
        let plan = sizes(40 + numbers.below(40), 4096);
        flows.push((Flow::new(NEAR, link.near, plan.clone()), link));
        flows.push((Flow::new(FAR, link.far, plan), link));
    }
    let mut all: Vec<_> = flows.iter_mut().map(|(flow, link)| (flow, *link)).collect();
    run(&mut world, &mut all);
}

pub(super) fn bulk_on_one_link_starves_no_other(subject: &dyn Subject) {
    let mut world = World::new(subject);
    let bulk = world.join();
    let links: Vec<Joined> = (1..LINKS).map(|_| world.join()).collect();
    let slot_bytes = world.slots(NEAR, bulk.near).slot_bytes();
    let mut heavy = Flow::new(NEAR, bulk.near, vec![slot_bytes - 64; BULK_MESSAGES]);
    world.until("bulk flows", |world| {
        heavy.push(world);
        (world.came(FAR, bulk.far) > 50).then_some(())
    });
    let mut small: Vec<(Flow, Joined)> =
        links.iter().map(|link| (Flow::new(NEAR, link.near, Vec::new()), *link)).collect();
    let mut rounds = 0;
    world.until("small messages arrive beside bulk", |world| {
        heavy.push(world);
        assert!(!heavy.is_done(), "more goes over the bulk link than was thought");
        rounds += 1;
        assert!(rounds < ROUNDS_MAX, "small messages starved beside bulk");
        let mut over = true;
        for (flow, link) in &mut small {
            let came = world.came(FAR, link.far);
            if flow.is_done() && came == flow.written() && came < SMALL_MESSAGES {
                flow.then(&[SMALL]);
            }
            flow.push(world);
            over &= came == SMALL_MESSAGES;
        }
        over.then_some(())
    });
}
