//! A script that runs on a machine, and what came of it.
//!
//! # Not here
//! How a script is started: `vm` for machines under QEMU, `machine` for the host.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::{Error, Result};

/// How often a running job's output is looked at by who waits for a text in it.
const LOOK: Duration = Duration::from_millis(50);

/// Lines of a failed script that are shown.
const LINES_SHOWN: usize = 80;
/// Lines of a kernel that are shown when it is gone.
const LINES_OF_CONSOLE: usize = 25;

/// What a script printed and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its exit status; 128 and more for signals.
    pub status: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Output {
    /// Both streams, for messages.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// A script under way. It ends when it is dropped, with all that it started.
#[derive(Debug)]
#[must_use = "it ends when it is dropped"]
pub struct Job {
    pub(crate) machine: String,
    pub(crate) script: String,
    /// Where its files lie: `.sh`, `.out`, `.err`.
    pub(crate) stem: PathBuf,
    /// Gets the status once; closes without one when the machine is gone.
    pub(crate) ended: Receiver<i32>,
    pub(crate) console: PathBuf,
    pub(crate) ender: Ender,
}

/// Ends a job and all that it started.
pub(crate) struct Ender(pub(crate) Box<dyn Fn() + Send>);

impl std::fmt::Debug for Ender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ender")
    }
}

impl Job {
    /// What it has printed so far.
    pub fn stdout(&self) -> String {
        self.read("out")
    }

    /// What it has complained of so far.
    pub fn stderr(&self) -> String {
        self.read("err")
    }

    /// Waits until it has printed `text`, and gives all that it has printed.
    ///
    /// # Errors
    /// When it ends or the limit passes before.
    pub fn wait_for(&self, text: &str, limit: Duration) -> Result<String> {
        let until = Instant::now() + limit;
        loop {
            // The end is looked for first: what was printed before it counts.
            let ended = self.ended.recv_timeout(LOOK);
            let out = self.stdout();
            if out.contains(text) {
                return Ok(out);
            }
            match ended {
                Err(RecvTimeoutError::Timeout) if Instant::now() < until => {}
                Err(RecvTimeoutError::Timeout) => return Err(self.late(text, limit)),
                Err(RecvTimeoutError::Disconnected) => return Err(self.gone()),
                Ok(status) => {
                    let what = format!(
                        "on {}, ended with {status} before it printed `{text}`: {}\n{}",
                        self.machine,
                        self.script,
                        self.output(status).text()
                    );
                    return Err(Error::Wrong(what));
                }
            }
        }
    }

    /// Waits for its end, whatever the status is.
    ///
    /// # Errors
    /// When the limit passes; the job is ended then. When the machine is gone.
    pub fn wait(self, limit: Duration) -> Result<Output> {
        match self.ended.recv_timeout(limit) {
            Ok(status) => Ok(self.output(status)),
            Err(RecvTimeoutError::Disconnected) => Err(self.gone()),
            Err(RecvTimeoutError::Timeout) => Err(self.late("its end", limit)),
        }
    }

    /// Waits for its end, which must be a success, and gives what it printed.
    ///
    /// # Errors
    /// When it fails, with the last lines that it printed; else as [`wait`](Self::wait).
    pub fn succeed(self, limit: Duration) -> Result<String> {
        let (machine, script) = (self.machine.clone(), self.script.clone());
        let ended = self.wait(limit)?;
        if ended.status == 0 {
            return Ok(ended.stdout);
        }
        let (status, text) = (ended.status, last_lines(&ended.text(), LINES_SHOWN));
        Err(Error::Wrong(format!("on {machine}, ended with {status}: {script}\n{text}")))
    }

    /// Waits for the end of tests, which must pass, and gives the line that says so.
    ///
    /// # Errors
    /// As [`succeed`](Self::succeed).
    pub fn passes(self, limit: Duration) -> Result<String> {
        let said = self.succeed(limit)?;
        let result = said.lines().find(|line| line.starts_with("test result:"));
        Ok(result.unwrap_or("no result").to_owned())
    }

    /// Ends it and all that it started, at once.
    pub fn kill(&self) {
        (self.ender.0)();
    }

    fn output(&self, status: i32) -> Output {
        Output { status, stdout: self.stdout(), stderr: self.stderr() }
    }

    fn read(&self, kind: &str) -> String {
        let bytes = fs::read(self.stem.with_extension(kind)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn late(&self, what: &str, limit: Duration) -> Error {
        Error::Late {
            machine: self.machine.clone(),
            limit_s: limit.as_secs(),
            what: format!("{what}, of: {}", self.script),
            output: last_lines(&format!("{}{}", self.stdout(), self.stderr()), LINES_SHOWN),
        }
    }

    fn gone(&self) -> Error {
        gone(&self.machine, &self.console)
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The error for a machine that ended, with the last words of its kernel.
pub(crate) fn gone(machine: &str, console: &Path) -> Error {
    let bytes = fs::read(console).unwrap_or_default();
    let console = last_lines(&String::from_utf8_lossy(&bytes), LINES_OF_CONSOLE);
    Error::Gone { machine: machine.to_owned(), console }
}

/// As much as people read; all of it lies in the machine's folder.
fn last_lines(text: &str, most: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(most)..).unwrap_or_default().join("\n")
}
