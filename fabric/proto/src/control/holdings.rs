//! Holdings: what this node serves, what it is handing over, and whom it waits for.
//!
//! In: views, what shards and other nodes have let go of   Out: snapshots for shards, what this node has let go of
//!
//! A node may serve a slot that a view gives it once every other node that may hold it has let go. Those are the owners
//! of the slot in the views of the history, but for those that are no members any more (their leases have ended), and
//! those that say to have let go by a view later than the last that gave them the slot.
//!
//! # Invariants
//! - **HO1** A slot that is served is owned in the view, and nobody is waited for on account of it.
//! - **HO2** A slot that was served is served again only after every shard has said that it holds nothing of it. Its
//!   epoch is then the number of the view; until then it keeps the one with which its serving began.
//! - **HO3** "Settled" names a view only when all that an earlier one gave, and it does not, is drained.
//! - **HO4** A node that says to have let go by a view which this node does not know has said nothing of what this node
//!   waits for: it may have got the slot back.
//!
//! # Not here
//! Leases, and messages.

use std::collections::BTreeMap;
use std::sync::Arc;

use epicserver_wire::{ClassId, NodeId, ShardId};

use super::served::Served;
use super::slots::SlotSet;
use crate::directory::Directory;
use crate::ownership::Epoch;

/// Slots that this node has let go of, and whose they are now.
pub(super) type Freed = Vec<(NodeId, ClassId, SlotSet)>;

/// Of one class.
#[derive(Default, Debug)]
struct Held {
    mine: SlotSet,
    /// Those of them that are not served yet.
    fresh: SlotSet,
    /// The others, by epoch.
    serving: BTreeMap<u64, Arc<SlotSet>>,
    draining: SlotSet,
    /// Which of them each shard has still to say that it holds nothing of.
    owing: BTreeMap<ShardId, SlotSet>,
    /// Who may hold slots of this node, and the last view by which.
    awaits: BTreeMap<(NodeId, u64), SlotSet>,
}

impl Held {
    fn served(&self) -> SlotSet {
        self.mine.without(&self.fresh)
    }

    fn is_empty(&self) -> bool {
        self.mine.is_empty() && self.draining.is_empty()
    }
}

/// What a view says, as far as slots go.
pub(super) struct Ground<'a> {
    pub(super) number: u64,
    pub(super) directory: &'a Arc<Directory>,
    /// The history, oldest first.
    pub(super) pasts: &'a [(u64, Arc<Directory>)],
}

/// What one node holds.
#[derive(Debug)]
pub(super) struct Holdings {
    me: NodeId,
    shards: u16,
    /// The view by which the rest is so; 0: none.
    number: u64,
    /// The first such view.
    first: u64,
    settled: u64,
    directory: Arc<Directory>,
    past: Vec<(u64, Arc<Directory>)>,
    classes: BTreeMap<ClassId, Held>,
    /// By which view others have let go of all that it does not give them.
    claims: BTreeMap<NodeId, u64>,
    /// Whether more may be served than before.
    stirred: bool,
    /// Whether shards have to be told.
    changed: bool,
    /// By which view they were told last.
    told: u64,
}

impl Holdings {
    pub(super) fn new(me: NodeId, shards: u16) -> Self {
        Self {
            me,
            shards,
            number: 0,
            first: 0,
            settled: 0,
            directory: Arc::new(Directory::of([])),
            classes: BTreeMap::new(),
            claims: BTreeMap::new(),
            stirred: false,
            changed: false,
            told: 0,
            past: Vec::new(),
        }
    }

    /// Goes by a later view. Gives what this node has let go of at once.
    pub(super) fn install(&mut self, ground: &Ground<'_>) -> Freed {
        assert!(ground.number > self.number, "HO1: views follow one another");
        if self.number == 0 {
            self.first = ground.number;
        }
        self.number = ground.number;
        self.directory = Arc::clone(ground.directory);
        self.past = ground.pasts.to_vec();
        (self.stirred, self.changed) = (true, true);
        let members = self.directory.members();
        self.claims.retain(|node, _| members.binary_search(node).is_ok());
        let mut classes: Vec<ClassId> = self.directory.classes().collect();
        classes.extend(self.classes.keys());
        classes.sort_unstable();
        classes.dedup();
        let mut freed = Freed::new();
        for class in classes {
            self.install_class(class, ground, &mut freed);
        }
        self.settle();
        freed
    }

