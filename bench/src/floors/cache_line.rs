//! One cache line to and fro between two CPUs: the least that any message and its answer can take.
//!
//! # Not here
//! A payload, a queue, and anybody who sleeps: `wake_up`.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;

use crate::case::{Failure, Round, Sample, pin};

const OPS: u32 = 1_000;
/// Tells the other side to end. Questions are odd numbers, the answer to one is the next number.
const STOP: u64 = u64::MAX;

/// A line of its own, and of the neighbour that the prefetcher takes along.
#[repr(align(128))]
#[derive(Default)]
struct Line(AtomicU64);

/// Nanoseconds until a number written here was seen over there and its answer was seen here: the
/// faster of spinning with a pause instruction and without, since processors differ in which it is.
pub(crate) fn round_trip(round: &Round) -> Result<Sample, Failure> {
    let (paused, eager) = (spin::<true>(round)?, spin::<false>(round)?);
    Ok(if paused.value < eager.value { paused } else { eager })
}

/// One line for both ways: two lines, one a way, were slower wherever this was tried.
fn spin<const PAUSE: bool>(round: &Round) -> Result<Sample, Failure> {
    let line = &Line::default();
    thread::scope(|scope| {
        let (ready, started) = mpsc::channel();
        scope.spawn(move || {
            let pinned = pin(round.cpus[1]);
            let can_start = pinned.is_ok();
            if ready.send(pinned).is_ok() && can_start {
                echo::<PAUSE>(line);
            }
        });
        started.recv()??;
        let mut laps = round.laps();
        let mut question = 1;
        while laps.begin() {
            for _ in 0..OPS {
                line.0.store(question, Ordering::Release);
                while line.0.load(Ordering::Acquire) != question + 1 {
                    pause::<PAUSE>();
                }
                question += 2;
            }
            laps.end(OPS);
        }
        line.0.store(STOP, Ordering::Release);
        laps.time()
    })
}

fn echo<const PAUSE: bool>(line: &Line) {
    let mut answer = 2;
    loop {
        let question = line.0.load(Ordering::Acquire);
        if question == answer - 1 {
            line.0.store(answer, Ordering::Release);
            answer += 2;
        } else if question == STOP {
            return;
        } else {
            pause::<PAUSE>();
        }
    }
}

fn pause<const PAUSE: bool>() {
    if PAUSE {
        spin_loop();
    }
}
