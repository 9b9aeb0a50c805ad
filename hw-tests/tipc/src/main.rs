//! TIPC on real kernels: the suite of all transports on one machine, the game across two, and what becomes of calls when
//! machines die or wires fail.
//!
//! # Not here
//! How machines come up: the lab.

mod figures;
mod one;
mod programs;
mod secret;
mod setup;
mod two;

use std::process::ExitCode;
use std::time::Duration;

use epicserver_lab::plays::Game;
use epicserver_lab::{Lab, Machine, Report, Result, Shape};
use programs::Programs;

/// For what takes no time.
const SHORT: Duration = Duration::from_secs(30);

const FIRST: Shape = Shape { name: "first", cpus: 1, memory_mib: 1024 };
const SECOND: Shape = Shape { name: "second", cpus: 1, memory_mib: 1024 };
const FIGURES: Shape = Shape { name: "figures", cpus: 2, memory_mib: 1024 };

fn main() -> ExitCode {
    let mut report = Report::from_arguments();
    let native = std::env::args().any(|word| word == "--native");
    if let Err(error) = if native { on_this(&mut report) } else { in_lab(&mut report) } {
        report.always("machines", || Err(error));
    }
    report.finish()
}

/// What this machine can show alone, if it has TIPC set up.
fn on_this(report: &mut Report) -> Result<()> {
    let programs = Programs::build()?;
    let host = Machine::native("tipc")?;
    setup::doctor(report, &programs, &host);
    one::suites(report, &programs, [&host, &host]);
    Game::begin(report, &programs.barrels, setup::SETTINGS, &host).score(report);
    figures::on_one(report, &programs, &host);
    Ok(())
}

fn in_lab(report: &mut Report) -> Result<()> {
    let programs = Programs::build()?;
    let mut lab = Lab::open("tipc")?;
    on_pair(report, &programs, &lab)?;
    if report.wants("figures on one machine") {
        let machine = lab.boot(&FIGURES)?;
        setup::over_a_dummy(&machine)?;
        figures::on_one(report, &programs, &machine);
    }
    secret::cases(report, &programs, &mut lab);
    Ok(())
}

fn on_pair(report: &mut Report, programs: &Programs, lab: &Lab) -> Result<()> {
    let (first, second) = lab.boot_pair(&FIRST, &SECOND)?;
    setup::over_the_wire(&second)?;
    let game = Game::begin(report, &programs.barrels, setup::SETTINGS, &second);
    setup::refusals(report, programs, &first);
    setup::over_the_wire(&first)?;
    setup::linked(&first)?;
    setup::doctor(report, programs, &first);
    one::suites(report, programs, [&first, &second]);
    game.score(report);
    figures::across(report, programs, (&first, &second));
    two::cases(report, programs, lab, (first, second));
    Ok(())
}
