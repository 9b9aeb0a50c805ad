//! Stores that are wrong in one way each, which the suite must catch: the store in memory, tampered with.
//!
//! # Not here
//! Which behaviours catch them: the tests say so.

use std::fmt;

use super::Subject;
use crate::near::is_full;
use crate::{
    Answer, Done, Found, Keeper, Memory, Name, Op, OpId, Record, Row, Save, Slot, Store, TooMany,
    Wake, checksum,
};
use epicserver_record::World;

/// A way to be wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wrong {
    /// In no way: what the others are told from.
    Not,
    AnswersTwice,
    LosesAnAnswer,
    WakesNobody,
    TakesAll,
    ChecksNoVersion,
    ChecksNoOwner,
    ClaimsBack,
    SharesEpochs,
    ClaimsOnlyTheFirst,
    LoadsWithoutClaiming,
    ServesRot,
    HidesRot,
    WritesRowsAnyway,
    ForgetsRows,
    ReversesSaves,
    LeavesNoTombstone,
    PurgesByAgeAlone,
    PurgesNothing,
    SkipsARow,
    EndsTooEarly,
    ForgetsAll,
    KeepsEpochsOnlyInMemory,
    RestoresOverAll,
    RestoresHalf,
    TakesWhatContradictsItself,
}

pub(super) const ALL: &[Wrong] = &[
    Wrong::AnswersTwice,
    Wrong::LosesAnAnswer,
    Wrong::WakesNobody,
    Wrong::TakesAll,
    Wrong::ChecksNoVersion,
    Wrong::ChecksNoOwner,
    Wrong::ClaimsBack,
    Wrong::SharesEpochs,
    Wrong::ClaimsOnlyTheFirst,
    Wrong::LoadsWithoutClaiming,
    Wrong::ServesRot,
    Wrong::HidesRot,
    Wrong::WritesRowsAnyway,
    Wrong::ForgetsRows,
    Wrong::ReversesSaves,
    Wrong::LeavesNoTombstone,
    Wrong::PurgesByAgeAlone,
    Wrong::PurgesNothing,
    Wrong::SkipsARow,
    Wrong::EndsTooEarly,
    Wrong::ForgetsAll,
    Wrong::KeepsEpochsOnlyInMemory,
    Wrong::RestoresOverAll,
    Wrong::RestoresHalf,
    Wrong::TakesWhatContradictsItself,
];

/// A store that is wrong in one way.
#[derive(Clone)]
pub(super) struct Flawed {
    memory: Memory,
    wrong: Wrong,
}

impl Flawed {
    pub(super) fn new(wrong: Wrong) -> Self {
        Self { memory: Memory::new(), wrong }
    }
}

impl fmt::Debug for Flawed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.wrong)
    }
}

impl Subject for Flawed {
    fn open(&self) -> Box<dyn Keeper> {
        self.memory.with_world(|world| match self.wrong {
            Wrong::ForgetsAll => *world = World::default(),
            Wrong::KeepsEpochsOnlyInMemory => world.owners.clear(),
            _ => {}
        });
        Box::new(self.clone())
    }

    fn another(&self) -> Box<dyn Subject> {
        Box::new(Self::new(self.wrong))
    }

    fn flip(&self, name: &Name, bit: usize) -> bool {
        self.memory.flip(name, bit)
    }

    fn patience(&self) -> std::time::Duration {
        // What never comes is waited for by those alone that lose something.
        let loses = matches!(self.wrong, Wrong::LosesAnAnswer | Wrong::WakesNobody);
        std::time::Duration::from_millis(if loses { 50 } else { 60_000 })
    }
}

impl Keeper for Flawed {
    fn name(&self) -> &'static str {
        "flawed"
    }

    fn handle(&self, wake: Wake) -> Result<Box<dyn Store>, TooMany> {
        let wake = if self.wrong == Wrong::WakesNobody { Wake::new(|| ()) } else { wake };
        let inner = self.memory.handle(wake)?;
        Ok(Box::new(Handle { inner, of: self.clone(), done: Vec::new(), bytes: 0, answers: 0 }))
    }
}

#[derive(Debug)]
struct Handle {
    inner: Box<dyn Store>,
    of: Flawed,
    done: Vec<Done>,
    bytes: usize,
    answers: usize,
}

impl Store for Handle {
    fn submit(&mut self, id: OpId, op: Op) -> Result<(), Op> {
        let bytes = op.bytes();
        if self.of.wrong != Wrong::TakesAll && is_full(self.done.len(), self.bytes, bytes) {
            return Err(op);
        }
        self.bytes += bytes;
        let wrong = self.of.wrong;
        let op = self.of.memory.with_world(|world| tamper(wrong, world, op));
        let from = self.done.len();
        self.inner.submit(id, op)?;
        self.inner.poll(&mut self.done);
        for done in &mut self.done[from..] {
            if let Ok(answer) = &mut done.result {
                spoil(wrong, answer);
            }
        }
        Ok(())
    }

