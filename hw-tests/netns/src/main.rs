//! A fabric of real processes, each on a host of its own, and what is done to them while calls are under way.
//!
//! Started without a role it makes the hosts, starts this same program on each as a node, calls entities, and does what each
//! case wants. Every turn of an entity appends a line to a journal that all processes share; afterwards the journal
//! and the outcomes of the calls must fit together (see [`journal`]).
//!
//! # Not here
//! Faults in an order that a seed decides: that is `epicserver-sim`.

#![expect(clippy::print_stdout, reason = "its output is what is judged")]

mod account;
mod cases;
mod etcd;
mod fabric;
mod hosts;
mod journal;
mod load;
mod node;

use std::process::ExitCode;

/// Whatever went wrong, in words.
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let done = match node::role() {
        Some(role) => node::serve(&role),
        None => cases::run(&std::env::args().skip(1).collect::<Vec<String>>()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("FAILED: {why}");
            ExitCode::FAILURE
        }
    }
}
