//! Where `unsafe` may stand, and that each block says why it is sound.
//!
//! # Invariants
//! - `unsafe` appears only below the paths of `ALLOWED`.
//! - Each `unsafe {` and each `unsafe impl` has a `SAFETY:` comment on its line or directly above its statement.
//!
//! # Not here
//! Whether the reason is true: that is for review, Miri, loom and the sanitizer.

use crate::Finding;
use crate::source::{Line, Source, has_word, scan};
use crate::tree::Tree;

/// The only places for `unsafe`. A longer list is a change of the design, not of this file.
const ALLOWED: &[&str] = &[
    "runtime/shard/",
    "transports/shm/",
    "transports/tipc/",
    "transports/verbs/",
    "transports/tcp/",
    "fabric/wire/src/view.rs",
    "fabric/wire/src/view/",
];

/// All findings of this family.
pub fn check(tree: &Tree) -> Vec<Finding> {
    tree.rust().flat_map(|file| check_file(&file.path, &file.text)).collect()
}

fn check_file(path: &str, text: &str) -> Vec<Finding> {
    let source = scan(text);
    let allowed = ALLOWED.iter().any(|place| path.starts_with(place));
    let mut findings = Vec::new();
    for (at, line) in source.lines.iter().enumerate() {
        if path.contains("/tests/ui/") || !has_word(&line.code, "unsafe") {
            continue;
        }
        // A macro that reads signatures has to name the word that it refuses.
        if line.code.contains("Token![unsafe]") {
            continue;
        }
        if !allowed {
            findings.push(Finding::new(path, at + 1, "`unsafe` may not stand in this module"));
        } else if asks_for_reason(&line.code) && !has_reason(&source, at) {
            findings.push(Finding::new(
                path,
                at + 1,
                "`unsafe` without a `// SAFETY:` comment above",
            ));
        }
    }
    findings
}

fn asks_for_reason(code: &str) -> bool {
    ["unsafe {", "unsafe{", "unsafe impl"].iter().any(|form| code.contains(form))
}

/// Looks on the line itself, then upwards to where the statement begins and through the comment that stands on it.
fn has_reason(source: &Source, at: usize) -> bool {
    let reason = |line: &Line| line.comment.contains("SAFETY:");
    if reason(&source.lines[at]) {
        return true;
    }
    let above = source.lines[..at].iter().rev();
    above.take_while(|line| part_of_statement(line)).any(reason)
}

/// A comment, an attribute, or a line that the next one continues.
fn part_of_statement(line: &Line) -> bool {
    let code = line.code.trim();
    if code.is_empty() {
        return !line.comment.is_empty();
    }
    code.starts_with("#[") || !code.ends_with([';', '{', '}', ','])
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [usize; 0] = [];

    fn found(path: &str, text: &str) -> Vec<usize> {
        check_file(path, text).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn unsafe_in_a_pure_module_is_found() {
        let sample = "// SAFETY: no.\nlet x = unsafe { y() };\n";
        assert_eq!(found("fabric/proto/src/calls.rs", sample), [2]);
        assert_eq!(found("fabric/wire/src/view.rs", sample), NONE);
        assert_eq!(found("fabric/wire/src/viewer.rs", sample), [2]);
    }

    #[test]
    fn words_in_comments_and_lint_names_are_not_unsafe() {
        let sample = "#![expect(unsafe_code)] // unsafe {\nlet x = \"unsafe {\";\n";
        assert_eq!(found("fabric/proto/src/lib.rs", sample), NONE);
    }

    #[test]
    fn a_block_without_a_reason_is_found() {
        assert_eq!(found("runtime/shard/src/ring.rs", "let x = unsafe { y() };"), [1]);
        assert_eq!(
            found("runtime/shard/src/ring.rs", "// SAFETY: R1.\na();\nunsafe { y() };"),
            [3]
        );
        assert_eq!(found("runtime/shard/src/ring.rs", "// SAFETY: R1.\n\nunsafe { y() };"), [3]);
        assert_eq!(found("runtime/shard/src/ring.rs", "unsafe impl Send for X {}"), [1]);
    }

    #[test]
    fn a_reason_on_the_line_or_above_the_statement_counts() {
        let path = "runtime/shard/src/ring.rs";
        assert_eq!(
            found(path, "// SAFETY: R1, because\n// of this.\n#[inline]\nunsafe { y() };"),
            NONE
        );
        assert_eq!(found(path, "// SAFETY: R1.\nlet x =\n    unsafe { y() };"), NONE);
        assert_eq!(found(path, "let x = unsafe { y() }; // SAFETY: R1."), NONE);
        assert_eq!(found(path, "unsafe fn f() {}"), NONE);
    }
}
