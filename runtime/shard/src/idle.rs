//! Idle policy: what a thread with nothing to do does next, which is to spin, to yield or to park.
//!
//! A message to a spinning thread arrives in 0.1 to 0.2 us; waking a parked one takes 20 to 40 us,
//! and more where the CPU is a virtual one. But a spinning thread takes its CPU from whoever else
//! could run there, maybe from the very thread it waits for: four spinning threads on two CPUs took
//! 8 ms a lap where yielding ones took 7 us. So a thread spins for a while, then yields for a
//! while, then parks; and while more threads want to run than there are CPUs it does not spin.
//!
//! In:  how long nothing has come, how many threads want to run   Out: `Step`
//!
//! # Invariants
//! - **I1** Every mode parks in the end: no thread burns its CPU for ever.
//! - **I2** Nothing spins on a crowded host.
//! - **I3** The host is asked how many threads want to run at most every `SAMPLE_NS`, and only by
//!   a thread that has nothing else to do.
//!
//! # Not here
//! Clocks: the caller has read one for its tick. Going to sleep: `park`.
//!
//! Checked by `idle/tests.rs`.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::cpus::{self, CpusError};

#[cfg(test)]
#[cfg(not(loom))]
mod tests;

/// When an idle thread stops spinning and when it parks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// T1.
    spin_ns: u64,
    /// T2, counted from the same moment as T1.
    yield_ns: u64,
}

impl Policy {
    /// The policy of `mode` on `host`.
    pub fn new(mode: Mode, host: Host) -> Self {
        let (spin_ns, yield_ns) = match mode {
            // Far longer than a message to another machine and back takes, far shorter than a night.
            Mode::Latency => (10_000_000, 1_000_000_000),
            // Waking a virtual CPU may need the hypervisor, hence the longer wait before it is let go.
            Mode::Balanced if host.hypervisor => (50_000, 2_000_000),
            Mode::Balanced => (50_000, 200_000),
            // About what one wake-up costs, so that at worst the waiting doubles that cost.
            Mode::Power => (0, 50_000),
        };
        Self { spin_ns, yield_ns }
    }

    /// What to do after `idle_ns` with nothing to do, on a host that is `crowded` or not.
    #[inline]
    pub fn step(&self, idle_ns: u64, crowded: bool) -> Step {
        if idle_ns >= self.yield_ns {
            Step::Park
        } else if crowded || idle_ns >= self.spin_ns {
            Step::Yield
        } else {
            Step::Spin
        }
    }
}

/// What matters most to whoever runs this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Answer fast, even after milliseconds of silence; the CPUs are ours alone.
    Latency,
    /// Answer fast while there is traffic, and let go of the CPU soon after.
    #[default]
    Balanced,
    /// Never spin, and park soon.
    Power,
}

/// What an idle thread does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Look at the queues again at once (`std::hint::spin_loop`).
    Spin,
    /// Let others run, then look again (`std::thread::yield_now`).
    Yield,
    /// Sleep until woken ([`Parker::park`](crate::park::Parker::park)).
    Park,
}

/// What the policy needs to know of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    /// Whether its CPUs are virtual ones.
    pub hypervisor: bool,
}

impl Host {
    /// Asks `/proc/cpuinfo`, which names a hypervisor on x86; elsewhere the answer is no.
    ///
    /// # Errors
    /// [`IdleError::Read`] if `/proc` is not there.
    pub fn detect() -> Result<Self, IdleError> {
        let path = Path::new("/proc/cpuinfo");
        let read = std::fs::read_to_string(path);
        let text = read.map_err(|source| IdleError::Read { path: path.to_owned(), source })?;
        Ok(Self { hypervisor: names_hypervisor(&text) })
    }
}

/// Whether more threads want to run on this host than it has CPUs, as last looked up.
#[derive(Debug)]
pub struct Crowd {
    load: File,
    cpus: usize,
    crowded: bool,
    due_ns: u64,
}

impl Crowd {
    /// Opens `/proc/loadavg` and counts the CPUs that are online.
    ///
    /// # Errors
    /// [`IdleError`] if `/proc` or `/sys` is not there.
    pub fn open() -> Result<Self, IdleError> {
        let path = Path::new(LOADAVG);
        let opened = File::open(path);
        let load = opened.map_err(|source| IdleError::Read { path: path.to_owned(), source })?;
        Ok(Self { load, cpus: cpus::online()?, crowded: true, due_ns: 0 })
    }

    /// Whether the host is crowded at `now_ns`; looks it up if the last answer is too old (I3).
    ///
    /// To be called by idle threads only: on a look-up it costs a system call. A host that does
    /// not answer counts as crowded, since yielding needlessly costs little.
    #[inline]
    pub fn is_crowded(&mut self, now_ns: u64) -> bool {
        if now_ns >= self.due_ns {
            let runnable = self.look_up();
            self.handle_sample(now_ns, runnable);
        }
        self.crowded
    }

    fn handle_sample(&mut self, now_ns: u64, runnable: Option<usize>) {
        self.crowded = runnable.is_none_or(|runnable| runnable > self.cpus);
        self.due_ns = now_ns.saturating_add(SAMPLE_NS);
    }

    /// How many threads of this host want to run, the caller among them.
    #[cold]
    fn look_up(&self) -> Option<usize> {
        let mut text = [0; 128];
        let length = self.load.read_at(&mut text, 0).ok()?;
        parse_runnable(std::str::from_utf8(text.get(..length)?).ok()?)
    }
}

/// The host could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum IdleError {
    /// A file of `/proc` did not open or read.
    #[error("cannot read {path} (open, read)", path = path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The number of CPUs is not known.
    #[error("cannot count this host's CPUs")]
    Cpus {
        /// Why not.
        #[from]
        source: CpusError,
    },
}

const LOADAVG: &str = "/proc/loadavg";

/// How long an answer of the host is good for (I3).
const SAMPLE_NS: u64 = 10_000_000;

fn names_hypervisor(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find_map(|line| line.strip_prefix("flags"));
    flags.is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "hypervisor"))
}

/// `0.20 0.18 0.12 3/91 11206`: three averages, threads that want to run / all, the last pid.
fn parse_runnable(loadavg: &str) -> Option<usize> {
    let (runnable, _all) = loadavg.split_whitespace().nth(3)?.split_once('/')?;
    runnable.parse().ok()
}
