//! Sets of slots of one class.
//!
//! On the wire: 0 and the slots (2 bytes each), in order; or 1, the first of 16,384 slots (2), and a bit for each of
//! those (2 KiB), whichever is shorter.
//!
//! # Invariants
//! - **SS1** Slots are in order, each once; a set that travels is of one part, and one that is not is not read.
//!
//! # Not here
//! What a set is of.

use crate::fields::{Bytes, Unread};

/// Slots of one set that travels.
pub(crate) const PART: usize = 1 << 14;
const BITMAP: usize = PART / 8;
const LIST: u8 = 0;
const BITS: u8 = 1;

/// Slots in a set from which on it is kept as bits.
const MANY: usize = 1 << 10;
const WORDS: usize = (1 << 16) / 64;

type Bits = Box<[u64]>;

/// A set of slots: a list of few, or bits of many.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum SlotSet {
    Few(Vec<u16>),
    /// With how many there are, which are at least [`MANY`].
    Many(Bits, usize),
}

impl Default for SlotSet {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl std::fmt::Debug for SlotSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.len() {
            0..=16 => f.debug_set().entries(self.iter()).finish(),
            many => write!(f, "{many} slots"),
        }
    }
}

impl FromIterator<u16> for SlotSet {
    fn from_iter<T: IntoIterator<Item = u16>>(slots: T) -> Self {
        let mut slots: Vec<u16> = slots.into_iter().collect();
        if !slots.is_sorted() {
            slots.sort_unstable();
        }
        slots.dedup();
        Self::of_list(slots)
    }
}

fn has(bits: &[u64], slot: u16) -> bool {
    bits.get(usize::from(slot) / 64).is_some_and(|word| word >> (slot % 64) & 1 == 1)
}

impl SlotSet {
    /// That of the slots whose owner, of all in order, is `owner`.
    pub(crate) fn owned(owners: &[u16], owner: u16) -> Self {
        let word = |owners: &[u16]| {
            let bits = owners.iter().enumerate();
            bits.fold(0, |word, (at, of)| word | u64::from(*of == owner) << at)
        };
        let mut bits: Bits = owners.chunks(64).map(word).collect();
        if bits.len() < WORDS {
            bits = bits.into_iter().chain(std::iter::repeat(0)).take(WORDS).collect();
        }
        Self::of_bits(bits)
    }

    /// Of slots in order, each once (**SS1**).
    fn of_list(slots: Vec<u16>) -> Self {
        if slots.len() < MANY {
            return Self::Few(slots);
        }
        let mut bits: Bits = vec![0; WORDS].into();
        for slot in &slots {
            bits[usize::from(*slot) / 64] |= 1 << (slot % 64);
        }
        Self::Many(bits, slots.len())
    }

    fn of_bits(bits: Bits) -> Self {
        let count = bits.iter().map(|word| word.count_ones() as usize).sum();
        let many = Self::Many(bits, count);
        if count < MANY { Self::Few(many.iter().collect()) } else { many }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Few(slots) => slots.len(),
            Self::Many(_, count) => *count,
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        let (few, many) = match self {
            Self::Few(slots) => (&slots[..], &[][..]),
            Self::Many(bits, _) => (&[][..], &bits[..]),
        };
        let words = (0_u16..).zip(many).flat_map(|(at, word)| {
            let mut word = *word;
            std::iter::from_fn(move || {
                let bit = u16::try_from(word.trailing_zeros()).ok().filter(|bit| *bit < 64)?;
                word &= word - 1;
                Some(at * 64 + bit)
            })
        });
        few.iter().copied().chain(words)
    }

    pub(crate) fn contains(&self, slot: u16) -> bool {
        match self {
            Self::Few(slots) => slots.binary_search(&slot).is_ok(),
            Self::Many(bits, _) => has(bits, slot),
        }
    }

