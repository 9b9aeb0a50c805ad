//! The ring, on one thread and over two.

use std::{hint, sync::Arc, thread};

use super::{Full, ring};

#[test]
fn messages_come_out_in_the_order_they_went_in() {
    let (mut tx, mut rx) = ring(4);
    for lap in 0..10 {
        for item in 0..3 {
            tx.push(lap * 3 + item).unwrap();
        }
        for item in 0..3 {
            assert_eq!(rx.pop(), Some(lap * 3 + item));
        }
        assert_eq!(rx.pop(), None);
    }
}

#[test]
fn a_full_ring_gives_the_message_back() {
    let (mut tx, mut rx) = ring(2);
    tx.push("a").unwrap();
    tx.push("b").unwrap();
    assert!(!tx.has_room());
    assert_eq!(tx.push("c"), Err(Full("c")));
    assert_eq!(rx.pop(), Some("a"));
    assert!(tx.has_room());
    tx.push("c").unwrap();
    assert_eq!(tx.push("d"), Err(Full("d")));
}

#[test]
fn a_ring_of_one_slot_works() {
    let (mut tx, mut rx) = ring(1);
    for item in 0..5 {
        assert!(rx.is_empty());
        tx.push(item).unwrap();
        assert!(!rx.is_empty());
        assert_eq!(tx.push(item), Err(Full(item)));
        assert_eq!(rx.pop(), Some(item));
    }
}

#[test]
#[should_panic(expected = "R1")]
fn a_capacity_that_is_no_power_of_two_is_refused() {
    drop(ring::<u8>(3));
}

#[test]
fn messages_without_size_are_counted() {
    let (mut tx, mut rx) = ring(2);
    tx.push(()).unwrap();
    tx.push(()).unwrap();
    assert_eq!(tx.push(()), Err(Full(())));
    assert_eq!((rx.pop(), rx.pop(), rx.pop()), (Some(()), Some(()), None));
}

#[test]
fn left_over_messages_are_dropped_with_the_last_end() {
    let item = Arc::new(());
    let (mut tx, mut rx) = ring(4);
    for _ in 0..4 {
        tx.push(Arc::clone(&item)).unwrap();
    }
    drop(rx.pop());
    drop(rx.pop());
    tx.push(Arc::clone(&item)).unwrap();
    drop(rx);
    assert_eq!(Arc::strong_count(&item), 4);
    drop(tx);
    assert_eq!(Arc::strong_count(&item), 1);
}

#[test]
fn a_full_ring_is_dropped_without_meeting_a_slot_twice() {
    let item = Arc::new(());
    let (mut tx, rx) = ring(2);
    tx.push(Arc::clone(&item)).unwrap();
    tx.push(Arc::clone(&item)).unwrap();
    drop((tx, rx));
    assert_eq!(Arc::strong_count(&item), 1);
}

#[test]
fn each_end_sees_that_the_other_is_gone() {
    let (tx, rx) = ring::<u8>(2);
    assert!(!tx.is_closed());
    drop(rx);
    assert!(tx.is_closed());

    let (mut tx, mut rx) = ring::<u8>(2);
    tx.push(7).unwrap();
    assert!(!rx.is_closed());
    drop(tx);
    assert!(rx.is_closed());
    assert_eq!((rx.pop(), rx.pop()), (Some(7), None));
}

#[test]
fn two_threads_lose_nothing_and_repeat_nothing() {
    // Under Miri a smaller number, since it runs every instruction by hand.
    const ITEMS: u64 = if cfg!(miri) { 2_000 } else { 1_000_000 };
    for capacity in [1, 2, 64] {
        let (mut tx, mut rx) = ring::<Box<u64>>(capacity);
        let items = if capacity < 64 { ITEMS / 20 } else { ITEMS };
        let producer = thread::spawn(move || {
            for item in 0..items {
                let mut waiting = Box::new(item);
                while let Err(Full(back)) = tx.push(waiting) {
                    waiting = back;
                    thread::yield_now();
                }
            }
        });
        for expected in 0..items {
            let item = loop {
                match rx.pop() {
                    Some(item) => break item,
                    None if capacity < 64 => thread::yield_now(),
                    None => hint::spin_loop(),
                }
            };
            assert_eq!(*item, expected);
        }
        producer.join().unwrap();
        assert!(rx.is_closed());
        assert!(rx.pop().is_none());
    }
}
