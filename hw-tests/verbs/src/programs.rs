//! What runs on the machines.

use std::path::PathBuf;

use epicserver_lab::{Result, build};

/// Programs of this workspace, built with optimisation.
pub(crate) struct Programs {
    /// The crate's own tests, with the suite of all transports among them.
    pub(crate) tests: PathBuf,
    /// Our layouts beside the system's header.
    pub(crate) layout: PathBuf,
    pub(crate) barrels: PathBuf,
    pub(crate) tally: PathBuf,
    pub(crate) epic: PathBuf,
    pub(crate) bench: PathBuf,
}

impl Programs {
    pub(crate) fn build() -> Result<Self> {
        let tests = build::programs("test --release --no-run -p epicserver-verbs")?;
        let ours = build::nodes()?;
        Ok(Self {
            tests: build::named(&tests, "epicserver_verbs")?,
            layout: build::named(&tests, "layout")?,
            barrels: build::named(&ours, "barrels")?,
            tally: build::named(&ours, "epicserver-hw-tally")?,
            epic: build::named(&ours, "epic")?,
            bench: build::named(&ours, "epicserver-bench")?,
        })
    }
}
