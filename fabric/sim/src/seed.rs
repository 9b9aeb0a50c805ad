//! The first seed of a run that was given none.
//!
//! # Not here
//! Anything else that is not a function of a seed: this is the one place.

use std::hash::{BuildHasher, RandomState};

/// A number that nobody has chosen. Whoever uses it prints it, so that the run can be repeated.
#[must_use]
pub fn fresh_seed() -> u64 {
    // Short enough to be typed.
    RandomState::new().hash_one(0_u8) >> 24
}
