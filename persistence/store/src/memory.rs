//! The store in memory: for tests and simulators, and for a fabric that may lose all when it ends.
//!
//! It has no thread and no clock. By itself it does what is asked when the handle is polled; one that is
//! [stepped](Memory::stepped) does it when whoever drives it says so, with the faults that are asked for.
//!
//! # Invariants
//! - **ME1** Ops are carried out one after another, in the order in which all handles submitted them. The same calls give the
//!   same answers.
//!
//! # Not here
//! Anything that outlives the process. The time that an op takes: whoever steps decides.

use std::collections::VecDeque;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::lane::lock;
use crate::limits::HANDLES_MAX;
use crate::near::is_full;
use crate::{
    Answer, Done, Keeper, Name, Op, OpId, Store, TooMany, Trouble, Wake, World, archive, check,
};

/// What becomes of the next op that is carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Fault {
    /// It is done and answered.
    #[default]
    None,
    /// It is not done, and [`Trouble::Unavailable`].
    Unavailable,
    /// It is not done, and [`Trouble::Unknown`].
    Lost,
    /// It is done, and [`Trouble::Unknown`].
    Unsaid,
    /// If it is a commit, its first half is done, and [`Trouble::Unknown`]: each save is whole, the op is not.
    Torn,
    /// If it is a commit or a claim, it is not done, and [`Trouble::Full`].
    Full,
}

/// A store in memory. Its clones are the same one.
#[derive(Clone)]
pub struct Memory {
    shared: Arc<Mutex<Shared>>,
    handles: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Shared {
    world: World,
    queue: VecDeque<Waiting>,
    stepped: bool,
}

struct Waiting {
    id: OpId,
    op: Op,
    bytes: usize,
    desk: Arc<Mutex<Desk>>,
}

/// Where one handle's answers are left.
struct Desk {
    answers: Vec<(Done, usize)>,
    wake: Wake,
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Memory {
    /// An empty store that does what is asked when it is polled.
    #[must_use]
    pub fn new() -> Self {
        Self { shared: Arc::default(), handles: Arc::default() }
    }

    /// An empty store that does nothing but by [`step`](Self::step).
    #[must_use]
    pub fn stepped() -> Self {
        let memory = Self::new();
        lock(&memory.shared).stepped = true;
        memory
    }

    /// Carries out the op that waits longest, with `fault`; says whether there was one.
    #[expect(clippy::must_use_candidate, reason = "whoever knows that one waits need not ask")]
    pub fn step(&self, fault: Fault) -> bool {
        lock(&self.shared).step(fault)
    }

    /// Ops that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        lock(&self.shared).queue.len()
    }

    /// Loses all that waits, as a machine does that loses its power: nobody is told. What was answered stays.
    pub fn crash(&self) {
        lock(&self.shared).queue.clear();
    }

    /// Flips a bit of what lies under `name`, counted from the first of its first byte; says whether there is such a bit.
    #[must_use]
    pub fn flip(&self, name: &Name, bit: usize) -> bool {
        let mut shared = lock(&self.shared);
        let byte = shared.world.rows.get_mut(name).and_then(|bytes| bytes.get_mut(bit / 8));
        byte.map(|byte| *byte ^= 1 << (bit % 8)).is_some()
    }

    #[cfg(test)]
    pub(crate) fn with_world<T>(&self, with: impl FnOnce(&mut World) -> T) -> T {
        with(&mut lock(&self.shared).world)
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memory")
    }
}

impl Keeper for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn handle(&self, wake: Wake) -> Result<Box<dyn Store>, TooMany> {
        if self.handles.fetch_add(1, Ordering::SeqCst) >= HANDLES_MAX {
            self.handles.fetch_sub(1, Ordering::SeqCst);
            return Err(TooMany);
        }
        let desk = Arc::new(Mutex::new(Desk { answers: Vec::new(), wake }));
        Ok(Box::new(Handle { of: self.clone(), desk, unanswered: 0, bytes: 0 }))
    }
}

