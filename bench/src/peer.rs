//! Peers: the other process of a measurement, on a CPU of its own.
//!
//! The program starts itself again with `FLAG NAME CPU ARGUMENTS`. That process pins itself, serves on a
//! thread of its own, and lives until its standard input ends, which is what happens when the
//! process that started it ends in whatever way.
//!
//! # Invariants
//! - **B7** No peer outlives the process that started it, nor the round it was started for.
//!
//! # Not here
//! What peers do: `suites::PEERS` names them. Figures of a fresh process: `probe`.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;

use core_affinity::CoreId;

use crate::case::{Failure, pin};
use crate::suites;

/// The option that makes this program a peer.
pub(crate) const FLAG: &str = "--peer";

/// Serves until nobody needs it any more, or for ever. What it got on the command line is `args`.
pub(crate) type Serve = fn(args: &[String]) -> Result<(), Failure>;

/// A peer that runs. Dropped, it is ended.
#[derive(Debug)]
pub(crate) struct Peer {
    child: Child,
    output: BufReader<ChildStdout>,
    /// Where it serves: the line that it gave to `announce`.
    pub(crate) address: String,
}

impl Peer {
    /// Starts the peer `name` on `cpu`, and blocks until it has said where it serves.
    pub(crate) fn start(name: &str, cpu: CoreId, args: &[&str]) -> Result<Self, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([FLAG, name, &cpu.id.to_string()]).args(args);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().ok_or("a peer has an output")?;
        let mut peer = Self { child, output: BufReader::new(output), address: String::new() };
        peer.output.read_line(&mut peer.address)?;
        if peer.address.pop() != Some('\n') {
            return Err(format!("the peer {name} ended before it served").into());
        }
        Ok(peer)
    }

    /// What it writes after that, until it ends. Blocks as long.
    pub(crate) fn output_to_end(&mut self) -> Result<String, Failure> {
        let mut text = String::new();
        self.output.read_to_string(&mut text)?;
        Ok(text)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // B7. It holds nothing that would have to be put in order first.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Says where this peer serves: whoever started it waits for that.
pub(crate) fn announce(address: &str) -> Result<(), Failure> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{address}")?;
    Ok(output.flush()?)
}

/// Is the process that `Peer::start` started.
pub(crate) fn answer(name: &str, cpu: usize, args: Vec<String>) -> Result<(), Failure> {
    let mut peers = suites::PEERS.iter();
    let (_, serve) = *peers.find(|(known, _)| *known == name).ok_or("no such peer")?;
    pin(CoreId { id: cpu })?;
    let name = name.to_owned();
    // It inherits the pin.
    thread::spawn(move || {
        if let Err(error) = serve(&args) {
            eprintln!("epicserver-bench: peer {name}: {error}");
            std::process::exit(1);
        }
    });
    // B7. It ends with its last line, or with the process that holds the other end.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// The argument at `index` as what it should be.
pub(crate) fn argument<T: std::str::FromStr>(args: &[String], index: usize) -> Result<T, Failure> {
    let parsed = args.get(index).and_then(|arg| arg.parse().ok());
    parsed.ok_or_else(|| format!("argument {index} of a peer is missing or wrong").into())
}
