//! The directory: which node owns which slot, by one view of the fabric.
//!
//! A function of the view's members alone: whoever has the same view has the same directory, and a
//! member that comes or goes moves no slot between the others (rendezvous hashing: Thaler,
//! Ravishankar, *Using name-based mappings to increase hit rates*, 1998).
//!
//! # Invariants
//! - **V1** Each slot has exactly one owner among the members.
//! - **V2** A change of members moves only slots that a leaving one owned or a coming one owns.
//!
//! # Not here
//! Who the members are, and when that changes.

use epicserver_wire::{EntityId, NodeId};

/// Slots of a fabric.
pub const SLOTS: usize = 1 << 16;

/// Who owns which slot.
#[derive(Clone, PartialEq, Eq)]
pub struct Directory {
    members: Vec<NodeId>,
    owners: Box<[u16]>,
}

/// How much `node` wants `slot`.
fn score(slot: u16, node: NodeId) -> u64 {
    // SplitMix64's finaliser (Steele, Lea, Flood 2014) over both.
    let mix = |value: u64| {
        let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    };
    mix(mix(node.as_u64()) ^ mix(u64::from(slot).wrapping_add(0x9e37_79b9_7f4a_7c15)))
}

impl Directory {
    /// The directory of these members; the order in which they are named does not matter.
    ///
    /// # Panics
    /// If there are none, or more than 65,535.
    #[must_use]
    pub fn of(members: impl IntoIterator<Item = NodeId>) -> Self {
        let mut members: Vec<NodeId> = members.into_iter().collect();
        members.sort_unstable();
        members.dedup();
        assert!(!members.is_empty(), "V1: a slot needs an owner");
        let count = u16::try_from(members.len());
        let Ok(count) = count else { panic!("V1: an owner's number has 16 bits") };
        let best = |slot: u16| {
            let scored = (0..count).map(|at| (score(slot, members[usize::from(at)]), at));
            scored.max().map_or(0, |(_, at)| at)
        };
        let owners = (0..=u16::MAX).map(best).collect();
        Self { members, owners }
    }

    /// The members, by id.
    #[must_use]
    pub fn members(&self) -> &[NodeId] {
        &self.members
    }

    /// Which node owns the slot of `entity`.
    #[must_use]
    pub fn owner(&self, entity: &EntityId) -> NodeId {
        self.members[self.owner_index(entity)]
    }

    /// The same as a place in [`members`](Self::members).
    #[must_use]
    pub fn owner_index(&self, entity: &EntityId) -> usize {
        self.owners.get(usize::from(entity.slot())).copied().map_or(0, usize::from)
    }

    /// How many slots each member owns, in the order of [`members`](Self::members).
    #[must_use]
    pub fn shares(&self) -> Vec<u32> {
        let mut shares = vec![0; self.members.len()];
        for owner in &self.owners {
            shares[usize::from(*owner)] += 1;
        }
        shares
    }
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Directory").field("members", &self.members).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(count: u64) -> Vec<NodeId> {
        (0..count).map(|n| NodeId::new(n * 0x1234_5678_9abc + 7)).collect()
    }

    #[test]
    fn v1_shares_are_balanced() {
        for share in Directory::of(nodes(8)).shares() {
            assert!((7_500..8_900).contains(&share), "{share}");
        }
    }

    #[test]
    fn v2_a_member_that_leaves_moves_its_own_slots_only() {
        let all = nodes(5);
        let (before, after) = (Directory::of(all.clone()), Directory::of(all[1..].to_vec()));
        let owner = |directory: &Directory, slot: usize| {
            directory.members[usize::from(directory.owners[slot])]
        };
        for slot in 0..SLOTS {
            let was = owner(&before, slot);
            assert!(was == all[0] || was == owner(&after, slot));
        }
    }

    #[test]
    fn the_order_of_members_does_not_matter() {
        let mut reversed = nodes(4);
        reversed.reverse();
        assert_eq!(Directory::of(reversed), Directory::of(nodes(4)));
    }
}
