//! What one machine can show.

use std::time::Duration;

use epicserver_lab::{Machine, Report};

use crate::SHORT;
use crate::programs::Programs;

/// The suite takes three minutes under emulation on a quiet machine.
const SUITE: Duration = Duration::from_secs(480);

/// The suite of all transports, with one driver on each of two machines, at the same time.
pub(crate) fn suites(report: &mut Report, programs: &Programs, machines: [&Machine; 2]) {
    report.case("our layouts are those of the system's header", || {
        let layout = programs.layout.display();
        machines[0].start(&format!("EPIC_HW_AREA=verbs exec {layout}"))?.passes(SHORT)
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
        report.case(&format!("suite of all transports, {driver}"), || job?.passes(SUITE));
    }
}
