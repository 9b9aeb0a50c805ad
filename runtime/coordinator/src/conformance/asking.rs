//! How a handle is asked and polled, whatever is asked.
//!
//! # Not here
//! What the answers say.

use epicserver_wire::NodeId;

use super::Subject;
use super::client::{Client, LONG, until};
use crate::{ASKS_MAX, Answer, Ask, AskId, ENDS_MAX, RECORD_BYTES_MAX, TTL_MAX, VIEW_BYTES_MAX};

pub(super) fn every_ask_is_answered_once_and_in_order(subject: &dyn Subject) {
    let mut client = Client::open(subject);
    let mut done = Vec::new();
    let most = u64::try_from(ASKS_MAX).expect("a small number");
    // Numbers that nobody would guess from the order.
    let ids: Vec<AskId> = (0..2 * most).map(|id| AskId(1000 - id)).collect();
    for half in ids.chunks(ASKS_MAX) {
        for id in half {
            assert_eq!(client.handle().ask(*id, Ask::Read), Ok(()));
        }
        let before = done.len();
        until("all answers", || {
            client.handle().poll(&mut done);
            if done.len() < before + half.len() {
                client.pause();
            }
            done.len() >= before + half.len()
        });
    }
    assert_eq!(done.iter().map(|(id, _)| *id).collect::<Vec<_>>(), ids);
    for (_, answer) in &done {
        assert!(matches!(answer, Answer::State { .. }), "asked to read, it says {answer:?}");
    }
    client.handle().poll(&mut done);
    assert_eq!(done.len(), ids.len(), "CN1: an ask has two answers");
}

pub(super) fn a_full_handle_gives_asks_back_until_it_is_polled(subject: &dyn Subject) {
    let mut client = Client::open(subject);
    let mut taken = 0;
    let ask = Ask::Release { node: NodeId::new(u64::MAX) };
    while client.handle().ask(AskId(taken), ask.clone()).is_ok() {
        taken += 1;
        assert!(taken <= u64::try_from(ASKS_MAX).expect("a small number"), "CN5: it takes more");
    }
    assert_eq!(taken, u64::try_from(ASKS_MAX).expect("a small number"));
    assert_eq!(client.handle().ask(AskId(taken), ask.clone()), Err(ask.clone()));
    let mut done = Vec::new();
    until("all answers", || {
        client.handle().poll(&mut done);
        if done.len() < ASKS_MAX {
            client.pause();
        }
        done.len() == ASKS_MAX
    });
    assert_eq!(client.ask(ask), Answer::Released);
}

pub(super) fn what_is_too_long_fails_and_says_so(subject: &dyn Subject) {
    let mut client = Client::open(subject);
    let node = NodeId::new(1);
    let (before, _) = client.read();
    let number = before.as_ref().map_or(0, |(number, _)| *number);
    let record = client.renew(node, &vec![0; RECORD_BYTES_MAX + 1], LONG);
    says(&record, &RECORD_BYTES_MAX.to_string());
    let view = client.change(number, &vec![0; VIEW_BYTES_MAX + 1], &[]);
    says(&view, &VIEW_BYTES_MAX.to_string());
    let ends = client.change(number, &[], &vec![node; ENDS_MAX + 1]);
    says(&ends, &ENDS_MAX.to_string());
    assert_eq!(client.read().0, before, "what was too long has done something");
}

pub(super) fn a_lease_that_lasts_for_nothing_or_for_ever_fails(subject: &dyn Subject) {
    let mut client = Client::open(subject);
    for ttl in [std::time::Duration::ZERO, TTL_MAX * 2] {
        says(&client.renew(NodeId::new(1), &[], ttl), "lease");
    }
}

pub(super) fn a_handle_that_is_dropped_amid_asks_ends(subject: &dyn Subject) {
    for _ in 0..3 {
        let mut client = Client::open(subject);
        for id in 0..ASKS_MAX {
            let id = AskId(u64::try_from(id).expect("a small number"));
            assert_eq!(client.handle().ask(id, Ask::Read), Ok(()));
        }
        drop(client);
    }
    Client::open(subject).read();
}

/// That `answer` is a failure with `part` in its reason.
pub(super) fn says(answer: &Answer, part: &str) {
    let Answer::Failed { why } = answer else { panic!("{answer:?} instead of a failure") };
    assert!(why.contains(part), "{why:?} does not say {part:?}");
}
