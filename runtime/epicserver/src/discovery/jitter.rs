//! Chance enough that many nodes do not do the same at the same time.
//!
//! # Not here
//! Secrets: whoever sees some of it knows the rest.

use std::time::Duration;

/// A row of numbers that follows from a seed, by xorshift.
#[derive(Debug)]
pub(super) struct Jitter(u64);

impl Jitter {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// A time between half of `most` and `most`.
    pub(super) fn about(&mut self, most: Duration) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let half = most / 2;
        let nanos = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX);
        half + Duration::from_nanos(self.0 % nanos.saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_lie_in_the_upper_half_and_differ_from_seed_to_seed() {
        let most = Duration::from_secs(8);
        let times = |seed| {
            let mut jitter = Jitter::new(seed);
            [(); 100].map(|()| jitter.about(most))
        };
        assert!(times(6).iter().all(|time| (most / 2..=most).contains(time)));
        assert_ne!(times(6), times(8));
        assert_eq!(Jitter::new(1).about(Duration::ZERO), Duration::ZERO);
    }
}
