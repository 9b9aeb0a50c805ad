//! What one machine can show.

use std::path::Path;
use std::time::Duration;

use epicserver_lab::{Machine, Report, Result, build};

/// The suite in release mode takes a minute under emulation.
const SUITE: Duration = Duration::from_secs(300);

pub(crate) fn cases(report: &mut Report, machine: &Machine) -> Result<()> {
    let tests = build::programs("test --release --no-run -p epicserver-tipc")?;
    for (name, program) in tests.iter().filter(|(name, _)| name != "epicserver_tipc") {
        report.case(&format!("suite {name}"), || suite(machine, program));
    }
    Ok(())
}

/// Runs tests that say what they lack, and must lack nothing here.
fn suite(machine: &Machine, program: &Path) -> Result<String> {
    let tests = format!("EPIC_HW_AREA=tipc {} --test-threads=1", program.display());
    let said = machine.run(&tests, SUITE)?;
    let result = said.lines().find(|line| line.starts_with("test result:"));
    Ok(result.unwrap_or("no result").to_owned())
}
