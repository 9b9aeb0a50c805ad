//! Verbs on real kernels: the suite of all transports on one machine, the game across two, and what becomes of links when
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
    let host = Machine::native("verbs")?;
    one::cases(report, &host)
}

fn in_lab(report: &mut Report) -> Result<()> {
    let lab = Lab::open("verbs")?;
    let first = lab.boot(&FIRST)?;
    // A wire that leads nowhere: what the device sends to itself does not reach it.
    first.run("modprobe dummy && ip link add eth0 type dummy", SHORT)?;
    bring_up(&first, 1)?;
    one::cases(report, &first)
}

/// Sets SoftRoCE up over `eth0`.
fn bring_up(machine: &Machine, number: u8) -> Result<()> {
    let script = format!(
        "modprobe -a crc32_generic ib_uverbs rdma_rxe
         ip addr add 10.0.0.{number}/24 dev eth0
         ip link set eth0 mtu 4200 up
         rdma link add rxe0 type rxe netdev eth0
         for try in {{1..50}}; do
             ibv_devinfo | grep -q PORT_ACTIVE && exit 0
             sleep 0.1
         done
         ibv_devinfo; exit 1"
    );
    machine.run(&script, SHORT).map(drop)
}
