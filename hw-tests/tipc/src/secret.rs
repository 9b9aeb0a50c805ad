//! The kernel's own encryption: what goes over the wire once each machine has a key.
//!
//! # Not here
//! How good it is.

use std::time::Duration;

use epicserver_lab::{Error, Lab, Machine, Report, Result};

use crate::programs::Programs;
use crate::setup;
use crate::{FIRST, SECOND, SHORT};

const TIMED: Duration = Duration::from_secs(120);

/// A key of 16 bytes, and a salt of 4.
const KEY: &str = "0x00112233445566778899aabbccddeeff01020304";
/// Names of fabrics, which nodes say to each other in the clear.
const SEEN: &str = "a-name-in-the-clear";
const HIDDEN: &str = "a-name-nobody-sees";

/// On two machines of their own, of whose wire everything is written down.
pub(crate) fn cases(report: &mut Report, programs: &Programs, lab: &mut Lab) {
    report.case("with a key in the kernel nothing is said in the clear", || {
        lab.record();
        let (first, second) = lab.boot_pair(&FIRST, &SECOND)?;
        for machine in [&first, &second] {
            setup::over_the_wire(machine)?;
        }
        setup::linked(&first)?;
        talk(programs, (&first, &second), SEEN)?;
        for machine in [&first, &second] {
            machine.run(&format!("tipc node set key {KEY}"), SHORT)?;
        }
        setup::linked(&first)?;
        talk(programs, (&first, &second), HIDDEN)?;
        let recording = lab.recording()?;
        let [seen, hidden] = [SEEN, HIDDEN].map(|name| count(&recording, name.as_bytes()));
        if seen == 0 || hidden > 0 {
            let what = format!("`{SEEN}` was seen {seen} times, `{HIDDEN}` {hidden} times");
            return Err(Error::Wrong(what));
        }
        Ok(format!("of {} KiB on the wire", recording.len() >> 10))
    });
}

fn talk(programs: &Programs, (first, second): (&Machine, &Machine), fabric: &str) -> Result<()> {
    let named = |settings: String| format!("{settings} EPICSERVER_FABRIC__NAME={fabric}");
    let [serves, calls] = setup::pair().map(named);
    let tally = programs.tally.display();
    let server = second.start(&format!("{serves}; exec {tally} serve"))?;
    first.run(&format!("{calls}; TALLY=time exec {tally} run"), TIMED)?;
    server.kill();
    server.wait(SHORT).map(drop)
}

fn count(text: &[u8], wanted: &[u8]) -> usize {
    text.windows(wanted.len()).filter(|window| *window == wanted).count()
}
