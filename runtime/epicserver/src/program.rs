//! The program that `#[epicserver::main]` makes: its commands, its configuration, its end.
//!
//! # Invariants
//! - **PR1** A node that serves misses no signal: they are caught before it starts. One that does not serve yet, since it waits for
//!   others, ends at once.
//! - **PR2** `setup` runs under `run` alone.
//!
//! # Not here
//! What a node does: that is `node`. What may be configured: that is `config`.

#![expect(clippy::print_stderr, reason = "a program says why it failed, and that it serves")]

mod arguments;
mod log;
mod stored;
#[cfg(test)]
mod tests;

use std::env;
use std::ffi::OsString;
use std::fmt::Debug;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use epicserver_entity::{Pool, Registry, RegistryError};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::config::{Config, ConfigError};
use crate::fabric::Job;
use crate::{Node, NodeError, doctor};
use arguments::{Command, Request, Task};
use stored::Unanswered;

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

type Register = fn(&mut Registry) -> Result<(), RegistryError>;

/// Does what the arguments of the process ask for, and says how it ended. Blocks until then.
pub fn main<R: Outcome>(
    register: Register,
    setup: impl AsyncFnOnce(Pool) -> R + Send + 'static,
) -> ExitCode {
    ExitCode::from(main_with(env::args_os(), register, setup))
}

/// All went well.
const WELL: u8 = 0;
/// The task failed, or the node.
const FAILED: u8 = 1;
/// The arguments or the configuration are wrong, and nothing was begun.
const MISUSED: u8 = 2;

/// Why nothing more can be said than that.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Arguments(String),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error("cannot catch signals: {0}")]
    Signals(io::Error),
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
    #[error("{0}")]
    Setup(String),
    #[error("not all calls under way were done in time")]
    Undrained,
    #[error(transparent)]
    Store(#[from] Unanswered),
    #[error("this machine lacks something that the configured transport cannot go without")]
    Lacking,
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Self::Arguments(_) | Self::Config(_) | Self::Store(Unanswered::Words(_)) => MISUSED,
            Self::Node(_)
            | Self::Signals(_)
            | Self::Thread(_)
            | Self::Output(_)
            | Self::Setup(_)
            | Self::Undrained
            | Self::Store(_)
            | Self::Lacking => FAILED,
        }
    }
}

fn main_with<R: Outcome>(
    arguments: impl Iterator<Item = OsString>,
    register: Register,
    setup: impl AsyncFnOnce(Pool) -> R + Send + 'static,
) -> u8 {
    let done = Request::parse(arguments, arguments::COMMANDS)
        .map_err(Failure::Arguments)
        .and_then(|request| obey(&request, register, setup));
    code_of(done)
}

/// The program `epic`, which has no entities: it looks after machines and nodes.
pub fn epic() -> ExitCode {
    let done = Request::parse(env::args_os(), arguments::COMMANDS_OF_EPIC);
    ExitCode::from(code_of(
        done.map_err(Failure::Arguments).and_then(|request| look_after(&request)),
    ))
}

fn look_after(request: &Request) -> Result<(), Failure> {
    match request.task {
        Task::Version => say_version(request),
        Task::Command(Some(Command::Doctor)) => doctor(&Config::load(request.config.as_deref())?),
        Task::Command(Some(Command::Store)) => {
            log::begin();
            ask_store(request, &Registry::default())
        }
        Task::Help | Task::Command(_) => say(&arguments::help_of_epic(&request.program)),
    }
}

fn code_of(done: Result<(), Failure>) -> u8 {
    match done {
        Ok(()) => WELL,
        Err(failure) => {
            eprintln!("Error: {}", in_full(&failure));
            failure.code()
        }
    }
}

