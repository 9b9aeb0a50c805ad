//! What a node serves, as its control machine tells it: short, however many slots there are.
//!
//! # Invariants
//! - **SV1** A slot is listed under one epoch.
//!
//! # Not here
//! How shards look it up: that is what [`Ownership`] is for, which follows from this.

use std::sync::Arc;

use epicserver_wire::{ClassId, NodeId};

use super::slots::SlotSet;
use crate::directory::Directory;
use crate::ownership::{Epoch, Ownership};

/// What a node serves by a view; what else it owns there it waits for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Served {
    pub(super) number: u64,
    pub(super) me: NodeId,
    pub(super) directory: Arc<Directory>,
    pub(super) past: Vec<(u64, Arc<Directory>)>,
    /// In the order of classes and epochs.
    pub(super) serving: Vec<(ClassId, Epoch, Arc<SlotSet>)>,
}

/// How what one node serves differs from what it served before.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Turnover {
    /// What is served now and was not, or not in this epoch.
    pub begins: Vec<(ClassId, Epoch, Vec<u16>)>,
    /// What was served and is not, or not in that epoch.
    pub ceases: Vec<(ClassId, Vec<u16>)>,
}

impl Served {
    /// The number of the view.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The node.
    #[must_use]
    pub fn me(&self) -> NodeId {
        self.me
    }

    /// Who owns what by the view.
    #[must_use]
    pub fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    /// The same of the earlier views by which something may still be held, oldest first.
    #[must_use]
    pub fn past(&self) -> &[(u64, Arc<Directory>)] {
        &self.past
    }

    /// How many slots of all classes are served.
    #[must_use]
    pub fn count(&self) -> usize {
        self.serving.iter().map(|(_, _, slots)| slots.len()).sum()
    }

    /// The same as shards look it up. Makes tables of all slots of all classes.
    #[must_use]
    pub fn ownership(&self) -> Ownership {
        let ownership = Ownership::new(self.number, self.me, Arc::clone(&self.directory));
        let mut ownership = ownership.after(self.past.clone());
        for (class, epoch, slots) in &self.serving {
            ownership.serve(*class, slots.iter(), *epoch);
        }
        ownership
    }

    /// How it differs from what was served `before`.
    #[must_use]
    pub fn turnover(&self, before: Option<&Self>) -> Turnover {
        let old = before.map_or(&[][..], |before| &before.serving);
        let mut turnover = Turnover::default();
        for (class, epoch, slots) in minus(&self.serving, old) {
            turnover.begins.push((class, epoch, slots.iter().collect()));
        }
        for (class, _, slots) in minus(old, &self.serving) {
            turnover.ceases.push((class, slots.iter().collect()));
        }
        turnover
    }
}

/// What is listed in `these` and not in `those`.
fn minus<'a>(
    these: &'a [(ClassId, Epoch, Arc<SlotSet>)],
    those: &'a [(ClassId, Epoch, Arc<SlotSet>)],
) -> impl Iterator<Item = (ClassId, Epoch, SlotSet)> + 'a {
    let left = |(class, epoch, slots): &(ClassId, Epoch, Arc<SlotSet>)| {
        let at =
            those.binary_search_by_key(&(*class, *epoch), |(class, epoch, _)| (*class, *epoch));
        let other = at.ok().and_then(|at| those.get(at)).map(|(_, _, slots)| slots);
        let left = match other {
            Some(other) if Arc::ptr_eq(other, slots) => SlotSet::default(),
            Some(other) => slots.without(other),
            None => SlotSet::clone(slots),
        };
        (*class, *epoch, left)
    };
    these.iter().map(left).filter(|(_, _, slots)| !slots.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ownership::Standing;
    use crate::view::Share;

    const CLASS: ClassId = ClassId::DEFAULT;

    fn served(serving: &[(u64, std::ops::Range<u16>)]) -> Served {
        let me = NodeId::new(1);
        let set = |(epoch, slots): &(u64, std::ops::Range<u16>)| {
            (CLASS, Epoch(*epoch), Arc::new(slots.clone().collect::<SlotSet>()))
        };
        let directory = Arc::new(Directory::of([Share::of(me)]));
        let serving = serving.iter().map(set).collect();
        Served { number: 9, me, directory, past: Vec::new(), serving }
    }

    #[test]
    fn shards_look_up_what_is_listed() {
        let ownership = served(&[(3, 0..10), (7, 10..20)]).ownership();
        assert_eq!(ownership.standing_of(CLASS, 5), Standing::Serving(Epoch(3)));
        assert_eq!(ownership.standing_of(CLASS, 15), Standing::Serving(Epoch(7)));
        assert_eq!(ownership.standing_of(CLASS, 25), Standing::Waiting);
    }

    #[test]
    fn sv1_a_slot_that_is_served_anew_ceases_and_begins() {
        let (before, after) = (served(&[(3, 0..10)]), served(&[(3, 2..9), (8, 9..12)]));
        let turnover = after.turnover(Some(&before));
        assert_eq!(turnover.begins, [(CLASS, Epoch(8), vec![9, 10, 11])]);
        assert_eq!(turnover.ceases, [(CLASS, vec![0, 1, 9])]);
        assert_eq!(after.turnover(Some(&after)), Turnover::default());
        assert_eq!(after.turnover(None).begins.len(), 2);
        assert_eq!(after.count(), 10);
    }
}
