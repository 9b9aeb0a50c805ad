//! The lab tried on itself, and the shortest account of how to use it.

use std::process::ExitCode;
use std::time::Duration;

use epicserver_lab::{Error, Lab, Machine, Report, Result, Shape};

const SHORT: Duration = Duration::from_secs(20);

const FIRST: Shape = Shape { name: "first", cpus: 1, memory_mib: 768 };
const SECOND: Shape = Shape { name: "second", cpus: 1, memory_mib: 768 };

fn main() -> ExitCode {
    let mut report = Report::from_arguments();
    if std::env::args().any(|word| word == "--native") {
        report.case("this host runs scripts", || {
            let host = Machine::native("lab")?;
            scripts_end_with_their_status(&host)?;
            a_hung_script_is_ended(&host)?;
            Ok("its status, its output, its end".to_owned())
        });
        return report.finish();
    }
    report.case("two machines come up, reach each other, and one outlives the other", || {
        let lab = Lab::open("lab")?;
        let (first, second) = lab.boot_pair(&FIRST, &SECOND)?;
        scripts_end_with_their_status(&first)?;
        a_hung_script_is_ended(&first)?;
        first.run("modprobe tipc && touch /usr/of-the-guest-alone", SHORT)?;
        first.run("ip addr add 10.0.0.1/24 dev eth0 && ip link set eth0 mtu 4200 up", SHORT)?;
        second.run("ip addr add 10.0.0.2/24 dev eth0 && ip link set eth0 mtu 4200 up", SHORT)?;
        let ping = "busybox ping -q -c 3 -s 4000 10.0.0.2";
        let figures = first.run(ping, SHORT)?;
        let job = second.start("echo begun; sleep 1000")?;
        job.wait_for("begun", SHORT)?;
        second.kill();
        expect_gone(job.wait(SHORT).map(drop))?;
        let ended = first.ask("busybox ping -q -c 1 -W 1 10.0.0.2", SHORT)?;
        expect(ended.status == 1, "a killed machine answers no ping")?;
        let second = lab.boot_second(&SECOND)?;
        second.run("ip addr add 10.0.0.2/24 dev eth0 && ip link set eth0 up", SHORT)?;
        first.run("busybox ping -q -c 1 -W 5 10.0.0.2", SHORT)?;
        let round_trip = figures.lines().find(|line| line.starts_with("round-trip"));
        Ok(round_trip.unwrap_or("no figures").to_owned())
    });
    report.finish()
}

fn scripts_end_with_their_status(machine: &Machine) -> Result<()> {
    let ended = machine.ask("echo out; echo err >&2; exit 7", SHORT)?;
    let told = (ended.status, ended.stdout.as_str(), ended.stderr.as_str());
    expect(told == (7, "out\n", "err\n"), "a script's status and output come back")?;
    expect(machine.run("false; true", SHORT).is_err(), "a script stops where it fails")?;
    let note = machine.folder().join("note");
    machine.run("echo hello >note", SHORT)?;
    let note = std::fs::read_to_string(note).unwrap_or_default();
    expect(note == "hello\n", "the folder of a machine is shared")
}

fn a_hung_script_is_ended(machine: &Machine) -> Result<()> {
    let hung = machine.ask("sleep 4321 & sleep 4321", Duration::from_secs(1));
    expect(matches!(hung, Err(Error::Late { .. })), "a hung script is late")?;
    let left = "for try in {1..50}; do pgrep -fx 'sleep 4321' >/dev/null || exit 0; sleep 0.1; done; exit 1";
    let ended = machine.ask(left, SHORT)?;
    expect(ended.status == 0, "what a hung script started is gone")
}

fn expect_gone(result: Result<()>) -> Result<()> {
    expect(matches!(result, Err(Error::Gone { .. })), "a job of a killed machine is told so")
}

fn expect(holds: bool, what: &str) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::Wrong(format!("does not hold: {what}"))) }
}