    /// Those of both.
    pub(crate) fn and(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Many(bits, _), Self::Many(others, _)) => words(bits, others, |a, b| a & b),
            (Self::Few(slots), other) | (other, Self::Few(slots)) => {
                Self::Few(slots.iter().copied().filter(|slot| other.contains(*slot)).collect())
            }
        }
    }

    /// Those of either.
    pub(crate) fn or(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Many(bits, _), Self::Many(others, _)) => words(bits, others, |a, b| a | b),
            (Self::Few(slots), Self::Few(others)) => slots.iter().chain(others).copied().collect(),
            (Self::Many(bits, _), Self::Few(slots)) | (Self::Few(slots), Self::Many(bits, _)) => {
                let mut bits = bits.clone();
                slots.iter().for_each(|slot| bits[usize::from(*slot) / 64] |= 1 << (slot % 64));
                Self::of_bits(bits)
            }
        }
    }

    /// Those that are not of `other`.
    pub(crate) fn without(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Few(slots), other) => {
                Self::Few(slots.iter().copied().filter(|slot| !other.contains(*slot)).collect())
            }
            (Self::Many(bits, _), Self::Many(others, _)) => words(bits, others, |a, b| a & !b),
            (Self::Many(bits, _), Self::Few(slots)) => {
                let mut bits = bits.clone();
                slots.iter().for_each(|slot| bits[usize::from(*slot) / 64] &= !(1 << (slot % 64)));
                Self::of_bits(bits)
            }
        }
    }

    /// The same in parts, each of which can be written.
    pub(crate) fn parts(&self) -> impl Iterator<Item = Self> + use<> {
        let slots: Vec<u16> = self.iter().collect();
        let same = |one: &u16, other: &u16| usize::from(*one) / PART == usize::from(*other) / PART;
        let parts: Vec<Self> =
            slots.chunk_by(same).map(|part| Self::of_list(part.to_vec())).collect();
        parts.into_iter()
    }

    /// Writes it, which is one part.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let slots: Vec<u16> = self.iter().collect();
        assert!(are_one_part(&slots), "SS1: a set that travels is of one part");
        if slots.len() * 2 <= BITMAP {
            out.push(LIST);
            slots.iter().for_each(|slot| out.extend(slot.to_le_bytes()));
            return;
        }
        let first = slots.first().map_or(0, |slot| usize::from(*slot) / PART * PART);
        out.push(BITS);
        out.extend(u16::try_from(first).unwrap_or(0).to_le_bytes());
        let mut bits = vec![0; BITMAP];
        for slot in &slots {
            let at = usize::from(*slot) - first;
            bits[at / 8] |= 1_u8 << (at % 8);
        }
        out.extend(bits);
    }

    /// What [`write`](Self::write) has written.
    pub(crate) fn read(mut bytes: Bytes<'_>) -> Result<Self, Unread> {
        let slots: Vec<u16> = match bytes.u8()? {
            LIST if bytes.0.len() <= BITMAP => {
                bytes.0.chunks(2).map(|slot| Bytes(slot).u16()).collect::<Result<_, Unread>>()?
            }
            BITS => {
                let first = bytes.u16()?;
                let bits: [u8; BITMAP] = bytes.take()?;
                let set = |at: u16| bits[usize::from(at / 8)] & (1 << (at % 8)) != 0;
                if !usize::from(first).is_multiple_of(PART) {
                    return Err(Unread::Malformed);
                }
                let part = u16::try_from(PART).unwrap_or(0);
                (0..part).filter(|at| set(*at)).map(|at| first + at).collect()
            }
            _ => return Err(Unread::Malformed),
        };
        let rise = slots.windows(2).all(|pair| pair[0] < pair[1]);
        if rise && are_one_part(&slots) { Ok(Self::of_list(slots)) } else { Err(Unread::Malformed) }
    }
}

/// Whether slots that are in order are of one part.
fn are_one_part(slots: &[u16]) -> bool {
    let part = |slot: Option<&u16>| slot.map(|slot| usize::from(*slot) / PART);
    part(slots.first()) == part(slots.last())
}

/// Combines two sets of many, word by word.
fn words(one: &[u64], other: &[u64], combine: fn(u64, u64) -> u64) -> SlotSet {
    SlotSet::of_bits(one.iter().zip(other).map(|(a, b)| combine(*a, *b)).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn any_set() -> impl Strategy<Value = BTreeSet<u16>> {
        prop_oneof![
            prop::collection::btree_set(any::<u16>(), 0..20),
            prop::collection::btree_set(0..30_u16, 0..20),
            (any::<u16>(), 2..9_u16).prop_map(|(from, step)| {
                (from..=u16::MAX).step_by(usize::from(step)).take(3_000).collect()
            }),
        ]
    }

    fn of(set: &BTreeSet<u16>) -> SlotSet {
        set.iter().copied().collect()
    }

    #[test]
    fn ss1_what_a_member_owns_is_where_its_number_is() {
        for step in [3, 700] {
            let owners: Vec<u16> = (0..=u16::MAX).map(|slot| slot % step).collect();
            let owned = (0..=u16::MAX).filter(|slot| slot % step == 2);
            assert_eq!(SlotSet::owned(&owners, 2), owned.collect());
        }
    }

    #[test]
    fn ss1_a_list_that_is_of_two_parts_is_not_read() {
        let bytes = [&[LIST][..], &7_u16.to_le_bytes(), &0x4000_u16.to_le_bytes()].concat();
        assert_eq!(SlotSet::read(Bytes(&bytes[..3])), Ok(SlotSet::Few(vec![7])));
        assert_eq!(SlotSet::read(Bytes(&bytes)), Err(Unread::Malformed));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn ss1_sets_are_combined_as_sets_are(a in any_set(), b in any_set()) {
            prop_assert_eq!(of(&a).and(&of(&b)), of(&(&a & &b)));
            prop_assert_eq!(of(&a).or(&of(&b)), of(&(&a | &b)));
            prop_assert_eq!(of(&a).without(&of(&b)), of(&(&a - &b)));
            prop_assert!(of(&a).iter().eq(a.iter().copied()));
            prop_assert_eq!(of(&a).len(), a.len());
        }

        #[test]
        fn ss1_parts_are_read_as_they_were_written_and_make_up_the_whole(set in any_set()) {
            let mut whole = SlotSet::default();
            for part in of(&set).parts() {
                let mut bytes = Vec::new();
                part.write(&mut bytes);
                prop_assert!(bytes.len() <= BITMAP + 3);
                prop_assert_eq!(SlotSet::read(Bytes(&bytes)), Ok(part.clone()));
                whole = whole.or(&part);
            }
            prop_assert_eq!(whole, of(&set));
        }

        #[test]
        fn ss1_whatever_is_read_is_in_order(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(set) = SlotSet::read(Bytes(&bytes)) {
                prop_assert!(set.iter().is_sorted_by(|a, b| a < b));
            }
        }
    }
}
