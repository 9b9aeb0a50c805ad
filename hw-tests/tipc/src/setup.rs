//! Setting TIPC up, and what a node says where it is not.

use std::time::Duration;

use epicserver_lab::plays::expect;
use epicserver_lab::{Error, Machine, Report, Result, nodes};

use crate::SHORT;
use crate::programs::Programs;

/// What a node is told to use TIPC by, and the fabric of all cases here. Whoever spins on the one CPU of a machine keeps
/// the others of it from running.
pub(crate) const SETTINGS: &str = "export EPICSERVER_NETWORK__TRANSPORT=tipc EPICSERVER_FABRIC__NAME=hw \
     EPICSERVER_FABRIC__KEY=sixteen-bytes-or-more EPICSERVER_FABRIC__NODES=2 EPICSERVER_RUNTIME__IDLE=power";

/// The settings of two nodes on two machines, which agree on who they are beforehand: the one that only serves and the
/// other one.
pub(crate) fn pair() -> [String; 2] {
    nodes::ranks().map(|rank| format!("{SETTINGS} {rank}"))
}

/// On a machine where TIPC is not set up yet.
pub(crate) fn refusals(report: &mut Report, programs: &Programs, machine: &Machine) {
    report.case("a kernel without TIPC is named, with what mends it", || {
        machine.run("echo 'install tipc /bin/false' >/etc/modprobe.d/no-tipc.conf", SHORT)?;
        let said = refused(programs, machine)?;
        machine.run("rm /etc/modprobe.d/no-tipc.conf", SHORT)?;
        expect(said.contains("modprobe tipc"), &said)
    });
    report.case("a machine without a bearer is named, with what mends it", || {
        machine.run("modprobe tipc", SHORT)?;
        let said = refused(programs, machine)?;
        expect(said.contains("tipc bearer enable"), &said)
    });
}

/// On a machine where it is.
pub(crate) fn doctor(report: &mut Report, programs: &Programs, machine: &Machine) {
    report.case("the doctor finds all that TIPC needs", || {
        let doctor = format!("{SETTINGS}; exec {} doctor", programs.epic.display());
        let said = machine.run(&doctor, SHORT)?;
        let lines = said.lines().filter(|line| line.starts_with("tipc"));
        let lacking: Vec<&str> = lines.filter(|line| line.contains("lacks")).collect();
        expect(lacking.is_empty() && said.contains("ready for"), lacking.join("; "))?;
        Ok(said.lines().last().unwrap_or_default().to_owned())
    });
}

/// What a node says that cannot start.
fn refused(programs: &Programs, machine: &Machine) -> Result<String> {
    let tally = programs.tally.display();
    let ended = machine.ask(&format!("{SETTINGS}; exec {tally} serve"), SHORT)?;
    if ended.status == 0 {
        return Err(Error::Wrong("a node served without TIPC".to_owned()));
    }
    Ok(ended.stderr.trim().to_owned())
}

/// Sets TIPC up over the wire between machines.
pub(crate) fn over_the_wire(machine: &Machine) -> Result<()> {
    bring_up(machine, "eth0")
}

/// The same over a device that leads nowhere: without one a machine gets no address.
pub(crate) fn over_a_dummy(machine: &Machine) -> Result<()> {
    machine.run("modprobe dummy numdummies=0 && ip link add dummy0 type dummy", SHORT)?;
    bring_up(machine, "dummy0")
}

/// The address takes a second.
fn bring_up(machine: &Machine, device: &str) -> Result<()> {
    let name = machine.name();
    let script = format!(
        "modprobe tipc && ip link set {device} up
         tipc node set identity {name} && tipc bearer enable media eth device {device}
         for try in {{1..200}}; do
             [[ $(tipc node get address) =~ ^0+$ ]] || exit 0
             sleep 0.1
         done
         tipc node get address; exit 1"
    );
    machine.run(&script, SHORT).map(drop)
}

/// Waits until TIPC has found the other machine.
pub(crate) fn linked(machine: &Machine) -> Result<()> {
    let script = "for try in {1..300}; do
                      tipc link list | grep -q ': up' && exit 0
                      sleep 0.1
                  done
                  tipc link list; exit 1";
    machine.run(script, Duration::from_secs(60)).map(drop)
}
