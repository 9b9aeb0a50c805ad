//! The path of a call: its chain, and the exclusive sections that it and its callers hold.
//!
//! Wait-die needs one order of all paths that may wait for each other (Rosenkrantz, Stearns, Lewis:
//! *System level concurrency control for distributed database systems*, 1978). Ours is
//! lexicographic: birth of the chain, then the sections in the order in which they were taken.
//!
//! # Invariants
//! - **W7** The order of two paths does not change while either takes more sections, unless one
//!   of them is the beginning of the other; then the shorter is the older.
//! - **W8** A path holds at most [`CHAIN_SECTIONS_MAX`] sections.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::limits::CHAIN_SECTIONS_MAX;
use crate::{ChainId, SectionId};

/// A chain and the sections held along it. Without sections, and with one, it allocates nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Path {
    chain: ChainId,
    held: Held,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
enum Held {
    #[default]
    Nothing,
    One(SectionId),
    /// Rare, and one word to keep the path of the common kinds short.
    Many(Arc<Vec<SectionId>>),
}

impl Path {
    /// The path of a new chain.
    #[must_use]
    pub const fn new(chain: ChainId) -> Self {
        Self { chain, held: Held::Nothing }
    }

    /// Its chain.
    #[must_use]
    pub const fn chain(&self) -> ChainId {
        self.chain
    }

    /// The sections it holds, the first taken first.
    #[must_use]
    pub fn sections(&self) -> &[SectionId] {
        match &self.held {
            Held::Nothing => &[],
            Held::One(section) => std::slice::from_ref(section),
            Held::Many(sections) => sections,
        }
    }

    /// Whether it holds any section.
    #[must_use]
    pub fn holds_any(&self) -> bool {
        !matches!(self.held, Held::Nothing)
    }

    /// Whether it holds `section`: whoever waits for that one here waits for itself.
    #[must_use]
    pub fn holds(&self, section: SectionId) -> bool {
        self.sections().contains(&section)
    }

    /// The path once it holds `section` too; `None` if it holds too many (**W8**).
    #[must_use]
    pub fn with(&self, section: SectionId) -> Option<Self> {
        let held = match self.sections() {
            [] => Held::One(section),
            sections if sections.len() >= CHAIN_SECTIONS_MAX => return None,
            sections => Held::Many(Arc::new(sections.iter().copied().chain([section]).collect())),
        };
        Some(Self { chain: self.chain, held })
    }

    /// The path without `section`.
    #[must_use]
    pub fn without(&self, section: SectionId) -> Self {
        let mut rest = self.sections().iter().copied().filter(|held| *held != section);
        let held = match (rest.next(), rest.next()) {
            (None, _) => Held::Nothing,
            (Some(one), None) => Held::One(one),
            (Some(first), Some(second)) => {
                Held::Many(Arc::new([first, second].into_iter().chain(rest).collect()))
            }
        };
        Self { chain: self.chain, held }
    }

    /// Whether `other` began here: it is of the same chain, and holds all that this path holds.
    #[must_use]
    pub fn leads_to(&self, other: &Self) -> bool {
        self.chain == other.chain && other.sections().starts_with(self.sections())
    }

    /// Whether this path came before `other` (**W7**).
    #[must_use]
    pub fn is_older_than(&self, other: &Self) -> bool {
        let order = self.chain.cmp(&other.chain);
        order.then_with(|| self.sections().cmp(other.sections())) == Ordering::Less
    }

    /// Wait-die: whether this path may wait for `other` to end. It may if it holds nothing that
    /// `other` could wait for, or if it is the older.
    #[must_use]
    pub fn may_wait_for(&self, other: &Self) -> bool {
        !self.holds_any() || !other.is_older_than(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Time;
    use proptest::prelude::*;

    fn path(birth: u64, sections: &[u64]) -> Path {
        let start = Path::new(ChainId::new(Time::from_nanos(birth), 0));
        sections.iter().fold(start, |path, &s| path.with(SectionId::new(0, s)).unwrap())
    }

    #[test]
    fn of_two_that_hold_sections_only_the_older_waits() {
        let (older, younger) = (path(1, &[5]), path(2, &[4]));
        assert!(older.may_wait_for(&younger));
        assert!(!younger.may_wait_for(&older));
        assert!(path(9, &[]).may_wait_for(&older));
    }

    #[test]
    fn branches_of_one_chain_are_ordered_by_what_they_took() {
        let (first, second) = (path(1, &[3, 4]), path(1, &[3, 5]));
        assert!(first.may_wait_for(&second));
        assert!(!second.may_wait_for(&first));
    }

    #[test]
    fn w8_the_section_over_the_limit_is_refused() {
        let sections: Vec<u64> = (0..CHAIN_SECTIONS_MAX as u64).collect();
        assert_eq!(path(1, &sections).with(SectionId::new(0, 99)), None);
    }

    proptest! {
        #[test]
        fn w7_never_may_two_different_paths_that_hold_sections_wait_for_each_other(
            a in prop::collection::vec(0_u64..4, 1..4), b in prop::collection::vec(0_u64..4, 1..4),
            births in (0_u64..2, 0_u64..2),
        ) {
            let (a, b) = (path(births.0, &a), path(births.1, &b));
            prop_assert!(a == b || a.may_wait_for(&b) != b.may_wait_for(&a));
        }

        #[test]
        fn a_section_that_was_let_go_is_as_if_never_taken(
            held in prop::collection::vec(0_u64..9, 0..6),
        ) {
            let before = path(1, &held);
            let section = SectionId::new(0, 77);
            prop_assert_eq!(before.with(section).unwrap().without(section), before);
        }
    }
}
