//! Ownership: what one node knows, by one view, of who owns what, and which of its own slots it serves.
//!
//! Made by the control machine and read by shards, which never change it: each change is another snapshot.
//!
//! # Invariants
//! - **OW1** A slot that is served is owned by this node in the view, and its epoch is not above the view's number.
//! - **OW2** The views before it are listed by rising numbers, all below its own.
//!
//! # Not here
//! When a slot may be served. Leases.

use std::sync::Arc;

use epicserver_wire::{ClassId, EntityId, NodeId};

use crate::directory::{Directory, NOBODY, SLOTS};

/// A slot of a placement class: what has one owner.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SlotId {
    /// The class.
    pub class: ClassId,
    /// Which of its slots.
    pub index: u16,
}

impl SlotId {
    /// The slot of `entity`.
    #[must_use]
    pub fn of(entity: &EntityId) -> Self {
        Self { class: entity.class(), index: entity.slot() }
    }
}

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

/// The same without the epoch, which most do not ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Site {
    /// This node owns it and serves it.
    Served,
    /// This node owns it, and waits for those who had it before.
    Awaited,
    /// Another node owns it: the member of that place in the directory.
    There(usize),
    /// No node offers its class.
    Nowhere,
}

/// Places of members that are none.
const NOWHERE: u16 = NOBODY;
const AWAITED: u16 = u16::MAX - 1;
const SERVED: u16 = u16::MAX - 2;

/// Slots that are compared at once.
const STRETCH: usize = 256;
const _: () = assert!(SLOTS.is_multiple_of(STRETCH), "no slot is left over");

/// The slots of one class.
#[derive(Clone, Debug)]
struct Table {
    class: ClassId,
    /// The place of each slot's owner; this node's own are [`SERVED`] or [`AWAITED`].
    sites: Arc<[u16]>,
    /// The epoch of each slot that is served; 0 of all others.
    epochs: Arc<[u64]>,
}

/// What one node knows of who owns what.
#[derive(Clone, Debug)]
pub struct Ownership {
    number: u64,
    me: NodeId,
    directory: Arc<Directory>,
    tables: Vec<Table>,
    past: Vec<(u64, Arc<Directory>)>,
}

impl Ownership {
    /// By the view numbered `number`, `me` serves nothing yet.
    ///
    /// # Panics
    /// If there are more members than the numbers of places allow.
    #[must_use]
    pub fn new(number: u64, me: NodeId, directory: Arc<Directory>) -> Self {
        assert!(directory.members().len() <= usize::from(SERVED), "OW1: places have 16 bits");
        let my_index = directory.members().binary_search(&me).ok();
        let my_index = my_index.and_then(|at| u16::try_from(at).ok());
        let table = |class| {
            let site = |at: &u16| if Some(*at) == my_index { AWAITED } else { *at };
            let owners = directory.owners_of(class).unwrap_or(&[]);
            Table { class, sites: owners.iter().map(site).collect(), epochs: vec![0; SLOTS].into() }
        };
        let tables = directory.classes().map(table).collect();
        Self { number, me, directory, tables, past: Vec::new() }
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
        let Some(table) = self.tables.iter_mut().find(|table| table.class == class) else { return };
        let (sites, epochs) = (Arc::make_mut(&mut table.sites), Arc::make_mut(&mut table.epochs));
        for slot in slots.into_iter().map(usize::from) {
            if sites[slot] == AWAITED || sites[slot] == SERVED {
                sites[slot] = SERVED;
                epochs[slot] = epoch;
            }
        }
    }

    /// The views before this one under which a slot may still be held, by number: those that are not settled.
    ///
    /// # Panics
    /// If they are not in order (**OW2**).
    #[must_use]
    pub fn after(mut self, past: Vec<(u64, Arc<Directory>)>) -> Self {
        let numbers = past.iter().map(|(number, _)| *number).chain([self.number]);
        assert!(numbers.is_sorted_by(|a, b| a < b), "OW2: earlier views have lower numbers");
        self.past = past;
        self
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

    /// The views before this one that are not settled, by number.
    #[must_use]
    pub fn past(&self) -> &[(u64, Arc<Directory>)] {
        &self.past
    }

    fn table(&self, class: ClassId) -> Option<&Table> {
        self.tables.iter().find(|table| table.class == class)
    }

    /// Where the slot of `entity` is.
    #[inline]
    #[must_use]
    pub fn site(&self, entity: &EntityId) -> Site {
        self.site_of(SlotId::of(entity))
    }

    /// Where `slot` is.
    #[inline]
    #[must_use]
    pub fn site_of(&self, slot: SlotId) -> Site {
        let sites = self.table(slot.class).map(|table| &table.sites);
        match sites.and_then(|sites| sites.get(usize::from(slot.index))).copied() {
            Some(SERVED) => Site::Served,
            Some(AWAITED) => Site::Awaited,
            Some(NOWHERE) | None => Site::Nowhere,
            Some(at) => Site::There(usize::from(at)),
        }
    }

    /// For each slot of `class`, whether this node owns it; of a class that nobody offers, none is.
    pub fn mine(&self, class: ClassId) -> impl Iterator<Item = bool> + '_ {
        let sites = self.table(class).map_or(&[][..], |table| &table.sites);
        let rest = SLOTS - sites.len();
        let mine = sites.iter().map(|site| *site == SERVED || *site == AWAITED);
        mine.chain(std::iter::repeat_n(false, rest))
    }

