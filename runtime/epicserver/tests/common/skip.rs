//! What a test does where the machine lacks what it needs.

use std::io::Write;

/// Says that the test called `name` does not run, past what the harness keeps to itself, and with what would
/// let it.
///
/// # Panics
/// If all tests are required to run.
pub(crate) fn skip(name: &str, why: &str, remedy: &str) {
    let required = std::env::var_os("EPIC_REQUIRE_ALL").is_some_and(|value| value == "1");
    assert!(!required, "{name} cannot run: {why}; {remedy}");
    let mut aloud = std::io::stderr().lock();
    // Where nobody listens, nobody is told.
    let _told = writeln!(aloud, "skipped: {name}: {why}; {remedy}");
}
