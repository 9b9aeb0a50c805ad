//! The program that `#[epicserver::main]` makes.

#![expect(clippy::print_stderr, reason = "a program says why it failed")]

use std::fmt::Debug;
use std::process::ExitCode;

use epicserver_entity::{Pool, Registry, RegistryError};

use crate::{Node, NodeError};

/// What `setup` may return.
#[diagnostic::on_unimplemented(
    message = "`setup` cannot return `{Self}`",
    note = "return nothing, or `Result<(), E>` with `E: Debug`"
)]
pub trait Outcome {
    /// What went wrong, if anything did.
    fn failure(self) -> Option<String>;
}

impl Outcome for () {
    fn failure(self) -> Option<String> {
        None
    }
}

impl<E: Debug> Outcome for Result<(), E> {
    fn failure(self) -> Option<String> {
        self.err().map(|error| format!("{error:?}"))
    }
}

/// Runs a node and `setup` on it, then drains, and says how `setup` ended.
pub fn main<R: Outcome>(
    register: fn(&mut Registry) -> Result<(), RegistryError>,
    setup: impl AsyncFnOnce(Pool) -> R + Send + 'static,
) -> ExitCode {
    if let Some(argument) = std::env::args().nth(1).filter(|argument| argument != "run") {
        eprintln!("unknown argument `{argument}`: the only command is `run`, the default");
        return ExitCode::from(2);
    }
    match run(register, setup) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(failure)) => {
            eprintln!("Error: {failure}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run<R: Outcome>(
    register: fn(&mut Registry) -> Result<(), RegistryError>,
    setup: impl AsyncFnOnce(Pool) -> R + Send + 'static,
) -> Result<Option<String>, NodeError> {
    let node = Node::builder().register(register).start()?;
    let failure = node.run(async move |pool| setup(pool).await.failure())?;
    node.stop();
    Ok(failure)
}
