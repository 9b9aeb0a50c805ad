//! Every interleaving of a ring and a parker: a message pushed before or during a sleep is seen.
//!
//! The last tests break the protocol on purpose, and loom must notice; else the tests above prove
//! nothing.
//!
//! Run: `RUSTFLAGS="--cfg loom" cargo test --release -p epicserver-shard --test 'loom_*'`
#![cfg(loom)]

use std::{env, process::Command};

use epicserver_shard::{
    park::{Parker, parker},
    ring::{Consumer, ring},
};
use loom::{
    model::Builder,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering, fence},
    },
    thread,
};

/// Interleavings with up to this many involuntary switches of the thread.
const SWITCHES_MAX: usize = 4;

fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(SWITCHES_MAX);
    builder.check(model);
}

/// Asserts that loom finds an interleaving of the model in which nobody can go on.
///
/// The model runs in a process of its own, in which this test is all there is: loom's own drops
/// abort when a model that failed is unwound.
fn assert_sleeps_for_ever(test: &str, model: impl Fn() + Send + Sync + 'static) {
    if env::var_os(IN_CHILD).is_some() {
        return check(model);
    }
    let child = Command::new(env::current_exe().expect("this program has a path"))
        .args([test, "--exact", "--nocapture"])
        .env(IN_CHILD, "1")
        .output()
        .expect("this program starts again");
    assert!(!child.status.success(), "loom found no fault");
    let said = String::from_utf8_lossy(&child.stderr);
    assert!(said.contains("deadlock; threads"), "it failed in another way: {said}");
}

const IN_CHILD: &str = "EPIC_LOOM_CHILD";

fn receive(rx: &mut Consumer<u32>, parker: &mut Parker) -> u32 {
    loop {
        if let Some(message) = rx.pop() {
            return message;
        }
        parker.park(None, || !rx.is_empty()).expect("the model's bell cannot fail");
    }
}

#[test]
fn a_message_pushed_before_or_during_a_sleep_is_seen() {
    check(|| {
        let (mut tx, mut rx) = ring(2);
        let (mut parker, unparker) = parker().unwrap();
        let sender = thread::spawn(move || {
            tx.push(7).unwrap();
            unparker.unpark();
        });
        assert_eq!(receive(&mut rx, &mut parker), 7);
        sender.join().unwrap();
    });
}

#[test]
fn a_second_sleep_is_as_safe_as_the_first() {
    check(|| {
        let (mut tx, mut rx) = ring(2);
        let (mut parker, unparker) = parker().unwrap();
        let sender = thread::spawn(move || {
            for message in 1..=2 {
                tx.push(message).unwrap();
                unparker.unpark();
            }
        });
        assert_eq!(receive(&mut rx, &mut parker), 1);
        assert_eq!(receive(&mut rx, &mut parker), 2);
        sender.join().unwrap();
    });
}

#[test]
fn one_wake_a_batch_is_enough() {
    check(|| {
        let (mut tx, mut rx) = ring(2);
        let (mut parker, unparker) = parker().unwrap();
        let sender = thread::spawn(move || {
            tx.push(1).unwrap();
            tx.push(2).unwrap();
            unparker.unpark();
        });
        assert_eq!(receive(&mut rx, &mut parker), 1);
        assert_eq!(receive(&mut rx, &mut parker), 2);
        sender.join().unwrap();
    });
}

#[test]
fn two_senders_with_a_ring_each_are_both_heard() {
    check(|| {
        let (mut parker, unparker) = parker().unwrap();
        let mut senders = Vec::new();
        let mut rings = Vec::new();
        for message in 1..=2 {
            let (mut tx, rx) = ring(1);
            let unparker = unparker.clone();
            rings.push(rx);
            senders.push(thread::spawn(move || {
                tx.push(message).unwrap();
                unparker.unpark();
            }));
        }
        let mut sum = 0;
        while sum < 3 {
            let before = sum;
            sum += rings.iter_mut().filter_map(Consumer::pop).sum::<u32>();
            if sum == before {
                parker.park(None, || rings.iter().any(|rx| !rx.is_empty())).unwrap();
            }
        }
        for sender in senders {
            sender.join().unwrap();
        }
    });
}

#[test]
fn without_the_re_check_a_message_is_slept_through() {
    assert_sleeps_for_ever("without_the_re_check_a_message_is_slept_through", || {
        let (mut tx, mut rx) = ring(2);
        let (mut parker, unparker) = parker().unwrap();
        let sender = thread::spawn(move || {
            tx.push(7).unwrap();
            unparker.unpark();
        });
        while rx.pop().is_none() {
            parker.announce().wait(None).unwrap();
        }
        sender.join().unwrap();
    });
}

#[test]
fn without_the_wake_a_message_is_slept_through() {
    assert_sleeps_for_ever("without_the_wake_a_message_is_slept_through", || {
        let (mut tx, mut rx) = ring(2);
        let (mut parker, _unparker) = parker().unwrap();
        let sender = thread::spawn(move || tx.push(7).unwrap());
        receive(&mut rx, &mut parker);
        sender.join().unwrap();
    });
}

/// The protocol of `park` spelt out once more, with each fence to be left out at will.
fn protocol(sleeper_fences: bool, sender_fences: bool) {
    let (mut tx, mut rx) = ring(2);
    let asleep = Arc::new(AtomicBool::new(false));
    let bell = Arc::new((Mutex::new(false), Condvar::new()));
    let (flag, rung) = (Arc::clone(&asleep), Arc::clone(&bell));
    let sender = thread::spawn(move || {
        tx.push(7).expect("the ring has room");
        if sender_fences {
            fence(Ordering::SeqCst);
        }
        if flag.load(Ordering::Relaxed) {
            *rung.0.lock().expect(SANE) = true;
            rung.1.notify_one();
        }
    });
    if rx.is_empty() {
        asleep.store(true, Ordering::Relaxed);
        if sleeper_fences {
            fence(Ordering::SeqCst);
        }
        if rx.is_empty() {
            let mut heard = bell.0.lock().expect(SANE);
            while !*heard {
                heard = bell.1.wait(heard).expect(SANE);
            }
        }
    }
    assert_eq!(rx.pop(), Some(7));
    sender.join().expect(SANE);
}

const SANE: &str = "no thread panics";

#[test]
fn the_protocol_spelt_out_holds() {
    check(|| protocol(true, true));
}

#[test]
fn without_the_sleepers_fence_a_message_is_slept_through() {
    let test = "without_the_sleepers_fence_a_message_is_slept_through";
    assert_sleeps_for_ever(test, || protocol(false, true));
}

#[test]
fn without_the_senders_fence_a_message_is_slept_through() {
    let test = "without_the_senders_fence_a_message_is_slept_through";
    assert_sleeps_for_ever(test, || protocol(true, false));
}
