//! A bare connection of packets over TIPC between two processes: what the kernel charges for a packet.
//!
//! The program is in C, written against the system's headers alone, since this crate has no `unsafe`; `hw-tests/run tipc`
//! builds it where it runs this suite, and names it by a variable. Where it is not named this floor is left out aloud.
//!
//! # Not here
//! The program itself: `hw-tests/tipc/raw_tipc.c`.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::process::{
    Resource, Rlimit, Signal, getppid, set_parent_process_death_signal, setrlimit,
};

use crate::case::{Failure, Round, Sample, Skipped};
use crate::peer::{self, Peer};

pub(crate) const PEER: &str = "raw_tipc";
/// The variable that names the program.
const VARIABLE: &str = "EPIC_RAW_TIPC";
/// A service type of its own.
const TYPE: &str = "4244";
/// Processor seconds after which a run that lost its other side ends: it may ask without end.
const CPU_S_MAX: u64 = 120;

/// Nanoseconds of a packet of `size` bytes there and back, asking again and again. On a machine with a single CPU both
/// sides yield between, as ours do there.
pub(crate) fn ping_pong(round: &Round, size: usize) -> Result<Sample, Failure> {
    if program().is_none() {
        let why = format!("{VARIABLE} names no program; `hw-tests/run tipc` builds one");
        return Err(Skipped(why).into());
    }
    let pid = std::process::id().to_string();
    let [here, there] = round.cpus;
    let at = [TYPE, &pid, if here == there { "yield" } else { "spin" }];
    let _server = Peer::start(PEER, round.cpus[1], &[&[pid.as_str(), "serve"], &at[..]].concat())?;
    let ms = (round.effort.warm_up + round.effort.measured).as_millis().to_string();
    let size = size.to_string();
    let client = [&[pid.as_str(), "ping"], &at[..], &[&size, &ms]].concat();
    let mut client = Peer::start(PEER, round.cpus[0], &client)?;
    let said = client.output_to_end()?;
    let ns = parse(&said).ok_or_else(|| format!("raw_tipc says: {said}"))?;
    Ok(Sample::from(ns))
}

fn parse(said: &str) -> Option<f64> {
    let median = said.lines().find_map(|line| line.split_once(" ns, median"))?.0;
    median.parse().ok().filter(|ns| *ns > 0.0)
}

fn program() -> Option<PathBuf> {
    std::env::var_os(VARIABLE).map(PathBuf::from).filter(|path| path.is_file())
}

/// Becomes the program: `args` are the pid of the process that asks for it, and its own.
pub(crate) fn serve(args: &[String]) -> Result<(), Failure> {
    let [parent, args @ ..] = args else { return Err("arguments are missing".into()) };
    // B7. It does not look whether its input ends.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let limit = Rlimit { current: Some(CPU_S_MAX), maximum: Some(CPU_S_MAX) };
    setrlimit(Resource::Cpu, limit)?;
    if getppid().map(|pid| pid.as_raw_nonzero().to_string()).as_ref() != Some(parent) {
        return Err("nobody waits for this any more".into());
    }
    let program = program().ok_or("the program is gone")?;
    peer::announce("started")?;
    Err(Command::new(program).args(args).stdin(Stdio::null()).exec().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_found_in_what_the_program_says() {
        assert_eq!(parse("serving\n12345 ns, median of 10\n"), Some(12_345.0));
        assert_eq!(parse("connect: No route to host\n"), None);
    }
}
