//! Ownership: what one node knows, by one view, of who owns what, and which of its own slots it serves.
//!
//! Made by the control machine and read by shards, which never change it: each change is another snapshot.
//!
//! # Invariants
//! - **OW1** A slot that is served is owned by this node in the view, and its epoch is not above the view's number.
//!
//! # Not here
//! When a slot may be served. Leases.

use std::collections::BTreeMap;
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
    /// The epoch of each slot that is served; 0 of all others.
    serving: BTreeMap<ClassId, Arc<[u64]>>,
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
        let (directory, me) = (Arc::clone(&self.directory), self.me);
        let serving = self.serving.entry(class).or_insert_with(|| vec![0; SLOTS].into());
        let serving = Arc::make_mut(serving);
        for slot in slots {
            if directory.owner_of(class, slot) == Some(me) {
                serving[usize::from(slot)] = epoch;
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

    /// The epoch in which this node serves `slot` of `class`, if it does.
    #[inline]
    #[must_use]
    pub fn epoch_of(&self, class: ClassId, slot: u16) -> Option<Epoch> {
        let epoch = self.serving.get(&class)?.get(usize::from(slot)).copied()?;
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
