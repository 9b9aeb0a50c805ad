//! What two machines show: the game, and accounts that agree whatever happens to a machine or the wire.

use std::time::Duration;

use epicserver_lab::{Error, Job, Lab, Machine, Output, Report, Result};

use crate::one::score;
use crate::programs::Programs;
use crate::setup;
use crate::{SECOND, SHORT};

const GAME: Duration = Duration::from_secs(300);
/// For what goes on while wires fail.
const ACCOUNTS: Duration = Duration::from_secs(120);
/// How long a link may be silent before it is given up (`SILENT` of the link machine), and what emulation may add.
const DETECTION_MS_MAX: u64 = 5_000 + 1_000;

const UNDISTURBED: &str = "tc qdisc del dev eth0 root";
/// What an account says of which every call was answered.
const NOTHING_LOST: &str = " unknown=0 refused=0 ";

pub(crate) fn cases(
    report: &mut Report,
    programs: &Programs,
    lab: &Lab,
    (first, second): (Machine, Machine),
) {
    report.case("barrels across two machines", || {
        let (barrels, [there, here]) = (programs.barrels.display(), setup::pair());
        let _other = second.start(&format!("{there}; tail -f /dev/null | {barrels} second"))?;
        let said = first.run(&format!("{here}; exec {barrels} first"), GAME)?;
        score(&said)
    });
    report.case("a wire that carries nothing for half a second loses nothing", || {
        let said = disturbed(programs, (&first, &second), || {
            let cut = "tc qdisc add dev eth0 root netem loss 100%";
            second.run(&format!("{cut}; sleep 0.5; {UNDISTURBED}"), SHORT).map(drop)
        })?;
        expect(said.contains(NOTHING_LOST), said)
    });
    report.case("when a link comes back calls go over it again, and none was done twice", || {
        let said = disturbed(programs, (&first, &second), || {
            let flap = "ip link set eth0 down; sleep 8; ip link set eth0 up";
            second.run(flap, SHORT)?;
            setup::linked(&second)
        })?;
        expect(!said.contains(NOTHING_LOST), said)
    });
    report.case("a wire that loses and delays loses nothing", || {
        let netem = "tc qdisc add dev eth0 root netem delay 5ms 2ms loss 2%";
        let said = disturbed(programs, (&first, &second), || {
            first.run(netem, SHORT)?;
            second.run(&format!("{netem}; sleep 3; {UNDISTURBED}"), SHORT)?;
            first.run(UNDISTURBED, SHORT).map(drop)
        })?;
        expect(said.contains(NOTHING_LOST), said)
    });
    report.case("a call under way when its machine dies ends in NodeLost in time", || {
        lost(programs, &first, second)
    });
    report.case("a machine that comes back takes part again", || {
        let second = lab.boot_second(&SECOND)?;
        setup::over_the_wire(&second)?;
        setup::linked(&first)?;
        let said = disturbed(programs, (&first, &second), || Ok(()))?;
        expect(said.contains(NOTHING_LOST), said)
    });
}

/// The accounts of calls during which something happens. That they agree, the program has checked.
fn disturbed(
    programs: &Programs,
    (first, second): (&Machine, &Machine),
    happens: impl FnOnce() -> Result<()>,
) -> Result<String> {
    let (tally, [there, here]) = (programs.tally.display(), setup::pair());
    let _gone = std::fs::remove_file(first.folder().join("finish"));
    let server = second.start(&format!("{there}; exec {tally} serve"))?;
    let caller = first.start(&format!("{here}; TALLY=count exec {tally} run"))?;
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

fn lost(programs: &Programs, first: &Machine, second: Machine) -> Result<String> {
    let (tally, [there, here]) = (programs.tally.display(), setup::pair());
    let _server = second.start(&format!("{there}; exec {tally} serve"))?;
    let caller: Job = first.start(&format!("{here}; TALLY=hold exec {tally} run"))?;
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
