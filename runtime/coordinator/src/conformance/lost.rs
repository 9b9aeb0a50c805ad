//! Silence: a coordinator that is there and cannot be heard.
//!
//! # Not here
//! What it does meanwhile.

use epicserver_wire::NodeId;

use super::Subject;
use super::client::{Client, LONG, renewed};
use super::restart::surely;
use crate::{Answer, Ask};

pub(super) fn asks_that_nobody_hears_fail_and_later_ones_do_not(subject: &dyn Subject) {
    let mut client = Client::open(subject);
    let node = NodeId::new(4);
    assert_eq!(client.renew(node, b"record", LONG), renewed(0));
    if !subject.stall(true) {
        return;
    }
    for ask in [
        Ask::Read,
        Ask::Renew { node, record: b"record".to_vec(), ttl: LONG },
        Ask::Change { from: 0, view: b"view".to_vec(), ends: Vec::new() },
    ] {
        let answer = client.ask(ask);
        let Answer::Failed { why } = answer else { panic!("nobody can have said {answer:?}") };
        assert!(!why.is_empty());
    }
    subject.stall(false);
    let renew = Ask::Renew { node, record: b"record".to_vec(), ttl: LONG };
    let answer = surely(&mut client, &renew);
    // The change may have been heard after all.
    assert!(matches!(answer, Answer::Renewed { number: 0 | 1 }), "{answer:?}");
}
