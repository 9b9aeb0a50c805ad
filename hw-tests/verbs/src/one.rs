//! What one machine can show.

use std::path::Path;
use std::time::Duration;

use epicserver_lab::{Machine, Report, Result, build};

/// The suite in release mode takes a minute under emulation.
const SUITE: Duration = Duration::from_secs(400);

pub(crate) fn cases(report: &mut Report, machine: &Machine) -> Result<()> {
    let tests = build::programs("test --release --no-run -p epicserver-verbs")?;
    let program = build::named(&tests, "epicserver_verbs")?;
    for form in ["epoll", "uring"] {
        report.case(&format!("suite {form}"), || suite(machine, &program, form));
    }
    Ok(())
}

/// Runs tests that say what they lack, and must lack nothing here.
fn suite(machine: &Machine, program: &Path, form: &str) -> Result<String> {
    let program = program.display();
    let tests =
        format!("EPIC_HW_AREA=verbs {program} --test-threads=1 tests::suite::device_{form}::");
    let said = machine.run(&tests, SUITE)?;
    let result = said.lines().find(|line| line.starts_with("test result:"));
    Ok(result.unwrap_or("no result").to_owned())
}
