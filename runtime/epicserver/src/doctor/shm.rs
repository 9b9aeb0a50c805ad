//! What shared memory needs: memory files, and a run directory to meet in. `/dev/shm` is not used.

use epicserver_shard::cpus::RunDir;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io::Errno;

use super::{Area, Check, Finding};
use crate::config::{Config, Transport};

pub(super) const AREA: Area = Area {
    name: "shm",
    needed_by: &[Transport::Auto, Transport::Shm],
    checks: &[
        Check { name: "memfd", dispensable: false, look: memfd },
        Check { name: "run dir", dispensable: false, look: run_dir },
    ],
};

fn memfd(_: &Config) -> Finding {
    match sealed() {
        Ok(()) => Finding::Ok("files in memory can be made and sealed".to_owned()),
        Err(error) => {
            let what = format!("no sealed file in memory: {error}; nodes of this host use TCP");
            Finding::lacks(
                what,
                "a container's seccomp profile has to allow memfd_create and fcntl",
            )
        }
    }
}

fn sealed() -> Result<(), Errno> {
    let file = memfd_create(c"epicserver-doctor", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&file, 1 << 16)?;
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::SEAL)
}

fn run_dir(config: &Config) -> Finding {
    let dir = config.runtime.run_dir.as_deref().map_or_else(RunDir::open, RunDir::open_at);
    match dir {
        Ok(dir) => Finding::Ok(format!("nodes of this host meet in {}", dir.path().display())),
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            let what = format!("{error}{}", cause.unwrap_or_default());
            Finding::lacks(what, "mkdir -m 700 /run/user/$UID/epicserver, or set EPIC_RUN_DIR")
        }
    }
}
