//! The programs of `perftest`, by those who make the devices: what a device charges for a message or a read.
//!
//! They are started as they are, a server and a client on a CPU each, and what they print is read. Where they are not
//! installed, these floors are left out aloud.
//!
//! # Not here
//! Which device: theirs is the first, as ours is. `EPIC_PERFTEST` gives further options, such as `-d mlx5_1 -x 3`.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{
    Resource, Rlimit, Signal, getppid, set_parent_process_death_signal, setrlimit,
};

use crate::case::{Failure, Round, Sample, Skipped};
use crate::peer::{self, Peer};

pub(crate) const PEER: &str = "perftest";
/// The variable with further options.
const VARIABLE: &str = "EPIC_PERFTEST";
/// Where server and client meet; each round has a port of its own, since the last one may linger.
const PORTS: std::ops::Range<u16> = 18_600..18_900;
/// Processor seconds after which a run that lost its other side ends: it may ask without end.
const CPU_S_MAX: u64 = 120;
/// How long a server may take to listen: an emulated machine reads the program over a slow wire.
const LISTENING: Duration = Duration::from_secs(60);
/// What a run that measures bandwidth sends, at least.
const BYTES: usize = 48 << 20;
/// Messages of a run that measures time.
const PINGS: usize = 3_000;

/// Nanoseconds of a message, or a write, of `size` bytes there and another one back: twice what `program` calls typical.
pub(crate) fn ping_pong(
    round: &Round,
    program: &'static str,
    size: usize,
) -> Result<Sample, Failure> {
    let said = run(round, program, (size, PINGS))?;
    let typical = column(&said, size, 4).ok_or_else(|| format!("{program} says: {said}"))?;
    Ok(Sample::from(typical * 2_000.0))
}

/// MiB a second in messages, or reads, of `size` bytes.
pub(crate) fn stream(round: &Round, program: &'static str, size: usize) -> Result<Sample, Failure> {
    let said = run(round, program, (size, (BYTES / size).max(128)))?;
    let average = column(&said, size, 3).ok_or_else(|| format!("{program} says: {said}"))?;
    Ok(Sample::from(average))
}

fn run(
    round: &Round,
    program: &'static str,
    (size, count): (usize, usize),
) -> Result<String, Failure> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&paths).any(|path| path.join(program).is_file()) {
        let why = format!("no {program}: apt-get install perftest");
        return Err(Skipped(why).into());
    }
    let port = port()?.to_string();
    let (pid, size, count) = (std::process::id().to_string(), size.to_string(), count.to_string());
    let more = std::env::var(VARIABLE).unwrap_or_default();
    let words = [pid.as_str(), program, "-F", "-p", &port, "-s", &size, "-n", &count];
    let words: Vec<&str> = words.into_iter().chain(more.split_whitespace()).collect();
    let _server = Peer::start(PEER, round.cpus[1], &words)?;
    listens(port.parse()?)?;
    let client = [&words[..], &["127.0.0.1"]].concat();
    Peer::start(PEER, round.cpus[0], &client)?.output_to_end()
}

/// A port that nobody listens at.
fn port() -> Result<u16, Failure> {
    let mut ports = PORTS;
    ports.find(|port| !is_taken(*port)).ok_or_else(|| "all ports for perftest are taken".into())
}

/// Whether a connection or a listener has `port`, or had it lately.
fn is_taken(port: u16) -> bool {
    table().lines().any(|line| local_port(line) == Some(port))
}

fn table() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    read("/proc/net/tcp") + &read("/proc/net/tcp6")
}

fn local_port(line: &str) -> Option<u16> {
    let (_, port) = line.split_whitespace().nth(1)?.rsplit_once(':')?;
    u16::from_str_radix(port, 16).ok()
}

/// Blocks until somebody listens at `port`. Trying to connect would be taken for the client.
fn listens(port: u16) -> Result<(), Failure> {
    let until = Instant::now() + LISTENING;
    let is_listener =
        |line: &str| local_port(line) == Some(port) && line.split_whitespace().nth(3) == Some("0A");
    while !table().lines().any(is_listener) {
        if Instant::now() > until {
            return Err("a server of perftest does not listen; is there a device?".into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// The number in `column` of the line about messages of `size` bytes.
fn column(said: &str, size: usize, column: usize) -> Option<f64> {
    let size = size.to_string();
    let line = said.lines().find(|line| line.split_whitespace().next() == Some(&size))?;
    let number = line.split_whitespace().nth(column)?.parse().ok();
    number.filter(|number| *number > 0.0)
}

/// Becomes the program: `args` are the pid of the process that asks for it, its name, and its own.
pub(crate) fn serve(args: &[String]) -> Result<(), Failure> {
    let [parent, program, args @ ..] = args else { return Err("arguments are missing".into()) };
    // B7. It does not look whether its input ends.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let limit = Rlimit { current: Some(CPU_S_MAX), maximum: Some(CPU_S_MAX) };
    setrlimit(Resource::Cpu, limit)?;
    if getppid().map(|pid| pid.as_raw_nonzero().to_string()).as_ref() != Some(parent) {
        return Err("nobody waits for this any more".into());
    }
    peer::announce("started")?;
    Err(Command::new(program).args(args).stdin(Stdio::null()).exec().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATENCY: &str = "\
 #bytes #iterations    t_min[usec]    t_max[usec]  t_typical[usec]    t_avg[usec]    t_stdev[usec]
 64      1000          13.30          90.00        15.25              15.80            1.00
";
    const BANDWIDTH: &str = "\
 #bytes     #iterations    BW peak[MB/sec]    BW average[MB/sec]   MsgRate[Mpps]
 65536      1000             120.00             110.50               0.001768
";

    #[test]
    fn figures_are_found_in_what_the_programs_print() {
        assert_eq!(column(LATENCY, 64, 4), Some(15.25));
        assert_eq!(column(BANDWIDTH, 65_536, 3), Some(110.5));
        assert_eq!(column("Couldn't connect", 64, 4), None);
    }

    #[test]
    fn a_port_that_somebody_listens_at_is_seen() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(is_taken(port));
        listens(port).unwrap();
    }
}
