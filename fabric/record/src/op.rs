//! What a store is asked, and what it answers: plain data.
//!
//! # Invariants
//! - **OP1** An op that breaks a bound or contradicts itself is found by [`check`] and reaches no store.
//!
//! # Not here
//! How any of it is done.

use std::collections::BTreeSet;
use std::path::PathBuf;

use epicserver_wire::{ClassId, EntityId, NodeId};

use crate::limits::{PAGE_MAX, ROWS_MAX, SAVES_MAX, SLOTS_MAX};
use crate::{Corrupt, Envelope, Kind, Name, Range, Record};

/// Which of one handle's ops an answer is to; whoever submits chooses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OpId(pub u64);

/// A slot of one placement class: what is owned, and fenced.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Slot {
    /// The class.
    pub class: ClassId,
    /// The slot's number.
    pub index: u16,
}

impl Slot {
    /// That of `entity`.
    #[must_use]
    pub fn of(entity: &EntityId) -> Self {
        Self { class: entity.class(), index: entity.slot() }
    }

    /// Both in one number, by which stores keep it.
    #[must_use]
    pub fn as_u32(self) -> u32 {
        u32::from(self.class.as_u16()) << 16 | u32::from(self.index)
    }
}

/// Who owns a slot: a run of a node, and the number under which it does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Owner {
    /// The node.
    pub node: NodeId,
    /// The epoch of the slot; the next owner's is greater.
    pub epoch: u64,
}

/// What a store is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// Makes `owner` the one whose saves in `slots` are taken, and refuses those of earlier ones from then on.
    Claim {
        /// Who claims.
        owner: Owner,
        /// At most [`SLOTS_MAX`], each once.
        slots: Vec<Slot>,
    },
    /// Reads an entity's state.
    Load {
        /// Whose.
        entity: EntityId,
        /// If there is one, claims the entity's slot first, unless that is done already.
        claim: Option<Owner>,
    },
    /// Saves, at most [`SAVES_MAX`]; each for itself, in this order, and all durable before the answer.
    Commit(Vec<Save>),
    /// Reads rows, page by page.
    Scan {
        /// Which.
        range: Range,
        /// From behind this name on; from the first, if there is none.
        after: Option<Name>,
        /// Rows, at most [`PAGE_MAX`]; a page may have fewer, though there are more behind it.
        limit: usize,
    },
    /// Removes tombstones that were written before `before_ms`, at most
    /// [`PURGE_MAX`](crate::limits::PURGE_MAX) of them.
    Purge {
        /// In milliseconds, of the clock by which they say when they were written.
        before_ms: u64,
    },
    /// Reads rows only to check them, page by page.
    Verify {
        /// As in a scan.
        after: Option<Name>,
        /// As in a scan.
        limit: usize,
    },
    /// Writes all rows, as they are at one moment, to a new file that [`Restore`](Self::Restore) reads. Epochs are no part of it.
    Backup {
        /// The file, which must not be there yet.
        to: PathBuf,
    },
    /// Takes in all rows of such a file, or none. The store must be empty.
    Restore {
        /// The file.
        from: PathBuf,
    },
}

/// One conditional write: a state, rows beside it, or both. It is done as a whole, if its owner owns the entity's slot and the
/// entity has the version that is expected; else not at all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Save {
    /// Whose.
    pub entity: EntityId,
    /// Who saves; it has claimed the slot.
    pub owner: Owner,
    /// The version that is stored, a tombstone's too; 0 if there is nothing.
    pub expected: u64,
    /// The new state or tombstone, of a greater version and by the same owner; `None` leaves it as it is.
    pub state: Option<Record>,
    /// Rows beside it, at most [`ROWS_MAX`], each once.
    pub rows: Vec<Row>,
}

/// A change of a row beside a state, whose entity is the same.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Row {
    /// Writes it, whether there was one or not.
    Put(Record),
    /// Removes it, if it is there.
    Remove(Name),
}

impl Row {
    /// Which row.
    #[must_use]
    pub fn name(&self) -> Name {
        match self {
            Self::Put(record) => record.name(),
            Self::Remove(name) => name.clone(),
        }
    }
}

/// How an op has ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Done {
    /// Which op.
    pub id: OpId,
    /// What came of it.
    pub result: Result<Answer, Trouble>,
}

/// What a store answers to each kind of op.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The slots that others own by a greater epoch, or by the same one; the rest are claimed.
    Claimed {
        /// Each with its owner.
        refused: Vec<(Slot, Owner)>,
    },
    /// What was found.
    Loaded(Found),
    /// One outcome for each save, in their order.
    Committed(Vec<Outcome>),
    /// A page.
    Scanned {
        /// What is there, in order. Rows that cannot be served are in their places, and harm no others.
        rows: Vec<Result<Record, Corrupt>>,
        /// Behind which name the next page begins; `None` if there is none.
        next: Option<Name>,
    },
    /// Tombstones were removed.
    Purged {
        /// How many.
        count: usize,
        /// Whether there may be more.
        more: bool,
    },
    /// A page was checked.
    Verified {
        /// Rows that are what was written.
        sound: usize,
        /// Those that are not.
        corrupt: Vec<Corrupt>,
        /// As in a scan.
        next: Option<Name>,
    },
    /// The file is whole and on the disk.
    BackedUp {
        /// Rows in it.
        rows: u64,
        /// Those that cannot be served are not in it: the first of them, at most [`PAGE_MAX`].
        corrupt: Vec<Corrupt>,
    },
    /// All rows of the file are in the store.
    Restored {
        /// How many.
        rows: u64,
    },
}

