//! The directory: which node owns which slot of which placement class, by one view of the fabric.
//!
//! A function of the view's members alone: whoever has the same view has the same directory, and a
//! member that comes or goes moves no slot between the others (weighted rendezvous hashing: Thaler,
//! Ravishankar, *Using name-based mappings to increase hit rates*, 1998; Schindelhauer, Schomaker,
//! *Weighted distributed hash tables*, 2005, for the weights).
//!
//! # Invariants
//! - **V1** Each slot of a class has exactly one owner, if a member with a weight offers that class.
//! - **V2** A change of members moves only slots that a leaving one owned or a coming one owns.
//! - **V3** Owners follow from integers alone, so that every machine finds the same.
//!
//! # Not here
//! Who the members are, and when that changes. Whether an owner serves its slot already.

use epicserver_wire::{ClassId, EntityId, NodeId};

use crate::view::Share;

/// Slots of each class.
pub const SLOTS: usize = 1 << 16;

/// No owner.
const NOBODY: u16 = u16::MAX;

/// Who owns which slot.
#[derive(Clone, PartialEq, Eq)]
pub struct Directory {
    members: Vec<NodeId>,
    classes: Vec<(ClassId, Box<[u16]>)>,
}

/// How much `node` wants `slot`, if all weighed the same: evenly distributed.
fn score(class: ClassId, slot: u16, node: NodeId) -> u64 {
    // SplitMix64's finaliser (Steele, Lea, Flood 2014) over all three.
    let mix = |value: u64| {
        let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    };
    let place = u64::from(class.as_u16()) << 16 | u64::from(slot);
    mix(mix(node.as_u64()) ^ mix(place.wrapping_add(0x9e37_79b9_7f4a_7c15)))
}

/// `-log2((score + 1) / 2^64)`, in 2^-26: 0 for the highest score, falling as the score rises.
fn rarity(score: u64) -> u64 {
    const BITS: u32 = 26;
    let zeros = score.leading_zeros();
    // The mantissa, 1 to 2, with 31 bits behind the point; the square root halves the exponent, so each
    // squaring gives one bit of the logarithm.
    let mut mantissa = if score == 0 { 1 << 31 } else { (score << zeros) >> 32 };
    let mut log = u64::from(63 - zeros.min(63));
    for _ in 0..BITS {
        mantissa = (mantissa * mantissa) >> 31;
        let bit = mantissa >> 32;
        mantissa >>= bit;
        log = log << 1 | bit;
    }
    (64 << BITS) - log
}

/// What a member pays for a slot: who pays least gets it. Ties go to the higher score, then to the lesser id.
fn price(share: &Share, score: u64) -> u64 {
    (rarity(score) << 20) / u64::from(share.weight)
}

fn owners(class: ClassId, shares: &[Share]) -> Box<[u16]> {
    let offers = |share: &Share| share.weight > 0 && share.classes.contains(&class);
    let offering: Vec<(u16, &Share)> =
        (0..NOBODY).zip(shares).filter(|(_, share)| offers(share)).collect();
    // Of equal weights the highest score pays least: no logarithm is needed.
    let even = offering.windows(2).all(|pair| pair[0].1.weight == pair[1].1.weight);
    let best = |slot: u16| {
        let bids = offering.iter().map(|(at, share)| (score(class, slot, share.node), *at, *share));
        let best = if even {
            bids.max_by_key(|(score, at, _)| (*score, std::cmp::Reverse(*at)))
        } else {
            bids.min_by_key(|(score, at, share)| (price(share, *score), !score, *at))
        };
        best.map_or(NOBODY, |(_, at, _)| at)
    };
    (0..=u16::MAX).map(best).collect()
}

impl Directory {
    /// The directory of members with these shares; the order in which they are named does not matter.
    ///
    /// # Panics
    /// If there are more than 65,535.
    #[must_use]
    pub fn of(shares: impl IntoIterator<Item = Share>) -> Self {
        let mut shares: Vec<Share> = shares.into_iter().collect();
        shares.sort_unstable();
        shares.dedup_by_key(|share| share.node);
        assert!(shares.len() <= usize::from(NOBODY), "V1: an owner's number has 16 bits");
        let mut classes: Vec<ClassId> =
            shares.iter().flat_map(|share| share.classes.iter().copied()).collect();
        classes.sort_unstable();
        classes.dedup();
        let classes = classes.into_iter().map(|class| (class, owners(class, &shares))).collect();
        Self { members: shares.into_iter().map(|share| share.node).collect(), classes }
    }

    /// The members, by id.
    #[must_use]
    pub fn members(&self) -> &[NodeId] {
        &self.members
    }

