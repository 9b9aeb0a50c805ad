//! The repository's files, read once, as the rules see them.
//!
//! The tree is walked instead of asked from git, so that the rules also run in an unpacked archive and on files that
//! are not added yet.
//!
//! # Not here
//! Build output and what the root `.gitignore` names by a leading slash.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A text file of the repository.
#[derive(Debug, Clone)]
pub struct File {
    /// Path from the root, with `/` between its parts.
    pub path: String,
    /// The whole text.
    pub text: String,
}

/// All text files of the repository.
#[derive(Debug)]
pub struct Tree {
    /// Sorted by path.
    pub files: Vec<File>,
}

/// The root of the repository.
///
/// # Panics
/// When cargo did not start this program.
pub fn root() -> PathBuf {
    // Asked at run time: checkouts that share a target folder share this program too.
    let here = env::var("CARGO_MANIFEST_DIR").expect("cargo runs the rules");
    Path::new(&here)
        .ancestors()
        .nth(2)
        .expect("the tidy crate lies two folders below the root")
        .to_path_buf()
}

impl Tree {
    /// Reads every text file below the root.
    ///
    /// # Panics
    /// When a file or folder cannot be read: a rule that saw half of the repository would prove nothing.
    pub fn read() -> Self {
        let root = root();
        let ignored = ignored(&fs::read_to_string(root.join(".gitignore")).unwrap_or_default());
        let mut files = Vec::new();
        let walked = walk(&root, &root, &ignored, &mut files);
        walked.expect("the repository can be read");
        files.sort_by(|a, b| a.path.cmp(&b.path));
        assert!(files.iter().any(|file| file.path == "Cargo.toml"), "the walk missed the root");
        Self { files }
    }

    /// The file at `path`, where there is one.
    pub fn get(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    /// The Rust files.
    pub fn rust(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| file.path.ends_with(".rs"))
    }
}

/// Names at the root that `.gitignore` takes out.
fn ignored(gitignore: &str) -> Vec<String> {
    let names = gitignore.lines().filter_map(|line| line.trim().strip_prefix('/'));
    names.map(|name| name.trim_end_matches('/').to_owned()).collect()
}

fn walk(root: &Path, at: &Path, ignored: &[String], files: &mut Vec<File>) -> io::Result<()> {
    for entry in fs::read_dir(at)? {
        let entry = entry?;
        let path = entry.path();
        let relative = relative(root, &path);
        if skipped(&relative, ignored) {
            continue;
        }
        let kind = entry.file_type()?;
        if kind.is_dir() {
            walk(root, &path, ignored, files)?;
        } else if kind.is_file()
            && let Ok(text) = String::from_utf8(fs::read(&path)?)
        {
            files.push(File { path: relative, text });
        }
    }
    Ok(())
}

fn relative(root: &Path, path: &Path) -> String {
    let below = path.strip_prefix(root).expect("the walk stays below the root");
    below.to_str().expect("paths of the repository are UTF-8").to_owned()
}

fn skipped(path: &str, ignored: &[String]) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let build_output = name == ".git" || name == "target" || path == ".ci/listing/Cargo.lock";
    let left_over = [".bk", ".swp", ".orig", ".rej"].iter().any(|end| name.ends_with(end));
    build_output || left_over || ignored.iter().any(|ignored| ignored == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_output_and_ignored_names_are_left_out() {
        let ignored = ignored("/target\n/state/\n**/*.rs.bk\n");
        assert_eq!(ignored, ["target", "state"]);
        assert!(skipped("state", &ignored));
        assert!(skipped(".ci/listing/target", &ignored));
        assert!(!skipped("fabric/state", &ignored));
    }

    #[test]
    fn the_walk_sees_hidden_folders_and_this_file() {
        assert!(Tree::read().get(".ci/tidy/src/tree.rs").is_some());
    }
}
