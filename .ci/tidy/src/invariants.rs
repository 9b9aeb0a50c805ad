//! Invariant ids: what an assertion cites is written down where a reader can find it.
//!
//! A module header defines an id as `//! - **C1** A token is resumed exactly once`; `ARCHITECTURE.md` defines those of
//! the whole system in the same form. An assertion cites it at the start of its message, `"C1: token reused"`; a
//! `SAFETY:` comment cites it as `SAFETY: C1: …`.
//!
//! # Invariants
//! - Each cited id is defined somewhere in the repository.
//! - A crate defines each id once; another crate may use the same letters, since a reader looks near by first.
//!
//! # Not here
//! Whether the assertion checks what the header says.

use std::collections::{BTreeMap, BTreeSet};

use crate::Finding;
use crate::map::PAGE;
use crate::source::scan;
use crate::tree::{File, Tree};

/// All findings of this family.
pub fn check(tree: &Tree) -> Vec<Finding> {
    check_files(&tree.files)
}

fn check_files(files: &[File]) -> Vec<Finding> {
    let defined: BTreeSet<String> = files.iter().flat_map(defined).map(|(_, id)| id).collect();
    let code =
        files.iter().filter(|file| file.path.ends_with(".rs") && !file.path.starts_with(".ci/"));
    let mut findings = defined_twice(files);
    for file in code {
        for (line, id) in cited(&file.text).into_iter().filter(|(_, id)| !defined.contains(id)) {
            findings.push(Finding::new(&file.path, line, format!("{id} is in no module header")));
        }
    }
    findings
}

fn defined_twice(files: &[File]) -> Vec<Finding> {
    let mut first = BTreeMap::new();
    let mut findings = Vec::new();
    for file in files {
        let folder = ["/src/", "/tests/", "/examples/", "/benches/"]
            .iter()
            .find_map(|part| file.path.split_once(part));
        let owner = folder.map_or(file.path.as_str(), |(owner, _)| owner);
        for (line, id) in defined(file) {
            if let Some(there) = first.insert((owner, id.clone()), &file.path) {
                findings.push(Finding::new(
                    &file.path,
                    line,
                    format!("{id} is defined in {there} too"),
                ));
            }
        }
    }
    findings
}

fn defined(file: &File) -> Vec<(usize, String)> {
    let code = file.path.ends_with(".rs");
    let header = |line| {
        if code { str::strip_prefix(line, "//!") } else { (file.path == PAGE).then_some(line) }
    };
    let lines = file.text.lines().enumerate();
    lines.filter_map(|(at, line)| Some((at + 1, definition(header(line)?)?))).collect()
}

/// The id that an item of a list defines.
fn definition(line: &str) -> Option<String> {
    let bold = line.trim().strip_prefix("- **")?;
    id_before(bold, "**").map(str::to_owned)
}

fn cited(text: &str) -> Vec<(usize, String)> {
    let source = scan(text);
    let mut cited = Vec::new();
    for literal in &source.literals {
        cited.extend(id_before(&literal.text, ": ").map(|id| (literal.line, id.to_owned())));
    }
    for (at, line) in source.lines.iter().enumerate() {
        let reason =
            line.comment.split_once("SAFETY: ").and_then(|(_, reason)| id_before(reason, ": "));
        cited.extend(reason.map(|id| (at + 1, id.to_owned())));
    }
    cited
}

/// The id at the start of `text`: one or two capitals and one or two digits, and `end` right after it.
fn id_before<'a>(text: &'a str, end: &str) -> Option<&'a str> {
    let (id, _) = text.split_once(end)?;
    let digits = id.trim_start_matches(|c: char| c.is_ascii_uppercase());
    let letters = id.len() - digits.len();
    let form = (1..=2).contains(&letters) && (1..=2).contains(&digits.len());
    (form && digits.chars().all(|c| c.is_ascii_digit())).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(header: &str, code: &str) -> Vec<String> {
        let file = |path: &str, text: &str| File { path: path.to_owned(), text: text.to_owned() };
        let files = [file("fabric/a/src/a.rs", header), file("fabric/a/src/b.rs", code)];
        check_files(&files)
            .iter()
            .map(|finding| format!("{}: {}", finding.line, finding.what))
            .collect()
    }

    #[test]
    fn an_id_without_a_header_is_found_and_one_with_is_not() {
        let code = "\nassert!(x, \"C1: token reused\");\n";
        assert_eq!(found("//! A thing.", code), ["2: C1 is in no module header"]);
        assert_eq!(found("//! - **C1** Once.", code), Vec::<String>::new());
        assert_eq!(found("// - **C1** Once.", code).len(), 1);
    }

    #[test]
    fn an_id_that_one_crate_defines_twice_is_found() {
        let file =
            |path: &str| File { path: path.to_owned(), text: "//! - **C1** Once.\n".to_owned() };
        let near = [file("fabric/a/src/a.rs"), file("fabric/a/src/b.rs")];
        assert_eq!(
            check_files(&near)[0].to_string(),
            "fabric/a/src/b.rs:1: C1 is defined in fabric/a/src/a.rs too"
        );
        assert_eq!(check_files(&[file("fabric/a/src/a.rs"), file("fabric/b/src/a.rs")]), []);
    }

    #[test]
    fn a_reason_for_unsafe_cites_ids_too() {
        assert_eq!(found("", "// SAFETY: R7: one writer.\n").len(), 1);
        assert_eq!(found("//! - **R7** One writer.", "// SAFETY: R7: one writer.\n").len(), 0);
    }

    #[test]
    fn other_texts_are_no_citation() {
        assert_eq!(
            found("", "f(\"a C1: x\", \"C1\", \"E0277: y\", \"ABC1: z\", \"C: w\");\n").len(),
            0
        );
    }
}
