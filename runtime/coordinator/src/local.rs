//! The coordinator `local`: the nodes of one machine agree by files in a folder that is their user's alone.
//!
//! The folder holds the file `state`: the number, the view, and which nodes have ended. It is replaced as a whole, by a new
//! file that is on the disk before it takes the name, so a crash leaves the old one or the new one. Each node that lives
//! has a `.lease` with its record, and an `.alive` that its process keeps locked and into which it writes until
//! when the lease lasts. The kernel frees that lock with the process, however it ends, so a lease is over as soon as its
//! process is. `lock` is held while any of this is looked at or changed.
//!
//! A database file would be opened by one process at a time, and a server among the nodes would need an election;
//! this needs neither, and is small enough to be read by eye.
//!
//! # Invariants
//! - **LO1** Whoever looks holds `lock`, shared; whoever changes the view, or begins or ends a lease, holds it alone. To
//!   renew, one's own files are written, so that shared is enough.
//! - **LO2** A lease lasts while its `.alive` is locked and the time in it has not come. Time is that since the machine
//!   started, suspends included; what was written before the machine started again is locked by nobody.
//! - **LO3** A lease of a node that `state` names as ended is none, whether its files are gone yet or not.
//! - **LO4** Nodes of two machines that share the folder see so, where it passes locks on, and refuse.
//!
//! # Not here
//! Which folder. A fabric whose entities are stored needs one that outlives the machine's restart, as their stores do: epochs
//! are numbers of views, and a store refuses what has an older one.
//!
//! A process that is stopped amid one of these steps, some microseconds in a second, keeps `lock` until it goes on or is
//! killed. The others then fail, name it, and let their leases run out if it lasts.

mod alive;
mod folder;
mod leases;
mod lock;
mod state;
mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use epicserver_wire::NodeId;
use rustix::fd::BorrowedFd;
use rustix::io::Errno;

use crate::memory::boot_time;
use crate::{Answer, Ask, Known, LEASES_MAX, Lease, Near, Wake, Work, start, work};
use alive::Alive;
use folder::Folder;
use leases::{Boot, Seen};
use lock::{Lock, Locks};
use state::State;
use watch::Watch;

/// What a handle needs to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Where the nodes of this fabric meet, and no other fabric's; made if it is not there, in a folder that is.
    pub folder: PathBuf,
}

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Io {
        /// What was to be done.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// What the kernel answered.
        source: Errno,
    },
    /// Others own the folder or may write to it.
    #[error("{path} must belong to this user, and nobody else may write to it: chmod 700", path = path.display())]
    NotOurs {
        /// Which.
        path: PathBuf,
    },
    /// What is there is none of this.
    #[error("{0}")]
    Content(String),
    /// There can be no thread.
    #[error("cannot start the coordinator's thread: {0}")]
    Thread(#[source] std::io::Error),
}

/// Opens a handle. A lease that it renews is over when it is dropped.
///
/// # Errors
/// [`Error`] if the folder cannot be used, or holds a view that cannot be read.
pub fn open(options: &Options, wake: Wake) -> Result<Near, Error> {
    let mut local = Local::open(options)?;
    let near = start("local", wake, move |far| {
        // Without an eventfd there is no work, and the near end says that the thread has ended.
        let _ended = work(far, &mut local);
    });
    near.map_err(Error::Thread)
}

/// Why an ask failed.
type Why = String;

struct Local {
    folder: Folder,
    locks: Locks,
    boot: Boot,
    watch: Watch,
    known: Known,
    /// The leases that this handle keeps alive.
    held: BTreeMap<NodeId, Held>,
}

struct Held {
    alive: Alive,
    record: Vec<u8>,
}

impl Local {
    fn open(options: &Options) -> Result<Self, Error> {
        let folder = Folder::open(&options.folder)?;
        let locks = Locks::open(&folder)?;
        let boot = Boot::detect()?;
        // Watching before the first look: what comes between is told twice, never missed.
        let watch = Watch::new(folder.path());
        let known = Known::default();
        let mut local = Self { folder, locks, boot, watch, known, held: BTreeMap::new() };
        local.check().map_err(Error::Content)?;
        Ok(local)
    }

    fn check(&mut self) -> Result<(), Why> {
        let _lock = self.shared(Instant::now() + crate::ASK_MAX)?;
        State::read(&self.folder)?;
        Ok(())
    }

