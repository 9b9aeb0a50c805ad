//! Leases: made, renewed, run out, ended, released.
//!
//! # Not here
//! What happens when several do so at once: `race`.

use epicserver_wire::NodeId;

use super::Subject;
use super::client::{Client, LONG, SHORT, changed, renewed, until};
use crate::{Answer, RECORD_BYTES_MAX};

const ONE: NodeId = NodeId::new(1);
/// A number that is negative where numbers have a sign.
const TWO: NodeId = NodeId::new(u64::MAX - 1);
const NONE: NodeId = NodeId::new(1 << 63);

pub(super) fn a_first_renewal_makes_a_lease_that_others_read(subject: &dyn Subject) {
    let (mut one, mut other) = (Client::open(subject), Client::open(subject));
    assert_eq!(one.renew(TWO, b"two", LONG), renewed(0));
    assert_eq!(one.renew(ONE, b"one", LONG), renewed(0));
    let (view, leases) = other.read();
    assert_eq!(view, None);
    let there: Vec<_> = leases.iter().map(|lease| (lease.node, &lease.record[..])).collect();
    assert_eq!(there, [(ONE, &b"one"[..]), (TWO, &b"two"[..])], "by node");
    for lease in leases {
        assert!(lease.left > LONG / 2 && lease.left <= LONG, "{:?} are left", lease.left);
    }
    assert_eq!(other.change(0, b"view", &[]), changed(1));
    assert_eq!(one.renew(ONE, b"one", LONG), renewed(1), "a renewal tells the number of the view");
}

pub(super) fn a_renewal_replaces_the_record(subject: &dyn Subject) {
    let (mut one, mut other) = (Client::open(subject), Client::open(subject));
    for record in [&b"first"[..], b"second", b"second", b""] {
        assert_eq!(one.renew(ONE, record, LONG), renewed(0));
        let (_, leases) = other.read();
        assert_eq!(leases.len(), 1);
        assert_eq!(leases[0].record, record);
    }
    // A shorter lease may last as long as the longer one before it; a longer one lasts longer.
    assert_eq!(one.renew(ONE, b"", SHORT), renewed(0));
    assert_eq!(one.renew(ONE, b"", LONG * 2), renewed(0));
    assert!(other.read().1[0].left > LONG, "a lease that was renewed for longer is not longer");
}

pub(super) fn records_of_all_sizes_come_back_as_they_were(subject: &dyn Subject) {
    let (mut one, mut other) = (Client::open(subject), Client::open(subject));
    for size in [0, 1, 255, 256, RECORD_BYTES_MAX - 1, RECORD_BYTES_MAX] {
        let record: Vec<u8> =
            (0..size).map(|at| u8::try_from(255 - at % 251).expect("small")).collect();
        assert_eq!(one.renew(ONE, &record, LONG), renewed(0));
        assert!(other.read().1[0].record == record, "{size} bytes come back otherwise");
    }
}

pub(super) fn a_lease_that_lasts_is_not_ended_and_nothing_changes(subject: &dyn Subject) {
    let (mut one, mut other) = (Client::open(subject), Client::open(subject));
    assert_eq!(one.renew(ONE, b"", LONG), renewed(0));
    assert_eq!(one.renew(TWO, b"", LONG), renewed(0));
    for ends in [&[TWO, ONE][..], &[NONE, TWO]] {
        let answer = other.change(0, b"view", ends);
        let Answer::Alive { node } = answer else { panic!("a change that may not be: {answer:?}") };
        assert!(ends.contains(&node) && node != NONE, "{node} lasts");
    }
    let (view, leases) = other.read();
    assert_eq!((view, leases.len()), (None, 2));
    assert_eq!(other.renew(NONE, b"", LONG), renewed(0), "one of those that were to end has ended");
    assert_eq!(one.renew(ONE, b"", LONG), renewed(0));
}

pub(super) fn a_lease_that_ran_out_is_ended_for_ever_by_a_change(subject: &dyn Subject) {
    let (mut one, mut other) = (Client::open(subject), Client::open(subject));
    assert_eq!(one.renew(ONE, b"", SHORT), renewed(0));
    assert_eq!(one.renew(TWO, b"", LONG), renewed(0));
    other.wait_out(ONE);
    assert_eq!(other.change(0, b"view", &[ONE]), changed(1));
    for _ in 0..2 {
        assert_eq!(one.renew(ONE, b"", LONG), Answer::Evicted, "CO2");
        assert_eq!(other.renew(ONE, b"", LONG), Answer::Evicted, "CO2");
    }
    assert_eq!(one.renew(TWO, b"", LONG), renewed(1));
    let (_, leases) = other.read();
    assert_eq!(leases.iter().map(|lease| lease.node).collect::<Vec<_>>(), [TWO]);
}

