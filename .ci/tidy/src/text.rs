//! Rules about the text of files: length, headers, leftovers, white space, paths of one machine.
//!
//! # Invariants
//! - No Rust file is longer than `RUST_LINES_MAX`.
//! - Every Rust file of the crates opens with a `//!` header; compile-fail samples are exempt, their output names lines.
//! - Nothing unfinished, switched off or tied to one machine is committed.
//!
//! # Not here
//! Rust formatting: that is rustfmt's.

use crate::Finding;
use crate::source::scan;
use crate::tree::{File, Tree};

/// A longer file has more than one main type.
const RUST_LINES_MAX: usize = 800;

/// Folders whose Rust files have a header.
const WITH_HEADER: &[&str] =
    &["fabric/", "runtime/", "transports/", "persistence/", "bench/", "hw-tests/", ".ci/tidy/"];

/// What stands for work that is not done, or a test that does not run.
const UNFINISHED_CODE: &[&str] = &["todo!", "unimplemented!", "#[ignore"];

/// The same in comments and prose.
const UNFINISHED_NOTE: &str = concat!("FIX", "ME");

/// Folders that exist on one machine only.
const MACHINE_PATHS: &[&str] = &[concat!("/wo", "rk/"), concat!("/ro", "ot/")];

/// All findings of this family.
pub fn check(tree: &Tree) -> Vec<Finding> {
    tree.files.iter().flat_map(check_file).collect()
}

fn check_file(file: &File) -> Vec<Finding> {
    let mut findings = machine_paths(file);
    if ours(&file.path) {
        findings.extend(white_space(file));
        findings.extend(notes(file));
    }
    if file.path.ends_with(".rs") {
        findings.extend(length(file));
        findings.extend(unfinished(file));
        findings.extend(header(file));
    }
    findings
}

/// Whether people write the file: not a lock, a licence, or the recorded output of a program.
fn ours(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let ends = [".rs", ".toml", ".md", ".sh", ".yml", ".yaml", ".service"];
    ends.iter().any(|end| name.ends_with(end)) || name == "run"
}

fn each_line(file: &File, what: &str, broken: impl Fn(&str) -> bool) -> Vec<Finding> {
    let lines = file.text.lines().enumerate().filter(|(_, line)| broken(line));
    lines.map(|(at, _)| Finding::new(&file.path, at + 1, what)).collect()
}

fn white_space(file: &File) -> Vec<Finding> {
    let mut findings = each_line(file, "tab", |line| line.contains('\t'));
    findings.extend(each_line(file, "white space at the end", |line| line.trim_end() != line));
    if !file.text.is_empty() && !file.text.ends_with('\n') {
        findings.push(Finding::new(&file.path, file.text.lines().count(), "no newline at the end"));
    }
    findings
}

fn notes(file: &File) -> Vec<Finding> {
    each_line(file, "a note of unfinished work", |line| line.contains(UNFINISHED_NOTE))
}

/// A path counts where it opens: `a/work/b` is a folder of somebody's own.
fn machine_paths(file: &File) -> Vec<Finding> {
    let opens =
        |before: Option<char>| !before.is_some_and(|c| c.is_alphanumeric() || ".-_}*/".contains(c));
    let named = |line: &str, path: &str| {
        line.match_indices(path).any(|(at, _)| opens(line[..at].chars().next_back()))
    };
    each_line(file, "a path of one machine", |line| {
        MACHINE_PATHS.iter().any(|path| named(line, path))
    })
}

fn length(file: &File) -> Option<Finding> {
    let lines = file.text.lines().count();
    let what = format!("{lines} lines; {RUST_LINES_MAX} are the most: split off a module");
    (lines > RUST_LINES_MAX).then(|| Finding::new(&file.path, lines, what))
}

fn unfinished(file: &File) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (at, line) in scan(&file.text).lines.iter().enumerate() {
        for word in UNFINISHED_CODE.iter().filter(|word| line.code.contains(**word)) {
            findings.push(Finding::new(
                &file.path,
                at + 1,
                format!("`{word}` is not for committed code"),
            ));
        }
    }
    findings
}

fn header(file: &File) -> Option<Finding> {
    let asked = WITH_HEADER.iter().any(|folder| file.path.starts_with(folder));
    if !asked || file.path.contains("/tests/ui/") {
        return None;
    }
    let first = file.text.lines().find(|line| !line.trim().is_empty() && !line.starts_with("#!"));
    let opened = first.is_some_and(|line| line.starts_with("//! "));
    (!opened).then(|| Finding::new(&file.path, 1, "no `//!` header that says what the module is"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        let file = File { path: path.to_owned(), text: text.to_owned() };
        check_file(&file)
            .iter()
            .map(|finding| format!("{}: {}", finding.line, finding.what))
            .collect()
    }

    #[test]
    fn a_clean_file_has_no_finding() {
        assert_eq!(
            found("fabric/wire/src/a.rs", "//! A thing.\n\nfn f() {}\n"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_long_file_is_found() {
        let long = format!("//! A thing.\n{}", "fn f() {}\n".repeat(RUST_LINES_MAX));
        assert!(found("fabric/wire/src/a.rs", &long)[0].starts_with("801: 801 lines"));
    }

    #[test]
    fn a_missing_header_is_found_except_in_compile_fail_samples() {
        assert_eq!(found("runtime/shard/src/a.rs", "fn f() {}\n").len(), 1);
        assert_eq!(found("runtime/shard/src/a.rs", "").len(), 1);
        assert_eq!(found("fabric/entity/tests/ui/a.rs", "fn f() {}\n").len(), 0);
        assert_eq!(found("runtime/shard/src/a.rs", "#![cfg(loom)]\n//! A thing.\n").len(), 0);
    }

    #[test]
    fn unfinished_code_is_found_and_words_about_it_are_not() {
        assert_eq!(found("a.rs", "fn f() { todo!() }\n").len(), 1);
        assert_eq!(found("a.rs", "#[ignore = \"slow\"]\n").len(), 1);
        assert_eq!(found("a.rs", "fn f() { unimplemented!() }\n").len(), 1);
        assert_eq!(found("a.rs", "// no todo! here\nlet a = \"todo!\";\n").len(), 0);
        assert_eq!(found("a.rs", concat!("// FIX", "ME later\n")).len(), 1);
    }

    #[test]
    fn white_space_is_found_in_what_people_write() {
        assert_eq!(found("a.md", "a \nb\tc\nd").len(), 3);
        assert_eq!(found("a.stderr", "a \nb\tc\nd").len(), 0);
    }

    #[test]
    fn paths_of_one_machine_are_found_in_every_file() {
        assert_eq!(found("a.conf", concat!("dir=/wo", "rk/main\n")).len(), 1);
        assert_eq!(found("a.md", concat!("in `/ro", "ot/.cargo`\n")).len(), 1);
        assert_eq!(found("a.md", concat!("in src/wo", "rk/main\n")).len(), 0);
    }
}