    fn install_class(&mut self, class: ClassId, ground: &Ground<'_>, freed: &mut Freed) {
        let mine = owned(&self.directory, class, self.me);
        let held = self.classes.entry(class).or_default();
        let lost = held.mine.without(&mine);
        let served = held.served();
        let ceasing = served.and(&lost);
        if !ceasing.is_empty() {
            held.serving.values_mut().for_each(|slots| lose(slots, &lost));
            held.serving.retain(|_, slots| !slots.is_empty());
            held.draining = held.draining.or(&ceasing);
            for shard in (0..self.shards).map(ShardId::new) {
                let owing = held.owing.entry(shard).or_default();
                *owing = owing.or(&ceasing);
            }
        }
        let free = lost.without(&held.draining);
        let fresh = mine.without(&served);
        held.mine = mine;
        held.fresh = fresh.clone();
        held.awaits.clear();
        if !fresh.is_empty() {
            for (number, past) in ground.pasts {
                self.await_owners(class, &fresh, (*number, past));
            }
        }
        self.hand_over(class, &free, freed);
        if self.classes.get(&class).is_some_and(Held::is_empty) {
            self.classes.remove(&class);
        }
    }

    /// Waits for those who owned `fresh` in an earlier view.
    fn await_owners(&mut self, class: ClassId, fresh: &SlotSet, (number, past): (u64, &Directory)) {
        let claims = &self.claims;
        for (owner, slots) in by_owner(class, fresh, past) {
            let lives = self.directory.members().binary_search(&owner).is_ok();
            let claimed = claims.get(&owner).is_some_and(|claim| number < *claim);
            if owner != self.me && lives && !claimed {
                let held = self.classes.entry(class).or_default();
                held.awaits.insert((owner, number), slots);
            }
        }
    }

    fn hand_over(&self, class: ClassId, free: &SlotSet, freed: &mut Freed) {
        if !free.is_empty() {
            let to = by_owner(class, free, &self.directory).into_iter();
            let others = to.filter(|(owner, _)| *owner != self.me);
            freed.extend(others.map(|(owner, slots)| (owner, class, slots)));
        }
    }

    /// `shard` holds nothing of `slots` any more, which it learned by the view numbered `number` that it has to give up.
    pub(super) fn drained(
        &mut self,
        (number, shard): (u64, ShardId),
        slots: impl IntoIterator<Item = (ClassId, SlotSet)>,
    ) -> Freed {
        let mut freed = Freed::new();
        self.stirred = true;
        if number < self.first || self.number == 0 {
            return freed; // It was another node then.
        }
        for (class, slots) in slots {
            let Some(held) = self.classes.get_mut(&class) else { continue };
            let Some(owing) = held.owing.get_mut(&shard) else { continue };
            let said = owing.and(&slots);
            *owing = owing.without(&said);
            held.owing.retain(|_, owing| !owing.is_empty());
            let owed = held.owing.values().fold(SlotSet::default(), |all, some| all.or(some));
            let done = said.without(&owed);
            held.draining = held.draining.without(&done);
            let free = done.without(&held.mine);
            self.hand_over(class, &free, &mut freed);
        }
        self.classes.retain(|_, held| !held.is_empty());
        self.settle();
        freed
    }

    fn settle(&mut self) {
        if self.is_drained() {
            // HO3.
            self.settled = self.number;
        }
    }

    /// `node` holds nothing that the view numbered `number` does not give it.
    pub(super) fn settles(&mut self, node: NodeId, number: u64) {
        // HO4.
        if number > self.number || self.claims.get(&node).is_some_and(|claim| *claim >= number) {
            return;
        }
        self.claims.insert(node, number);
        self.stirred = true;
        for held in self.classes.values_mut() {
            held.awaits.retain(|(of, last), _| *of != node || *last >= number);
        }
    }

