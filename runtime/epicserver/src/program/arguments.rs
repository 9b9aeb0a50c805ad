//! What a program is asked to do.
//!
//! # Not here
//! Doing it.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::config::nearest;

/// The variable by which Slurm tells a process which of its job's it is.
pub(super) const RANK_VARIABLE: &str = "SLURM_PROCID";

/// The commands of a program that has entities.
pub(super) const COMMANDS: &[&str] = &["run", "serve", "doctor", "store"];
/// The commands of the program that has none.
pub(super) const COMMANDS_OF_EPIC: &[&str] = &["doctor", "store"];
const OPTIONS: [&str; 5] = ["--config", "--help", "-h", "--version", "-V"];

/// The arguments of a process, understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Request {
    /// What the program was called as.
    pub(super) program: String,
    pub(super) task: Task,
    /// What stands behind a command that takes more.
    pub(super) words: Vec<OsString>,
    /// The configuration that was named.
    pub(super) config: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Task {
    Help,
    Version,
    /// None if nobody said which.
    Command(Option<Command>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Command {
    /// A node that also runs `setup`.
    Run,
    /// A node that serves until it is told to stop.
    Serve,
    /// No node: says what this machine lacks.
    Doctor,
    /// No node: asks something of the store.
    Store,
}

impl Command {
    /// The command where nobody names one. Of a Slurm job's processes the first runs `setup`.
    pub(super) fn by_rank(rank: Option<&OsStr>) -> Result<Self, String> {
        let Some(rank) = rank else { return Ok(Self::Run) };
        match rank.to_str().map(str::parse::<u32>) {
            Some(Ok(0)) => Ok(Self::Run),
            Some(Ok(_)) => Ok(Self::Serve),
            Some(Err(_)) | None => Err(format!(
                "{RANK_VARIABLE} is no rank: `{}`; say `run` or `serve`",
                rank.display()
            )),
        }
    }

    fn called(name: &str, commands: &[&str]) -> Option<Self> {
        match commands.iter().copied().find(|known| *known == name)? {
            "run" => Some(Self::Run),
            "serve" => Some(Self::Serve),
            "doctor" => Some(Self::Doctor),
            "store" => Some(Self::Store),
            _ => None,
        }
    }
}

impl Request {
    /// Understands `arguments`, of which the first is the program itself, where there are `commands`.
    pub(super) fn parse(
        mut arguments: impl Iterator<Item = OsString>,
        commands: &[&str],
    ) -> Result<Self, String> {
        let program = arguments.next().unwrap_or_default();
        let program = Path::new(&program).file_name().unwrap_or_else(|| OsStr::new("program"));
        let program = program.to_string_lossy().into_owned();
        let mut request =
            Self { program, task: Task::Command(None), words: Vec::new(), config: None };
        while let Some(argument) = arguments.next() {
            request.take(&argument, &mut arguments, commands)?;
            // Whoever asks for help gets it, whatever stands behind.
            if matches!(request.task, Task::Help | Task::Version) {
                break;
            }
        }
        Ok(request)
    }

    fn take(
        &mut self,
        argument: &OsStr,
        rest: &mut impl Iterator<Item = OsString>,
        commands: &[&str],
    ) -> Result<(), String> {
        let (name, value) = split(argument);
        match (name.as_str(), value) {
            ("-h" | "--help", None) => self.task = Task::Help,
            ("-V" | "--version", None) => self.task = Task::Version,
            ("--config", value) => self.set_config(value.or_else(|| rest.next()))?,
            (other, None)
                if self.task == Task::Command(Some(Command::Store)) && !other.starts_with('-') =>
            {
                self.words.push(argument.to_owned());
            }
            (other, None) => match (Command::called(other, commands), self.task) {
                (Some(command), Task::Command(None)) => self.task = Task::Command(Some(command)),
                (Some(_), _) => return Err(format!("`{other}` is one command too many")),
                (None, _) => return Err(unknown(other, commands)),
            },
            (other, Some(_)) => return Err(unknown(other, commands)),
        }
        Ok(())
    }

    fn set_config(&mut self, path: Option<OsString>) -> Result<(), String> {
        let path = path.filter(|path| !path.is_empty());
        let path = path.ok_or("--config needs the path of a file: --config PATH")?;
        match self.config.replace(PathBuf::from(path)) {
            None => Ok(()),
            Some(_) => Err("--config is given twice".to_owned()),
        }
    }
}

/// An option and what follows its `=`. What is no text matches nothing that we know.
fn split(argument: &OsStr) -> (String, Option<OsString>) {
    use std::os::unix::ffi::OsStrExt;
    let bytes = argument.as_bytes();
    let equals = bytes.iter().position(|&byte| byte == b'=');
    match equals.filter(|_| bytes.starts_with(b"--")) {
        Some(at) => {
            let name = String::from_utf8_lossy(&bytes[..at]).into_owned();
            (name, Some(OsStr::from_bytes(&bytes[at + 1..]).to_owned()))
        }
        None => (argument.to_string_lossy().into_owned(), None),
    }
}

fn unknown(argument: &str, commands: &[&str]) -> String {
    let option = argument.starts_with('-');
    let (kind, known) = if option { ("option", OPTIONS.as_slice()) } else { ("command", commands) };
    let hint = match nearest(argument, known.iter().copied()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("there are {}", known.join(", ")),
    };
    format!("unknown {kind} `{}`; {hint} (--help tells more)", argument.escape_debug())
}

/// What `--help` prints.
pub(super) fn help(program: &str) -> String {
    format!(
        "\
Usage: {program} [COMMAND] [OPTIONS]

Commands:
  run            A node that also runs the program's setup, then stops
  serve          A node that serves until SIGINT or SIGTERM, and never runs setup
  doctor         Says what this machine lacks for each transport, and what mends it
  store          Asks the store: list, show TYPE KEY, verify, purge AGE, export FILE, import FILE

Without a command it is run; in a Slurm job, rank 0 runs and the others serve. If they are one
fabric (discovery.slurm_port), the others stop when rank 0 has left.

Options:
  --config PATH  The configuration [default: EPICSERVER_CONFIG, else epicserver.toml if there]
  -h, --help     Print this help
  -V, --version  Print the version

Variables such as EPICSERVER_NETWORK__TRANSPORT=tcp override keys of the configuration.
"
    )
}

/// What `epic --help` prints.
pub(super) fn help_of_epic(program: &str) -> String {
    format!(
        "\
Usage: {program} COMMAND [OPTIONS]

Commands:
  doctor         Says what this machine lacks for each transport, and what mends it
  store          Asks the store: list, show TYPE KEY, verify, purge AGE, export FILE, import FILE

Options:
  --config PATH  The configuration [default: EPICSERVER_CONFIG, else epicserver.toml if there]
  -h, --help     Print this help
  -V, --version  Print the version
"
    )
}
