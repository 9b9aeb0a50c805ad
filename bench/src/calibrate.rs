//! Calibration: what this machine charges for the things that every figure is made of.
//!
//! # Not here
//! Judgement. These are printed so that figures of two machines are not compared by mistake.

use std::fmt;
use std::hint::black_box;
use std::time::Instant;

use crate::case::{Better, Case, Effort, Failure, Figure, Round, Sample};
use crate::floors;
use crate::machine::Machine;
use crate::report;

/// Prices of one machine, in nanoseconds.
#[derive(Debug)]
pub(crate) struct Calibration {
    clock_read: Option<Figure>,
    /// `None` where there is only one CPU.
    cache_line: Option<Figure>,
    wake_up: Option<Figure>,
}

pub(crate) fn calibrate(machine: &Machine, effort: Effort) -> Result<Calibration, Failure> {
    let price = |case, cpus, subject| {
        if !machine.has_cpus(cpus) {
            return Ok(None);
        }
        let case = Case {
            suite: "calibration",
            case,
            unit: "ns",
            better: Better::Lower,
            cpus,
            ours: None,
            floors: vec![(case, subject)],
        };
        let verdict = case.run(machine, Effort { rounds: 3, ..effort })?;
        Ok::<_, Failure>(verdict.floors.into_iter().next().map(|(_, figure)| figure))
    };
    Ok(Calibration {
        clock_read: price("clock_read", 1, Box::new(clock_read))?,
        cache_line: price("cache_line", 2, Box::new(floors::cache_line::round_trip))?,
        wake_up: price("wake_up", 2, Box::new(floors::wake_up::round_trip))?,
    })
}

fn clock_read(round: &Round) -> Result<Sample, Failure> {
    const OPS: u32 = 10_000;
    let mut laps = round.laps();
    while laps.begin() {
        for _ in 0..OPS {
            black_box(Instant::now());
        }
        laps.end(OPS);
    }
    laps.time()
}

impl fmt::Display for Calibration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "calibration")?;
        let prices = [
            ("clock read", &self.clock_read),
            ("cache line, round trip", &self.cache_line),
            ("wake-up of a parked thread, round trip", &self.wake_up),
        ];
        for (what, price) in prices {
            match price {
                Some(price) => writeln!(f, "  {what:<40} {}", report::figure(price, "ns"))?,
                None => writeln!(f, "  {what:<40} needs two CPUs")?,
            }
        }
        Ok(())
    }
}
