//! The clock of one host: it began at another time than others, and runs a little fast or slow.
//!
//! # Not here
//! True time, which only the simulator knows.

use std::time::Duration;

use epicserver_wire::Time;

use super::scenario::Clocks;
use crate::rng::Rng;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    skew: u64,
    /// Nanoseconds that pass here while a million pass in truth.
    rate: u64,
}

const MILLION: u128 = 1_000_000;

impl Clock {
    pub(crate) fn draw(clocks: &Clocks, rng: &mut Rng) -> Self {
        let skew = rng.below(clocks.skew_s.max(1) * 1_000_000_000);
        let drift = rng.below(2 * clocks.drift_ppm + 1);
        Self { skew, rate: 1_000_000 - clocks.drift_ppm + drift }
    }

    /// One that shows true time.
    pub(crate) const fn true_time() -> Self {
        Self { skew: 0, rate: 1_000_000 }
    }

    /// What it shows.
    pub(crate) fn shows(&self, truth: Time) -> Time {
        if truth == Time::MAX {
            return truth;
        }
        let passed = u128::from(truth.as_nanos()) * u128::from(self.rate) / MILLION;
        Time::from_nanos(self.skew + u64::try_from(passed).unwrap_or(u64::MAX / 2))
    }

    /// When it shows `time`.
    pub(crate) fn when(&self, time: Time) -> Time {
        if time == Time::MAX {
            return time;
        }
        let passed = u128::from(time.as_nanos().saturating_sub(self.skew)) * MILLION;
        let truth = passed.div_ceil(u128::from(self.rate));
        Time::from_nanos(u64::try_from(truth).unwrap_or(u64::MAX))
    }

    /// How long it takes in truth until `time` has passed here.
    pub(crate) fn lasts(&self, time: Duration) -> Duration {
        let nanos = time.as_nanos() * MILLION / u128::from(self.rate);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_shows_a_time_when_it_is_said_to() {
        let mut rng = Rng::new(7);
        let clocks = Clocks { skew_s: 100, drift_ppm: 30_000, of_shards: false };
        for _ in 0..100 {
            let clock = Clock::draw(&clocks, &mut rng);
            let time = clock.shows(Time::from_nanos(rng.below(1 << 40)));
            let when = clock.when(time);
            assert!(clock.shows(when) >= time, "{clock:?}");
            let before = Time::from_nanos(when.as_nanos() - 2_000);
            assert!(clock.shows(before) < time, "{clock:?}");
        }
    }
}
