//! The rules of this repository, as functions that can be shown to fail.
//!
//! In:  file texts, `cargo metadata`   Out: a list of `Finding`
//!
//! Each module holds one family of rules with its own bad samples as unit tests; `tests/*.rs` apply them to this
//! repository. So `cargo test --workspace` is also the tidiness check, and no second tool has to be remembered.
//!
//! # Not here
//! What the compiler, rustfmt and clippy already check. Running programs: that is `.ci/run`.

pub mod commands;
pub mod crates;
pub mod invariants;
pub mod listing;
pub mod map;
pub mod source;
pub mod text;
pub mod tree;
pub mod unsafety;

use std::fmt;

/// One broken rule at one place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Path from the root of the repository.
    pub path: String,
    /// Line, from 1; 0 where the whole file is meant.
    pub line: usize,
    /// What is wrong and what to do about it.
    pub what: String,
}

impl Finding {
    /// A finding at `line` (from 1) of `path`.
    pub fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

/// Fails the test that calls it, with every finding on a line of its own, so that one run shows all there is to do.
#[track_caller]
pub fn assert_clean(mut findings: Vec<Finding>) {
    findings.sort();
    let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
    assert!(lines.is_empty(), "{} finding(s):\n{}", lines.len(), lines.join("\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "a.rs:3: wrong")]
    fn a_finding_fails_the_test() {
        assert_clean(vec![Finding::new("a.rs", 3, "wrong")]);
    }
}
