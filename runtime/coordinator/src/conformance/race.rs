//! Renewals, changes and joins at once.
//!
//! # Not here
//! Changes among themselves: `view`.

use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use epicserver_wire::NodeId;

use super::Subject;
use super::client::{Client, LONG, Outcome, SHORT, changed, renewed};
use crate::Answer;

/// What a node may do until its lease ends is decided by its own clock, so this is what safety rests on.
pub(super) fn a_lease_lasts_as_long_as_was_asked_from_before_the_asking(subject: &dyn Subject) {
    // Clocks of two processes may be slewed against each other.
    const SLEW: u32 = 100;
    let (mut one, mut other) = (Client::open(subject), Client::open(subject));
    for (from, node) in (0..2).zip((1..).map(NodeId::new)) {
        assert_eq!(one.renew(node, b"", SHORT), renewed(from));
        let asked = Instant::now();
        assert_eq!(one.renew(node, b"", SHORT), renewed(from));
        loop {
            match other.try_change(from, b"view", &[node]) {
                Outcome::Alive => {}
                Outcome::Changed => break,
                Outcome::Overtaken(number) => panic!("somebody else made {number}"),
                Outcome::Failed(why) => panic!("{why}"),
            }
        }
        assert!(asked.elapsed() >= SHORT - SHORT / SLEW, "CO2: a lease was ended early");
        assert_eq!(one.renew(node, b"", SHORT), Answer::Evicted, "CO2");
    }
}

pub(super) fn a_renewal_and_a_change_that_ends_it_are_never_both_done(subject: &dyn Subject) {
    let (mut one, mut other) = (Client::open(subject), Client::open(subject));
    let mut number = 0;
    let nodes = (1..=10).map(NodeId::new);
    for node in nodes.clone() {
        assert_eq!(one.renew(node, b"", SHORT), renewed(0));
    }
    for node in nodes {
        other.wait_out(node);
        let barrier = Barrier::new(2);
        let (renewal, change) = thread::scope(|scope| {
            let renewal = scope.spawn(|| {
                barrier.wait();
                one.renew(node, b"", LONG)
            });
            let change = scope.spawn(|| {
                barrier.wait();
                other.change(number, b"view", &[node])
            });
            (renewal.join().expect("it renews"), change.join().expect("it changes"))
        });
        let ended = match (&renewal, &change) {
            (Answer::Renewed { .. }, Answer::Alive { node: alive }) if *alive == node => false,
            (Answer::Evicted, Answer::Changed { .. }) => true,
            both => panic!("CO2: {both:?} of one node"),
        };
        if ended {
            number += 1;
            assert_eq!(one.renew(node, b"", LONG), Answer::Evicted, "CO2");
        } else {
            assert_eq!(one.renew(node, b"", LONG), renewed(number));
            assert_eq!(one.release(node), Answer::Released);
        }
    }
}

pub(super) fn nodes_that_join_while_others_are_ended_all_join(subject: &dyn Subject) {
    const EACH: u64 = 20;
    let join = |me: u64| {
        let mut client = Client::open(subject);
        for at in 0..EACH {
            let answer = client.renew(NodeId::new(me * EACH + at), b"", LONG);
            assert!(matches!(answer, Answer::Renewed { .. }), "a node that joins: {answer:?}");
        }
    };
    let end = || {
        let mut client = Client::open(subject);
        for from in 0..EACH {
            let gone = NodeId::new(1000 + from);
            assert_eq!(client.change(from, b"view", &[gone]), changed(from + 1));
        }
    };
    thread::scope(|scope| {
        scope.spawn(end);
        // The handles stay open until all have joined, since some leases end with their handles.
        let joiners: Vec<_> = (0..3).map(|me| scope.spawn(move || join(me))).collect();
        for joiner in joiners {
            joiner.join().expect("it joins");
        }
    });
    let (view, leases) = Client::open(subject).read();
    assert_eq!(view.map(|(number, _)| number), Some(EACH));
    assert_eq!(leases.len(), 3 * usize::try_from(EACH).expect("a small number"));
}