    /// `node`, by the view numbered `number`, holds none of `slots`.
    pub(super) fn released(
        &mut self,
        node: NodeId,
        number: u64,
        (class, slots): (ClassId, &SlotSet),
    ) {
        let Some(held) = self.classes.get_mut(&class) else { return };
        self.stirred = true;
        for ((of, last), awaited) in &mut held.awaits {
            if *of == node && *last < number {
                *awaited = awaited.without(slots);
            }
        }
        held.awaits.retain(|_, slots| !slots.is_empty());
    }

    /// Serves what nobody else may hold.
    pub(super) fn begin(&mut self) {
        if !std::mem::take(&mut self.stirred) {
            return;
        }
        for held in self.classes.values_mut() {
            let fresh = held.fresh.without(&held.draining);
            let awaited = held.awaits.values();
            let free = awaited.fold(fresh, |free, awaited| free.without(awaited));
            if free.is_empty() {
                continue;
            }
            held.fresh = held.fresh.without(&free);
            let serving = held.serving.entry(self.number).or_default();
            *serving = Arc::new(serving.or(&free));
            self.changed = true;
        }
    }

    /// Whether a view is new to shards: then they are to be told at once.
    pub(super) fn is_new(&self) -> bool {
        self.told < self.number
    }

    /// Whether more may be served, so that it is worth to [`begin`](Self::begin).
    pub(super) fn is_stirred(&self) -> bool {
        self.stirred
    }

    /// What shards are to go by, if it is something else than they do.
    pub(super) fn take_served(&mut self) -> Option<Arc<Served>> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        self.told = self.number;
        let serving = self.classes.iter().flat_map(|(class, held)| {
            let by_epoch = held.serving.iter();
            by_epoch.map(|(epoch, slots)| (*class, Epoch(*epoch), Arc::clone(slots)))
        });
        Some(Arc::new(Served {
            number: self.number,
            me: self.me,
            directory: Arc::clone(&self.directory),
            past: self.past.clone(),
            serving: serving.collect(),
        }))
    }

    /// Which of `slots` this node does not hold, served or draining.
    pub(super) fn not_held(&self, class: ClassId, slots: &SlotSet) -> SlotSet {
        match self.classes.get(&class) {
            None => slots.clone(),
            Some(held) => slots.without(&held.served()).without(&held.draining),
        }
    }

    /// Whom it waits for, and for what.
    pub(super) fn awaited(&self) -> impl Iterator<Item = (NodeId, ClassId, &SlotSet)> + '_ {
        self.classes.iter().flat_map(|(class, held)| {
            held.awaits.iter().map(|((node, _), slots)| (*node, *class, slots))
        })
    }

    /// Whether it waits for anybody.
    pub(super) fn is_waiting(&self) -> bool {
        self.classes.values().any(|held| !held.awaits.is_empty())
    }

    /// Whether it hands nothing over any more.
    pub(super) fn is_drained(&self) -> bool {
        self.classes.values().all(|held| held.draining.is_empty())
    }

    /// The number of a view such that this node holds nothing which that view does not give it (**HO3**).
    pub(super) fn settled(&self) -> u64 {
        self.settled
    }
}

fn owned(directory: &Directory, class: ClassId, node: NodeId) -> SlotSet {
    let at = directory.members().binary_search(&node).ok().and_then(|at| u16::try_from(at).ok());
    let owned = at.zip(directory.owners_of(class));
    owned.map_or_else(SlotSet::default, |(at, owners)| SlotSet::owned(owners, at))
}

/// Takes `lost` out, if any of it is there: what stays as it was stays the same one.
fn lose(slots: &mut Arc<SlotSet>, lost: &SlotSet) {
    let left = slots.without(lost);
    if left.len() < slots.len() {
        *slots = Arc::new(left);
    }
}