/// What a load has found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// The tombstone of an entity that was deleted, with its version.
    Tombstone(Envelope),
    /// The state.
    State(Record),
    /// Not looked for: this one owns the slot.
    Fenced(Owner),
    /// What is there cannot be served.
    Corrupt(Corrupt),
}

/// What came of a save.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It is durable.
    Saved,
    /// Refused: this one owns the slot; `None` if nobody has claimed it.
    Fenced(Option<Owner>),
    /// Refused: another version is stored than was expected.
    Conflict {
        /// Which; 0 for none.
        found: u64,
        /// Who wrote it. One whose own save it is, of which it had no answer, knows so that it was done.
        by: Option<Owner>,
    },
    /// Refused: what is stored cannot be read.
    Corrupt(Corrupt),
}

/// Why an op has no answer. What it says is for people.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Trouble {
    /// Nothing has changed, and it may be asked again.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// It may have been done, or not. It may be asked again: what was done is then seen as a conflict with one's own save.
    #[error("the store did not say whether it was done: {0}")]
    Unknown(String),
    /// Nothing has changed: there is no room.
    #[error("the store is full: {0}")]
    Full(String),
    /// Nothing has changed: a part of the store that all of this op needs cannot be read.
    #[error("the store is corrupt: {0}")]
    Corrupt(String),
    /// Nothing has changed: the op cannot be done, now or later.
    #[error("refused: {0}")]
    Refused(String),
}

impl Op {
    /// About how many bytes it takes to keep it.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Commit(saves) => saves.iter().map(Save::bytes).sum(),
            Self::Claim { slots, .. } => size_of_val(&slots[..]),
            Self::Load { .. }
            | Self::Scan { .. }
            | Self::Purge { .. }
            | Self::Verify { .. }
            | Self::Backup { .. }
            | Self::Restore { .. } => 0,
        }
    }
}

impl Save {
    /// Bytes of its records.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let rows = self.rows.iter().map(|row| match row {
            Row::Put(record) => record.as_bytes().len(),
            Row::Remove(name) => name.as_bytes().len(),
        });
        let state = self.state.as_ref().map_or(0, |state| state.as_bytes().len());
        state + rows.sum::<usize>()
    }

    fn check(&self) -> Result<(), String> {
        let entity = &self.entity;
        if let Some(state) = &self.state {
            let Envelope { owner, version, .. } = state.envelope();
            if state.name() != Name::state(entity) {
                return Err(format!("a state of {:?} in a save of {entity:?}", state.name()));
            }
            if owner != self.owner {
                return Err(format!(
                    "a state of {entity:?} by {owner:?}, saved by {:?}",
                    self.owner
                ));
            }
            if version <= self.expected {
                return Err(format!(
                    "version {version} of {entity:?} is not greater than {}",
                    self.expected
                ));
            }
        } else if self.rows.is_empty() {
            return Err(format!("a save of {entity:?} that changes nothing"));
        }
        if self.rows.len() > ROWS_MAX {
            return Err(format!("{} rows beside {entity:?}", self.rows.len()));
        }
        let mut names = BTreeSet::new();
        for name in self.rows.iter().map(Row::name) {
            if name.kind() == Some(Kind::State) || name.entity().as_ref() != Some(entity) {
                return Err(format!("{name:?} is no row beside {entity:?}"));
            }
            if let Some(twice) = names.replace(name) {
                return Err(format!("{twice:?} stands twice in one save"));
            }
        }
        Ok(())
    }
}

/// Whether `op` keeps its bounds (**OP1**).
///
/// # Errors
/// Says what is wrong.
pub fn check(op: &Op) -> Result<(), String> {
    let limited = |limit: usize| match limit {
        1..=PAGE_MAX => Ok(()),
        _ => Err(format!("a page of {limit} rows, and 1 to {PAGE_MAX} are possible")),
    };
    match op {
        Op::Claim { slots, .. } => {
            if slots.len() > SLOTS_MAX {
                return Err(format!("a claim of {} slots", slots.len()));
            }
            let all: BTreeSet<&Slot> = slots.iter().collect();
            if all.len() < slots.len() {
                return Err("a claim that names a slot twice".to_owned());
            }
            Ok(())
        }
        Op::Commit(saves) if saves.len() > SAVES_MAX => {
            Err(format!("{} saves in one op", saves.len()))
        }
        Op::Commit(saves) => saves.iter().try_for_each(Save::check),
        Op::Scan { limit, .. } | Op::Verify { limit, .. } => limited(*limit),
        Op::Load { .. } | Op::Purge { .. } | Op::Backup { .. } | Op::Restore { .. } => Ok(()),
    }
}
