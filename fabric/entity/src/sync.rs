//! Locks, events and queues of one entity, by name; they end with its activation.
//!
//! Names are per entity: two entities' locks of one name are two locks.
//!
//! # Not here
//! Who waits and who is next: the host knows.

use std::fmt;
use std::marker::PhantomData;

use epicserver_wire::{CallError, ChainId, ErrorKind, SectionId, Time};

use crate::ask::Ask;
use crate::desk::current;
use crate::message::Message;
use crate::syscall::{Answer, Syscall};

fn done(answer: Answer) -> Option<()> {
    (answer == Answer::Done).then_some(())
}

fn submit(syscall: Syscall) {
    if let Some(desk) = current() {
        desk.flush();
        desk.host().submit(&desk, None, syscall);
    }
}

/// A lock of one entity: see [`At::lock`](crate::At::lock).
#[derive(Clone, Copy, Debug)]
pub struct Lock {
    name: &'static str,
}

impl Lock {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name }
    }

    /// Waits until the lock is free and takes it. First come, first served.
    ///
    /// Calls that this method has under way are waited for first. Fails with
    /// [`ErrorKind::WouldDeadlock`] if this chain holds the lock already, or waiting could close a
    /// circle of waits.
    pub fn acquire(&self) -> Ask<LockGuard> {
        let syscall = Syscall::Lock { name: self.name, until: Time::MAX };
        Ask::new(syscall, guard)
    }
}

/// The guard of a section that was granted.
pub(crate) fn guard(answer: Answer) -> Option<LockGuard> {
    if let Answer::Section(section) = answer { Some(LockGuard { section }) } else { None }
}

/// A lock that is held until this is dropped.
#[derive(Debug)]
#[must_use = "the lock is free again as soon as this is dropped"]
pub struct LockGuard {
    section: SectionId,
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        submit(Syscall::Release { section: self.section });
    }
}

/// An event of one entity: see [`At::event`](crate::At::event).
#[derive(Clone, Copy, Debug)]
pub struct Event {
    name: &'static str,
}

impl Event {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name }
    }

    /// Waits until the event is set; at once if it is.
    pub fn wait(&self) -> Ask<()> {
        Ask::new(Syscall::Wait { name: self.name, until: Time::MAX }, done)
    }

    /// Sets it: everyone who waits goes on.
    pub fn set(&self) {
        submit(Syscall::Set { name: self.name, set: true });
    }

    /// Clears it.
    pub fn clear(&self) {
        submit(Syscall::Set { name: self.name, set: false });
    }
}

/// A queue of one entity: see [`At::queue`](crate::At::queue).
pub struct Queue<V> {
    name: &'static str,
    values: PhantomData<fn() -> V>,
}

impl<V> Queue<V> {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, values: PhantomData }
    }
}

impl<V: Message> Queue<V> {
    /// Puts `value` at the end; waits while the queue is full.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`] if a hand-written implementation refuses to write the value.
    pub fn push(&self, value: &V) -> Result<Ask<()>, CallError> {
        let malformed = |_| CallError::refused(ErrorKind::Malformed, ChainId::NONE);
        let value = value.encode().map_err(malformed)?;
        Ok(Ask::new(Syscall::Push { name: self.name, value, until: Time::MAX }, done))
    }

    /// Waits for a value and takes it from the front.
    pub fn pop(&self) -> Ask<V> {
        Ask::new(Syscall::Pop { name: self.name, until: Time::MAX }, |answer| {
            if let Answer::Bytes(bytes) = answer { V::decode(&bytes).ok() } else { None }
        })
    }
}

impl<V> fmt::Debug for Queue<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Queue({:?})", self.name)
    }
}
