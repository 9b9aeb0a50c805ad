//! A stop-watch: repeats batches for the time that a round has, and gives the typical one.
//!
//! A batch is long enough (0.1 ms and up) that two clock reads do not show in it. The figure is the
//! median batch, so that the few during which the machine ran something else do not count, for ours
//! and floors alike. What is costly but rarer than every other batch does not count either: a case
//! about such a cost must make a batch of it.
//!
//! # Not here
//! Rounds, and what is done with the figures of several: `case`.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::case::{Effort, Failure, Sample, made, median};

/// The longest single operation that is told apart from longer ones.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// A stop-watch for one round.
#[derive(Debug)]
pub(crate) struct Laps {
    warm_until: Instant,
    /// `None` until the warm-up is over.
    until: Option<Instant>,
    measured: Duration,
    lap_began: Instant,
    /// Nanoseconds of one operation, by batch.
    batches: Vec<f64>,
    latencies: Option<Histogram<u64>>,
}

impl Laps {
    pub(crate) fn new(effort: Effort) -> Self {
        let now = Instant::now();
        Self {
            warm_until: now + effort.warm_up,
            until: None,
            measured: effort.measured,
            lap_began: now,
            batches: Vec::new(),
            latencies: None,
        }
    }

    /// Begins a batch; `false` once the round is over and at least one batch was taken.
    pub(crate) fn begin(&mut self) -> bool {
        let now = Instant::now();
        match self.until {
            None if now >= self.warm_until => self.until = Some(now + self.measured),
            Some(until) if now >= until && !self.batches.is_empty() => return false,
            None | Some(_) => {}
        }
        self.lap_began = now;
        true
    }

    /// Ends a batch of `ops` operations.
    pub(crate) fn end(&mut self, ops: u32) {
        let took = self.lap_began.elapsed();
        if self.until.is_some() {
            self.batches.push(took.as_secs_f64() * 1e9 / f64::from(ops));
        }
    }

    /// Ends a batch that was one operation, and keeps it for percentiles too.
    pub(crate) fn end_one(&mut self) -> Result<(), Failure> {
        let took = self.lap_began.elapsed();
        if self.until.is_none() {
            return Ok(());
        }
        self.batches.push(took.as_secs_f64() * 1e9);
        let none_yet = || Ok(Histogram::new_with_max(LATENCY_NS_MAX, 3)?);
        let latencies = made(&mut self.latencies, none_yet)?;
        latencies.saturating_record(u64::try_from(took.as_nanos())?);
        Ok(())
    }

    /// Nanoseconds an operation, of the median batch.
    pub(crate) fn time(self) -> Result<Sample, Failure> {
        let value = median(self.batches).ok_or("nothing was measured")?;
        Ok(Sample { value, latencies: self.latencies })
    }

    /// Operations a second, of the median batch.
    pub(crate) fn rate(self) -> Result<Sample, Failure> {
        let Sample { value, latencies } = self.time()?;
        Ok(Sample { value: 1e9 / value, latencies })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_of_the_warm_up_are_not_counted() {
        let effort = Effort { rounds: 1, warm_up: Duration::MAX / 4, measured: Duration::ZERO };
        let mut laps = Laps::new(effort);
        assert!(laps.begin());
        laps.end(1);
        assert!(laps.time().is_err(), "nothing was measured");
    }

    #[test]
    fn a_round_takes_at_least_one_batch() {
        let effort = Effort { rounds: 1, warm_up: Duration::ZERO, measured: Duration::ZERO };
        let mut laps = Laps::new(effort);
        let mut batches = 0;
        while laps.begin() {
            batches += 1;
            laps.end_one().unwrap();
        }
        assert_eq!(batches, 1);
        assert_eq!(laps.latencies.as_ref().map(Histogram::len), Some(1));
        assert!(laps.rate().is_ok());
    }
}
