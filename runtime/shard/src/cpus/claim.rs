//! Claims: the locks by which processes of one user share out the CPUs of a host.
//!
//! The run directory holds one lock file for each seat of each CPU: `cpu-3.0`, `cpu-3.1` and so
//! on. To pin to a CPU is to hold the lock of one of its seats, and a CPU is as busy as it has
//! locked seats, whoever holds them. The kernel frees a lock with its process (U3). `claims` is locked while
//! somebody chooses, so that choices do not cross.
//!
//! # Not here
//! The invariants: they are in `cpus`.

use std::{
    env, fmt,
    num::NonZeroUsize,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, FlockOperation, Mode, OFlags, flock, fstat, mkdirat, openat},
    io::{Errno, retry_on_intr},
    process::geteuid,
};

use super::{Allowed, Cpu, CpuId};

/// Where the processes of one user on this host meet: a folder that is theirs alone.
#[derive(Debug)]
pub struct RunDir {
    folder: OwnedFd,
    path: PathBuf,
}

impl RunDir {
    /// Opens `$EPIC_RUN_DIR`, else `$XDG_RUNTIME_DIR/epicserver`, else `/run/epicserver` if that is
    /// ours or can be made, else `/tmp/epicserver-<uid>`; makes it if need be.
    ///
    /// # Errors
    /// [`RunDirError`] if the folder cannot be used. One that the environment names is never
    /// replaced by another.
    pub fn open() -> Result<Self, RunDirError> {
        let set = |name| env::var_os(name).filter(|value| !value.as_bytes().is_empty());
        if let Some(path) = set("EPIC_RUN_DIR") {
            return Self::open_at(Path::new(&path));
        }
        if let Some(path) = set("XDG_RUNTIME_DIR") {
            return Self::open_at(&Path::new(&path).join("epicserver"));
        }
        if let Ok(run_dir) = Self::open_at(Path::new("/run/epicserver")) {
            return Ok(run_dir);
        }
        Self::open_at(Path::new(&format!("/tmp/epicserver-{}", geteuid().as_raw())))
    }

