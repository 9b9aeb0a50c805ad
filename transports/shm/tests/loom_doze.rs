//! Every interleaving of an end that falls asleep and one that has something for it.
//!
//! Run: `RUSTFLAGS="--cfg loom" cargo test --release -p epicserver-shm --test 'loom_*'`
#![cfg(loom)]

use epicserver_shm::doze::{MAIL, ROOM, announce, awake, barrier, must_ring};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;

#[derive(Default)]
struct Shared {
    word: AtomicU32,
    there: AtomicU32,
    rings: AtomicU32,
}

/// What an end does that has made `there` the number `now`.
fn make(shared: &Shared, now: u32, what: u32) {
    shared.there.store(now, Ordering::Release);
    barrier();
    if must_ring(&shared.word, what) {
        // The socket that carries a ring orders what is around it.
        shared.rings.fetch_add(1, Ordering::Release);
    }
}

/// Whether an end falls asleep that has seen `seen` things.
fn sleeps(shared: &Shared, seen: u32, wants: u32) -> bool {
    announce(&shared.word, wants);
    barrier();
    shared.there.load(Ordering::Acquire) == seen
}

#[test]
fn d1_whoever_sleeps_is_rung() {
    for (wants, what) in [(MAIL, MAIL), (MAIL | ROOM, ROOM), (MAIL | ROOM, MAIL)] {
        loom::model(move || {
            let shared = Arc::new(Shared::default());
            let other = Arc::clone(&shared);
            let maker = thread::spawn(move || make(&other, 1, what));
            let slept = sleeps(&shared, 0, wants);
            maker.join().unwrap();
            let rings = shared.rings.load(Ordering::Acquire);
            assert!(!slept || rings == 1, "it sleeps for ever");
        });
    }
}

#[test]
fn d1_a_second_sleep_is_rung_as_the_first_one() {
    loom::model(|| {
        let shared = Arc::new(Shared::default());
        let other = Arc::clone(&shared);
        let maker = thread::spawn(move || {
            make(&other, 1, MAIL);
            make(&other, 2, MAIL);
        });
        let mut slept = 0;
        for seen in 0..2 {
            slept += u32::from(sleeps(&shared, seen, MAIL));
            if slept > shared.rings.load(Ordering::Acquire) {
                break;
            }
            awake(&shared.word);
        }
        maker.join().unwrap();
        assert!(slept <= shared.rings.load(Ordering::Acquire), "it sleeps for ever");
    });
}

#[test]
fn d2_who_sleeps_for_mail_is_not_rung_for_room() {
    loom::model(|| {
        let shared = Arc::new(Shared::default());
        let other = Arc::clone(&shared);
        let maker = thread::spawn(move || make(&other, 1, ROOM));
        sleeps(&shared, 0, MAIL);
        maker.join().unwrap();
        assert_eq!(shared.rings.load(Ordering::Acquire), 0);
    });
}