    fn poll(&mut self, done: &mut Vec<Done>) {
        self.bytes = 0;
        for answer in std::mem::take(&mut self.done) {
            self.answers += 1;
            let third = self.answers.is_multiple_of(3);
            if third && self.of.wrong == Wrong::AnswersTwice {
                done.push(answer.clone());
            }
            if !(third && self.of.wrong == Wrong::LosesAnAnswer) {
                done.push(answer);
            }
        }
    }

    fn unanswered(&self) -> usize {
        self.done.len()
    }
}

/// What the op becomes, and the world before it.
fn tamper(wrong: Wrong, world: &mut World, op: Op) -> Op {
    match op {
        Op::Commit(mut saves) => {
            if wrong == Wrong::ReversesSaves {
                saves.reverse();
            }
            if wrong == Wrong::TakesWhatContradictsItself {
                saves.retain(|save| crate::check(&Op::Commit(vec![save.clone()])).is_ok());
            }
            for save in &mut saves {
                tamper_save(wrong, world, save);
            }
            Op::Commit(saves)
        }
        Op::Claim { owner, mut slots } => {
            let forget = |of: &crate::Owner| match wrong {
                Wrong::ClaimsBack => true,
                Wrong::SharesEpochs => of.epoch == owner.epoch,
                _ => false,
            };
            world.owners.retain(|slot, of| !(slots.contains(slot) && forget(of)));
            if wrong == Wrong::ClaimsOnlyTheFirst {
                slots.truncate(1);
            }
            Op::Claim { owner, slots }
        }
        Op::Load { entity, claim } => {
            if wrong == Wrong::ServesRot
                && let Some(bytes) = world.rows.get_mut(&Name::state(&entity))
            {
                let sum = checksum(&bytes[8..]);
                bytes[..8].copy_from_slice(&sum.to_le_bytes());
            }
            let claim = claim.filter(|_| wrong != Wrong::LoadsWithoutClaiming);
            Op::Load { entity, claim }
        }
        Op::Purge { before_ms } => {
            if wrong == Wrong::PurgesByAgeAlone {
                let old = |name: &Name, bytes: &[u8]| {
                    Record::look(name, bytes).is_ok_and(|found| found.written_ms < before_ms)
                };
                world.rows.retain(|name, bytes| !old(name, bytes));
            }
            Op::Purge { before_ms: if wrong == Wrong::PurgesNothing { 0 } else { before_ms } }
        }
        Op::Restore { from } => {
            if wrong == Wrong::RestoresOverAll {
                world.rows.clear();
            }
            if wrong == Wrong::RestoresHalf
                && let Ok(mut reader) = crate::archive::Reader::open(&from)
                && let Ok(Some((name, record))) = reader.next()
                && crate::archive::Reader::check(&from).is_err()
            {
                world.rows.insert(name, record.as_bytes().to_vec());
            }
            Op::Restore { from }
        }
        op @ (Op::Scan { .. } | Op::Verify { .. } | Op::Backup { .. }) => op,
    }
}

fn tamper_save(wrong: Wrong, world: &mut World, save: &mut Save) {
    let name = Name::state(&save.entity);
    match wrong {
        Wrong::ChecksNoVersion => {
            let bytes = world.rows.get(&name);
            let found = bytes.and_then(|bytes| Record::look(&name, bytes).ok());
            let found = found.map_or(0, |found| found.version);
            if save.state.as_ref().is_none_or(|state| state.envelope().version > found) {
                save.expected = found;
            }
        }
        Wrong::ChecksNoOwner => {
            world.owners.insert(Slot::of(&save.entity), save.owner);
        }
        Wrong::WritesRowsAnyway => {
            for row in &save.rows {
                match row {
                    Row::Put(record) => {
                        world.rows.insert(record.name(), record.as_bytes().to_vec());
                    }
                    Row::Remove(name) => {
                        world.rows.remove(name);
                    }
                }
            }
        }
        Wrong::ForgetsRows if save.state.is_some() => save.rows.clear(),
        Wrong::LeavesNoTombstone => {
            world.rows.retain(|name, bytes| {
                !Record::look(name, bytes).is_ok_and(|found| found.tombstone)
            });
        }
        _ => {}
    }
}

/// What the answer becomes.
fn spoil(wrong: Wrong, answer: &mut Answer) {
    match answer {
        Answer::Scanned { rows, next } => match wrong {
            Wrong::HidesRot => rows.retain(Result::is_ok),
            Wrong::SkipsARow if next.is_some() => {
                rows.pop();
            }
            Wrong::EndsTooEarly => *next = None,
            _ => {}
        },
        Answer::Verified { corrupt, .. } if wrong == Wrong::HidesRot => corrupt.clear(),
        Answer::Loaded(found @ Found::Tombstone(_)) if wrong == Wrong::LeavesNoTombstone => {
            *found = Found::Nothing;
        }
        _ => {}
    }
}
