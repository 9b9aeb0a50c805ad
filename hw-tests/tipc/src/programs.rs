//! What runs on the machines.

use std::path::{Path, PathBuf};

use epicserver_lab::{Result, build};

/// Programs of this workspace, built with optimisation.
pub(crate) struct Programs {
    pub(crate) conformance: PathBuf,
    pub(crate) topology: PathBuf,
    pub(crate) barrels: PathBuf,
    pub(crate) tally: PathBuf,
    pub(crate) epic: PathBuf,
    pub(crate) bench: PathBuf,
    /// The floor, in C.
    pub(crate) raw: PathBuf,
}

impl Programs {
    pub(crate) fn build() -> Result<Self> {
        let tests = build::programs("test --release --no-run -p epicserver-tipc")?;
        let ours = build::nodes()?;
        Ok(Self {
            conformance: build::named(&tests, "conformance")?,
            topology: build::named(&tests, "topology")?,
            barrels: build::named(&ours, "barrels")?,
            tally: build::named(&ours, "epicserver-hw-tally")?,
            epic: build::named(&ours, "epic")?,
            bench: build::named(&ours, "epicserver-bench")?,
            raw: build::c(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/raw_tipc.c")))?,
        })
    }
}
