//! Ownership: what one node knows, by one view, of who owns what, and which of its own slots it serves.
//!
//! Made by the control machine and read by shards, which never change it: each change is another snapshot.
//!
//! # Invariants
//! - **OW1** A slot that is served is owned by this node in the view, and its epoch is not above the view's number.
//!
//! # Not here
//! When a slot may be served. Leases.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use epicserver_wire::{ClassId, EntityId, NodeId};

use crate::directory::{Directory, SLOTS};

/// The number of the view under which a node began to serve a slot. Of one slot it grows from owner to owner.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Epoch(pub u64);

/// Where a slot stands, as seen by one node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// This node owns it and serves it.
    Serving(Epoch),
    /// This node owns it, and waits for those who had it before.
    Waiting,
    /// Another node owns it: the member of that place in the directory.
    Elsewhere(usize),
    /// No node offers its class.
    Nowhere,
}

/// What one node knows of who owns what.
#[derive(Clone, Debug)]
pub struct Ownership {
    number: u64,
    me: NodeId,
    directory: Arc<Directory>,
    my_index: Option<usize>,
    serving: BTreeMap<ClassId, Epochs>,
}

/// How two snapshots of one node differ.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Turnover {
    /// What is served now, with its epoch.
    pub begins: Vec<(ClassId, u16, Epoch)>,
    /// What was served before.
    pub ceases: Vec<(ClassId, Vec<u16>)>,
}

/// Slots of one page.
const PAGE: usize = 256;

/// The epoch of each slot that is served; 0 of all others. In pages, of which those that say nothing are not there:
/// of many nodes each serves few.
#[derive(Clone, Debug)]
struct Epochs(Box<[Option<Arc<Page>>]>);

type Page = [u64; PAGE];

impl Default for Epochs {
    fn default() -> Self {
        Self(vec![None; SLOTS / PAGE].into())
    }
}

impl Epochs {
    fn set(&mut self, slot: u16, epoch: u64) {
        let (page, at) = (usize::from(slot) / PAGE, usize::from(slot) % PAGE);
        let page = self.0[page].get_or_insert_with(|| Arc::new([0; PAGE]));
        Arc::make_mut(page)[at] = epoch;
    }

    #[inline]
    fn get(&self, slot: u16) -> u64 {
        let page = self.0.get(usize::from(slot) / PAGE).and_then(Option::as_ref);
        page.map_or(0, |page| page[usize::from(slot) % PAGE])
    }
}

impl Ownership {
    /// By the view numbered `number`, `me` serves nothing yet.
    #[must_use]
    pub fn new(number: u64, me: NodeId, directory: Arc<Directory>) -> Self {
        let my_index = directory.members().binary_search(&me).ok();
        Self { number, me, directory, my_index, serving: BTreeMap::new() }
    }

    /// By a view that never changes, `me` serves all that it owns.
    #[must_use]
    pub fn whole(number: u64, me: NodeId, directory: Arc<Directory>) -> Self {
        let mut ownership = Self::new(number, me, directory);
        let classes: Vec<ClassId> = ownership.directory.classes().collect();
        for class in classes {
            ownership.serve(class, 0..=u16::MAX, Epoch(number));
        }
        ownership
    }

    /// From now on `me` serves those of `slots` that it owns.
    ///
    /// # Panics
    /// If the epoch is 0 or above the view's number (**OW1**).
    pub fn serve(
        &mut self,
        class: ClassId,
        slots: impl IntoIterator<Item = u16>,
        Epoch(epoch): Epoch,
    ) {
        assert!((1..=self.number).contains(&epoch), "OW1: an epoch is the number of a view");
        let serving = self.serving.entry(class).or_default();
        for slot in slots {
            if self.my_index.is_some() && self.directory.index_of(class, slot) == self.my_index {
                serving.set(slot, epoch);
            }
        }
    }

    /// The view's number.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// This node.
    #[must_use]
    pub fn me(&self) -> NodeId {
        self.me
    }

    /// Who owns what.
    #[must_use]
    pub fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    /// The members, by id.
    #[must_use]
    pub fn members(&self) -> &[NodeId] {
        self.directory.members()
    }

    /// Where the slot of `entity` stands.
    #[inline]
    #[must_use]
    pub fn standing(&self, entity: &EntityId) -> Standing {
        self.standing_of(entity.class(), entity.slot())
    }

    /// Where `slot` of `class` stands.
    #[inline]
    #[must_use]
    pub fn standing_of(&self, class: ClassId, slot: u16) -> Standing {
        match self.directory.index_of(class, slot) {
            None => Standing::Nowhere,
            Some(index) if Some(index) != self.my_index => Standing::Elsewhere(index),
            Some(_) => match self.epoch_of(class, slot) {
                Some(epoch) => Standing::Serving(epoch),
                None => Standing::Waiting,
            },
        }
    }

