//! TIPC on real kernels: the suite of all transports on one machine, the game across two, and what becomes of links when
//! machines die or wires fail.
//!
//! # Not here
//! How machines come up: the lab.

mod one;

use std::process::ExitCode;
use std::time::Duration;

use epicserver_lab::{Lab, Machine, Report, Result, Shape};

/// For what takes no time.
const SHORT: Duration = Duration::from_secs(30);

const FIRST: Shape = Shape { name: "first", cpus: 1, memory_mib: 1024 };

fn main() -> ExitCode {
    let mut report = Report::from_arguments();
    let native = std::env::args().any(|word| word == "--native");
    if let Err(error) = if native { on_this(&mut report) } else { in_lab(&mut report) } {
        report.case("machines", || Err(error));
    }
    report.finish()
}

fn on_this(report: &mut Report) -> Result<()> {
    let host = Machine::native("tipc")?;
    one::cases(report, &host)
}

fn in_lab(report: &mut Report) -> Result<()> {
    let lab = Lab::open("tipc")?;
    let first = lab.boot(&FIRST)?;
    // A wire that leads nowhere: without one TIPC gives the machine no address.
    first.run(
        "modprobe -a dummy tipc && ip link add dummy0 type dummy && ip link set dummy0 up",
        SHORT,
    )?;
    bring_up(&first, "dummy0")?;
    one::cases(report, &first)
}

/// Sets TIPC up over `device`. Its address takes a second.
fn bring_up(machine: &Machine, device: &str) -> Result<()> {
    let name = machine.name();
    let script = format!(
        "modprobe tipc && tipc node set identity {name} && tipc bearer enable media eth device {device}
         for try in {{1..100}}; do
             [[ $(tipc node get address) =~ ^0+$ ]] || exit 0
             sleep 0.1
         done
         tipc node get address; exit 1"
    );
    machine.run(&script, SHORT).map(drop)
}