pub(super) fn a_lease_that_ran_out_and_was_not_ended_is_renewed(subject: &dyn Subject) {
    let (mut one, mut other) = (Client::open(subject), Client::open(subject));
    assert_eq!(one.renew(ONE, b"record", SHORT), renewed(0));
    other.wait_out(ONE);
    let (_, leases) = other.read();
    assert_eq!(leases.len(), 1, "one that has only run out is read");
    assert_eq!(leases[0].record, b"record");
    assert_eq!(other.change(0, b"view", &[]), changed(1));
    assert_eq!(one.renew(ONE, b"later", LONG), renewed(1));
    let (_, leases) = other.read();
    assert!(!leases[0].left.is_zero(), "it lasts again");
    assert_eq!(leases[0].record, b"later");
    assert_eq!(other.change(1, b"view", &[ONE]), Answer::Alive { node: ONE });
}

pub(super) fn a_released_lease_is_gone_for_ever(subject: &dyn Subject) {
    let (mut one, mut other) = (Client::open(subject), Client::open(subject));
    assert_eq!(one.renew(ONE, b"", LONG), renewed(0));
    for _ in 0..2 {
        assert_eq!(one.release(ONE), Answer::Released);
    }
    assert_eq!(other.read(), (None, Vec::new()));
    assert_eq!(one.renew(ONE, b"", LONG), Answer::Evicted, "CO2");
    assert_eq!(other.renew(ONE, b"", LONG), Answer::Evicted, "CO2");
    assert_eq!(other.change(0, b"view", &[ONE]), changed(1), "it can be ended at once");
    assert_eq!(one.release(ONE), Answer::Released);
    assert_eq!(one.renew(ONE, b"", LONG), Answer::Evicted, "CO2");
}

pub(super) fn a_release_of_nothing_is_a_release(subject: &dyn Subject) {
    let mut client = Client::open(subject);
    assert_eq!(client.release(NONE), Answer::Released);
    assert_eq!(client.read(), (None, Vec::new()));
    assert_eq!(client.renew(NONE, b"", LONG), Answer::Evicted, "CO2");
}

pub(super) fn a_node_without_a_lease_can_be_ended_and_never_gets_one(subject: &dyn Subject) {
    let mut client = Client::open(subject);
    assert_eq!(client.change(0, b"view", &[NONE]), changed(1));
    assert_eq!(client.renew(NONE, b"", LONG), Answer::Evicted, "CO2");
    assert_eq!(client.release(NONE), Answer::Released);
    assert_eq!(client.read().1, []);
}

pub(super) fn a_node_may_be_ended_twice(subject: &dyn Subject) {
    let mut client = Client::open(subject);
    assert_eq!(client.change(0, b"view", &[NONE, TWO, NONE]), changed(1));
    assert_eq!(client.change(1, b"view", &[NONE]), changed(2));
    assert_eq!(client.renew(NONE, b"", LONG), Answer::Evicted, "CO2");
}

pub(super) fn a_node_that_is_forgotten_gets_no_second_lease(subject: &dyn Subject) {
    let mut client = Client::open(subject);
    assert_eq!(client.renew(ONE, b"", SHORT), renewed(0));
    client.wait_out(ONE);
    assert_eq!(client.change(0, b"view", &[ONE]), changed(1));
    assert_eq!(client.renew(TWO, b"", LONG), renewed(1));
    for node in [ONE, TWO] {
        if !subject.forget(node) {
            return;
        }
        for _ in 0..2 {
            assert_eq!(client.renew(node, b"", LONG), Answer::Evicted, "CN4");
        }
    }
    assert_eq!(client.read().1, []);
}

pub(super) fn an_overtaken_change_ends_nothing(subject: &dyn Subject) {
    let (mut one, mut other) = (Client::open(subject), Client::open(subject));
    assert_eq!(one.renew(ONE, b"", SHORT), renewed(0));
    assert_eq!(other.change(0, b"view", &[]), changed(1));
    other.wait_out(ONE);
    assert_eq!(other.change(0, b"late", &[ONE, NONE]), Answer::Overtaken { number: 1 });
    assert_eq!(one.renew(ONE, b"", LONG), renewed(1));
    assert_eq!(one.renew(NONE, b"", LONG), renewed(1));
}

pub(super) fn many_leases_are_read_in_order_and_ended_at_once(subject: &dyn Subject) {
    const MANY: u64 = 200;
    let (mut one, mut other) = (Client::open(subject), Client::open(subject));
    // Far apart, and not in order.
    let nodes: Vec<NodeId> =
        (1..=MANY).map(|at| NodeId::new(at.wrapping_mul(1 << 57 | 1))).collect();
    for node in &nodes {
        assert_eq!(one.renew(*node, &node.as_u64().to_le_bytes(), SHORT), renewed(0));
    }
    let last = NodeId::new(0);
    assert_eq!(one.renew(last, &[], LONG), renewed(0));
    until("the end of all leases", || {
        let (_, leases) = other.read();
        leases.iter().all(|lease| lease.node == last || lease.left.is_zero())
    });
    let (_, leases) = other.read();
    let mut sorted = nodes.clone();
    sorted.push(last);
    sorted.sort_unstable();
    assert_eq!(leases.iter().map(|lease| lease.node).collect::<Vec<_>>(), sorted);
    assert_eq!(other.change(0, b"view", &nodes), changed(1));
    assert_eq!(other.read().1.len(), 1);
    for node in &nodes {
        assert_eq!(one.renew(*node, &[], LONG), Answer::Evicted, "CO2");
    }
}
