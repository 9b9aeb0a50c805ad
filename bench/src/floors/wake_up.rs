//! Waking a parked thread and being woken by it: what a hop costs where nobody spins.
//!
//! # Not here
//! A queue, and anybody who spins: `cache_line`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::{self, Thread};

use crate::case::{Failure, Round, Sample, pin};

/// Tells the other side to end. Questions are odd numbers, the answer to one is the next number.
const STOP: u64 = u64::MAX;

/// Nanoseconds until a parked thread on the other CPU was woken and has woken this one in turn.
pub(crate) fn round_trip(round: &Round) -> Result<Sample, Failure> {
    let turn = &AtomicU64::new(0);
    thread::scope(|scope| {
        let (ready, started) = mpsc::channel();
        let here = thread::current();
        let echo = scope.spawn(move || {
            let pinned = pin(round.cpus[1]);
            let can_start = pinned.is_ok();
            if ready.send(pinned).is_ok() && can_start {
                echo(turn, &here);
            }
        });
        started.recv()??;
        let mut laps = round.laps();
        let mut question = 1;
        while laps.begin() {
            turn.store(question, Ordering::Release);
            echo.thread().unpark();
            while turn.load(Ordering::Acquire) == question {
                thread::park();
            }
            laps.end_one()?;
            question += 2;
        }
        turn.store(STOP, Ordering::Release);
        echo.thread().unpark();
        laps.time()
    })
}

fn echo(turn: &AtomicU64, asker: &Thread) {
    loop {
        let question = turn.load(Ordering::Acquire);
        if question == STOP {
            return;
        }
        if question % 2 == 1 {
            turn.store(question + 1, Ordering::Release);
            asker.unpark();
        }
        thread::park();
    }
}
