//! The embedded store: the suite on a real file, and what happens to a disk of the tests' own.

#![expect(
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    reason = "numbers are those of tests, and whatever else comes fails one"
)]

mod disk;
mod power;
mod rot;
mod suite;
mod trouble;
