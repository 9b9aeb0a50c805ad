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
//! - **W17** Whatever becomes of a path's sections, it keeps the view that it was [born](Born) under.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::limits::CHAIN_SECTIONS_MAX;
use crate::{Born, ChainId, SectionId};

/// A chain and the sections held along it. Without sections, and with one, it allocates nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Path {
    chain: ChainId,
    held: Held,
}

/// The sections, and the view that the chain was born under: it fits beside the tag.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Held {
    Nothing(Born),
    One(Born, SectionId),
    /// Rare, and one word to keep the path of the common kinds short.
    Many(Born, Arc<Vec<SectionId>>),
}

impl Default for Held {
    fn default() -> Self {
        Self::Nothing(Born::NONE)
    }
}

const _: () = assert!(size_of::<Path>() == 32, "a path is written at each call");

impl Path {
    /// The path of a new chain, none of whose turns has begun.
    #[must_use]
    pub const fn new(chain: ChainId) -> Self {
        Self { chain, held: Held::Nothing(Born::NONE) }
    }

    /// The same of a chain born under `born`.
    #[inline]
    #[must_use]
    pub fn born_under(mut self, born: Born) -> Self {
        match &mut self.held {
            Held::Nothing(own) | Held::One(own, _) | Held::Many(own, _) => *own = born,
        }
        self
    }

    /// A copy of it, of a chain born under `born`: made at once, since what is written in parts and then copied whole
    /// would be waited for.
    #[inline]
    #[must_use]
    pub fn clone_under(&self, born: Born) -> Self {
        let held = match &self.held {
            Held::Nothing(_) => Held::Nothing(born),
            Held::One(_, section) => Held::One(born, *section),
            Held::Many(_, sections) => Held::Many(born, Arc::clone(sections)),
        };
        Self { chain: self.chain, held }
    }

    /// The view that its chain was born under.
    #[inline]
    #[must_use]
    pub fn born(&self) -> Born {
        match &self.held {
            Held::Nothing(born) | Held::One(born, _) | Held::Many(born, _) => *born,
        }
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
            Held::Nothing(_) => &[],
            Held::One(_, section) => std::slice::from_ref(section),
            Held::Many(_, sections) => sections,
        }
    }

    /// Whether it holds any section.
    #[must_use]
    pub fn holds_any(&self) -> bool {
        !matches!(self.held, Held::Nothing(_))
    }

    /// Whether it holds `section`: whoever waits for that one here waits for itself.
    #[must_use]
    pub fn holds(&self, section: SectionId) -> bool {
        self.sections().contains(&section)
    }

    /// The path once it holds `section` too; `None` if it holds too many (**W8**).
    #[must_use]
    pub fn with(&self, section: SectionId) -> Option<Self> {
        let born = self.born();
        let held = match self.sections() {
            [] => Held::One(born, section),
            sections if sections.len() >= CHAIN_SECTIONS_MAX => return None,
            sections => {
                Held::Many(born, Arc::new(sections.iter().copied().chain([section]).collect()))
            }
        };
        Some(Self { chain: self.chain, held })
    }

    /// The path without `section`.
    #[must_use]
    pub fn without(&self, section: SectionId) -> Self {
        let born = self.born();
        let mut rest = self.sections().iter().copied().filter(|held| *held != section);
        let held = match (rest.next(), rest.next()) {
            (None, _) => Held::Nothing(born),
            (Some(one), None) => Held::One(born, one),
            (Some(first), Some(second)) => {
                Held::Many(born, Arc::new([first, second].into_iter().chain(rest).collect()))
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
        fn w17_a_section_that_was_let_go_is_as_if_never_taken(
            held in prop::collection::vec(0_u64..9, 0..6), born in 0_u64..3,
        ) {
            let before = path(1, &held).born_under(Born::under(born));
            prop_assert_eq!(before.born(), Born::under(born));
            let section = SectionId::new(0, 77);
            prop_assert_eq!(before.with(section).unwrap().without(section), before);
        }
    }
}
