//! Machines for `hw-tests`: stock Debian kernels under QEMU that see this host's files, or the host itself.
//!
//! A machine runs shell scripts and gives their status and output; what runs in it may be any program of the host, since
//! its root is the host's root, writable in memory alone. All machines of a lab end with the process that made it, by
//! whatever that ends.
//!
//! # Invariants
//! - Nothing waits for ever: boots, scripts and jobs each have a limit.
//! - Only processes of this lab are ended.
//!
//! # Not here
//! What is tested: each area of `hw-tests` is a program of its own.

pub mod build;
mod job;
mod kernel;
mod lab;
mod machine;
pub mod nodes;
pub mod plays;
mod report;
mod vm;

pub use job::{Job, Output};
pub use lab::{Lab, Shape};
pub use machine::Machine;
pub use report::Report;

use std::io;
use std::path::Path;

/// Why something could not be done on a machine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host lacks something; the text says what to do.
    #[error("{0}")]
    Lacks(String),
    /// The host refused.
    #[error("cannot {what}: {why}")]
    Host {
        /// What was tried.
        what: String,
        /// What the kernel said.
        why: io::Error,
    },
    /// The machine ended, or never came up.
    #[error("machine {machine} is gone; its console ends with:\n{console}")]
    Gone {
        /// Its name.
        machine: String,
        /// The last lines of its kernel.
        console: String,
    },
    /// Something took longer than its limit.
    #[error("on {machine}, not done within {limit_s} s: {what}\n{output}")]
    Late {
        /// The machine's name.
        machine: String,
        /// The limit, in seconds.
        limit_s: u64,
        /// What was waited for.
        what: String,
        /// What was printed until then.
        output: String,
    },
    /// A script ended with another status than 0, or something is not as it should be.
    #[error("{0}")]
    Wrong(String),
}

/// The result of what is done on machines.
pub type Result<T> = std::result::Result<T, Error>;

/// Names what was tried when the host refuses.
pub(crate) trait Tried<T> {
    fn tried(self, what: &str, path: &Path) -> Result<T>;
}

impl<T> Tried<T> for io::Result<T> {
    fn tried(self, what: &str, path: &Path) -> Result<T> {
        self.map_err(|why| Error::Host { what: format!("{what} {}", path.display()), why })
    }
}
