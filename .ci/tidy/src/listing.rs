//! The listing that shows what the project is: one text, wherever it stands.
//!
//! `.ci/listing` builds and runs it. So what a reader of `README.md` copies is what the gate has run.
//!
//! # Not here
//! Building it: that is `.ci/run`, since the crate lies outside the workspace on purpose.

use crate::Finding;

/// The copy that is built.
pub const BUILT: &str = ".ci/listing/src/main.rs";

/// What tells the listing from other blocks of Rust.
const MARK: &str = "#[epicserver::main";

/// The first block of Rust in `page`, below the heading that starts with `heading` where one is given, that holds a
/// whole program.
pub fn find(page: &str, heading: &str) -> Option<String> {
    let below = page.lines().skip_while(|line| !line.starts_with(heading));
    let mut block: Option<String> = None;
    for line in below {
        match &mut block {
            None if line.trim_end() == "```rust" => block = Some(String::new()),
            None => {}
            Some(text) if line.trim_end() == "```" => {
                if text.contains(MARK) {
                    return block;
                }
                block = None;
            }
            Some(text) => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    None
}

/// Compares the built copy with the one of `page`, which is called `name` in the finding.
pub fn compare(built: &str, name: &str, page: Option<String>) -> Option<Finding> {
    let Some(shown) = page else {
        return Some(Finding::new(name, 0, "no ```rust block with the listing"));
    };
    let mut pairs = built.lines().zip(shown.lines());
    let differs = pairs.position(|(ours, theirs)| ours != theirs);
    let line = differs.unwrap_or_else(|| built.lines().count().min(shown.lines().count())) + 1;
    (built != shown)
        .then(|| Finding::new(BUILT, line, format!("differs from the listing of {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "## 1\n```rust\n#[epicserver::main]\na\n```\n## 2\n```rust\nfn f() {}\n```\n```rust\n#[epicserver::main]\nb\n```\n";

    #[test]
    fn the_listing_is_the_first_whole_program_below_the_heading() {
        assert_eq!(find(PAGE, "## 2").as_deref(), Some("#[epicserver::main]\nb\n"));
        assert_eq!(find(PAGE, "").as_deref(), Some("#[epicserver::main]\na\n"));
        assert_eq!(find("```rust\nfn f() {}\n```\n", ""), None);
    }

    #[test]
    fn a_changed_line_a_missing_end_and_a_missing_listing_are_found() {
        let line = |shown: Option<&str>| {
            compare("a\nb\n", "README.md", shown.map(str::to_owned)).map(|finding| finding.line)
        };
        assert_eq!(line(Some("a\nb\n")), None);
        assert_eq!(line(Some("a\nc\n")), Some(2));
        assert_eq!(line(Some("a\nb\nc\n")), Some(3));
        assert_eq!(line(None), Some(0));
    }
}
