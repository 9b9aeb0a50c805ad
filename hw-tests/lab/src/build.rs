//! What machines run: programs of this workspace, built here with optimisation, since emulation is slow enough.
//!
//! # Not here
//! Programs that need more than Rust and a C compiler: their areas build those.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::lab::base;
use crate::report::say;
use crate::{Error, Result};

/// What all areas need of this workspace, in one command and always the same: what is built by one area, or with one set
/// of features, is not built again for another.
///
/// # Errors
/// As for [`programs`].
pub fn nodes() -> Result<Vec<(String, PathBuf)>> {
    let packages = "-p epicserver -p epicserver-hw-tally -p epicserver-bench";
    programs(&format!("build --release {packages} --bins --example barrels"))
}

/// Builds what the words of a `cargo` command say, such as `build --release -p epicserver-bench` or
/// `test --release --no-run -p epicserver-tipc`, and gives the programs, each with its target's name.
///
/// # Errors
/// When it does not build; what the compiler said has been printed.
pub fn programs(words: &str) -> Result<Vec<(String, PathBuf)>> {
    say(&format!("+ cargo {words}"));
    let mut command = Command::new("cargo");
    // What the cargo says that started this. Build scripts that look at it would run anew, and what needs them be built anew.
    let ours = std::env::vars_os().map(|(name, _)| name);
    for name in ours.filter(|name| is_of_a_crate(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    command.args(words.split_whitespace()).arg("--message-format=json-render-diagnostics");
    let ran = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let ran = ran.map_err(|why| Error::Host { what: "run cargo".to_owned(), why })?;
    if !ran.status.success() {
        return Err(Error::Wrong(format!("cargo {words} failed")));
    }
    let messages = String::from_utf8_lossy(&ran.stdout);
    let messages = messages.lines().filter_map(|line| serde_json::from_str(line).ok());
    Ok(messages.filter_map(|message: serde_json::Value| program(&message)).collect())
}

/// Builds a program of one file of C, and says where it is.
///
/// # Errors
/// When there is no compiler, or it refuses.
pub fn c(source: &Path) -> Result<PathBuf> {
    let base = base()?;
    let made = std::fs::create_dir_all(&base);
    made.map_err(|why| Error::Host { what: format!("make {}", base.display()), why })?;
    let program = base.join(source.file_stem().unwrap_or_default());
    say(&format!("+ cc {}", source.display()));
    let mut command = Command::new("cc");
    command.args(["-O2", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&program).arg(source);
    let status = command.stdin(Stdio::null()).status();
    let status = status.map_err(|why| Error::Host { what: "run cc".to_owned(), why })?;
    let refused = || Error::Wrong(format!("{} does not build", source.display()));
    status.success().then_some(program).ok_or_else(refused)
}

/// The one program of that name.
///
/// # Errors
/// When there is none.
pub fn named(programs: &[(String, PathBuf)], name: &str) -> Result<PathBuf> {
    let found = programs.iter().find(|(known, _)| known == name);
    let lacks = || Error::Wrong(format!("nothing that was built is called {name}"));
    found.map(|(_, path)| path.clone()).ok_or_else(lacks)
}

/// Whether cargo sets a variable of this name for one crate alone.
fn is_of_a_crate(name: &str) -> bool {
    let beginnings = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];
    name == "OUT_DIR" || beginnings.iter().any(|beginning| name.starts_with(beginning))
}

fn program(message: &serde_json::Value) -> Option<(String, PathBuf)> {
    let path = message.get("executable")?.as_str()?;
    let name = message.get("target")?.get("name")?.as_str()?;
    Some((name.to_owned(), PathBuf::from(path)))
}