    /// Opens the run directory `path`, and makes it, for this user alone, if it is not there.
    ///
    /// # Errors
    /// [`RunDirError`] if it cannot be made or opened, or if others own it or may write to it.
    pub fn open_at(path: &Path) -> Result<Self, RunDirError> {
        let path = path.to_owned();
        match mkdirat(CWD, &path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(source) => return Err(RunDirError::Create { path, source }),
        }
        // Not through a link: in /tmp anybody may have put one there.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = openat(CWD, &path, flags, Mode::empty());
        let folder = match opened.and_then(|folder| Ok((fstat(&folder)?, folder))) {
            Ok((stat, folder)) => {
                check_owner(&path, stat.st_uid, stat.st_mode)?;
                folder
            }
            Err(source) => return Err(RunDirError::Open { path, source }),
        };
        Ok(Self { folder, path })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Claims `count` of the `allowed` CPUs: idle cores first, then idle threads of busy cores, and
    /// where all are taken the least busy ones, which are then shared
    /// ([`Claim::tenancy`] says so).
    ///
    /// # Errors
    /// [`ClaimError`] if a lock file cannot be opened or locked.
    pub fn claim(&self, allowed: &Allowed, count: NonZeroUsize) -> Result<Vec<Claim>, ClaimError> {
        let _turn = self.lock("claims", OFlags::CREATE, FlockOperation::LockExclusive)?;
        let mut claims: Vec<Claim> = Vec::new();
        // A new count for each claim, since every claim made here is one more locked seat.
        for _ in 0..count.get() {
            claims.push(self.claim_one(allowed)?);
        }
        Ok(claims)
    }

    fn claim_one(&self, allowed: &Allowed) -> Result<Claim, ClaimError> {
        let mut best: Option<(Busy, &Cpu)> = None;
        for cpu in &allowed.cpus {
            let busy = self.busy(cpu)?;
            if best.is_none_or(|(least, _)| busy < least) {
                best = Some((busy, cpu));
            }
            if busy == Busy::default() {
                break;
            }
        }
        let (busy, cpu) = best.expect("U1: some CPU is allowed");
        let tenancy = match busy {
            Busy { cpu: 0, core: 0 } => Tenancy::Core,
            Busy { cpu: 0, core: _ } => Tenancy::Thread,
            Busy { cpu: others, core: _ } => Tenancy::Shared { others },
        };
        for seat in 0..SEATS_MAX {
            if let Some(lock) = self.try_seat(cpu.id, seat, OFlags::CREATE)? {
                return Ok(Claim { cpu: cpu.id, tenancy, _seat: Some(lock) });
            }
        }
        // The last seat is taken too. One claim more than can be counted makes no difference.
        Ok(Claim { cpu: cpu.id, tenancy, _seat: None })
    }

    fn busy(&self, cpu: &Cpu) -> Result<Busy, ClaimError> {
        let mut core = 0;
        for sibling in &cpu.siblings {
            core += self.seats_taken(*sibling)?;
        }
        Ok(Busy { cpu: self.seats_taken(cpu.id)?, core })
    }

    fn seats_taken(&self, cpu: CpuId) -> Result<u32, ClaimError> {
        let mut taken = 0;
        for seat in 0..SEATS_MAX {
            match self.try_seat(cpu, seat, OFlags::empty()) {
                Ok(Some(_free)) => {}
                Ok(None) => taken += 1,
                // Nobody has ever sat there.
                Err(ClaimError::Open { source: Errno::NOENT, .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(taken)
    }

    /// The lock of a seat, unless somebody holds it.
    fn try_seat(&self, cpu: CpuId, seat: u32, flags: OFlags) -> Result<Option<Lock>, ClaimError> {
        let name = format!("cpu-{cpu}.{seat}");
        match self.lock(&name, flags, FlockOperation::NonBlockingLockExclusive) {
            Ok(lock) => Ok(Some(lock)),
            Err(ClaimError::Lock { source: Errno::WOULDBLOCK, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn lock(
        &self,
        name: &str,
        flags: OFlags,
        operation: FlockOperation,
    ) -> Result<Lock, ClaimError> {
        let path = || self.path.join(name);
        let flags = flags | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.folder, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|source| ClaimError::Open { path: path(), source })?;
        retry_on_intr(|| flock(&file, operation))
            .map_err(|source| ClaimError::Lock { path: path(), source })?;
        Ok(Lock(file))
    }
}

/// A CPU that this process has claimed, until this is dropped (U3).
#[derive(Debug)]
pub struct Claim {
    cpu: CpuId,
    tenancy: Tenancy,
    /// Held, never used.
    _seat: Option<Lock>,
}

impl Claim {
    /// Which CPU.
    pub fn cpu(&self) -> CpuId {
        self.cpu
    }

    /// What of it was ours when it was claimed.
    pub fn tenancy(&self) -> Tenancy {
        self.tenancy
    }

    /// Pins the calling thread to the CPU. Threads that it starts from now on inherit that.
    ///
    /// # Errors
    /// [`PinError`] if the kernel refuses, as when the CPU was taken from us or went offline.
    pub fn pin_current_thread(&self) -> Result<(), PinError> {
        let id = core_affinity::CoreId { id: self.cpu.get() };
        if core_affinity::set_for_current(id) { Ok(()) } else { Err(PinError { cpu: self.cpu }) }
    }
}

/// How much of a core a claim got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tenancy {
    /// All of it: nobody else had claimed any of its threads.
    Core,
    /// A hardware thread; another thread of the same core is somebody else's.
    Thread,
    /// A hardware thread that others had claimed before; it should not be spun on.
    Shared {
        /// How many they were.
        others: u32,
    },
}

impl fmt::Display for Tenancy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Core => f.write_str("a core of its own"),
            Self::Thread => f.write_str("a thread of a shared core"),
            Self::Shared { others } => write!(f, "shared with {others} more"),
        }
    }
}

/// The run directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RunDirError {
    /// It is not there and could not be made.
    #[error("cannot create the run directory {path} (mkdir)", path = path.display())]
    Create {
        /// Which.
        path: PathBuf,
        /// What the kernel answered.
        source: Errno,
    },
    /// It is there but is no folder, or may not be read.
    #[error("cannot open the run directory {path} (open, fstat)", path = path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// What the kernel answered.
        source: Errno,
    },
    /// It belongs to another user, who could give our locks away.
    #[error(
        "the run directory {path} belongs to user {owner} and not to user {us}; \
         set EPIC_RUN_DIR to a folder of your own",
        path = path.display()
    )]
    NotOurs {
        /// Which.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        us: u32,
    },
    /// Others may write to it.
    #[error(
        "the run directory {path} may be written by others (mode {mode:o}); make it 700",
        path = path.display()
    )]
    Exposed {
        /// Which.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
}

/// No claim could be made, not even a shared one.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// A lock file did not open.
    #[error("cannot open the lock file {path} (openat)", path = path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// What the kernel answered.
        source: Errno,
    },
    /// A lock file cannot be locked, for another reason than that it is locked.
    #[error("cannot lock {path} (flock)", path = path.display())]
    Lock {
        /// Which.
        path: PathBuf,
        /// What the kernel answered.
        source: Errno,
    },
}

/// A thread was not pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot pin a thread to CPU {cpu} (sched_setaffinity)")]
pub struct PinError {
    /// To which.
    pub cpu: CpuId,
}

/// How many claims a CPU counts.
const SEATS_MAX: u32 = 4;

/// A locked file, until this is dropped.
#[derive(Debug)]
struct Lock(OwnedFd);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing it would do, were there not the moment in which a process that another thread is
        // starting still has a copy of the descriptor. If this fails, the lock goes then.
        let _unlocked = flock(&self.0, FlockOperation::Unlock);
    }
}

/// How many claims there are on a CPU and on the whole of its core. The order is that of choice:
/// a thread of its own on a busy core is better than one that is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Busy {
    cpu: u32,
    core: u32,
}

fn check_owner(path: &Path, owner: u32, mode: u32) -> Result<(), RunDirError> {
    let us = geteuid().as_raw();
    let path = path.to_owned();
    if owner != us {
        return Err(RunDirError::NotOurs { path, owner, us });
    }
    let mode = mode & 0o7777;
    if mode & 0o022 != 0 {
        return Err(RunDirError::Exposed { path, mode });
    }
    Ok(())
}