fn obey<R: Outcome>(
    request: &Request,
    register: Register,
    setup: impl AsyncFnOnce(Pool) -> R + Send + 'static,
) -> Result<(), Failure> {
    let task = match request.task {
        Task::Help => return say(&arguments::help(&request.program)),
        Task::Version => return say_version(request),
        Task::Command(Some(command)) => command,
        Task::Command(None) => {
            let rank = env::var_os(arguments::RANK_VARIABLE);
            Command::by_rank(rank.as_deref()).map_err(Failure::Arguments)?
        }
    };
    log::begin();
    let config = Config::load(request.config.as_deref())?;
    match task {
        Command::Run => run(&config, register, setup),
        Command::Serve => serve(&config, register),
        Command::Doctor => doctor(&config),
        Command::Store => {
            let mut registry = Registry::default();
            register(&mut registry).map_err(NodeError::from)?;
            ask_store(request, &registry)
        }
    }
}

fn ask_store(request: &Request, registry: &Registry) -> Result<(), Failure> {
    let config = Config::load(request.config.as_deref())?;
    say(&stored::answer(&request.words, &config, registry)?)
}

fn say_version(request: &Request) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    say(&format!("{} (epicserver {version})\n", request.program))
}

fn doctor(config: &Config) -> Result<(), Failure> {
    let (report, sound) = doctor::examine(config);
    say(&report)?;
    if sound { Ok(()) } else { Err(Failure::Lacking) }
}

/// An error with what it came from, as far as it does not say that itself.
fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    text
}

fn say(text: &str) -> Result<(), Failure> {
    Ok(io::stdout().lock().write_all(text.as_bytes())?)
}

fn start(config: &Config, register: Register) -> Result<Node, Failure> {
    Ok(Node::builder().register(register).config(config).start()?)
}

/// A node that runs `setup`, then drains.
fn run<R: Outcome>(
    config: &Config,
    register: Register,
    setup: impl AsyncFnOnce(Pool) -> R + Send + 'static,
) -> Result<(), Failure> {
    let node = start(config, register)?;
    let failure = node.run(async move |pool| setup(pool).await.failure())?;
    node.stop();
    failure.map_or(Ok(()), |failure| Err(Failure::Setup(failure)))
}

/// A node that serves until a signal ends it, or the job on whose account it is there.
fn serve(config: &Config, register: Register) -> Result<(), Failure> {
    let mut stop = Stop::catch().map_err(Failure::Signals)?;
    let node = start(config, register)?;
    stop.serves();
    eprintln!("serving until SIGINT or SIGTERM; shards: {}", node.shards());
    if let Some(job) = node.job() {
        stop.after(job).map_err(Failure::Thread)?;
    }
    match stop.wait() {
        true => eprintln!("stopping; the same signal again ends it at once"),
        false => eprintln!("stopping, since the job is over"),
    }
    if node.stop() { Ok(()) } else { Err(Failure::Undrained) }
}

/// The signals that end a node (**PR1**).
struct Stop {
    signals: Signals,
    /// Whether the next one does what it does to any process.
    armed: Arc<AtomicBool>,
}

impl Stop {
    fn catch() -> io::Result<Self> {
        let armed = Arc::new(AtomicBool::new(true));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register_conditional_default(signal, Arc::clone(&armed))?;
        }
        Ok(Self { signals: Signals::new([SIGINT, SIGTERM])?, armed })
    }

    /// From now on a signal ends the node in order.
    fn serves(&self) {
        self.armed.store(false, Ordering::SeqCst);
    }

    /// Ends the wait when `job` is over, too.
    fn after(&self, job: Arc<Job>) -> io::Result<()> {
        let (signals, thread) = (self.signals.handle(), thread::Builder::new());
        // It goes with the process, if a signal comes first.
        thread.name("epic-job".to_owned()).spawn(move || {
            job.wait();
            signals.close();
        })?;
        Ok(())
    }

    /// Waits, and says whether for a signal.
    fn wait(&mut self) -> bool {
        let signal = self.signals.forever().next();
        self.armed.store(true, Ordering::SeqCst);
        signal.is_some()
    }
}
