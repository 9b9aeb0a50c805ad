//! What a call takes beside a bare packet, waiting alike, on one machine and across two. Under emulation times mean nothing;
//! the ratio does, if the machine below has the CPUs to itself.
//!
//! # Not here
//! Verdicts: a shared machine makes figures, not failures.

use std::time::Duration;

use epicserver_lab::plays::figures;
use epicserver_lab::{Error, Machine, Report, Result};

use crate::SHORT;
use crate::programs::Programs;
use crate::setup;

const MEASURING: Duration = Duration::from_secs(240);

/// Suite `tipc` of the benchmarks, on a machine with two CPUs.
pub(crate) fn on_one(report: &mut Report, programs: &Programs, machine: &Machine) {
    report.case("figures on one machine: tipc_64 beside raw_tipc", || {
        let (bench, raw) = (programs.bench.display(), programs.raw.display());
        let json = machine.folder().join("tipc.json");
        let script = format!("EPIC_RAW_TIPC={raw} exec {bench} tipc --json {}", json.display());
        figures(&machine.run(&script, MEASURING)?, "tipc/tipc_64")
    });
    report.case("our layouts are those of the system's headers", || {
        let said = machine.run(&format!("{} sizes", programs.raw.display()), SHORT)?;
        let expected = "address 16 subscription 28 event 48 packet 66000";
        if said.trim() == expected { Ok(said.trim().to_owned()) } else { Err(Error::Wrong(said)) }
    });
}

/// The same by hand: the other side is on another machine.
pub(crate) fn across(
    report: &mut Report,
    programs: &Programs,
    (first, second): (&Machine, &Machine),
) {
    report.case("figures across two machines: a call of 64 bytes beside a packet", || {
        let [there, here] = setup::pair();
        let latency = "EPICSERVER_RUNTIME__IDLE=latency";
        let (tally, raw) = (programs.tally.display(), programs.raw.display());
        let server = second.start(&format!("{there} {latency}; exec {tally} serve"))?;
        let said =
            first.run(&format!("{here} {latency}; TALLY=time exec {tally} run"), MEASURING)?;
        server.kill();
        let ours = median(&said)?;
        let server = second.start(&format!("exec {raw} serve 4244 1 spin"))?;
        server.wait_for("serving", SHORT)?;
        let said = first.run(&format!("exec {raw} ping 4244 1 spin 64 3000"), MEASURING)?;
        let floor = median(&said)?;
        let ratio = ours as f64 / floor as f64;
        Ok(format!("ours {ours} ns, raw_tipc {floor} ns, ratio {ratio:.2}"))
    });
}

fn median(said: &str) -> Result<u64> {
    let line = said.lines().find_map(|line| line.split_once(" ns, median"));
    let ns = line.and_then(|(ns, _)| ns.parse().ok());
    ns.ok_or_else(|| Error::Wrong(format!("no median in: {said}")))
}
