//! Mutants: known ways to be wrong, each of which a checker has to catch.
//!
//! All but one are faults of the world around the shards, so that no shard pays for them.
//!
//! # Not here
//! How a fault is carried out: `post` and `world` do that, and `knot` for `exclusive_overlap`.

use std::fmt;

/// A known way to be wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Mutant {
    /// A reply goes to another call of its method, too.
    DuplicateReply,
    /// A call arrives twice.
    DuplicateCall,
    /// Two messages from one shard to another change places.
    ReorderPair,
    /// A message does not arrive.
    LostMessage,
    /// The world draws from a source that no seed determines.
    HashOrder,
    /// An exclusive method runs as if it were a shared one.
    ExclusiveOverlap,
    /// A call loses the sections that its chain holds.
    ForgottenSections,
    /// A call that crosses shards passes as older than every other: it always waits.
    NoWaitDie,
    /// An error says that the method did not run, whether it did or not.
    DishonestError,
}

impl Mutant {
    /// Every one.
    pub const ALL: &'static [Self] = &[
        Self::DuplicateReply,
        Self::DuplicateCall,
        Self::ReorderPair,
        Self::LostMessage,
        Self::HashOrder,
        Self::ExclusiveOverlap,
        Self::ForgottenSections,
        Self::NoWaitDie,
        Self::DishonestError,
    ];

    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::DuplicateReply => "duplicate_reply",
            Self::DuplicateCall => "duplicate_call",
            Self::ReorderPair => "reorder_pair",
            Self::LostMessage => "lost_message",
            Self::HashOrder => "hash_order",
            Self::ExclusiveOverlap => "exclusive_overlap",
            Self::ForgottenSections => "forgotten_sections",
            Self::NoWaitDie => "no_wait_die",
            Self::DishonestError => "dishonest_error",
        }
    }

    /// The checkers that may be the first to see it.
    #[must_use]
    pub const fn caught_by(self) -> &'static [&'static str] {
        match self {
            Self::DuplicateReply | Self::DuplicateCall => &["one_outcome"],
            Self::ReorderPair => &["pair_order"],
            Self::LostMessage => &["no_endless_wait", "one_outcome"],
            Self::ForgottenSections | Self::NoWaitDie => &["no_endless_wait"],
            Self::HashOrder => &["same_trace"],
            Self::ExclusiveOverlap => &["exclusive_alone"],
            Self::DishonestError => &["honest_ran"],
        }
    }

    /// The mutant called `name`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|mutant| mutant.name() == name)
    }
}

impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
