//! The cases of an area, one after the other, and the table at the end.

use std::process::ExitCode;
use std::time::Instant;

use crate::Result;

/// What became of each case. A failing case does not stop the next one, so that one run shows all there is to do.
#[derive(Debug)]
pub struct Report {
    only: Vec<String>,
    rows: Vec<Row>,
    began: Instant,
}

#[derive(Debug)]
struct Row {
    name: String,
    seconds: f32,
    failed: bool,
    said: String,
}

impl Report {
    /// A report of the cases whose name contains a word that this program was started with; of all where there is none.
    pub fn from_arguments() -> Self {
        let only = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
        Self { only, rows: Vec::new(), began: Instant::now() }
    }

    /// Whether a case that is called so is to run.
    pub fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|word| name.contains(word))
    }

    /// Runs one case; what it returns is printed in the table.
    pub fn case(&mut self, name: &str, run: impl FnOnce() -> Result<String>) {
        if self.wants(name) {
            self.always(name, run);
        }
    }

    /// The same, whatever cases were asked for: what no case can do without.
    pub fn always(&mut self, name: &str, run: impl FnOnce() -> Result<String>) {
        say(&format!("--- {name}"));
        let began = Instant::now();
        let result = run();
        let failed = result.is_err();
        let said = result.unwrap_or_else(|error| error.to_string());
        let seconds = began.elapsed().as_secs_f32();
        say(&format!("{}: {said}", if failed { "FAILED" } else { "ok" }));
        self.rows.push(Row { name: name.to_owned(), seconds, failed, said });
    }

    /// Names what cannot run here and how it can. Where everything is required, that is a failure.
    pub fn skip(&mut self, name: &str, why: &str) {
        let failed = std::env::var_os("EPIC_REQUIRE_ALL").is_some_and(|value| value == "1");
        say(&format!("--- {name}\nskipped: {why}"));
        let said = format!("skipped: {why}");
        self.rows.push(Row { name: name.to_owned(), seconds: 0.0, failed, said });
    }

    /// Prints the table, and says how the program should end.
    pub fn finish(self) -> ExitCode {
        say("");
        for row in &self.rows {
            let result = if row.failed { "FAILED" } else { "ok" };
            let first = row.said.lines().next().unwrap_or_default();
            say(&format!("{result:6} {:6.1} s  {}: {first}", row.seconds, row.name));
        }
        let failed = self.rows.iter().any(|row| row.failed);
        let result = if failed { "FAILED" } else { "ok" };
        say(&format!("{result:6} {:6.1} s  total", self.began.elapsed().as_secs_f32()));
        if failed || self.rows.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}

/// Prints a line for whoever watches.
#[expect(clippy::print_stdout, reason = "the output of these programs is their report")]
pub(crate) fn say(line: &str) {
    println!("{line}");
}
