//! Syscalls: everything that user code may ask of the world, as plain data.
//!
//! A syscall goes out with a token; its [`Answer`] comes back under that token, exactly once (an
//! `Every` again and again). Some need no answer and go without a token.
//!
//! # Not here
//! Callbacks, handles, lifetimes: a syscall can be printed, compared and answered by hand.

use std::time::Duration;

use epicserver_wire::{CallError, NodeId, SectionId, Time};

use crate::envelope::Request;
use crate::remind::Reminder;

/// What user code asks of whoever hosts it.
#[derive(Debug, PartialEq)]
#[non_exhaustive]
pub enum Syscall {
    /// Call a method, and answer with its reply.
    Call(Request),
    /// Call a method; no answer.
    Tell(Request),
    /// Answer at `until`.
    Sleep {
        /// When.
        until: Time,
    },
    /// Answer at `first`, and then every `period`; a time that passed unseen is left out.
    Every {
        /// When for the first time.
        first: Time,
        /// How often after that.
        period: Duration,
    },
    /// Run another task on this entity (the task itself has reached the host beside this).
    Spawn,
    /// Answer with the wall clock.
    Now,
    /// Answer with random bytes, fit for keys and secrets.
    Random {
        /// How many.
        len: usize,
    },
    /// Answer once no other method of this entity runs, and keep them out from then on.
    Exclusive,
    /// Let the others in again, or the next one at a lock.
    Release {
        /// What [`Answer::Section`] named.
        section: SectionId,
    },
    /// Answer once the entity's lock of this name is free, and take it.
    Lock {
        /// Which lock.
        name: &'static str,
        /// When to give up.
        until: Time,
    },
    /// Answer once the entity's event of this name is set.
    Wait {
        /// Which event.
        name: &'static str,
        /// When to give up.
        until: Time,
    },
    /// Set or clear the entity's event of this name.
    Set {
        /// Which event.
        name: &'static str,
        /// Whether to set it.
        set: bool,
    },
    /// Answer once the value has been put at the end of the entity's queue of this name.
    Push {
        /// Which queue.
        name: &'static str,
        /// The value's bytes.
        value: Vec<u8>,
        /// When to give up.
        until: Time,
    },
    /// Answer with the value at the front of the entity's queue of this name.
    Pop {
        /// Which queue.
        name: &'static str,
        /// When to give up.
        until: Time,
    },
    /// Answer once more nodes are gone than so many.
    Watch {
        /// How many the asker knows of.
        seen: u64,
    },
    /// Answer once all that has changed in the entity's state so far is durable.
    Save,
    /// Put a reminder down, in place of the entity's other one of this label, and answer once that is durable.
    Remind {
        /// Which of the entity's reminders.
        label: String,
        /// When it is due.
        due: Due,
        /// How often it comes again after that.
        every: Option<Duration>,
    },
    /// Take the entity's reminder of this label away, if there is one, and answer once that is durable.
    Forget {
        /// Which.
        label: String,
    },
    /// Answer with the entity's reminders.
    Reminders,
    /// Forget the entity's state once nothing of this activation runs any more, and collect it.
    Delete,
    /// Collect this activation once nothing of it runs any more.
    Deactivate,
}

/// When a reminder is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Due {
    /// At this time since 1970-01-01 UTC.
    At(Duration),
    /// After so long from now.
    In(Duration),
}

/// What user code is told.
#[derive(Debug, PartialEq)]
#[non_exhaustive]
pub enum Answer {
    /// A call's reply, in its envelope.
    Reply(Request),
    /// It is done; there is nothing to say.
    Done,
    /// Nanoseconds since 1970-01-01 UTC.
    Wall(u64),
    /// Random bytes, or the bytes of a value.
    Bytes(Vec<u8>),
    /// What the entity is to be reminded of, in the order of the labels.
    Reminders(Vec<Reminder>),
    /// A node is gone.
    Gone {
        /// How many are gone with it.
        number: u64,
        /// Which node.
        node: NodeId,
    },
    /// The section or lock is held now, under this id.
    Section(SectionId),
    /// It failed.
    Failed(CallError),
}
