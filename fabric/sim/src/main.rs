//! The simulator as a program: seeds from one on, until a checker finds something.
//!
//! # Not here
//! What a run does: the library.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it talks to whoever started it")]

use std::process::ExitCode;

use epicserver_sim::{Mutant, Stats, check, fresh_seed, replay_line};

const USAGE: &str = "\
usage: epicserver-sim [--seeds N] [--seed S] [--mutant M] [--list-mutants]

  --seeds N       how many seeds to run (1000)
  --seed S        the first of them; a random one where it is not given
  --mutant M      switch a known fault on, which a checker has to find
  --list-mutants  print the names of the known faults, one a line";

struct Options {
    seeds: u64,
    seed: u64,
    mutant: Option<Mutant>,
}

enum Command {
    Run(Options),
    List,
    Help,
}

fn number(name: &str, value: Option<String>) -> Result<u64, String> {
    let value = value.ok_or_else(|| format!("`{name}` needs a number"))?;
    value.parse().map_err(|_| format!("`{name}` needs a number, and `{value}` is none"))
}

fn read(mut arguments: impl Iterator<Item = String>) -> Result<Command, String> {
    let (mut seeds, mut seed, mut mutant) = (1000, None, None);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--seeds" => seeds = number("--seeds", arguments.next())?,
            "--seed" => seed = Some(number("--seed", arguments.next())?),
            "--mutant" => {
                let name = arguments.next().unwrap_or_default();
                let known = Mutant::named(&name);
                let known = known.ok_or_else(|| {
                    format!("no mutant is called `{name}`: `--list-mutants` names them")
                })?;
                mutant = Some(known);
            }
            "--list-mutants" => return Ok(Command::List),
            "--help" | "-h" => return Ok(Command::Help),
            other => return Err(format!("unknown argument `{other}`")),
        }
    }
    if seeds == 0 {
        return Err("`--seeds` is at least 1".to_owned());
    }
    Ok(Command::Run(Options { seeds, seed: seed.unwrap_or_else(fresh_seed), mutant }))
}

fn run(options: &Options) -> ExitCode {
    let Options { seeds, seed, mutant } = *options;
    match mutant {
        Some(mutant) => println!("{seeds} seeds from {seed} on, with the fault {mutant}"),
        None => println!("{seeds} seeds from {seed} on"),
    }
    let mut stats = Stats::default();
    for seed in (0..seeds).map(|number| seed.wrapping_add(number)) {
        let trial = check(seed, mutant);
        stats.add(&trial.stats);
        if let Some(violation) = trial.violation {
            println!("VIOLATION of {} by seed {seed}: {}", violation.checker, violation.what);
            println!("replay: {}", replay_line(seed, mutant));
            return ExitCode::FAILURE;
        }
    }
    summarise(&stats);
    ExitCode::SUCCESS
}

fn summarise(stats: &Stats) {
    let seconds = stats.virtual_nanos / 1_000_000_000;
    let hours = std::time::Duration::from_secs(seconds).as_secs_f64() / 3600.0;
    println!("{} seeds, {hours:.3} virtual hours, {} calls", stats.runs, stats.calls);
    println!("outcomes:");
    for (name, count) in &stats.outcomes {
        println!("  {count:>12}  {name}");
    }
    println!("coverage:");
    for (name, count) in &stats.coverage {
        println!("  {count:>12}  {name}");
    }
    println!("no violation");
}

fn main() -> ExitCode {
    match read(std::env::args().skip(1)) {
        Ok(Command::Run(options)) => run(&options),
        Ok(Command::List) => {
            for mutant in Mutant::ALL {
                println!("{mutant}");
            }
            ExitCode::SUCCESS
        }
        Ok(Command::Help) => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("{problem}\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}