    /// The classes that some member offers, in order.
    pub fn classes(&self) -> impl Iterator<Item = ClassId> + '_ {
        self.classes.iter().map(|(class, _)| *class)
    }

    /// Which node owns the slot of `entity`; `None` if none offers its class.
    #[must_use]
    pub fn owner(&self, entity: &EntityId) -> Option<NodeId> {
        self.owner_of(entity.class(), entity.slot())
    }

    /// The same as a place in [`members`](Self::members).
    #[inline]
    #[must_use]
    pub fn owner_index(&self, entity: &EntityId) -> Option<usize> {
        self.index_of(entity.class(), entity.slot())
    }

    /// Which node owns `slot` of `class`.
    #[must_use]
    pub fn owner_of(&self, class: ClassId, slot: u16) -> Option<NodeId> {
        self.members.get(self.index_of(class, slot)?).copied()
    }

    #[inline]
    pub(crate) fn index_of(&self, class: ClassId, slot: u16) -> Option<usize> {
        let (_, owners) = self.classes.iter().find(|(of, _)| *of == class)?;
        owners.get(usize::from(slot)).filter(|owner| **owner != NOBODY).map(|at| usize::from(*at))
    }

    /// How many slots of `class` each member owns, in the order of [`members`](Self::members).
    #[must_use]
    pub fn shares(&self, class: ClassId) -> Vec<u32> {
        let mut shares = vec![0; self.members.len()];
        for slot in 0..=u16::MAX {
            if let Some(at) = self.index_of(class, slot) {
                shares[at] += 1;
            }
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

    const CLASS: ClassId = ClassId::DEFAULT;

    fn nodes(count: u64) -> Vec<Share> {
        (0..count).map(|n| Share::of(NodeId::new(n * 0x1234_5678_9abc + 7))).collect()
    }

    fn moved(before: &Directory, after: &Directory) -> Vec<(NodeId, NodeId)> {
        let owners = (0..=u16::MAX).map(|slot| {
            (before.owner_of(CLASS, slot).unwrap(), after.owner_of(CLASS, slot).unwrap())
        });
        owners.filter(|(before, after)| before != after).collect()
    }

    #[test]
    fn v1_shares_are_balanced() {
        for share in Directory::of(nodes(8)).shares(CLASS) {
            assert!((7_500..8_900).contains(&share), "{share}");
        }
        let shares = Directory::of(nodes(100)).shares(CLASS);
        let most = f64::from(*shares.iter().max().unwrap());
        assert!(most <= 1.5 * 65_536.0 / 100.0, "{most}");
    }

    #[test]
    fn v1_shares_follow_the_weights() {
        let mut shares = nodes(4);
        shares[0].weight = 300;
        shares[1].weight = 0;
        let owned = Directory::of(shares).shares(CLASS);
        assert!((38_300..40_300).contains(&owned[0]), "three fifths of all: {owned:?}");
        assert_eq!(owned[1], 0);
        assert!((12_400..13_800).contains(&owned[2]), "{owned:?}");
    }

    #[test]
    fn v1_a_class_is_owned_by_those_that_offer_it() {
        let mut shares = nodes(3);
        let (gpu, none) = (ClassId::of("gpu"), ClassId::of("none"));
        shares[1].classes = vec![gpu];
        let (directory, owner) = (Directory::of(shares.clone()), shares[1].node);
        assert!((0..=u16::MAX).all(|slot| directory.owner_of(gpu, slot) == Some(owner)));
        assert_eq!(directory.shares(CLASS)[1], 0);
        assert_eq!(directory.owner_of(none, 7), None);
    }

    #[test]
    fn v2_a_member_that_leaves_moves_its_own_slots_only() {
        let all = nodes(5);
        let (before, after) = (Directory::of(all.clone()), Directory::of(all[1..].to_vec()));
        assert!(moved(&before, &after).iter().all(|(from, _)| *from == all[0].node));
    }

    #[test]
    fn v2_a_member_that_grows_takes_slots_and_gives_none() {
        let before = nodes(5);
        let mut after = before.clone();
        after[2].weight = 250;
        let moved = moved(&Directory::of(before.clone()), &Directory::of(after));
        assert!(moved.len() > 5_000, "{}", moved.len());
        assert!(moved.iter().all(|(_, to)| *to == before[2].node));
    }

    #[test]
    fn v3_equal_weights_are_the_same_with_and_without_logarithms() {
        let even = nodes(6);
        let mut with_idle = even.clone();
        with_idle.push(Share { weight: 1, ..Share::of(NodeId::new(u64::MAX)) });
        let (even, other) = (Directory::of(even), Directory::of(with_idle));
        assert!(moved(&even, &other).iter().all(|(_, to)| *to == NodeId::new(u64::MAX)));
    }

    #[test]
    fn v3_the_logarithm_is_exact_at_powers_of_two_and_falls() {
        assert_eq!(rarity(1 << 63), 1 << 26);
        assert_eq!(rarity(1 << 32), 32 << 26);
        assert_eq!(rarity(1), 64 << 26);
        let scores = (0..1000).map(|n| n * (u64::MAX / 1000));
        assert!(scores.clone().zip(scores.skip(1)).all(|(a, b)| rarity(a) > rarity(b)));
    }

    #[test]
    fn the_order_of_members_does_not_matter() {
        let mut reversed = nodes(4);
        reversed.reverse();
        assert_eq!(Directory::of(reversed), Directory::of(nodes(4)));
    }
}
