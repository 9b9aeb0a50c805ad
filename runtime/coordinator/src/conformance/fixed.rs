//! Coordinators whose view is given: of the nodes 1 and 2, with a number above 0.
//!
//! # Not here
//! How it is given.

use epicserver_wire::NodeId;

use super::Subject;
use super::client::{Client, LONG, renewed};
use crate::Answer;

pub(super) fn the_view_and_all_members_are_there_from_the_start(subject: &dyn Subject) {
    let (mut one, mut other) = (Client::open(subject), Client::open(subject));
    let (view, leases) = one.read();
    assert!(view.as_ref().is_some_and(|(number, _)| *number > 0), "{view:?}");
    assert!(leases.iter().map(|lease| lease.node.as_u64()).eq([1, 2]), "{leases:?}");
    assert!(leases.iter().all(|lease| !lease.left.is_zero()));
    assert_eq!(other.read(), (view, leases), "all handles agree");
    assert!(one.handle().is_fixed());
}

pub(super) fn a_change_is_refused_and_the_view_stays(subject: &dyn Subject) {
    let mut client = Client::open(subject);
    let before = client.read();
    let number = before.0.as_ref().map_or(0, |(number, _)| *number);
    let refused = client.change(number, b"other", &[]);
    assert!(matches!(refused, Answer::Failed { .. }), "{refused:?}");
    assert_eq!(client.change(0, b"other", &[]), Answer::Overtaken { number });
    assert_eq!(client.read(), before);
}

pub(super) fn a_member_is_renewed_until_it_releases(subject: &dyn Subject) {
    let mut client = Client::open(subject);
    let number = client.read().0.map_or(0, |(number, _)| number);
    let node = NodeId::new(1);
    assert_eq!(client.renew(node, b"record", LONG), renewed(number));
    for _ in 0..2 {
        assert_eq!(client.release(node), Answer::Released);
    }
    assert_eq!(client.renew(node, b"record", LONG), Answer::Evicted, "CO2");
    let stranger = client.renew(NodeId::new(3), b"", LONG);
    assert!(matches!(stranger, Answer::Failed { .. }), "a stranger is told {stranger:?}");
}
