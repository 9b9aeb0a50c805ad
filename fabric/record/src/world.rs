//! What a store keeps, and how an op changes it: no clock, no thread, nothing that is not in the order of its names.
//!
//! # Invariants
//! - **MW1** An op that ends in [`Trouble`] has changed nothing.
//!
//! # Not here
//! When ops are carried out. Files: `Op::Backup` and `Op::Restore` are told what to write and what was read.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::limits::PURGE_MAX;
use crate::page::{Page, Verify};
use crate::{
    Answer, Found, Name, Op, Outcome, Owner, Range, Record, Row, Save, Slot, Trouble, judge,
};

/// All that is kept.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Rows, by name; each holds a record, unless somebody has spoiled it.
    pub rows: BTreeMap<Name, Vec<u8>>,
    /// Who has claimed which slot.
    pub owners: BTreeMap<Slot, Owner>,
}

impl World {
    /// Carries `op` out, unless it is one of those that need a file.
    ///
    /// # Errors
    /// [`Trouble::Refused`] if it is.
    pub fn carry_out(&mut self, op: Op) -> Result<Answer, Trouble> {
        match op {
            Op::Claim { owner, slots } => {
                let refused = slots.into_iter().filter_map(|slot| self.claim(slot, owner));
                Ok(Answer::Claimed { refused: refused.collect() })
            }
            Op::Load { entity, claim } => {
                let slot = Slot::of(&entity);
                if let Some((_, by)) = claim.and_then(|owner| self.claim(slot, owner)) {
                    return Ok(Answer::Loaded(Found::Fenced(by)));
                }
                Ok(Answer::Loaded(self.load(&Name::state(&entity))))
            }
            Op::Commit(saves) => {
                Ok(Answer::Committed(saves.into_iter().map(|save| self.save(save)).collect()))
            }
            Op::Scan { range, after, limit } => Ok(self.scan(range, after, limit)),
            Op::Verify { after, limit } => {
                let mut page = Verify::new(limit);
                for (name, bytes) in self.between(&Range::All, after.as_ref()) {
                    if !page.push(name.as_bytes(), bytes) {
                        break;
                    }
                }
                Ok(page.finish())
            }
            Op::Purge { before_ms } => Ok(self.purge(before_ms)),
            Op::Backup { .. } | Op::Restore { .. } => {
                Err(Trouble::Refused("it needs a file".to_owned()))
            }
        }
    }

    fn scan(&self, range: Range, mut after: Option<Name>, limit: usize) -> Answer {
        let mut page = Page::new(range.clone(), limit);
        loop {
            let mut jumps_behind = None;
            for (name, bytes) in self.between(&range, after.as_ref()) {
                if !page.push(name.as_bytes(), bytes) {
                    break;
                }
                if range.is_sparse() {
                    jumps_behind = Some(name.clone());
                    break;
                }
            }
            match jumps_behind {
                Some(name) => after = Some(name),
                None => return page.finish(),
            }
        }
    }

    /// The slot and its owner, if it is refused.
    fn claim(&mut self, slot: Slot, owner: Owner) -> Option<(Slot, Owner)> {
        match judge::claim(owner, self.owners.get(&slot).copied()) {
            judge::Claim::Take => {
                self.owners.insert(slot, owner);
                None
            }
            judge::Claim::Held => None,
            judge::Claim::Refused(by) => Some((slot, by)),
        }
    }

    fn load(&self, name: &Name) -> Found {
        let Some(bytes) = self.rows.get(name) else { return Found::Nothing };
        match Record::open(name, bytes) {
            Ok(record) if record.envelope().tombstone => Found::Tombstone(record.envelope()),
            Ok(record) => Found::State(record),
            Err(corrupt) => Found::Corrupt(corrupt),
        }
    }

    fn save(&mut self, save: Save) -> Outcome {
        let stored = self.owners.get(&Slot::of(&save.entity)).copied();
        let look =
            |name: &Name| self.rows.get(name).map(|bytes| Record::look(name, bytes)).transpose();
        if let Err(outcome) = judge::save(&save, stored, look) {
            return outcome;
        }
        for record in save.state.into_iter().map(Row::Put).chain(save.rows) {
            match record {
                Row::Put(record) => {
                    self.rows.insert(record.name(), record.as_bytes().to_vec());
                }
                Row::Remove(name) => {
                    self.rows.remove(&name);
                }
            }
        }
        Outcome::Saved
    }

    fn purge(&mut self, before_ms: u64) -> Answer {
        let old =
            |(name, bytes): &(&Name, &Vec<u8>)| judge::is_old_tombstone(name, bytes, before_ms);
        let names = self.rows.iter().filter(old).map(|(name, _)| name.clone());
        let names: Vec<Name> = names.take(PURGE_MAX + 1).collect();
        let more = names.len() > PURGE_MAX;
        let count = names.len().min(PURGE_MAX);
        for name in &names[..count] {
            self.rows.remove(name);
        }
        Answer::Purged { count, more }
    }

    fn between(
        &self,
        range: &Range,
        after: Option<&Name>,
    ) -> impl Iterator<Item = (&Name, &Vec<u8>)> + use<'_> {
        let (from, (_, end)) = (range.start(after), range.bounds());
        let before = move |name: &Name| end.as_ref().is_none_or(|end| name < end);
        self.rows.range((from, Bound::Unbounded)).take_while(move |(name, _)| before(name))
    }
}