/// `slots` by their owners in `directory`.
fn by_owner(class: ClassId, slots: &SlotSet, directory: &Directory) -> Vec<(NodeId, SlotSet)> {
    let members = directory.members();
    let mut lists: Vec<Vec<u16>> = vec![Vec::new(); members.len()];
    for slot in slots.iter() {
        if let Some(list) = directory.index_of(class, slot).and_then(|at| lists.get_mut(at)) {
            list.push(slot);
        }
    }
    let owners = members.iter().zip(lists).filter(|(_, slots)| !slots.is_empty());
    owners.map(|(node, slots)| (*node, slots.into_iter().collect())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ownership::Standing;
    use crate::view::Share;

    const CLASS: ClassId = ClassId::DEFAULT;
    const A: NodeId = NodeId::new(1);
    const B: NodeId = NodeId::new(2);
    const C: NodeId = NodeId::new(3);

    fn directory(nodes: &[NodeId]) -> Arc<Directory> {
        Arc::new(Directory::of(nodes.iter().map(|node| Share::of(*node))))
    }

    fn install(
        holdings: &mut Holdings,
        number: u64,
        nodes: &[NodeId],
        pasts: &[(u64, &[NodeId])],
    ) -> Freed {
        let pasts: Vec<_> =
            pasts.iter().map(|(number, nodes)| (*number, directory(nodes))).collect();
        let freed =
            holdings.install(&Ground { number, directory: &directory(nodes), pasts: &pasts });
        holdings.begin();
        freed
    }

    fn slots(of: NodeId, nodes: &[NodeId]) -> SlotSet {
        directory(nodes).slots_of(CLASS, of).collect()
    }

    fn standings(holdings: &mut Holdings) -> (usize, usize) {
        let snapshot = holdings.take_served().expect("there is another one").ownership();
        let standings = (0..=u16::MAX).map(|slot| snapshot.standing_of(CLASS, slot));
        let mut counts = (0, 0);
        for standing in standings {
            match standing {
                Standing::Serving(_) => counts.0 += 1,
                Standing::Waiting => counts.1 += 1,
                Standing::Elsewhere(_) | Standing::Nowhere => {}
            }
        }
        counts
    }

    /// `A` served everything under view 1, and B came with view 2.
    fn grown() -> (Holdings, SlotSet) {
        let mut holdings = Holdings::new(A, 2);
        install(&mut holdings, 1, &[A], &[]);
        assert_eq!(standings(&mut holdings), (1 << 16, 0));
        assert_eq!(install(&mut holdings, 2, &[A, B], &[(1, &[A])]), []);
        (holdings, slots(B, &[A, B]))
    }

    fn shard_drains(holdings: &mut Holdings, number: u64, shard: u16, slots: &SlotSet) -> Freed {
        holdings.drained((number, ShardId::new(shard)), [(CLASS, slots.clone())])
    }

    #[test]
    fn ho2_what_is_lost_is_let_go_of_once_every_shard_is_done() {
        let (mut holdings, lost) = grown();
        assert_eq!(standings(&mut holdings), ((1 << 16) - lost.len(), 0));
        assert!(holdings.not_held(CLASS, &lost).is_empty());
        assert_eq!(holdings.settled(), 1);
        assert_eq!(shard_drains(&mut holdings, 2, 0, &lost), []);
        assert_eq!(shard_drains(&mut holdings, 2, 0, &lost), [], "it has said so");
        assert_eq!(shard_drains(&mut holdings, 2, 1, &lost), [(B, CLASS, lost.clone())]);
        assert_eq!(holdings.settled(), 2);
        assert_eq!(holdings.not_held(CLASS, &lost), lost);
        assert_eq!(holdings.take_served(), None, "nothing is new to shards");
    }

    #[test]
    fn ho2_what_comes_back_before_it_is_drained_is_served_again_only_then() {
        let (mut holdings, lost) = grown();
        install(&mut holdings, 3, &[A], &[(1, &[A]), (2, &[A, B])]);
        assert_eq!(standings(&mut holdings), ((1 << 16) - lost.len(), lost.len()));
        shard_drains(&mut holdings, 2, 0, &lost);
        assert_eq!(shard_drains(&mut holdings, 2, 1, &lost), [], "they are its own");
        holdings.begin();
        let snapshot = holdings.take_served().unwrap().ownership();
        for slot in 0..=u16::MAX {
            let epoch = if lost.contains(slot) { 3 } else { 1 };
            assert_eq!(snapshot.epoch_of(CLASS, slot), Some(Epoch(epoch)));
        }
    }

    #[test]
    fn ho1_what_is_won_is_served_once_its_owner_says_that_it_has_let_go() {
        let mine = slots(B, &[A, B]);
        let mut holdings = Holdings::new(B, 1);
        install(&mut holdings, 2, &[A, B], &[(1, &[A])]);
        assert_eq!(standings(&mut holdings), (0, mine.len()));
        assert_eq!(holdings.awaited().map(|(node, ..)| node).collect::<Vec<_>>(), [A]);
        let some: SlotSet = mine.iter().take(100).collect();
        holdings.released(A, 1, (CLASS, &some));
        holdings.released(C, 2, (CLASS, &some));
        holdings.begin();
        assert!(holdings.take_served().is_none(), "nobody else and no earlier view says it");
        holdings.released(A, 2, (CLASS, &some));
        holdings.begin();
        assert_eq!(standings(&mut holdings), (100, mine.len() - 100));
        holdings.settles(A, 2);
        holdings.begin();
        assert_eq!(standings(&mut holdings), (mine.len(), 0));
        assert!(!holdings.is_waiting());
    }

    #[test]
    fn ho1_who_is_no_member_any_more_is_not_waited_for() {
        let mut holdings = Holdings::new(B, 1);
        install(&mut holdings, 2, &[A, B], &[(1, &[A])]);
        install(&mut holdings, 3, &[B], &[(1, &[A]), (2, &[A, B])]);
        assert_eq!(standings(&mut holdings), (1 << 16, 0));
    }

    #[test]
    fn ho4_who_has_settled_by_a_view_that_is_not_known_is_waited_for_still() {
        let mut holdings = Holdings::new(B, 1);
        install(&mut holdings, 2, &[A, B], &[(1, &[A])]);
        holdings.settles(A, 3);
        assert!(holdings.is_waiting());
        install(&mut holdings, 4, &[A, B], &[(1, &[A]), (2, &[A, B]), (3, &[A])]);
        holdings.settles(A, 3);
        assert!(holdings.is_waiting(), "view 3 gave it back");
        holdings.settles(A, 4);
        assert!(!holdings.is_waiting());
    }

    #[test]
    fn a_slot_that_was_waited_for_and_is_lost_again_is_passed_on_at_once() {
        let mut holdings = Holdings::new(B, 1);
        install(&mut holdings, 2, &[A, B], &[(1, &[A])]);
        let mine = slots(B, &[A, B]);
        let kept = slots(B, &[A, B, C]);
        let freed = install(&mut holdings, 3, &[A, B, C], &[(1, &[A]), (2, &[A, B])]);
        assert_eq!(freed, [(C, CLASS, mine.without(&kept))]);
        assert_eq!(holdings.settled(), 3);
    }

    #[test]
    fn what_was_drained_by_the_node_before_is_nothing_to_this_one() {
        let (mut holdings, lost) = grown();
        let mut again = Holdings::new(C, 1);
        assert_eq!(shard_drains(&mut again, 2, 0, &lost), []);
        install(&mut again, 5, &[A, B, C], &[]);
        install(&mut again, 6, &[A, B], &[(5, &[A, B, C])]);
        let lost = slots(C, &[A, B, C]);
        assert_eq!(shard_drains(&mut again, 4, 0, &lost), []);
        assert_eq!(shard_drains(&mut again, 6, 0, &lost).len(), 2);
        assert_eq!(shard_drains(&mut holdings, 2, 7, &lost), [], "there is no such shard");
    }
}
