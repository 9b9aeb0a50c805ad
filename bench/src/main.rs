//! The benchmark program: suites of cases, each measured in turn with the floors it is judged by.
//!
//! In:  `SUITE[/CASE] [--json FILE] [--quick]`   Out: a report on standard output, and the JSON file
//!
//! # Invariants
//! - **B1** Ours and its floors are measured alternately in one process run, round by round, so
//!   that a machine that changes its speed changes it for all of them.
//! - **B2** Nothing instruments what is timed: no counting allocator, no tracing, no clock read
//!   inside a batch.
//! - **B3** A round leaves nothing running: no thread of one subject spins beside another.
//!
//! # Not here
//! What is measured: `suites` names the cases, `floors` is what they are judged by. Whether a
//! ratio is good enough: whoever reads the JSON file decides.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program that reports to a person"
)]

mod calibrate;
mod case;
#[expect(dead_code, reason = "its other settings are for tests")]
#[path = "../../persistence/postgres/tests/common/mod.rs"]
mod database;
mod floors;
mod laps;
mod machine;
mod ours;
mod peer;
mod probe;
mod report;
mod suites;

use std::path::PathBuf;
use std::process::ExitCode;

use crate::case::{Effort, Failure, Verdict};
use crate::machine::Machine;

/// What the command line asked for.
#[derive(Debug)]
enum Command {
    Run {
        suite: String,
        json: Option<PathBuf>,
        effort: Effort,
    },
    /// This process was started by `probe::in_fresh_process`.
    Probe {
        name: String,
        count: u64,
    },
    /// This process was started by `Peer::start`.
    Peer {
        name: String,
        cpu: usize,
        args: Vec<String>,
    },
}

impl Command {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, Failure> {
        let (mut suite, mut json, mut effort) = (None, None, Effort::FULL);
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--quick" => effort = Effort::QUICK,
                "--json" => json = Some(args.next().ok_or("--json needs a file")?.into()),
                probe::FLAG => {
                    let name = args.next().ok_or("no probe named")?;
                    let count = args.next().ok_or("no count given")?.parse()?;
                    return Ok(Self::Probe { name, count });
                }
                peer::FLAG => {
                    let name = args.next().ok_or("no peer named")?;
                    let cpu = args.next().ok_or("no CPU given")?.parse()?;
                    return Ok(Self::Peer { name, cpu, args: args.collect() });
                }
                _ if arg.starts_with('-') => return Err(format!("unknown option {arg}").into()),
                _ if suite.is_some() => return Err("one suite at a time".into()),
                _ => suite = Some(arg),
            }
        }
        let suite = suite.ok_or("which suite?")?;
        Ok(Self::Run { suite, json, effort })
    }
}

fn run(suite: &str, json: Option<PathBuf>, effort: Effort) -> Result<(), Failure> {
    let cases = suites::cases(suite)?;
    if cfg!(debug_assertions) {
        println!("WARNING: built without --release; no figure below means anything\n");
    }
    let machine = Machine::read();
    println!("{machine}");
    println!("{}", calibrate::calibrate(&machine, effort)?);
    println!("{}", report::heading(suite, effort));
    let mut verdicts: Vec<Verdict> = Vec::new();
    for case in cases {
        if !machine.has_cpus(case.cpus) {
            println!("{}/{}: SKIPPED: needs {} CPUs\n", case.suite, case.case, case.cpus);
            continue;
        }
        let verdict = case.run(&machine, effort)?;
        println!("{verdict}");
        verdicts.push(verdict);
    }
    if let Some(file) = json {
        std::fs::write(&file, report::json(&verdicts)?)
            .map_err(|error| format!("cannot write {}: {error}", file.display()))?;
        println!("wrote {}", file.display());
    }
    Ok(())
}

fn main() -> ExitCode {
    let done = Command::parse(std::env::args().skip(1)).and_then(|command| match command {
        Command::Run { suite, json, effort } => run(&suite, json, effort),
        Command::Probe { name, count } => probe::answer(&name, count),
        Command::Peer { name, cpu, args } => peer::answer(&name, cpu, args),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("epicserver-bench: {error}");
            eprintln!("usage: epicserver-bench SUITE[/CASE] [--json FILE] [--quick]");
            eprintln!("suites: {}", suites::NAMES.join(", "));
            ExitCode::FAILURE
        }
    }
}
