//! The simulator as a program: seeds from one on, until a checker finds something.
//!
//! # Not here
//! What a run does: the library.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it talks to whoever started it")]

use std::process::ExitCode;
use std::time::Duration;

use epicserver_sim::{
    FabricTrial, Mutant, Phase, Scenario, Stats, Tally, Violation, check, check_fabric, fresh_seed,
    replay_line, run_fabric,
};

const USAGE: &str = "\
usage: epicserver-sim [--seeds N] [--seed S] [--scenario F] [--mutant M] [--list-mutants]

  --seeds N       how many seeds to run (1000)
  --seed S        the first of them; a random one where it is not given
  --scenario F    run a whole fabric by this file, or by one of those that come with it: shards, handover and
                  stores have shards whose entities call each other, driven by control machines, and are
                  saved in the last one; chaos, calm, rolling, hundred, thousand and four_thousand have
                  control machines alone
  --mutant M      switch a known fault on, which a checker has to find
  --list-mutants  print the names of the known faults, one a line";

struct Options {
    seeds: u64,
    seed: u64,
    mutant: Option<Mutant>,
    /// As it was named, and what it says.
    scenario: Option<Box<(String, Scenario)>>,
}

/// Where faults of the control plane show when no scenario is asked for.
const SCENARIO: &str = "chaos";
/// Of a scenario every so many seeds are run twice, and have to go the same way both times.
const TWICE_EVERY: u64 = 16;

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
    let (mut seeds, mut seed, mut mutant, mut scenario) = (1000, None, None, None);
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
            "--scenario" => {
                let name = arguments.next().ok_or("`--scenario` needs a file or a name")?;
                scenario = Some(Box::new((name.clone(), open(&name)?)));
            }
            "--list-mutants" => return Ok(Command::List),
            "--help" | "-h" => return Ok(Command::Help),
            other => return Err(format!("unknown argument `{other}`")),
        }
    }
    if seeds == 0 {
        return Err("`--seeds` is at least 1".to_owned());
    }
    if mutant.is_some_and(Mutant::is_of_the_fabric) && scenario.is_none() {
        scenario = Some(Box::new((SCENARIO.to_owned(), open(SCENARIO)?)));
    }
    let seed = seed.unwrap_or_else(fresh_seed);
    Ok(Command::Run(Options { seeds, seed, mutant, scenario }))
}

/// The scenario of this name, or in this file.
fn open(name: &str) -> Result<Scenario, String> {
    if let Some(scenario) = Scenario::named(name) {
        return Ok(scenario);
    }
    let text =
        std::fs::read_to_string(name).map_err(|error| format!("cannot read `{name}`: {error}"))?;
    Scenario::read(&text).map_err(|error| format!("`{name}` is no scenario: {error}"))
}

fn run(options: &Options) -> ExitCode {
    let (seeds, seed, mutant) = (options.seeds, options.seed, options.mutant);
    match mutant {
        Some(mutant) => println!("{seeds} seeds from {seed} on, with the fault {mutant}"),
        None => println!("{seeds} seeds from {seed} on"),
    }
    match options.scenario.as_deref() {
        Some((name, scenario)) if !scenario.has_calls() => run_scenario(options, name, scenario),
        scenario => run_shards(options, scenario),
    }
}

/// Runs real shards: by a scenario, or as the seeds alone say.
fn run_shards(options: &Options, scenario: Option<&(String, Scenario)>) -> ExitCode {
    let Options { seeds, seed, mutant, .. } = *options;
    let (name, scenario) = scenario.map(|(name, scenario)| (name.as_str(), scenario)).unzip();
    if let (Some(name), Some(scenario)) = (name, scenario) {
        println!("scenario {name}: {} nodes whose entities call each other", scenario.nodes());
    }
    let mut stats = Stats::default();
    for number in 0..seeds {
        let seed = seed.wrapping_add(number);
        // Whether a run can be repeated shows in a few as well as in all.
        let twice = number.is_multiple_of(TWICE_EVERY) || mutant.is_some_and(Mutant::shows_in_two);
        let trial = (if twice { check } else { epicserver_sim::run })(seed, scenario, mutant);
        if seeds == 1 {
            trial.stats.drawn.iter().for_each(|drawn| println!("  {drawn}"));
        }
        stats.add(&trial.stats);
        if let Some(violation) = trial.violation {
            return violated(&violation, seed, &replay_line(seed, mutant, name));
        }
    }
    summarise(&stats);
    ExitCode::SUCCESS
}

fn violated(violation: &Violation, seed: u64, replay: &str) -> ExitCode {
    println!("VIOLATION of {} by seed {seed}: {}", violation.checker, violation.what);
    println!("replay: {replay}");
    ExitCode::FAILURE
}

fn run_scenario(options: &Options, name: &str, scenario: &Scenario) -> ExitCode {
    println!("scenario {name}: {} nodes", scenario.nodes());
    let mut tally = Tally::default();
    for number in 0..options.seeds {
        let seed = options.seed.wrapping_add(number);
        let twice = number.is_multiple_of(TWICE_EVERY) && options.seeds > 1;
        let run = if twice { check_fabric } else { run_fabric };
        let FabricTrial { tally: one, violation, .. } = run(scenario, seed, options.mutant);
        if options.seeds == 1 {
            one.drawn.iter().for_each(|drawn| println!("  {drawn}"));
        }
        tally.add(&one);
        if let Some(violation) = violation {
            return violated(&violation, seed, &replay_line(seed, options.mutant, Some(name)));
        }
    }
    summarise_fabric(&tally);
    ExitCode::SUCCESS
}

fn summarise_fabric(tally: &Tally) {
    let hours = Duration::from_nanos(tally.virtual_nanos).as_secs_f64() / 3600.0;
    println!("{} runs, {hours:.3} virtual hours", tally.runs);
    println!("met:");
    for (name, count) in tally.met.iter().chain(&tally.counts) {
        println!("  {count:>12}  {name}");
    }
    println!("came to rest, the slowest of each:");
    for phase in &tally.phases {
        let Phase { name, took, within, nodes, views, messages, bytes, asks, ask_bytes, .. } =
            phase;
        println!(
            "  {name}: {nodes} nodes, {took:.1?} of {within:.0?} that it may take, {views} views"
        );
        println!(
            "    a node: {messages} messages, {bytes} B; {asks} questions to the coordinator, {ask_bytes} B"
        );
        let share = Duration::from_millis(phase.largest_share * 10).as_secs_f64();
        println!("    largest share of slots: {share:.2} times the mean");
    }
    println!("no violation");
}

fn summarise(stats: &Stats) {
    let seconds = stats.virtual_nanos / 1_000_000_000;
    let hours = Duration::from_secs(seconds).as_secs_f64() / 3600.0;
    println!("{} seeds, {hours:.3} virtual hours, {} calls", stats.runs, stats.calls);
    println!("outcomes:");
    for (name, count) in &stats.outcomes {
        println!("  {count:>12}  {name}");
    }
    println!("coverage:");
    for (name, count) in &stats.coverage {
        println!("  {count:>12}  {name}");
    }
    if !stats.met.is_empty() {
        println!("met:");
    }
    for (name, count) in &stats.met {
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
