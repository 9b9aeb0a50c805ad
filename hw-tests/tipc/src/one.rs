//! What one machine can show.

use std::path::Path;
use std::time::Duration;

use epicserver_lab::{Job, Machine, Report, Result};

use crate::programs::Programs;

/// The suite takes a minute and a half under emulation on a quiet machine.
const SUITE: Duration = Duration::from_secs(420);

/// The suite of all transports, with one driver on each of two machines, at the same time.
pub(crate) fn suites(report: &mut Report, programs: &Programs, machines: [&Machine; 2]) {
    report.case("topology: services come and go", || {
        suite(machines[0], &programs.topology, "")?.passes(SUITE)
    });
    if !report.wants("suite of all transports") {
        return;
    }
    let started = [("epoll", machines[0]), ("uring", machines[1])].map(|(driver, machine)| {
        (driver, suite(machine, &programs.conformance, &format!("{driver}::")))
    });
    for (driver, job) in started {
        report.case(&format!("suite of all transports, {driver}"), || job?.passes(SUITE));
    }
}

/// Starts tests that say what they lack, and must lack nothing here.
fn suite(machine: &Machine, program: &Path, filter: &str) -> Result<Job> {
    machine
        .start(&format!("EPIC_HW_AREA=tipc exec {} --test-threads=1 {filter}", program.display()))
}
