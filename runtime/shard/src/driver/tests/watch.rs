//! What ends a wait: descriptors of others, and other threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::event::{EventfdFlags, eventfd};

use super::*;

fn readable(done: &Done) -> Option<()> {
    matches!(done, Done::Readable).then_some(())
}

fn ring(eventfd: &OwnedFd) {
    rustix::io::write(eventfd, &[1, 0, 0, 0, 0, 0, 0, 0]).unwrap();
}

#[test]
fn a_watched_file_is_told_of_whenever_something_comes() {
    each_form(|form| {
        let mut end = End::new(form);
        let file = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let watched = end.driver.watch(OWNER, file.try_clone().unwrap()).unwrap();
        end.quiet_rounds(3);
        assert!(end.done.is_empty());
        for turn in 0..100 {
            ring(&file);
            end.until(|end| end.take(watched, readable));
            if turn % 2 == 0 {
                rustix::io::read(&file, &mut [0; 8]).unwrap();
            }
        }
        end.driver.close(watched, false);
        assert_eq!(end.until_closed(watched), None);
        ring(&file);
        end.quiet_rounds(3);
        assert!(end.done.is_empty());
    });
}

#[test]
fn a_watched_file_that_can_be_read_already_is_told_of() {
    each_form(|form| {
        let mut end = End::new(form);
        let file = eventfd(1, EventfdFlags::NONBLOCK).unwrap();
        let watched = end.driver.watch(OWNER, file).unwrap();
        end.until(|end| end.take(watched, readable));
    });
}

#[test]
fn r3_a_wake_before_the_wait_ends_it() {
    each_form(|form| {
        let mut end = End::new(form);
        let waker = end.driver.waker();
        for _ in 0..3 {
            waker.wake();
            waker.wake();
            end.driver.wait(None, &mut end.done).unwrap();
            assert!(end.done.is_empty());
        }
    });
}

#[test]
fn r3_wakes_from_another_thread_end_every_wait() {
    const TURNS: usize = 2_000;
    each_form(|form| {
        let mut end = End::new(form);
        let waker = end.driver.waker();
        let said = Arc::new(AtomicUsize::new(0));
        let heard = Arc::new(AtomicUsize::new(0));
        let (says, hears) = (Arc::clone(&said), Arc::clone(&heard));
        let other = std::thread::spawn(move || {
            for turn in 1..=TURNS {
                says.store(turn, Ordering::Relaxed);
                waker.wake();
                while hears.load(Ordering::Relaxed) < turn {
                    std::thread::yield_now();
                }
            }
        });
        while heard.load(Ordering::Relaxed) < TURNS {
            // Without a limit: a wake that is lost is a wait that never ends.
            end.driver.wait(None, &mut end.done).unwrap();
            heard.store(said.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        other.join().unwrap();
    });
}

#[test]
fn a_wait_ends_when_its_time_is_up_and_something_that_is_done_ends_it_before() {
    each_form(|form| {
        let mut end = End::new(form);
        end.driver.wait(Some(Duration::from_millis(1)), &mut end.done).unwrap();
        assert!(end.done.is_empty());
        let (one, other) = pair(Kind::Unix);
        let (from, to) = (end.adopt(one), end.adopt(other));
        end.driver.send(from, parcel(0, 64)).unwrap();
        while end.take(to, received).is_none() {
            end.driver.wait(None, &mut end.done).unwrap();
        }
    });
}

#[test]
fn a_poll_without_anything_to_do_says_nothing() {
    each_form(|form| {
        let mut end = End::new(form);
        let (one, _peer) = pair(Kind::V4);
        end.adopt(one);
        for _ in 0..100 {
            end.driver.poll(&mut end.done).unwrap();
        }
        assert!(end.done.is_empty());
    });
}

#[test]
fn polling_alone_carries_messages_to_and_fro() {
    each_form(|form| {
        let mut end = End::new(form);
        let (one, other) = pair(Kind::V4);
        let (from, to) = (end.adopt(one), end.adopt(other));
        let mut hops = 0;
        end.driver.send(from, parcel(0, 64)).unwrap();
        while hops < 1_000 {
            end.driver.poll(&mut end.done).unwrap();
            for (handle, back) in [(from, from), (to, to)] {
                while end.take(handle, received).is_some() {
                    hops += 1;
                    end.driver.send(back, parcel(0, 64)).unwrap();
                }
            }
            end.done.retain(|one| sent(&one.done).is_none());
        }
    });
}
