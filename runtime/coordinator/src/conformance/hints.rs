//! Hints that something has changed.
//!
//! A handle may hint for nothing when it has just reached its coordinator, so each behaviour is shown several times.
//!
//! # Not here
//! Hints that are missed.

use epicserver_wire::NodeId;

use super::Subject;
use super::client::{Client, LONG, changed, renewed};
use crate::Answer;

/// How often each is shown.
const TIMES: u8 = 3;

pub(super) fn a_change_is_hinted_to_others(subject: &dyn Subject) {
    let (mut one, mut other) = (Client::open(subject), Client::open(subject));
    other.read();
    for from in 0..u64::from(TIMES) {
        other.handle().take_changed();
        assert_eq!(one.change(from, b"view", &[]), changed(from + 1));
        other.wait_for_hint();
    }
}

pub(super) fn a_new_lease_and_a_new_record_are_hinted_to_others(subject: &dyn Subject) {
    let (mut one, mut other) = (Client::open(subject), Client::open(subject));
    other.read();
    for time in 0..TIMES {
        let node = NodeId::new(u64::from(time));
        for record in [&b"first"[..], b"second"] {
            other.handle().take_changed();
            assert_eq!(one.renew(node, record, LONG), renewed(0));
            other.wait_for_hint();
        }
    }
}

pub(super) fn a_release_is_hinted_to_others(subject: &dyn Subject) {
    let (mut one, mut other) = (Client::open(subject), Client::open(subject));
    for time in 0..TIMES {
        let node = NodeId::new(u64::from(time));
        assert_eq!(one.renew(node, b"", LONG), renewed(0));
        other.wait_for_hint();
        other.read();
        other.handle().take_changed();
        assert_eq!(one.release(node), Answer::Released);
        other.wait_for_hint();
    }
}
