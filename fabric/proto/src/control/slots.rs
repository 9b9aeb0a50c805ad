//! Sets of slots of one class.
//!
//! On the wire: 0 and the slots (2 bytes each), in order; or 1, the first of 16,384 slots (2), and a bit for each of
//! those (2 KiB), whichever is shorter.
//!
//! # Invariants
//! - **SS1** Slots are in order, each once.
//!
//! # Not here
//! What a set is of.

use crate::fields::{Bytes, Unread};

/// Slots of one set that travels.
pub(crate) const PART: usize = 1 << 14;
const BITMAP: usize = PART / 8;
const LIST: u8 = 0;
const BITS: u8 = 1;

/// A set of slots.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct SlotSet(Vec<u16>);

impl std::fmt::Debug for SlotSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.len() {
            0..=16 => f.debug_set().entries(&self.0).finish(),
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
        Self(slots)
    }
}

impl SlotSet {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().copied()
    }

    #[cfg(test)]
    pub(crate) fn contains(&self, slot: u16) -> bool {
        self.0.binary_search(&slot).is_ok()
    }

    /// Those of both.
    pub(crate) fn and(&self, other: &Self) -> Self {
        let other = self.reach(other);
        let (mut both, mut at) = (Vec::with_capacity(self.len().min(other.len())), 0);
        for slot in &self.0 {
            at = skip(other, at, *slot);
            if other.get(at) == Some(slot) {
                both.push(*slot);
            }
        }
        Self(both)
    }

    /// Those of either.
    pub(crate) fn or(&self, other: &Self) -> Self {
        if other.is_empty() {
            return self.clone();
        }
        let (mut either, mut at) = (Vec::with_capacity(self.len() + other.len()), 0);
        for slot in &self.0 {
            let next = skip(&other.0, at, *slot);
            either.extend_from_slice(&other.0[at..next]);
            at = if other.0.get(next) == Some(slot) { next + 1 } else { next };
            either.push(*slot);
        }
        either.extend_from_slice(&other.0[at..]);
        Self(either)
    }

    /// Those that are not of `other`.
    pub(crate) fn without(&self, other: &Self) -> Self {
        let other = self.reach(other);
        if other.is_empty() {
            return self.clone();
        }
        let (mut left, mut at) = (Vec::with_capacity(self.len()), 0);
        for slot in &self.0 {
            at = skip(other, at, *slot);
            if other.get(at) != Some(slot) {
                left.push(*slot);
            }
        }
        Self(left)
    }

    /// The part of `other` that lies where slots of this one are.
    fn reach<'a>(&self, other: &'a Self) -> &'a [u16] {
        let (Some(first), Some(last)) = (self.0.first(), self.0.last()) else { return &[] };
        let from = other.0.partition_point(|slot| slot < first);
        let to = other.0.partition_point(|slot| slot <= last);
        other.0.get(from..to).unwrap_or(&[])
    }

    /// The same in parts, each of which can be written.
    pub(crate) fn parts(&self) -> impl Iterator<Item = Self> + '_ {
        let same = |one: &u16, other: &u16| usize::from(*one) / PART == usize::from(*other) / PART;
        self.0.chunk_by(same).map(|part| Self(part.to_vec()))
    }

    /// Writes it, which is one part.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let first = self.0.first().map_or(0, |slot| usize::from(*slot) / PART * PART);
        let fits = self.0.last().is_none_or(|last| usize::from(*last) < first + PART);
        assert!(fits, "SS1: a set that travels is of one part");
        if self.0.len() * 2 <= BITMAP {
            out.push(LIST);
            self.0.iter().for_each(|slot| out.extend(slot.to_le_bytes()));
            return;
        }
        out.push(BITS);
        out.extend(u16::try_from(first).unwrap_or(0).to_le_bytes());
        let mut bits = vec![0; BITMAP];
        for slot in &self.0 {
            let at = usize::from(*slot) - first;
            bits[at / 8] |= 1_u8 << (at % 8);
        }
        out.extend(bits);
    }

    /// What [`write`](Self::write) has written.
    pub(crate) fn read(mut bytes: Bytes<'_>) -> Result<Self, Unread> {
        let set = match bytes.u8()? {
            LIST if bytes.0.len() <= BITMAP => {
                let slots = bytes.0.chunks(2).map(|slot| Bytes(slot).u16());
                Self(slots.collect::<Result<Vec<u16>, Unread>>()?)
            }
            BITS => {
                let first = bytes.u16()?;
                let bits: [u8; BITMAP] = bytes.take()?;
                let set = |at: u16| bits[usize::from(at / 8)] & (1 << (at % 8)) != 0;
                if !usize::from(first).is_multiple_of(PART) {
                    return Err(Unread::Malformed);
                }
                let part = u16::try_from(PART).unwrap_or(0);
                Self((0..part).filter(|at| set(*at)).map(|at| first + at).collect())
            }
            _ => return Err(Unread::Malformed),
        };
        if set.0.windows(2).all(|pair| pair[0] < pair[1]) {
            Ok(set)
        } else {
            Err(Unread::Malformed)
        }
    }
}

/// The first place from `at` on in `slots` where something is that is not before `slot`.
#[inline]
fn skip(slots: &[u16], mut at: usize, slot: u16) -> usize {
    while slots.get(at).is_some_and(|other| *other < slot) {
        at += 1;
    }
    at
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
                (from..=u16::MAX).step_by(usize::from(step)).take(9_000).collect()
            }),
        ]
    }

    fn of(set: &BTreeSet<u16>) -> SlotSet {
        set.iter().copied().collect()
    }

    proptest! {
        #[test]
        fn ss1_sets_are_combined_as_sets_are(a in any_set(), b in any_set()) {
            prop_assert_eq!(of(&a).and(&of(&b)), of(&(&a & &b)));
            prop_assert_eq!(of(&a).or(&of(&b)), of(&(&a | &b)));
            prop_assert_eq!(of(&a).without(&of(&b)), of(&(&a - &b)));
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
                prop_assert!(set.0.windows(2).all(|pair| pair[0] < pair[1]));
            }
        }
    }
}
