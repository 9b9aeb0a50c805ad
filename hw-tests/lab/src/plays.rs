//! What two programs of ours show on machines, whatever carries their messages: the game of the README, and the accounts of
//! `hw-tests/tally`.
//!
//! # Not here
//! What nodes are told so that they meet, and what is done to the wire: the areas say.

use std::path::Path;
use std::time::Duration;

use crate::{Error, Job, Machine, Output, Report, Result};

/// How long a game may take.
const GAME: Duration = Duration::from_secs(300);
/// For what goes on while wires fail.
const ACCOUNTS: Duration = Duration::from_secs(120);
/// For what takes no time.
const SHORT: Duration = Duration::from_secs(30);
/// How long a link may be silent before it is given up (`SILENT` of the link machine), and what emulation may add.
const DETECTION_MS_MAX: u64 = 5_000 + 1_000;

/// The case of two nodes of one machine that play. It begins before it is reported, so that other cases run beside it: it
/// takes most of a minute.
#[derive(Debug)]
pub struct Game(Option<Result<Job>>);

impl Game {
    const NAME: &str = "barrels on one machine";

    /// Begins, if the case is wanted.
    pub fn begin(report: &Report, program: &Path, settings: &str, machine: &Machine) -> Self {
        let script = format!("{settings}; exec {}", program.display());
        Self(report.wants(Self::NAME).then(|| machine.start(&script)))
    }

    /// Waits for its end, and reports how it went.
    pub fn score(self, report: &mut Report) {
        if let Some(job) = self.0 {
            report.case(Self::NAME, || score(&job?.succeed(GAME)?));
        }
    }
}

/// Nodes of two machines play, by the settings of the second and of the first.
///
/// # Errors
/// When the score is another one, or as for [`Machine::run`].
pub fn barrels_across(
    program: &Path,
    [there, here]: [String; 2],
    (first, second): (&Machine, &Machine),
) -> Result<String> {
    let program = program.display();
    let _other = second.start(&format!("{there}; tail -f /dev/null | {program} second"))?;
    score(&first.run(&format!("{here}; exec {program} first"), GAME)?)
}

fn score(said: &str) -> Result<String> {
    let lines: Vec<&str> = said.lines().collect();
    if lines.first() == Some(&"New high score: 30") {
        return Ok(lines.get(1).unwrap_or(&"").to_string());
    }
    Err(Error::Wrong(format!("no score of 30: {said}")))
}

/// The accounts of calls during which something happens. That they agree, the program has checked.
///
/// # Errors
/// When they do not, or what happens fails.
pub fn disturbed(
    tally: &Path,
    [there, here]: [String; 2],
    (first, second): (&Machine, &Machine),
    happens: impl FnOnce() -> Result<()>,
) -> Result<String> {
    let tally = tally.display();
    let _gone = std::fs::remove_file(first.folder().join("finish"));
    let server = second.start(&format!("{there}; exec {tally} serve"))?;
    let caller = first.start(&format!("{here}; TALLY=count exec {tally} run"))?;
    caller.wait_for("under way", ACCOUNTS)?;
    happens()?;
    first.run("touch finish", SHORT)?;
    let said = caller.succeed(ACCOUNTS);
    server.kill();
    let _ended: Result<Output> = server.wait(SHORT);
    let said = said?;
    let account = said.lines().find(|line| line.starts_with("answered="));
    Ok(account.unwrap_or("no account").to_owned())
}

/// The second machine dies while a call is under way there: what its caller is told, and when.
///
/// # Errors
/// When that is not `NodeLost` in time.
pub fn lost(
    tally: &Path,
    [there, here]: [String; 2],
    first: &Machine,
    second: Machine,
) -> Result<String> {
    let tally = tally.display();
    let _server = second.start(&format!("{there}; exec {tally} serve"))?;
    let caller: Job = first.start(&format!("{here}; TALLY=hold exec {tally} run"))?;
    caller.wait_for("held", ACCOUNTS)?;
    second.kill();
    let said = caller.succeed(ACCOUNTS)?;
    let line = said.lines().find(|line| line.starts_with("lost ")).unwrap_or("no word of it");
    let ms = line.rsplit_once("ms=").and_then(|(_, ms)| ms.parse::<u64>().ok());
    let in_time = ms.is_some_and(|ms| ms <= DETECTION_MS_MAX);
    expect(in_time && line.contains("kind=NodeLost ran=Unknown"), line)
}

/// What the benchmarks have said of a case, and after it, in one line.
///
/// # Errors
/// When they said nothing of it.
pub fn figures(said: &str, case: &str) -> Result<String> {
    let lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines: Vec<&str> = lines.skip_while(|line| !line.contains(case)).collect();
    if lines.is_empty() { Err(Error::Wrong(said.to_owned())) } else { Ok(lines.join("; ")) }
}

/// What was said, if it is as expected.
///
/// # Errors
/// When it is not.
pub fn expect(holds: bool, said: impl Into<String>) -> Result<String> {
    let said = said.into();
    if holds { Ok(said) } else { Err(Error::Wrong(format!("unexpected: {said}"))) }
}
