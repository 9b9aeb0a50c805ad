//! What is going to happen, by time; at one time in the order in which it was decided.
//!
//! # Not here
//! What follows from it.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::sync::Arc;

use epicserver_proto::control::{AskId, Served};
use epicserver_proto::coordinator::{Answer, Ask};
use epicserver_wire::{ClassId, NodeId, Time};

use super::faults::Fault;

/// A host, and which of its lives: what was on its way to an earlier one is nothing to the next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Whom {
    pub(super) host: usize,
    pub(super) life: u32,
}

/// Slots of a class.
pub(super) type Places = Vec<(ClassId, Vec<u16>)>;

#[derive(Debug)]
pub(super) enum Happening {
    /// The machine of a host wants to be told the time.
    Tick(Whom),
    /// A host begins a life.
    Begin {
        host: usize,
    },
    /// A question arrives at the coordinator.
    Asked {
        whom: Whom,
        id: AskId,
        ask: Ask,
        back: Option<Time>,
    },
    /// An answer arrives.
    Answered {
        whom: Whom,
        id: AskId,
        answer: Answer,
    },
    /// A message arrives.
    Said {
        to: usize,
        from: (usize, NodeId),
        bytes: Arc<[u8]>,
    },
    /// A host hears of something.
    Linked {
        whom: Whom,
        node: NodeId,
    },
    Died {
        whom: Whom,
        node: NodeId,
    },
    Behind {
        whom: Whom,
    },
    /// A host is told to leave.
    Told {
        whom: Whom,
    },
    /// A shard sees a snapshot.
    Snapshot {
        whom: Whom,
        shard: usize,
        served: Arc<Served>,
    },
    /// A shard has drained slots.
    Drained {
        whom: Whom,
        shard: usize,
        view: u64,
        places: Places,
    },
    /// Somebody has work for a slot.
    Work,
    /// A write arrives at the store.
    Write {
        place: usize,
        node: NodeId,
        epoch: u64,
    },
    /// Something goes wrong, or goes on after that.
    Fault(Fault),
    Resume {
        host: usize,
    },
    /// The entry of this number in the timeline is due.
    Timeline(usize),
    /// It is looked whether all is as it should be.
    Look,
    /// The faults end.
    Calm,
}

struct Entry {
    at: Time,
    serial: u64,
    what: Happening,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.serial).cmp(&(other.at, other.serial))
    }
}

#[derive(Default)]
pub(super) struct Queue {
    entries: BinaryHeap<Reverse<Entry>>,
    serial: u64,
}

impl Queue {
    pub(super) fn put(&mut self, at: Time, what: Happening) {
        self.serial += 1;
        self.entries.push(Reverse(Entry { at, serial: self.serial, what }));
    }

    pub(super) fn take(&mut self) -> Option<(Time, Happening)> {
        self.entries.pop().map(|Reverse(entry)| (entry.at, entry.what))
    }
}
