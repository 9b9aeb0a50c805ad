//! CPUs: which ones this process may use, how many shards they carry, and who has claimed which.
//!
//! The kernel says which CPUs a thread may run on, and the control group how much of them. Of
//! those, a node takes whole cores first. A [`RunDir`] keeps apart the processes of one user on
//! one host: each locks the CPUs it pins to.
//!
//! # Invariants
//! - **U1** `Allowed` is not empty, and names each CPU once, first threads of cores before second.
//! - **U2** No claim takes a CPU, or a core, that another process holds while a free one is allowed.
//! - **U3** A claim lasts until it is dropped or its process ends, however it ends.
//!
//! # Not here
//! Nearness to a network device (NUMA). Processes of other users, or in containers with a run
//! directory of their own: their claims are not seen.
//!
//! Checked by `cpus/tests.rs`, and with real processes by `tests/claims.rs`.

mod claim;
mod quota;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;

use std::{
    collections::BTreeSet,
    fmt, fs, io,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use rustix::{
    io::Errno,
    thread::{CpuSet, sched_getaffinity},
};

pub use self::claim::{Claim, ClaimError, PinError, RunDir, RunDirError, Tenancy};

/// The CPUs that this process may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    /// U1.
    cpus: Vec<Cpu>,
    /// How many CPUs' worth of time the control group grants, rounded down, at least one.
    quota: Option<NonZeroUsize>,
}

impl Allowed {
    /// Asks the kernel and the control group. To be called before any thread is pinned, since the
    /// calling thread's own CPUs are what the kernel answers with.
    ///
    /// # Errors
    /// [`CpusError`] if `/sys` or `/proc` cannot be read, or the kernel names no CPU.
    pub fn detect() -> Result<Self, CpusError> {
        let set = sched_getaffinity(None).map_err(|source| CpusError::Affinity { source })?;
        let ids = (0..CpuSet::MAX_CPU).filter(|&id| set.is_set(id)).map(CpuId);
        Self::of(ids, Path::new("/"))
    }

    /// How many shards to run where nobody says: one a core, but no more than the quota feeds.
    pub fn shards_default(&self) -> NonZeroUsize {
        let cores: BTreeSet<_> = self.cpus.iter().map(|cpu| cpu.core()).collect();
        let cores = NonZeroUsize::new(cores.len()).unwrap_or(NonZeroUsize::MIN);
        self.quota.map_or(cores, |quota| quota.min(cores))
    }

    /// Their ids, in the order in which they are best used.
    pub fn ids(&self) -> impl Iterator<Item = CpuId> {
        self.cpus.iter().map(|cpu| cpu.id)
    }

    /// How many CPUs' worth of time the control group grants, if it limits that. Rounded down,
    /// since threads that use up their grant early are all stopped for the rest of the period.
    pub fn quota(&self) -> Option<NonZeroUsize> {
        self.quota
    }

    /// The CPUs `ids`, with what the files below `root` say about them.
    fn of(ids: impl Iterator<Item = CpuId>, root: &Path) -> Result<Self, CpusError> {
        let mut cpus: Vec<Cpu> = Vec::new();
        for id in ids {
            cpus.push(Cpu { id, siblings: siblings(id, root)? });
        }
        if cpus.is_empty() {
            return Err(CpusError::None);
        }
        // How many allowed CPUs of the same core come before this one: first threads first.
        let ranks: Vec<usize> = (0..cpus.len())
            .map(|at| cpus[..at].iter().filter(|cpu| cpu.core() == cpus[at].core()).count())
            .collect();
        let mut ranked: Vec<(usize, Cpu)> = ranks.into_iter().zip(cpus).collect();
        ranked.sort_by_key(|(rank, cpu)| (*rank, cpu.id));
        let cpus = ranked.into_iter().map(|(_, cpu)| cpu).collect();
        Ok(Self { cpus, quota: quota::detect(root)? })
    }
}

/// A CPU as the kernel numbers them: one hardware thread of a core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuId(usize);

impl CpuId {
    /// The kernel's number.
    pub fn get(self) -> usize {
        self.0
    }
}

impl fmt::Display for CpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The CPUs of this process could not be found out.
#[derive(Debug, thiserror::Error)]
pub enum CpusError {
    /// The kernel does not say where this thread may run.
    #[error("cannot ask which CPUs this process may use (sched_getaffinity)")]
    Affinity {
        /// What it answered.
        source: Errno,
    },
    /// This process may run nowhere, or only on CPUs with too large a number.
    #[error("this process may use no CPU numbered below {max}", max = CpuSet::MAX_CPU)]
    None,
    /// A file of `/proc` or `/sys` did not open or read.
    #[error("cannot read {path} (open, read)", path = path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
    /// A file of `/proc` or `/sys` is not as the kernel documents it.
    #[error("cannot understand {path}: {text:?}", path = path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// What it holds.
        text: String,
    },
}

/// How many CPUs this host has online, whoever may use them.
pub(crate) fn online() -> Result<usize, CpusError> {
    let path = Path::new("/sys/devices/system/cpu/online");
    let text = read(path)?.ok_or_else(|| CpusError::Read {
        path: path.to_owned(),
        source: io::ErrorKind::NotFound.into(),
    })?;
    Ok(parse_list(path, &text)?.len())
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Cpu {
    id: CpuId,
    /// All threads of its core, itself among them, whether this process may use them or not.
    siblings: Vec<CpuId>,
}

impl Cpu {
    /// What a core is known by: its first thread.
    fn core(&self) -> CpuId {
        self.siblings.iter().copied().min().unwrap_or(self.id)
    }
}

fn siblings(id: CpuId, root: &Path) -> Result<Vec<CpuId>, CpusError> {
    let path = root.join(format!("sys/devices/system/cpu/cpu{id}/topology/thread_siblings_list"));
    // Some containers and kernels do not say; then each CPU counts as a core.
    let mut siblings = match read(&path)? {
        Some(text) => parse_list(&path, &text)?,
        None => Vec::new(),
    };
    if !siblings.contains(&id) {
        siblings.push(id);
    }
    Ok(siblings)
}

/// The kernel's list of CPUs, as in `0-3,8`.
fn parse_list(path: &Path, text: &str) -> Result<Vec<CpuId>, CpusError> {
    let wrong = || CpusError::Parse { path: path.to_owned(), text: text.to_owned() };
    let mut ids = Vec::new();
    for range in text.trim().split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let first: usize = first.parse().map_err(|_| wrong())?;
        let last: usize = last.parse().map_err(|_| wrong())?;
        if last < first || last - first >= LIST_MAX {
            return Err(wrong());
        }
        ids.extend((first..=last).map(CpuId));
    }
    Ok(ids)
}

/// More CPUs than any host has in one range of a list.
const LIST_MAX: usize = 65_536;

/// The text of a file, or nothing if there is no such file.
fn read(path: &Path) -> Result<Option<String>, CpusError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(CpusError::Read { path: path.to_owned(), source }),
    }
}
