//! Connections that end after something was done, and before that is told: nobody knows whether it was.
//!
//! # Not here
//! Silence: `lost`.

use epicserver_wire::NodeId;

use super::client::{Client, LONG, changed, renewed};
use super::restart::surely;
use super::{Cut, Subject};
use crate::{Answer, Ask};

const NODE: NodeId = NodeId::new(3);

pub(super) fn a_change_whose_answer_is_lost_fails_and_was_done(subject: &dyn Subject) {
    let (mut one, mut other) = (Client::open(subject), Client::open(subject));
    one.read();
    if !subject.cut(Cut::Change) {
        return;
    }
    fails(&one.change(0, b"view", &[]));
    assert_eq!(other.read().0, Some((1, b"view".to_vec())));
    // Who asks again is not told that it was done twice.
    let again = Ask::Change { from: 0, view: b"view".to_vec(), ends: Vec::new() };
    assert_eq!(surely(&mut one, &again), Answer::Overtaken { number: 1 });
    assert_eq!(one.change(1, b"next", &[]), changed(2));
}

pub(super) fn a_renewal_whose_answer_is_lost_fails_and_was_done(subject: &dyn Subject) {
    let (mut one, mut other) = (Client::open(subject), Client::open(subject));
    one.read();
    if !subject.cut(Cut::Renew) {
        return;
    }
    fails(&one.renew(NODE, b"record", LONG));
    assert_eq!(other.read().1.len(), 1);
    let again = Ask::Renew { node: NODE, record: b"record".to_vec(), ttl: LONG };
    assert_eq!(surely(&mut one, &again), renewed(0));
    assert_eq!(other.change(0, b"view", &[NODE]), Answer::Alive { node: NODE });
}

pub(super) fn a_release_whose_answer_is_lost_fails_and_was_done(subject: &dyn Subject) {
    let (mut one, mut other) = (Client::open(subject), Client::open(subject));
    assert_eq!(one.renew(NODE, b"record", LONG), renewed(0));
    if !subject.cut(Cut::Release) {
        return;
    }
    fails(&one.release(NODE));
    assert_eq!(other.read().1, []);
    assert_eq!(surely(&mut one, &Ask::Release { node: NODE }), Answer::Released);
    assert_eq!(one.renew(NODE, b"record", LONG), Answer::Evicted, "CO2");
}

fn fails(answer: &Answer) {
    assert!(
        matches!(answer, Answer::Failed { .. }),
        "CN3: its answer is lost, and it says {answer:?}"
    );
}
