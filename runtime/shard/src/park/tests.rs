//! Sleeping and being woken, over real descriptors.

use std::{
    os::fd::AsFd,
    thread,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Parker, Woken, parker};
use crate::ring::ring;

fn rung(parker: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(parker, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).unwrap() == 1
}

fn park_briefly(parker: &mut Parker) -> Woken {
    parker.park(Some(Duration::from_millis(1)), || false).unwrap()
}

#[test]
fn work_found_by_the_re_check_prevents_the_sleep() {
    let (mut parker, _unparker) = parker().unwrap();
    assert_eq!(parker.park(None, || true).unwrap(), Woken::Work);
}

#[test]
fn a_sleep_ends_when_its_time_is_up() {
    let (mut parker, _unparker) = parker().unwrap();
    let before = Instant::now();
    assert_eq!(park_briefly(&mut parker), Woken::Timeout);
    assert!(before.elapsed() >= Duration::from_millis(1));
}

#[test]
fn a_bell_rung_after_the_announcement_ends_the_sleep() {
    let (mut parker, unparker) = parker().unwrap();
    let announced = parker.announce();
    unparker.unpark();
    assert!(rung(&announced));
    assert_eq!(announced.wait(None).unwrap(), Woken::Bell);
    assert_eq!(park_briefly(&mut parker), Woken::Timeout);
}

#[test]
fn an_awake_thread_is_not_rung_for() {
    let (mut parker, unparker) = parker().unwrap();
    unparker.unpark();
    assert!(!rung(&parker));
    drop(parker.announce());
    unparker.unpark();
    assert!(!rung(&parker));
    assert_eq!(park_briefly(&mut parker), Woken::Timeout);
}

#[test]
fn many_wakers_ring_once() {
    let (mut parker, unparker) = parker().unwrap();
    let announced = parker.announce();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| unparker.clone().unpark());
        }
    });
    assert_eq!(announced.parker.shared.bell.take(), 1);
    // P3: it was owed and taken behind the parker's back, so give it back.
    announced.parker.shared.bell.ring();
    drop(announced);
    assert_eq!(parker.owed, 0);
}

#[test]
fn a_late_ring_shortens_the_next_sleep_and_no_further_one() {
    let (mut parker, unparker) = parker().unwrap();
    let announced = parker.announce();
    // A waker that took the flag down and has not yet come to the bell.
    unparker.shared.flag.0.store(super::AWAKE, super::Ordering::Relaxed);
    drop(announced);
    assert_eq!(parker.owed, 1);
    unparker.shared.bell.ring();
    assert_eq!(parker.park(None, || false).unwrap(), Woken::Bell);
    assert_eq!(parker.owed, 0);
    assert_eq!(park_briefly(&mut parker), Woken::Timeout);
}

#[test]
fn a_timeout_too_long_for_the_kernel_is_for_ever() {
    let (mut parker, unparker) = parker().unwrap();
    let announced = parker.announce();
    unparker.unpark();
    assert_eq!(announced.wait(Some(Duration::MAX)).unwrap(), Woken::Bell);
}

#[test]
fn two_threads_that_park_after_every_message_lose_none() {
    const LAPS: u32 = 20_000;
    let (mut ping_tx, mut ping_rx) = ring::<u32>(2);
    let (mut pong_tx, mut pong_rx) = ring::<u32>(2);
    let (mut here, wake_here) = parker().unwrap();
    let (mut there, wake_there) = parker().unwrap();
    let echo = thread::spawn(move || {
        for _ in 0..LAPS {
            let message = loop {
                match ping_rx.pop() {
                    Some(message) => break message,
                    None => there.park(None, || !ping_rx.is_empty()).unwrap(),
                };
            };
            pong_tx.push(message).unwrap();
            wake_here.unpark();
        }
    });
    for lap in 0..LAPS {
        ping_tx.push(lap).unwrap();
        wake_there.unpark();
        let answer = loop {
            match pong_rx.pop() {
                Some(answer) => break answer,
                None => here.park(None, || !pong_rx.is_empty()).unwrap(),
            };
        };
        assert_eq!(answer, lap);
    }
    echo.join().unwrap();
}
