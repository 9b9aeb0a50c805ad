//! UCX, what MPI libraries talk over: its own measuring program, `ucx_perftest`, as two processes.
//!
//! It polls without end, as ours does in the cases that this is a floor of, and gives half of a round
//! trip; its figure here is twice the median that it prints. While it runs it listens for its own
//! hand-shake on a port that the system chose.
//!
//! # Not here
//! UCX itself: Debian has it in `ucx-utils`. Where it is not installed this floor is skipped aloud.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::process::{
    Resource, Rlimit, Signal, getppid, set_parent_process_death_signal, setrlimit,
};

use crate::case::{Failure, Round, Sample, Skipped};
use crate::peer::{self, Peer};

pub(crate) const PEER: &str = "ucx";
const PROGRAM: &str = "ucx_perftest";
/// Processor seconds after which a run that lost its other side ends: it polls without end.
const CPU_S_MAX: u64 = 20;
/// How often to look whether the server listens; a look takes some 0.1 ms.
const LOOKS: u32 = 50_000;

/// Where UCX is asked to send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    /// `UCX_TLS`.
    transport: &'static str,
    /// `UCX_NET_DEVICES`.
    devices: &'static str,
    /// About what a round trip takes, so that a run takes about a round's time.
    round_trip_ns: u64,
}

pub(crate) const TCP: Way = Way { transport: "tcp", devices: "lo", round_trip_ns: 11_000 };
pub(crate) const POSIX: Way = Way { transport: "posix", devices: "all", round_trip_ns: 350 };

/// Nanoseconds of a round trip of 64 bytes by tag matching.
pub(crate) fn ping_pong(round: &Round, way: Way) -> Result<Sample, Failure> {
    if !installed() {
        let why = format!("no {PROGRAM} here; apt-get install ucx-utils brings it");
        return Err(Skipped(why).into());
    }
    let port = free_port()?;
    let pid = std::process::id().to_string();
    let own = [pid.as_str(), way.transport, way.devices, "-p", &port.to_string(), "-v", "-f"];
    let _server = Peer::start(PEER, round.cpus[1], &own)?;
    await_listener(port)?;
    let count = |time: std::time::Duration| {
        let count = time.as_nanos() / u128::from(way.round_trip_ns);
        count.max(1_000).to_string()
    };
    let (warm, measured) = (count(round.effort.warm_up), count(round.effort.measured));
    let what = ["-t", "tag_lat", "-s", "64", "-w", &warm, "-n", &measured, "127.0.0.1"];
    let mut client = Peer::start(PEER, round.cpus[0], &[&own[..], &what].concat())?;
    let output = client.output_to_end()?;
    let half_us = parse(&output).ok_or_else(|| format!("{PROGRAM} says: {output}"))?;
    Ok(Sample::from(half_us * 2_000.0))
}

/// The median, in microseconds: a heading, then `iterations,50.0_percentile_lat,avg_lat,…`.
fn parse(output: &str) -> Option<f64> {
    let mut lines = output.lines().skip_while(|line| !line.starts_with("iterations,"));
    let names = lines.next()?.split(',');
    let (_, value) =
        names.zip(lines.next()?.split(',')).find(|(name, _)| name.ends_with("_percentile_lat"))?;
    value.parse().ok().filter(|us| *us > 0.0)
}

fn installed() -> bool {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).any(|folder: PathBuf| folder.join(PROGRAM).is_file())
}

fn free_port() -> Result<u16, Failure> {
    let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

/// Its output does not say in time that it listens, and a connection to try would be its only one.
fn await_listener(port: u16) -> Result<(), Failure> {
    let listens = format!(":{port:04X} 00000000:0000 0A");
    for _ in 0..LOOKS {
        if std::fs::read_to_string("/proc/net/tcp")?.contains(&listens) {
            return Ok(());
        }
        std::thread::yield_now();
    }
    Err(format!("{PROGRAM} does not listen at port {port}").into())
}

/// Becomes `ucx_perftest`: `args` are the pid of the process that asks for it, the way, and its own.
pub(crate) fn serve(args: &[String]) -> Result<(), Failure> {
    let [parent, transport, devices, args @ ..] = args else {
        return Err("arguments are missing".into());
    };
    // B7. It does not look whether its input ends, and does not stop by itself.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let limit = Rlimit { current: Some(CPU_S_MAX), maximum: Some(CPU_S_MAX) };
    setrlimit(Resource::Cpu, limit)?;
    if getppid().map(|pid| pid.as_raw_nonzero().to_string()).as_ref() != Some(parent) {
        return Err("nobody waits for this any more".into());
    }
    peer::announce("started")?;
    let mut command = Command::new(PROGRAM);
    let command = command.args(args).env("UCX_TLS", transport).env("UCX_NET_DEVICES", devices);
    Err(command.stdin(Stdio::null()).exec().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_found_by_its_name() {
        let output =
            "+---+\niterations,50.0_percentile_lat,avg_lat,overall_lat\n20000,5.243,5.558,5.6\n";
        assert_eq!(parse(output), Some(5.243));
        assert_eq!(parse("iterations,avg_lat\n1,2\n"), None);
        assert_eq!(parse("connect() failed\n"), None);
    }
}