    fn shared(&self, until: Instant) -> Result<Lock<'_>, Why> {
        self.locks.shared(&self.folder, until)
    }

    fn read(&self, until: Instant) -> Result<Answer, Why> {
        let _lock = self.shared(until)?;
        let state = State::read(&self.folder)?;
        let seen = leases::see(&self.folder, &self.boot)?;
        let now = boot_time();
        let lease = |seen: Seen| {
            let left = seen.left(now);
            Some(Lease { node: seen.node, record: seen.record?, left })
        };
        let there = seen.into_iter().filter(|seen| !state.ended.contains(seen.node));
        let leases = there.filter_map(lease).collect();
        Ok(Answer::State { view: state.into_view(), leases })
    }

    fn renew(&mut self, ask: Renew, until: Instant) -> Result<Answer, Why> {
        let answer = if self.held.contains_key(&ask.node) {
            self.go_on(&ask, until)
        } else {
            self.begin(&ask, until)
        }?;
        if matches!(answer, Answer::Renewed { .. }) {
            self.known.insert(ask.node);
        } else {
            // It is not to look alive any longer.
            self.held.remove(&ask.node);
        }
        Ok(answer)
    }

    /// Renews a lease whose lock this handle has.
    fn go_on(&mut self, ask: &Renew, until: Instant) -> Result<Answer, Why> {
        let _lock = self.locks.shared(&self.folder, until)?;
        let state = State::read(&self.folder)?;
        if state.ended.contains(ask.node) || !leases::exists(&self.folder, ask.node)? {
            return Ok(Answer::Evicted);
        }
        let Some(held) = self.held.get_mut(&ask.node) else { return Ok(Answer::Evicted) };
        if held.record != ask.record {
            leases::write(&self.folder, &self.boot, ask.node, &ask.record)?;
            held.record.clone_from(&ask.record);
        }
        held.alive.write(&self.folder, boot_time() + ask.ttl)?;
        Ok(Answer::Renewed { number: state.number })
    }

    /// Makes a lease, or goes on with one that another handle made.
    fn begin(&mut self, ask: &Renew, until: Instant) -> Result<Answer, Why> {
        let node = ask.node;
        let _lock = self.locks.alone(&self.folder, until)?;
        let state = State::read(&self.folder)?;
        let seen = leases::see(&self.folder, &self.boot)?;
        let there = leases::exists(&self.folder, node)?;
        if state.ended.contains(node) || (self.known.contains(node) && !there) {
            return Ok(Answer::Evicted);
        }
        if !there && seen.len() >= LEASES_MAX {
            return Err(format!("there are {LEASES_MAX} leases already"));
        }
        if !State::exists(&self.folder)? {
            state.write(&self.folder)?;
        }
        let (alive, locked) = Alive::make(&self.folder, node)?;
        alive.write(&self.folder, boot_time() + ask.ttl)?;
        leases::write(&self.folder, &self.boot, node, &ask.record)?;
        if locked {
            self.held.insert(node, Held { alive, record: ask.record.clone() });
        }
        Ok(Answer::Renewed { number: state.number })
    }

    fn change(
        &mut self,
        from: u64,
        view: Vec<u8>,
        ends: &[NodeId],
        until: Instant,
    ) -> Result<Answer, Why> {
        let _lock = self.locks.alone(&self.folder, until)?;
        let mut state = State::read(&self.folder)?;
        if state.number != from {
            return Ok(Answer::Overtaken { number: state.number });
        }
        let now = boot_time();
        let seen = leases::see(&self.folder, &self.boot)?;
        let lasts = |seen: &&Seen| {
            ends.contains(&seen.node) && !state.ended.contains(seen.node) && seen.lasts(now)
        };
        if let Some(seen) = seen.iter().find(lasts) {
            return Ok(Answer::Alive { node: seen.node });
        }
        state.number = from + 1;
        state.view = view;
        leases::remove_old(&self.folder, &seen, &state.ended)?;
        state.ended.extend(ends.iter().copied());
        state.write(&self.folder)?;
        leases::remove_ended(&self.folder, &seen, &state.ended);
        self.held.retain(|node, _| !ends.contains(node));
        Ok(Answer::Changed { number: state.number })
    }

    fn release(&mut self, node: NodeId, until: Instant) -> Result<Answer, Why> {
        let _lock = self.locks.alone(&self.folder, until)?;
        let mut state = State::read(&self.folder)?;
        if !state.ended.contains(node) {
            let seen = leases::see(&self.folder, &self.boot)?;
            // What ended before must be gone before the list of those may forget it (LO3).
            leases::remove_old(&self.folder, &seen, &state.ended)?;
            state.ended.extend([node]);
            state.write(&self.folder)?;
            leases::remove_ended(&self.folder, &seen, &state.ended);
        }
        self.held.remove(&node);
        Ok(Answer::Released)
    }
}

/// What [`Ask::Renew`] says.
struct Renew {
    node: NodeId,
    record: Vec<u8>,
    ttl: Duration,
}

impl Work for Local {
    fn carry_out(&mut self, ask: Ask, until: Instant) -> Answer {
        let answer = match ask {
            Ask::Read => self.read(until),
            Ask::Renew { node, record, ttl } => self.renew(Renew { node, record, ttl }, until),
            Ask::Change { from, view, ends } => self.change(from, view, &ends, until),
            Ask::Release { node } => self.release(node, until),
        };
        answer.unwrap_or_else(|why| Answer::Failed { why })
    }

    fn watched(&self) -> Option<BorrowedFd<'_>> {
        self.watch.fd()
    }

    fn look_again(&self) -> Option<Duration> {
        self.watch.look_again()
    }

    fn look(&mut self) -> bool {
        let (folder, locks) = (&self.folder, &self.locks);
        self.watch.look(|node| locks.try_shared().map(|_lock| alive::is_locked(folder, node)))
    }
}
