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
//! - **V4** A directory that was made from an earlier one is the one that would be made from nothing.
//!
//! # Not here
//! Who the members are, and when that changes. Whether an owner serves its slot already.

use epicserver_wire::{ClassId, EntityId, NodeId};

use crate::view::Share;

/// Slots of each class.
pub const SLOTS: usize = 1 << 16;

/// No owner.
pub(crate) const NOBODY: u16 = u16::MAX;

/// Who owns which slot.
#[derive(Clone, PartialEq, Eq)]
pub struct Directory {
    members: Vec<NodeId>,
    /// What they were told of, by id.
    shares: Vec<Share>,
    classes: Vec<(ClassId, Box<[u16]>)>,
}

/// Spreads every bit over all of them: SplitMix64's finaliser (Steele, Lea, Flood 2014).
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// What `slot` is in scores.
fn place(class: ClassId, slot: u16) -> u64 {
    let place = u64::from(class.as_u16()) << 16 | u64::from(slot);
    mix(place.wrapping_add(0x9e37_79b9_7f4a_7c15))
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

/// At most the rarity of `score`, and cheap: no logarithm of `1 - y` is as near to 0 as `-y / ln 2`.
fn rarity_min(score: u64) -> u64 {
    // 1 / ln 2 with 24 bits behind the point, rounded down; y has 32.
    const LN2_INVERSE: u64 = 24_204_406;
    ((!score >> 32) * LN2_INVERSE) >> 30
}

/// One who may own slots of a class.
#[derive(Clone, Copy)]
struct Bidder {
    /// Its place among the members.
    at: u16,
    weight: u16,
    /// What it is in scores.
    seed: u64,
}

impl Bidder {
    /// How much it wants the slot at `place`, if all weighed the same: evenly distributed.
    fn score(&self, place: u64) -> u64 {
        mix(self.seed ^ place)
    }
}

/// The best bid for a slot so far. Who pays least gets it; ties go to the higher score, then to the lesser id.
struct Best {
    place: u64,
    owner: u16,
    price: u64,
    score: u64,
}

impl Best {
    fn none(place: u64) -> Self {
        Self { place, owner: NOBODY, price: u64::MAX, score: 0 }
    }

    /// Bids of members whose weights are all the same: the highest score pays least, so no logarithm is needed.
    fn bid_evenly(&mut self, bidder: &Bidder) {
        let score = bidder.score(self.place);
        if self.owner == NOBODY || (score, self.owner) > (self.score, bidder.at) {
            (self.owner, self.score) = (bidder.at, score);
        }
    }

    fn bid(&mut self, bidder: &Bidder) {
        let (score, weight) = (bidder.score(self.place), u64::from(bidder.weight));
        // Most bids are too high whatever their last digits are.
        let highest = self.price.saturating_add(1).saturating_mul(weight);
        if rarity_min(score) << PRICE_BITS >= highest {
            return;
        }
        let price = (rarity(score) << PRICE_BITS) / weight;
        let better = (price, !score, bidder.at) < (self.price, !self.score, self.owner);
        if self.owner == NOBODY || better {
            (self.owner, self.price, self.score) = (bidder.at, price, score);
        }
    }
}

/// Bits of a price behind its point.
const PRICE_BITS: u32 = 20;

/// Those who bid for slots of one class.
struct Auction {
    class: ClassId,
    bidders: Vec<Bidder>,
    even: bool,
}

impl Auction {
    fn of(class: ClassId, shares: &[Share], seeds: &[u64]) -> Self {
        let offers = |share: &Share| share.weight > 0 && share.classes.contains(&class);
        let offering = (0..NOBODY).zip(shares.iter().zip(seeds));
        let bidders: Vec<Bidder> = offering
            .filter(|(_, (share, _))| offers(share))
            .map(|(at, (share, seed))| Bidder { at, weight: share.weight, seed: *seed })
            .collect();
        let even = bidders.windows(2).all(|pair| pair[0].weight == pair[1].weight);
        Self { class, bidders, even }
    }

    fn best_of(&self, slot: u16, bidders: impl Iterator<Item = Bidder>) -> u16 {
        let mut best = Best::none(place(self.class, slot));
        if self.even {
            bidders.for_each(|bidder| best.bid_evenly(&bidder));
        } else {
            bidders.for_each(|bidder| best.bid(&bidder));
        }
        best.owner
    }

    fn owner(&self, slot: u16) -> u16 {
        self.best_of(slot, self.bidders.iter().copied())
    }

    /// The owners, if those were `owners` before that still mean what they meant: `kept` gives the place of each
    /// former member whose share is as it was, and `fresh` tells of the others that bid now.
    fn owners_after(&self, owners: &[u16], kept: &[u16], fresh: &[bool]) -> Box<[u16]> {
        // By former place, each bidder that stays.
        let stays = |at: &u16| {
            let bids = self.bidders.binary_search_by_key(at, |bidder| bidder.at).ok();
            bids.filter(|_| *at != NOBODY)
        };
        let stays: Vec<Option<usize>> = kept.iter().map(stays).collect();
        let is_fresh = |bidder: &&Bidder| fresh[usize::from(bidder.at)];
        let fresh: Vec<Bidder> = self.bidders.iter().filter(is_fresh).copied().collect();
        let after = |(slot, owner): (u16, &u16)| {
            match stays.get(usize::from(*owner)).copied().flatten() {
                // V2: nobody whom it was kept from before can get it now.
                Some(owner) if fresh.is_empty() => self.bidders[owner].at,
                Some(owner) => {
                    let owner = self.bidders.get(owner);
                    self.best_of(slot, owner.into_iter().chain(&fresh).copied())
                }
                None => self.owner(slot),
            }
        };
        (0..=u16::MAX).zip(owners).map(after).collect()
    }
}

/// Shares by id, each node once.
fn sorted(shares: impl IntoIterator<Item = Share>) -> Vec<Share> {
    let mut shares: Vec<Share> = shares.into_iter().collect();
    shares.sort_unstable();
    shares.dedup_by_key(|share| share.node);
    assert!(shares.len() <= usize::from(NOBODY), "V1: an owner's number has 16 bits");
    shares
}

impl Directory {
    /// The directory of members with these shares; the order in which they are named does not matter.
    ///
    /// # Panics
    /// If there are more than 65,535.
    #[must_use]
    pub fn of(shares: impl IntoIterator<Item = Share>) -> Self {
        let shares = sorted(shares);
        Self::by(shares, |auction| (0..=u16::MAX).map(|slot| auction.owner(slot)).collect())
    }

    /// The same as [`of`](Self::of), found sooner where most members are those of this directory: it asks those who
    /// came or changed for all slots, and all for the slots of those who went.
    ///
    /// # Panics
    /// If there are more than 65,535.
    #[must_use]
    pub fn after(&self, shares: impl IntoIterator<Item = Share>) -> Self {
        let shares = sorted(shares);
        let mut fresh = vec![true; shares.len()];
        let find = |before: &Share| {
            let at = shares.binary_search_by_key(&before.node, |share| share.node).ok()?;
            (shares[at] == *before).then_some(at)
        };
        let kept: Vec<Option<usize>> = self.shares.iter().map(find).collect();
        kept.iter().flatten().for_each(|at| fresh[*at] = false);
        let short = |at: &Option<usize>| at.and_then(|at| u16::try_from(at).ok()).unwrap_or(NOBODY);
        let kept: Vec<u16> = kept.iter().map(short).collect();
        Self::by(shares, |auction| match self.owners_of(auction.class) {
            Some(owners) => auction.owners_after(owners, &kept, &fresh),
            None => (0..=u16::MAX).map(|slot| auction.owner(slot)).collect(),
        })
    }

    fn by(shares: Vec<Share>, owners: impl Fn(&Auction) -> Box<[u16]>) -> Self {
        let seeds: Vec<u64> = shares.iter().map(|share| mix(share.node.as_u64())).collect();
        let mut classes: Vec<ClassId> =
            shares.iter().flat_map(|share| share.classes.iter().copied()).collect();
        classes.sort_unstable();
        classes.dedup();
        let found = |class| (class, owners(&Auction::of(class, &shares, &seeds)));
        let classes = classes.into_iter().map(found).collect();
        let members = shares.iter().map(|share| share.node).collect();
        Self { members, shares, classes }
    }

    pub(crate) fn owners_of(&self, class: ClassId) -> Option<&[u16]> {
        let (_, owners) = self.classes.iter().find(|(of, _)| *of == class)?;
        Some(owners)
    }

    /// What it follows from, by id.
    #[must_use]
    pub fn members_shares(&self) -> &[Share] {
        &self.shares
    }

    /// The slots of `class` that `node` owns, in order.
    pub fn slots_of(&self, class: ClassId, node: NodeId) -> impl Iterator<Item = u16> + '_ {
        let at = self.members.binary_search(&node).ok().and_then(|at| u16::try_from(at).ok());
        let owners = at.and_then(|_| self.owners_of(class)).unwrap_or(&[]);
        (0..=u16::MAX)
            .zip(owners)
            .filter(move |(_, owner)| Some(**owner) == at)
            .map(|(slot, _)| slot)
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
        let owners = self.owners_of(class)?;
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
    use proptest::prelude::*;

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

    /// What is said of owners, without any short cut.
    fn plainly(shares: &[Share], slot: u16) -> Option<NodeId> {
        let bidding =
            shares.iter().filter(|share| share.weight > 0 && share.classes.contains(&CLASS));
        let bids = bidding.map(|share| {
            let score = mix(mix(share.node.as_u64()) ^ place(CLASS, slot));
            ((rarity(score) << PRICE_BITS) / u64::from(share.weight), !score, share.node)
        });
        bids.min().map(|(_, _, node)| node)
    }

    #[test]
    fn v3_short_cuts_change_no_owner() {
        for weights in [[100, 100, 100, 100], [1, 7, 60_000, 300], [0, 1, 2, 65_535]] {
            let mut shares = nodes(4);
            shares.iter_mut().zip(weights).for_each(|(share, weight)| share.weight = weight);
            let directory = Directory::of(shares.clone());
            for slot in (0..=u16::MAX).step_by(13) {
                assert_eq!(directory.owner_of(CLASS, slot), plainly(&shares, slot), "{slot}");
            }
        }
    }

    #[test]
    fn v3_the_cheap_bound_of_a_logarithm_is_below_it() {
        for score in (0..10_000_u64).map(mix).chain([0, 1, u64::MAX, u64::MAX - 1, 1 << 63]) {
            assert!(rarity_min(score) <= rarity(score), "{score}");
        }
        let near = (rarity(u64::MAX - (1 << 52)), rarity_min(u64::MAX - (1 << 52)));
        assert!(near.0 - near.1 < 16, "{near:?}");
    }

    #[test]
    fn slots_of_a_node_are_those_that_it_owns() {
        let (shares, stranger) = (nodes(3), NodeId::new(1));
        let directory = Directory::of(shares.clone());
        let node = shares[1].node;
        let owned = (0..=u16::MAX).filter(|slot| directory.owner_of(CLASS, *slot) == Some(node));
        assert!(directory.slots_of(CLASS, node).eq(owned));
        assert_eq!(directory.slots_of(CLASS, stranger).count(), 0);
        assert_eq!(directory.slots_of(ClassId::of("gpu"), node).count(), 0);
    }

    fn any_shares() -> impl Strategy<Value = Vec<Share>> {
        let weight = prop_oneof![Just(100_u16), Just(100), 0..4_u16, any::<u16>()];
        let one = (0..9_u64, weight, 0..3_usize);
        prop::collection::vec(one, 0..7).prop_map(|drawn| {
            let classes =
                [vec![CLASS], vec![CLASS, ClassId::from_u16(9)], vec![ClassId::from_u16(9)]];
            let share = |(node, weight, offers): (u64, u16, usize)| Share {
                node: NodeId::new(node),
                weight,
                classes: classes[offers].clone(),
            };
            drawn.into_iter().map(share).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 5, ..ProptestConfig::default() })]
        #[test]
        fn v4_what_follows_from_a_directory_is_what_follows_from_nothing(
            before in any_shares(), after in any_shares(),
        ) {
            let made = Directory::of(after.clone());
            prop_assert_eq!(Directory::of(before).after(after), made);
        }
    }

    #[test]
    fn the_order_of_members_does_not_matter() {
        let mut reversed = nodes(4);
        reversed.reverse();
        assert_eq!(Directory::of(reversed), Directory::of(nodes(4)));
    }
}
