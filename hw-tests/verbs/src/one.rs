//! What one machine can show.

use std::time::Duration;

use epicserver_lab::{Job, Machine, Report, Result};

use crate::SHORT;
use crate::programs::Programs;
use crate::setup::SETTINGS;

/// The suite takes three minutes under emulation on a quiet machine.
const SUITE: Duration = Duration::from_secs(480);
const GAME: Duration = Duration::from_secs(300);

/// The suite of all transports, with one driver on each of two machines, at the same time.
pub(crate) fn suites(report: &mut Report, programs: &Programs, machines: [&Machine; 2]) {
    report.case("our layouts are those of the system's header", || {
        let layout = programs.layout.display();
        passes(machines[0].start(&format!("EPIC_HW_AREA=verbs exec {layout}"))?, SHORT)
    });
    if !report.wants("suite of all transports") {
        return;
    }
    let tests = programs.tests.display();
    let started = ["epoll", "uring"].map(|driver| {
        let machine = machines[usize::from(driver == "uring")];
        let only = format!("tests::suite::device_{driver}::");
        let script = format!("EPIC_HW_AREA=verbs exec {tests} --test-threads=1 {only}");
        (driver, machine.start(&script))
    });
    for (driver, job) in started {
        report.case(&format!("suite of all transports, {driver}"), || passes(job?, SUITE));
    }
}

fn passes(job: Job, limit: Duration) -> Result<String> {
    let said = job.succeed(limit)?;
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
