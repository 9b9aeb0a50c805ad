//! What outlives handles, and the coordinator itself.
//!
//! # Not here
//! Connections that break while it lives: `cut` and `lost`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use epicserver_wire::NodeId;

use super::Subject;
use super::client::{Client, LONG, Outcome, SHORT, changed, renewed, until};
use crate::{Answer, Ask};

const KEPT: NodeId = NodeId::new(7);
const ENDED: NodeId = NodeId::new(8);
const RELEASED: NodeId = NodeId::new(9);

pub(super) fn all_handles_may_go_and_nothing_is_forgotten(subject: &dyn Subject) {
    prepare(&mut Client::open(subject));
    check(&mut Client::open(subject));
}

pub(super) fn a_restart_keeps_the_view_the_leases_and_who_has_ended(subject: &dyn Subject) {
    let mut client = Client::open(subject);
    prepare(&mut client);
    if !subject.restart() {
        return;
    }
    let mut other = Client::open(subject);
    let alive = surely(&mut other, &Ask::Change { from: 2, view: Vec::new(), ends: vec![KEPT] });
    assert_eq!(alive, Answer::Alive { node: KEPT }, "a lease that lasts outlives a restart");
    check(&mut other);
    // The handle that was open finds back by itself.
    let renew = Ask::Renew { node: KEPT, record: b"kept".to_vec(), ttl: LONG };
    assert_eq!(surely(&mut client, &renew), renewed(2));
}

/// Leaves a view, a lease that lasts, one that was ended, and one that was released.
fn prepare(client: &mut Client) {
    assert_eq!(client.change(0, b"first", &[]), changed(1));
    assert_eq!(client.renew(KEPT, b"kept", LONG), renewed(1));
    assert_eq!(client.renew(ENDED, b"ended", SHORT), renewed(1));
    assert_eq!(client.renew(RELEASED, b"released", SHORT), renewed(1));
    assert_eq!(client.release(RELEASED), Answer::Released);
    client.wait_out(ENDED);
    assert_eq!(client.change(1, b"second", &[ENDED]), changed(2));
}

fn check(client: &mut Client) {
    let (view, leases) = client.read();
    assert_eq!(view, Some((2, b"second".to_vec())));
    let there: Vec<_> = leases.iter().map(|lease| (lease.node, &lease.record[..])).collect();
    assert_eq!(there, [(KEPT, &b"kept"[..])]);
    for gone in [ENDED, RELEASED] {
        assert_eq!(client.renew(gone, b"", LONG), Answer::Evicted, "CO2");
    }
    assert_eq!(client.change(1, b"late", &[]), Answer::Overtaken { number: 2 });
    assert_eq!(client.renew(KEPT, b"kept", LONG), renewed(2));
}

pub(super) fn changes_amid_restarts_are_done_once_or_not_at_all(subject: &dyn Subject) {
    const RESTARTS: u32 = 2;
    let enough = AtomicBool::new(false);
    let count = || {
        let mut client = Client::open(subject);
        let (mut done, mut unknown, mut from) = (0, 0, 0);
        while !enough.load(Ordering::SeqCst) {
            match client.try_change(from, &from.to_le_bytes(), &[]) {
                Outcome::Changed => (done, from) = (done + 1, from + 1),
                Outcome::Overtaken(number) => from = number,
                Outcome::Failed(_) => unknown += 1,
                Outcome::Alive => panic!("nobody was to end"),
            }
        }
        (done, unknown)
    };
    let counts: Vec<(u64, u64)> = thread::scope(|scope| {
        let counters: Vec<_> = (0..2).map(|_| scope.spawn(count)).collect();
        let mut watcher = Client::open(subject);
        for _ in 0..RESTARTS {
            let before = number(&mut watcher);
            until("a change", || number(&mut watcher) > before);
            if !subject.restart() {
                break;
            }
        }
        let before = number(&mut watcher);
        until("a change after the restarts", || number(&mut watcher) > before + 2);
        enough.store(true, Ordering::SeqCst);
        counters.into_iter().map(|counter| counter.join().expect("it counts")).collect()
    });
    let done: u64 = counts.iter().map(|(done, _)| done).sum();
    let unknown: u64 = counts.iter().map(|(_, unknown)| unknown).sum();
    let (view, _) = surely_read(&mut Client::open(subject));
    let (number, view) = view.expect("there is a view");
    assert!(number >= done, "CO1: {done} changes were made, and the number is {number}");
    assert!(
        number <= done + unknown,
        "{number} is more than the {done} + {unknown} that were asked"
    );
    assert_eq!(view, (number - 1).to_le_bytes(), "the view is of another number");
}

fn number(client: &mut Client) -> u64 {
    surely_read(client).0.map_or(0, |(number, _)| number)
}

fn surely_read(client: &mut Client) -> (Option<(u64, Vec<u8>)>, Vec<crate::Lease>) {
    let answer = surely(client, &Ask::Read);
    let Answer::State { view, leases } = answer else {
        panic!("asked to read, it says {answer:?}")
    };
    (view, leases)
}

/// Asks until it does not fail.
pub(super) fn surely(client: &mut Client, ask: &Ask) -> Answer {
    let mut answer = None;
    until("an answer that is no failure", || {
        let got = client.ask(ask.clone());
        let failed = matches!(got, Answer::Failed { .. });
        answer = Some(got);
        !failed
    });
    answer.expect("it was asked")
}
