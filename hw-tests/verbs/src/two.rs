//! What two machines show: the game, and accounts that agree whatever happens to a machine or the wire.

use std::time::Duration;

use epicserver_lab::{Error, Job, Lab, Machine, Output, Report, Result};

use crate::one::score;
use crate::programs::Programs;
use crate::setup::{self, listening, seeking};
use crate::{SECOND, SHORT};

const GAME: Duration = Duration::from_secs(180);
/// For what goes on while wires fail.
const ACCOUNTS: Duration = Duration::from_secs(120);
/// How long a link may be silent before it is given up (`SILENT` of the link machine), and what emulation may add.
const DETECTION_MS_MAX: u64 = 5_000 + 1_000;

pub(crate) fn cases(
    report: &mut Report,
    programs: &Programs,
    lab: &Lab,
    (first, second): (Machine, Machine),
) {
    report.case("barrels across two machines", || {
        let (barrels, there, here) = (programs.barrels.display(), listening(2), seeking(1, 2));
        let _other = second.start(&format!("{there}; tail -f /dev/null | {barrels} second"))?;
        let said = first.run(&format!("{here}; exec {barrels} first"), GAME)?;
        score(&said)
    });
    report.case("a wire that fails for a fifth of a second loses nothing", || {
        let said = disturbed(programs, (&first, &second), || flap(&second, "0.2"))?;
        expect(said.contains(" unknown=0 refused=0 ") && said.contains(" there=8 "), said)
    });
    report.case("when a wire comes back after long the link does, and nothing came twice", || {
        let said = disturbed(programs, (&first, &second), || flap(&second, "8"))?;
        expect(said.contains(" there=8 ") && !said.contains(" unknown=0 refused=0 "), said)
    });
    report.case("a wire that loses and delays loses nothing", || {
        let netem = "tc qdisc add dev eth0 root netem delay 5ms 2ms loss 2%";
        let back = "tc qdisc del dev eth0 root";
        let said = disturbed(programs, (&first, &second), || {
            first.run(netem, SHORT)?;
            second.run(&format!("{netem}; sleep 3; {back}"), SHORT)?;
            first.run(back, SHORT).map(drop)
        })?;
        expect(said.contains(" unknown=0 refused=0 ") && said.contains(" there=8 "), said)
    });
    report.case("a call under way when its machine dies ends in NodeLost in time", || {
        lost(programs, &first, second)
    });
    report.case("a machine that comes back takes part again", || {
        let second = lab.boot_second(&SECOND)?;
        setup::over_the_wire(&second, 2)?;
        let said = disturbed(programs, (&first, &second), || Ok(()))?;
        expect(said.contains(" unknown=0 refused=0 ") && said.contains(" there=8 "), said)
    });
}

/// The accounts of calls during which something happens. That they agree, the program has checked.
fn disturbed(
    programs: &Programs,
    (first, second): (&Machine, &Machine),
    happens: impl FnOnce() -> Result<()>,
) -> Result<String> {
    let tally = programs.tally.display();
    let _gone = std::fs::remove_file(first.folder().join("finish"));
    let server = second.start(&format!("{}; exec {tally} serve", listening(2)))?;
    let caller = first.start(&format!("{}; TALLY=count exec {tally} run", seeking(1, 2)))?;
    caller.wait_for("under way", ACCOUNTS)?;
    happens()?;
    first.run("touch finish", SHORT)?;
    let said = caller.succeed(ACCOUNTS);
    server.kill();
    let _ended: Result<Output> = server.wait(SHORT);
    let said = said?;
    let account = said.lines().find(|line| line.starts_with("answered="));
    Ok(account.unwrap_or("no account").to_owned())
}

fn flap(machine: &Machine, seconds: &str) -> Result<()> {
    let script = format!("ip link set eth0 down; sleep {seconds}; ip link set eth0 up");
    machine.run(&script, SHORT).map(drop)
}

fn lost(programs: &Programs, first: &Machine, second: Machine) -> Result<String> {
    let tally = programs.tally.display();
    let _server = second.start(&format!("{}; exec {tally} serve", listening(2)))?;
    let caller: Job = first.start(&format!("{}; TALLY=hold exec {tally} run", seeking(1, 2)))?;
    caller.wait_for("held", ACCOUNTS)?;
    second.kill();
    let said = caller.succeed(ACCOUNTS)?;
    let line = said.lines().find(|line| line.starts_with("lost ")).unwrap_or("no word of it");
    let ms = line.rsplit_once("ms=").and_then(|(_, ms)| ms.parse::<u64>().ok());
    let in_time = ms.is_some_and(|ms| ms <= DETECTION_MS_MAX);
    expect(in_time && line.contains("kind=NodeLost ran=Unknown"), line.to_owned())
}

fn expect(holds: bool, said: String) -> Result<String> {
    if holds { Ok(said) } else { Err(Error::Wrong(format!("unexpected: {said}"))) }
}
