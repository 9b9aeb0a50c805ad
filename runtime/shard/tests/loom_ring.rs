//! Every interleaving of a ring's two ends: order, exactly once, the drop of what is left, closing.
//!
//! Run: `RUSTFLAGS="--cfg loom" cargo test --release -p epicserver-shard --test 'loom_*'`
#![cfg(loom)]

use epicserver_shard::ring::{Full, ring};
use loom::{sync::Arc, thread};

#[test]
fn messages_cross_in_order_and_exactly_once() {
    loom::model(|| cross(1));
    loom::model(|| cross(2));
}

/// Sends three messages through a ring that has no room for all of them at once.
fn cross(capacity: usize) {
    let (mut tx, mut rx) = ring::<Box<u32>>(capacity);
    let producer = thread::spawn(move || {
        for item in 0..3 {
            while !tx.has_room() {
                thread::yield_now();
            }
            assert!(tx.push(Box::new(item)).is_ok());
        }
    });
    for expected in 0..3 {
        let item = loop {
            match rx.pop() {
                Some(item) => break item,
                None => thread::yield_now(),
            }
        };
        assert_eq!(*item, expected);
    }
    assert!(producer.join().is_ok());
    assert!(rx.is_empty());
}

#[test]
fn a_message_that_nobody_popped_is_dropped_once() {
    loom::model(|| {
        let item = Arc::new(());
        let (mut tx, mut rx) = ring::<Arc<()>>(2);
        let sent = [Arc::clone(&item), Arc::clone(&item)];
        let producer = thread::spawn(move || {
            for item in sent {
                tx.push(item).unwrap();
            }
        });
        drop(rx.pop());
        drop(rx);
        producer.join().unwrap();
        assert_eq!(Arc::strong_count(&item), 1);
    });
}

#[test]
fn nothing_comes_after_closed_and_empty() {
    loom::model(|| {
        let (mut tx, mut rx) = ring::<u32>(2);
        let producer = thread::spawn(move || {
            tx.push(1).unwrap();
            tx.push(2).unwrap();
        });
        let mut popped = 0;
        loop {
            let closed = rx.is_closed();
            match rx.pop() {
                Some(_) => popped += 1,
                None if closed => break,
                None => thread::yield_now(),
            }
        }
        assert_eq!(popped, 2);
        producer.join().unwrap();
    });
}

#[test]
fn a_producer_sees_that_its_consumer_is_gone() {
    loom::model(|| {
        let (mut tx, rx) = ring::<u32>(1);
        tx.push(1).unwrap();
        let consumer = thread::spawn(move || drop(rx));
        while !tx.is_closed() {
            thread::yield_now();
        }
        assert_eq!(tx.push(2), Err(Full(2)));
        consumer.join().unwrap();
    });
}