    /// What is served by this snapshot and was not by the one before, or in another epoch, and the other way.
    #[must_use]
    pub fn turnover(&self, before: Option<&Self>) -> Turnover {
        let none = BTreeMap::new();
        let old = before.map_or(&none, |before| &before.serving);
        let mut turnover = Turnover::default();
        let classes: BTreeSet<ClassId> = old.keys().chain(self.serving.keys()).copied().collect();
        for class in classes {
            let mut ceased = Vec::new();
            for page in 0..SLOTS / PAGE {
                let of = |serving: &BTreeMap<ClassId, Epochs>| serving.get(&class)?.0[page].clone();
                let (old, new) = (of(old), of(&self.serving));
                if old.as_ref().map(Arc::as_ptr) == new.as_ref().map(Arc::as_ptr) {
                    continue;
                }
                let blank = || Arc::new([0; PAGE]);
                let (old, new) = (old.unwrap_or_else(blank), new.unwrap_or_else(blank));
                for at in (0..PAGE).filter(|at| old[*at] != new[*at]) {
                    let slot = u16::try_from(page * PAGE + at).unwrap_or(0);
                    ceased.extend((old[at] > 0).then_some(slot));
                    turnover.begins.extend((new[at] > 0).then_some((class, slot, Epoch(new[at]))));
                }
            }
            if !ceased.is_empty() {
                turnover.ceases.push((class, ceased));
            }
        }
        turnover
    }

    /// The slots of `class` that this node serves, in order, with their epochs.
    pub fn served(&self, class: ClassId) -> impl Iterator<Item = (u16, Epoch)> + '_ {
        let pages = self.serving.get(&class).into_iter().flat_map(|epochs| epochs.0.iter());
        let slots = pages.enumerate().filter_map(|(at, page)| Some((at * PAGE, page.as_ref()?)));
        slots.flat_map(|(first, page)| {
            let served = page.iter().enumerate().filter(|(_, epoch)| **epoch > 0);
            served.map(move |(at, epoch)| (u16::try_from(first + at).unwrap_or(0), Epoch(*epoch)))
        })
    }

    /// The epoch in which this node serves `slot` of `class`, if it does.
    #[inline]
    #[must_use]
    pub fn epoch_of(&self, class: ClassId, slot: u16) -> Option<Epoch> {
        let epoch = self.serving.get(&class)?.get(slot);
        (epoch > 0).then_some(Epoch(epoch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Share;

    const CLASS: ClassId = ClassId::DEFAULT;

    fn two() -> (NodeId, Arc<Directory>) {
        let nodes = [NodeId::new(1), NodeId::new(2)];
        (nodes[0], Arc::new(Directory::of(nodes.map(Share::of))))
    }

    #[test]
    fn ow1_a_node_serves_only_what_it_owns() {
        let (me, directory) = two();
        let mut ownership = Ownership::new(3, me, directory);
        ownership.serve(CLASS, 0..=u16::MAX, Epoch(2));
        for slot in 0..=u16::MAX {
            match ownership.standing_of(CLASS, slot) {
                Standing::Serving(epoch) => assert_eq!(epoch, Epoch(2)),
                Standing::Elsewhere(at) => assert_eq!(at, 1),
                Standing::Waiting | Standing::Nowhere => panic!("{slot} has no owner"),
            }
        }
    }

    #[test]
    fn what_is_served_is_listed_with_its_epochs() {
        let (me, directory) = two();
        let mut ownership = Ownership::new(3, me, Arc::clone(&directory));
        let mine: Vec<u16> = directory.slots_of(CLASS, me).collect();
        ownership.serve(CLASS, mine[..700].iter().copied(), Epoch(2));
        ownership.serve(CLASS, [mine[5]], Epoch(3));
        let listed: Vec<(u16, Epoch)> = ownership.served(CLASS).collect();
        assert_eq!(listed.len(), 700);
        assert!(
            listed.iter().all(|(slot, epoch)| ownership.epoch_of(CLASS, *slot) == Some(*epoch))
        );
        assert!(listed.is_sorted());
        assert_eq!(ownership.served(ClassId::of("gpu")).count(), 0);
    }

    #[test]
    fn a_turnover_tells_what_begins_and_what_ceases() {
        let (me, directory) = two();
        let mine: Vec<u16> = directory.slots_of(CLASS, me).collect();
        let mut before = Ownership::new(3, me, Arc::clone(&directory));
        before.serve(CLASS, mine[..900].iter().copied(), Epoch(2));
        assert_eq!(before.turnover(None).begins.len(), 900);
        assert_eq!(before.turnover(Some(&before)), Turnover::default());
        let mut after = before.clone();
        after.serve(CLASS, [mine[899], mine[900]], Epoch(3));
        let begins = vec![(CLASS, mine[899], Epoch(3)), (CLASS, mine[900], Epoch(3))];
        let ceases = vec![(CLASS, vec![mine[899]])];
        assert_eq!(after.turnover(Some(&before)), Turnover { begins, ceases });
        let nothing = Ownership::new(4, me, directory);
        assert_eq!(nothing.turnover(Some(&after)).ceases, [(CLASS, mine[..901].to_vec())]);
    }

    #[test]
    fn a_slot_waits_until_it_is_served_and_a_class_that_nobody_offers_is_nowhere() {
        let (me, directory) = two();
        let ownership = Ownership::new(1, me, Arc::clone(&directory));
        let mine = (0..=u16::MAX).find(|slot| directory.owner_of(CLASS, *slot) == Some(me));
        assert_eq!(ownership.standing_of(CLASS, mine.unwrap()), Standing::Waiting);
        assert_eq!(ownership.standing_of(ClassId::of("gpu"), 1), Standing::Nowhere);
        let whole = Ownership::whole(1, me, directory);
        assert_eq!(whole.standing_of(CLASS, mine.unwrap()), Standing::Serving(Epoch(1)));
    }
}
