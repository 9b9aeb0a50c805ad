//! The map in `ARCHITECTURE.md`: one line for each crate and folder, and no path that is gone.
//!
//! The map is the one table with the head `| path | crate | does | must not know |`. The path is a code span from the
//! root; the crate is its name as a code span, or `-` for a folder that holds none.
//!
//! # Invariants
//! - Each crate of the workspace has exactly one line, under its folder and with its name.
//! - Each folder at the root is a line's path or lies above one.
//! - Each path that the page names as a code span exists.
//!
//! # Not here
//! What the lines say: that is for review.

use std::path::Path;

use crate::Finding;
use crate::crates::Crate;

/// The page with the map.
pub const PAGE: &str = "ARCHITECTURE.md";

const HEAD: &str = "| path | crate | does | must not know |";

/// One line of the map.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    line: usize,
    path: String,
    name: String,
}

/// All findings of this family. `folders` are those at the root of the repository that hold files.
pub fn check(page: &str, crates: &[Crate], folders: &[String], root: &Path) -> Vec<Finding> {
    let (rows, mut findings) = rows(page);
    for of in crates {
        findings.extend(check_crate(of, &rows));
    }
    for row in rows.iter().filter(|row| row.name != "-") {
        if !crates.iter().any(|of| of.dir == row.path) {
            findings.push(Finding::new(
                PAGE,
                row.line,
                format!("no workspace crate lies in {}", row.path),
            ));
        }
    }
    for folder in folders {
        let above = |row: &Row| row.path == *folder || row.path.starts_with(&format!("{folder}/"));
        if !rows.iter().any(above) {
            findings.push(Finding::new(PAGE, 0, format!("the map has no line for {folder}/")));
        }
    }
    findings.extend(missing_paths(page, root));
    findings
}

fn rows(page: &str) -> (Vec<Row>, Vec<Finding>) {
    let heads = page.lines().filter(|line| *line == HEAD).count();
    if heads != 1 {
        let what = format!("{heads} tables with the head `{HEAD}`; the map is exactly one");
        return (Vec::new(), vec![Finding::new(PAGE, 0, what)]);
    }
    let mut rows = Vec::new();
    let mut findings = Vec::new();
    let table = page.lines().enumerate().skip_while(|(_, line)| *line != HEAD).skip(2);
    for (at, line) in table.take_while(|(_, line)| line.starts_with('|')) {
        match row(at + 1, line) {
            Some(row) => rows.push(row),
            None => findings.push(Finding::new(
                PAGE,
                at + 1,
                "not four filled cells, the first a `path`",
            )),
        }
    }
    (rows, findings)
}

fn row(line: usize, text: &str) -> Option<Row> {
    let cells: Vec<&str> =
        text.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect();
    if cells.len() != 4 || cells.iter().any(|cell| cell.is_empty()) {
        return None;
    }
    let span = |cell: &str| cell.strip_prefix('`')?.strip_suffix('`').map(str::to_owned);
    let name = if cells[1] == "-" { "-".to_owned() } else { span(cells[1])? };
    Some(Row { line, path: span(cells[0])?, name })
}

fn check_crate(of: &Crate, rows: &[Row]) -> Option<Finding> {
    let lines: Vec<&Row> = rows.iter().filter(|row| row.path == of.dir).collect();
    match lines.as_slice() {
        [row] if row.name == of.name => None,
        [row] => {
            Some(Finding::new(PAGE, row.line, format!("the crate in {} is {}", of.dir, of.name)))
        }
        [] => Some(Finding::new(
            PAGE,
            0,
            format!("the map has no line for {} in {}", of.name, of.dir),
        )),
        [_, again, ..] => {
            Some(Finding::new(PAGE, again.line, format!("a second line for {}", of.dir)))
        }
    }
}

/// Code spans that look like a path of this repository and are none.
fn missing_paths(page: &str, root: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut fenced = false;
    for (at, line) in page.lines().enumerate() {
        fenced ^= line.trim_start().starts_with("```");
        let spans = line.split('`').skip(1).step_by(2).filter(|_| !fenced);
        for span in spans.filter(|span| looks_like_path(span)) {
            if !root.join(span.trim_end_matches('/')).exists() {
                findings.push(Finding::new(PAGE, at + 1, format!("{span} does not exist")));
            }
        }
    }
    findings
}

fn looks_like_path(span: &str) -> bool {
    let file = [".md", ".toml", ".rs", ".lock"].iter().any(|end| span.ends_with(end));
    let plain = span.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
    plain && !span.starts_with('/') && (file || span.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::root;

    const CLEAN: &str = "\
# Map

| path | crate | does | must not know |
| --- | --- | --- | --- |
| `fabric/wire` | `epicserver-wire` | bytes | the rest |
| `docs` | - | prose | - |

See `fabric/wire/src/lib.rs` and `A / B`.
";

    fn found(page: &str) -> Vec<String> {
        let wire = Crate {
            name: "epicserver-wire".to_owned(),
            dir: "fabric/wire".to_owned(),
            ..Crate::default()
        };
        let folders = ["fabric".to_owned(), "docs".to_owned()];
        check(page, &[wire], &folders, &root()).iter().map(|finding| finding.what.clone()).collect()
    }

    #[test]
    fn a_whole_map_has_no_finding() {
        assert_eq!(found(CLEAN), Vec::<String>::new());
    }

    #[test]
    fn a_missing_a_doubled_and_a_misnamed_crate_are_found() {
        let row = "| `fabric/wire` | `epicserver-wire` | bytes | the rest |\n";
        assert!(found(&CLEAN.replace(row, ""))[0].contains("no line for epicserver-wire"));
        assert!(found(&CLEAN.replace(row, &row.repeat(2)))[0].contains("second line"));
        assert!(
            found(&CLEAN.replace("`epicserver-wire`", "`wire`"))[0].contains("is epicserver-wire")
        );
    }

    #[test]
    fn a_folder_without_a_line_and_a_line_without_a_crate_are_found() {
        assert!(
            found(&CLEAN.replace("| `docs` |", "| `bench` |"))[0].contains("no line for docs/")
        );
        assert!(
            found(&CLEAN.replace("| - | prose", "| `x` | prose"))[0].contains("no workspace crate")
        );
    }

    #[test]
    fn a_path_that_is_gone_is_found() {
        assert_eq!(found(&CLEAN.replace("src/lib.rs", "src/gone.rs")).len(), 1);
    }

    #[test]
    fn a_map_that_is_none_is_found() {
        assert!(found("# Map\n")[0].starts_with("0 tables"));
        assert_eq!(found(&CLEAN.replace("| bytes |", "|  |")).len(), 3);
    }
}