impl Shared {
    fn step(&mut self, fault: Fault) -> bool {
        let Some(Waiting { id, op, bytes, desk }) = self.queue.pop_front() else { return false };
        let result = match check(&op) {
            Ok(()) => self.with_fault(op, fault),
            Err(why) => Err(Trouble::Refused(why)),
        };
        let mut desk = lock(&desk);
        let first = desk.answers.is_empty();
        desk.answers.push((Done { id, result }, bytes));
        if first {
            desk.wake.ring();
        }
        true
    }

    fn with_fault(&mut self, op: Op, fault: Fault) -> Result<Answer, Trouble> {
        let why = || "the one who drives it wants it so".to_owned();
        match fault {
            Fault::None => self.carry_out(op),
            Fault::Unavailable => Err(Trouble::Unavailable(why())),
            Fault::Lost => Err(Trouble::Unknown(why())),
            Fault::Unsaid => {
                let _unsaid = self.carry_out(op);
                Err(Trouble::Unknown(why()))
            }
            Fault::Torn => {
                if let Op::Commit(mut saves) = op {
                    saves.truncate(saves.len() / 2);
                    let _unsaid = self.carry_out(Op::Commit(saves));
                }
                Err(Trouble::Unknown(why()))
            }
            Fault::Full => match op {
                Op::Commit(_) | Op::Claim { .. } => Err(Trouble::Full(why())),
                Op::Load { .. }
                | Op::Scan { .. }
                | Op::Purge { .. }
                | Op::Verify { .. }
                | Op::Backup { .. }
                | Op::Restore { .. } => self.carry_out(op),
            },
        }
    }

    fn carry_out(&mut self, op: Op) -> Result<Answer, Trouble> {
        match op {
            Op::Backup { to } => {
                let mut writer = archive::Writer::create(&to)?;
                for (name, bytes) in &self.world.rows {
                    writer.push(name.as_bytes(), bytes)?;
                }
                writer.finish()
            }
            Op::Restore { from } => self.restore(&from),
            Op::Claim { .. }
            | Op::Load { .. }
            | Op::Commit(_)
            | Op::Scan { .. }
            | Op::Purge { .. }
            | Op::Verify { .. } => self.world.carry_out(op),
        }
    }

    fn restore(&mut self, from: &Path) -> Result<Answer, Trouble> {
        if !self.world.rows.is_empty() {
            return Err(Trouble::Refused("the store is not empty".to_owned()));
        }
        let mut reader = archive::Reader::open(from)?;
        let mut rows = std::collections::BTreeMap::new();
        while let Some((name, record)) = reader.next()? {
            rows.insert(name, record.as_bytes().to_vec());
        }
        let count = rows.len() as u64;
        self.world.rows = rows;
        Ok(Answer::Restored { rows: count })
    }
}

struct Handle {
    of: Memory,
    desk: Arc<Mutex<Desk>>,
    unanswered: usize,
    bytes: usize,
}

impl Handle {
    fn shared(&self) -> MutexGuard<'_, Shared> {
        lock(&self.of.shared)
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("unanswered", &self.unanswered).finish_non_exhaustive()
    }
}

impl Store for Handle {
    fn submit(&mut self, id: OpId, op: Op) -> Result<(), Op> {
        let bytes = op.bytes();
        if is_full(self.unanswered, self.bytes, bytes) {
            return Err(op);
        }
        self.unanswered += 1;
        self.bytes += bytes;
        let desk = Arc::clone(&self.desk);
        let mut shared = self.shared();
        shared.queue.push_back(Waiting { id, op, bytes, desk });
        let by_itself = !shared.stepped;
        drop(shared);
        if by_itself {
            // There is something to poll for.
            lock(&self.desk).wake.ring();
        }
        Ok(())
    }

    fn poll(&mut self, done: &mut Vec<Done>) {
        let mut shared = self.shared();
        while !shared.stepped && shared.step(Fault::None) {}
        drop(shared);
        for (answer, bytes) in std::mem::take(&mut lock(&self.desk).answers) {
            self.unanswered -= 1;
            self.bytes -= bytes;
            done.push(answer);
        }
    }

    fn unanswered(&self) -> usize {
        self.unanswered
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.of.handles.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests;