    /// Where the slot of `entity` stands.
    #[must_use]
    pub fn standing(&self, entity: &EntityId) -> Standing {
        self.standing_of(entity.class(), entity.slot())
    }

    /// Where `slot` of `class` stands.
    #[must_use]
    pub fn standing_of(&self, class: ClassId, slot: u16) -> Standing {
        match self.site_of(SlotId { class, index: slot }) {
            Site::Nowhere => Standing::Nowhere,
            Site::There(at) => Standing::Elsewhere(at),
            Site::Awaited => Standing::Waiting,
            Site::Served => self.epoch_of(class, slot).map_or(Standing::Waiting, Standing::Serving),
        }
    }

    /// The epoch in which this node serves `slot` of `class`, if it does.
    #[must_use]
    pub fn epoch_of(&self, class: ClassId, slot: u16) -> Option<Epoch> {
        let epoch = self.table(class)?.epochs.get(usize::from(slot)).copied()?;
        (epoch > 0).then_some(Epoch(epoch))
    }

    /// Whether this node is alone, and serves all slots of all classes in `classes`.
    #[must_use]
    pub fn is_alone(&self, classes: impl IntoIterator<Item = ClassId>) -> bool {
        let serves = |class| {
            self.table(class).is_some_and(|table| table.sites.iter().all(|site| *site == SERVED))
        };
        self.members() == [self.me] && classes.into_iter().all(serves)
    }

    /// The slots that this node served `before`, and does not serve any more, or serves anew; with the epoch of before.
    pub fn lost_since<'a>(
        &'a self,
        before: &'a Self,
    ) -> impl Iterator<Item = (SlotId, Epoch)> + 'a {
        before.tables.iter().flat_map(move |table| {
            let now = self.table(table.class).map(|table| &table.epochs);
            let same = now.is_some_and(|now| Arc::ptr_eq(now, &table.epochs));
            let starts = (0..if same { 0 } else { table.epochs.len() }).step_by(STRETCH);
            let stretches = starts.map(move |start| {
                let stretch = |epochs: &'a [u64]| epochs.get(start..start + STRETCH);
                (start, &table.epochs[start..start + STRETCH], now.and_then(|now| stretch(now)))
            });
            // Most are as they were.
            let changed = stretches.filter(|(_, then, now)| *now != Some(*then));
            let lost = changed.flat_map(|(start, then, now)| {
                let epochs = then.iter().enumerate().filter(move |(at, epoch)| {
                    **epoch > 0 && now.and_then(|now| now.get(*at)) != Some(*epoch)
                });
                epochs.map(move |(at, epoch)| (start + at, Epoch(*epoch)))
            });
            lost.filter_map(|(index, epoch)| {
                let index = u16::try_from(index).ok()?;
                Some((SlotId { class: table.class, index }, epoch))
            })
        })
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

    #[test]
    fn what_was_served_and_is_not_or_is_served_anew_was_lost() {
        let (me, directory) = two();
        let alone = Arc::new(Directory::of([Share::of(me)]));
        let before = Ownership::whole(1, me, alone);
        let mut now = Ownership::new(2, me, Arc::clone(&directory));
        now.serve(CLASS, 0..=u16::MAX, Epoch(1));
        let theirs = directory.shares(CLASS)[1] as usize;
        assert_eq!(now.lost_since(&before).count(), theirs);
        assert!(now.lost_since(&before).all(|(slot, _)| now.site_of(slot) == Site::There(1)));
        assert_eq!(now.lost_since(&now).count(), 0);
        let first = before.lost_since(&now).next();
        assert_eq!(first, None, "what it serves as before is not lost");
        let mut anew = Ownership::new(2, me, Arc::clone(&directory));
        anew.serve(CLASS, 0..=u16::MAX, Epoch(2));
        assert_eq!(anew.lost_since(&before).count(), SLOTS);
    }

    #[test]
    fn a_node_is_alone_if_it_serves_all_that_is_asked_for_and_there_is_no_other() {
        let (me, directory) = two();
        let alone = Arc::new(Directory::of([Share::of(me)]));
        assert!(Ownership::whole(1, me, Arc::clone(&alone)).is_alone([CLASS]));
        assert!(!Ownership::whole(1, me, Arc::clone(&alone)).is_alone([CLASS, ClassId::of("gpu")]));
        assert!(!Ownership::new(1, me, alone).is_alone([CLASS]));
        assert!(!Ownership::whole(1, me, directory).is_alone([CLASS]));
    }

    #[test]
    #[should_panic(expected = "OW2")]
    fn ow2_earlier_views_have_lower_numbers() {
        let (me, directory) = two();
        let past = vec![(2, Arc::clone(&directory))];
        drop(Ownership::new(2, me, directory).after(past));
    }
}
