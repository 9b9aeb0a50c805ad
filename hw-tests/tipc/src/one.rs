//! What one machine can show.

use std::path::Path;
use std::time::Duration;

use epicserver_lab::{Job, Machine, Report, Result};

use crate::programs::Programs;
use crate::setup::SETTINGS;

/// The suite takes a minute and a half under emulation on a quiet machine.
const SUITE: Duration = Duration::from_secs(420);
const GAME: Duration = Duration::from_secs(300);

/// The suite of all transports, with one driver on each of two machines, at the same time.
pub(crate) fn suites(report: &mut Report, programs: &Programs, machines: [&Machine; 2]) {
    report.case("topology: services come and go", || {
        passes(suite(machines[0], &programs.topology, "")?)
    });
    if !report.wants("suite of all transports") {
        return;
    }
    let drivers = ["epoll::", "uring::"];
    let jobs = drivers.map(|driver| (driver, machines));
    let started: Vec<(&str, Result<Job>)> = jobs
        .into_iter()
        .enumerate()
        .map(|(at, (driver, machines))| {
            (driver, suite(machines[at], &programs.conformance, driver))
        })
        .collect();
    for (driver, job) in started {
        report.case(&format!("suite of all transports, {driver}"), || passes(job?));
    }
}

/// Starts tests that say what they lack, and must lack nothing here.
fn suite(machine: &Machine, program: &Path, filter: &str) -> Result<Job> {
    machine
        .start(&format!("EPIC_HW_AREA=tipc exec {} --test-threads=1 {filter}", program.display()))
}

fn passes(job: Job) -> Result<String> {
    let said = job.succeed(SUITE)?;
    let result = said.lines().find(|line| line.starts_with("test result:"));
    Ok(result.unwrap_or("no result").to_owned())
}

/// Two nodes of one machine.
pub(crate) fn game(report: &mut Report, programs: &Programs, machine: &Machine) {
    report.case("barrels on one machine", || {
        let script = format!("{SETTINGS}; exec {}", programs.barrels.display());
        score(&machine.run(&script, GAME)?)
    });
}

/// The line that says how the game went.
pub(crate) fn score(said: &str) -> Result<String> {
    let lines: Vec<&str> = said.lines().collect();
    if lines.first() == Some(&"New high score: 30") {
        return Ok(lines.get(1).unwrap_or(&"").to_string());
    }
    Err(epicserver_lab::Error::Wrong(format!("no score of 30: {said}")))
}
