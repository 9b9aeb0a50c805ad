//! The coordinator of one process: for tests, and for a fabric that lives and dies with it.
//!
//! # Not here
//! Anything that outlives the process.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use epicserver_wire::NodeId;
use rustix::time::{ClockId, clock_gettime};

use crate::{
    ASKS_MAX, Answer, Ask, AskId, Coordinator, Ended, Known, LEASES_MAX, Lease, Wake, check,
};

/// What all handles of one process share.
#[derive(Clone, Default)]
pub struct Memory(Arc<Mutex<World>>);

#[derive(Default)]
struct World {
    /// How far its clock was put forward.
    skipped: Duration,
    view: Option<(u64, Vec<u8>)>,
    leases: BTreeMap<NodeId, Held>,
    ended: Ended,
    handles: Vec<Weak<Mutex<Mailbox>>>,
}

struct Held {
    record: Vec<u8>,
    /// By its clock.
    expires: Duration,
}

/// What waits for one handle.
struct Mailbox {
    changed: bool,
    wake: Wake,
}

impl Memory {
    /// A coordinator that knows of no view and no node.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A handle on it.
    #[must_use]
    pub fn handle(&self, wake: Wake) -> MemoryHandle {
        let mailbox = Arc::new(Mutex::new(Mailbox { changed: false, wake }));
        let mut world = lock(&self.0);
        world.handles.retain(|handle| handle.strong_count() > 0);
        world.handles.push(Arc::downgrade(&mailbox));
        drop(world);
        let (known, done) = (Known::default(), Vec::new());
        MemoryHandle { world: self.clone(), mailbox, known, done }
    }

    /// Puts its clock forward by `time`, so that leases run out without anybody waiting.
    pub fn skip(&self, time: Duration) {
        lock(&self.0).skipped += time;
    }

    /// Forgets what it knows of `node`, as coordinators do after a long time.
    #[cfg(test)]
    pub(crate) fn forget(&self, node: NodeId) {
        let mut world = lock(&self.0);
        world.leases.remove(&node);
        world.ended.forget(node);
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memory")
    }
}

/// A handle on a [`Memory`]. What is asked is done at once; the answer is polled, as with any other.
pub struct MemoryHandle {
    world: Memory,
    mailbox: Arc<Mutex<Mailbox>>,
    known: Known,
    done: Vec<(AskId, Answer)>,
}

impl MemoryHandle {
    fn carry_out(&mut self, ask: Ask) -> Answer {
        if let Err(why) = check(&ask) {
            return Answer::Failed { why };
        }
        let mut world = lock(&self.world.0);
        match ask {
            Ask::Read => world.read(),
            Ask::Renew { node, record, ttl } => {
                let answer = world.renew(node, record, ttl, self.known.contains(node));
                if matches!(answer, Answer::Renewed { .. }) {
                    self.known.insert(node);
                }
                answer
            }
            Ask::Change { from, view, ends } => world.change(from, view, &ends),
            Ask::Release { node } => {
                world.ended.extend([node]);
                if world.leases.remove(&node).is_some() {
                    world.say_changed();
                }
                Answer::Released
            }
        }
    }
}

impl World {
    fn now(&self) -> Duration {
        boot_time() + self.skipped
    }

    fn number(&self) -> u64 {
        self.view.as_ref().map_or(0, |(number, _)| *number)
    }

    fn read(&self) -> Answer {
        let now = self.now();
        let leases = self.leases.iter().map(|(node, held)| Lease {
            node: *node,
            record: held.record.clone(),
            left: held.expires.saturating_sub(now),
        });
        Answer::State { view: self.view.clone(), leases: leases.collect() }
    }

    fn renew(&mut self, node: NodeId, record: Vec<u8>, ttl: Duration, known: bool) -> Answer {
        let before = self.leases.get(&node);
        if self.ended.contains(node) || (known && before.is_none()) {
            return Answer::Evicted;
        }
        if before.is_none() && self.leases.len() >= LEASES_MAX {
            return Answer::Failed { why: format!("there are {LEASES_MAX} leases already") };
        }
        let news = before.is_none_or(|before| before.record != record);
        let expires = self.now() + ttl;
        self.leases.insert(node, Held { record, expires });
        if news {
            self.say_changed();
        }
        Answer::Renewed { number: self.number() }
    }

    fn change(&mut self, from: u64, view: Vec<u8>, ends: &[NodeId]) -> Answer {
        let (number, now) = (self.number(), self.now());
        if number != from {
            return Answer::Overtaken { number };
        }
        let lasts = |node: &&NodeId| self.leases.get(node).is_some_and(|held| held.expires > now);
        if let Some(node) = ends.iter().filter(lasts).min() {
            return Answer::Alive { node: *node };
        }
        self.leases.retain(|node, _| !ends.contains(node));
        self.ended.extend(ends.iter().copied());
        self.view = Some((from + 1, view));
        self.say_changed();
        Answer::Changed { number: from + 1 }
    }

    fn say_changed(&self) {
        for mailbox in self.handles.iter().filter_map(Weak::upgrade) {
            let mut mailbox = lock(&mailbox);
            mailbox.changed = true;
            mailbox.wake.ring();
        }
    }
}

impl Coordinator for MemoryHandle {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn ask(&mut self, id: AskId, ask: Ask) -> Result<(), Ask> {
        if self.done.len() >= ASKS_MAX {
            return Err(ask);
        }
        let answer = self.carry_out(ask);
        self.done.push((id, answer));
        lock(&self.mailbox).wake.ring();
        Ok(())
    }

    fn poll(&mut self, done: &mut Vec<(AskId, Answer)>) {
        done.append(&mut self.done);
    }

    fn take_changed(&mut self) -> bool {
        std::mem::take(&mut lock(&self.mailbox).changed)
    }
}

impl fmt::Debug for MemoryHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoryHandle")
    }
}

/// How long this host has been up, suspends included.
pub(crate) fn boot_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or(Duration::ZERO)
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
