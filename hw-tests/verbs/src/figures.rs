//! What calls take beside the programs of `perftest`, waiting alike, on one machine and across two. Under emulation times
//! mean nothing; the ratios do, if the machine below has the CPUs to itself.
//!
//! # Not here
//! Verdicts: a shared machine makes figures, not failures.

use std::time::Duration;

use epicserver_lab::plays::figures;
use epicserver_lab::{Error, Machine, Report};

use crate::SHORT;
use crate::programs::Programs;
use crate::setup::{self, address};

const MEASURING: Duration = Duration::from_secs(400);

/// Suite `verbs` of the benchmarks, on a machine with two CPUs.
pub(crate) fn on_one(report: &mut Report, programs: &Programs, machine: &Machine) {
    for case in ["verbs_64", "verbs_64k_bw", "verbs_1m_bw"] {
        report.case(&format!("figures on one machine: {case} beside perftest"), || {
            let bench = programs.bench.display();
            let json = machine.folder().join(format!("{case}.json"));
            let script = format!("exec {bench} verbs/{case} --quick --json {}", json.display());
            figures(&machine.run(&script, MEASURING)?, &format!("verbs/{case}  "))
        });
    }
}

/// The same by hand: the other side is on another machine.
pub(crate) fn across(
    report: &mut Report,
    programs: &Programs,
    (first, second): (&Machine, &Machine),
) {
    report.case("figures across two machines: a call of 64 bytes beside ib_send_lat", || {
        let latency = "EPICSERVER_RUNTIME__IDLE=latency";
        let tally = programs.tally.display();
        let [there, here] = setup::pair();
        let server = second.start(&format!("{there} {latency}; exec {tally} serve"))?;
        let script = format!("{here} {latency}; TALLY=time exec {tally} run");
        let said = first.run(&script, MEASURING)?;
        server.kill();
        let line = said.lines().find_map(|line| line.split_once(" ns, median"));
        let ours = line.and_then(|(ns, _)| ns.parse::<f64>().ok());
        let ours = ours.ok_or_else(|| Error::Wrong(format!("no median in: {said}")))?;
        let options = "-F -s 64 -n 2000";
        let server = second.start(&format!("exec ib_send_lat {options}"))?;
        second.run(
            "for try in {1..100}; do ss -ltn | grep -q :18515 && exit 0; sleep 0.1; done; exit 1",
            SHORT,
        )?;
        let said = first.run(&format!("ib_send_lat {options} {}", address(2)), MEASURING)?;
        server.wait(SHORT)?;
        let line = said.lines().find(|line| line.split_whitespace().next() == Some("64"));
        let typical = line.and_then(|line| line.split_whitespace().nth(4)?.parse::<f64>().ok());
        let floor = typical.ok_or_else(|| Error::Wrong(said.clone()))? * 2_000.0;
        Ok(format!("ours {ours} ns, twice ib_send_lat {floor} ns, ratio {:.2}", ours / floor))
    });
}
