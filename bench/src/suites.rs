//! Suites: which cases there are, and which floors each is judged by.
//!
//! # Not here
//! How a case is run: `case`.

mod call;

use crate::case::{Case, Failure};
use crate::floors;
use crate::ours;
use crate::probe::Probe;

/// Every suite that the program knows.
pub(crate) const NAMES: [&str; 1] = ["call"];

/// Every probe that a case may run in a process of its own.
pub(crate) const PROBES: [(&str, Probe); 2] =
    [("tokio_idle_bytes", floors::tokio_ask::idle_bytes), ("idle_bytes", ours::idle_bytes)];

/// The cases of a suite, in the order in which they are run.
pub(crate) fn cases(suite: &str) -> Result<Vec<Case>, Failure> {
    match suite {
        "call" => Ok(call::cases()),
        _ => Err(format!("there is no suite {suite}").into()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_named_suite_has_cases_of_its_own_name() {
        for name in NAMES {
            let cases = cases(name).unwrap();
            assert!(!cases.is_empty());
            assert!(cases.iter().all(|case| case.suite == name));
            let names: BTreeSet<_> = cases.iter().map(|case| case.case).collect();
            assert_eq!(names.len(), cases.len(), "two cases of one name in {name}");
        }
    }
}
