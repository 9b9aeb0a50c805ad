//! Mutants: known ways to be wrong, each of which a checker has to catch.
//!
//! Most are faults of the world around the shards, so that no shard pays for them; some that only a shard can have
//! are [knobs](Fault) of its configuration, looked at where slots move or states are saved, and nowhere else.
//!
//! # Not here
//! How a fault is carried out: `post` and `world` do that, `knot` for `exclusive_overlap`, and `fabric` for those of the
//! control plane.

use std::fmt;

use epicserver_node::Fault;

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
    /// A call goes to the new owner of its slot before the old one has given back those before it.
    ResendBeforeFlushed,
    /// A call that is given back has run.
    MovedButRan,
    /// A slot is served though another node still empties it.
    ServeWhileDraining,
    /// A slot is said to be empty as soon as it is lost.
    DrainedTooSoon,
    /// A node goes on past its lease.
    NoLeaseCheck,
    /// Calls that came before their slot was served are forgotten.
    DropHeldCalls,
    /// A tell that was given back is forgotten.
    ReturnedTellLost,
    /// That a call has to go elsewhere is not heard.
    MovedCallLost,
    /// Where a slot is emptied nobody is let in but those that are waited for there.
    OldChainsTurnedAway,
    /// A reply does not wait for what it tells of to be durable.
    ReplyBeforeSave,
    /// An activation ends and its state is not saved.
    EndsUnsaved,
    /// What was replied to a request is not kept.
    AnswerForgotten,
    /// The store takes writes of older owners.
    NoStoreFence,
    /// A node counts its lease from the answer, not from the sending of its renewal.
    LeaseFromAnswer,
    /// A node runs turns past its own deadline.
    NoLocalDeadline,
    /// A node that leaves asks only once for its lease to end.
    ReleaseNotRetried,
    /// Leases of others are held for over before they have expired.
    TakeOverWithoutWaiting,
    /// A node says that it has settled by its view before it has drained what that took from it.
    SettledTooEarly,
    /// A shard says that it has drained slots when it begins to.
    DrainedTooEarly,
    /// A shard goes by a snapshot that is older than the one that it has.
    StaleViewAccepted,
    /// A view is put in place of another one than it was made from.
    ChangeWithoutCas,
    /// A view is made without the history of those that are not settled.
    HistoryForgotten,
    /// A lease that has ended is renewed.
    EndedRenews,
    /// A new owner of a slot keeps the epoch of the one before.
    EpochNotRaised,
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
        Self::ResendBeforeFlushed,
        Self::MovedButRan,
        Self::ServeWhileDraining,
        Self::DrainedTooSoon,
        Self::NoLeaseCheck,
        Self::DropHeldCalls,
        Self::ReturnedTellLost,
        Self::MovedCallLost,
        Self::OldChainsTurnedAway,
        Self::ReplyBeforeSave,
        Self::EndsUnsaved,
        Self::AnswerForgotten,
        Self::NoStoreFence,
        Self::LeaseFromAnswer,
        Self::NoLocalDeadline,
        Self::ReleaseNotRetried,
        Self::TakeOverWithoutWaiting,
        Self::SettledTooEarly,
        Self::DrainedTooEarly,
        Self::StaleViewAccepted,
        Self::ChangeWithoutCas,
        Self::HistoryForgotten,
        Self::EndedRenews,
        Self::EpochNotRaised,
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
            Self::ResendBeforeFlushed => "resend_before_flushed",
            Self::MovedButRan => "moved_but_ran",
            Self::ServeWhileDraining => "serve_while_draining",
            Self::DrainedTooSoon => "drained_too_soon",
            Self::NoLeaseCheck => "no_lease_check",
            Self::DropHeldCalls => "drop_held_calls",
            Self::ReturnedTellLost => "returned_tell_lost",
            Self::MovedCallLost => "moved_call_lost",
            Self::OldChainsTurnedAway => "old_chains_turned_away",
            Self::ReplyBeforeSave => "reply_before_save",
            Self::EndsUnsaved => "ends_unsaved",
            Self::AnswerForgotten => "answer_forgotten",
            Self::NoStoreFence => "no_store_fence",
            Self::LeaseFromAnswer => "lease_from_answer",
            Self::NoLocalDeadline => "no_local_deadline",
            Self::ReleaseNotRetried => "release_not_retried",
            Self::TakeOverWithoutWaiting => "take_over_without_waiting",
            Self::SettledTooEarly => "settled_too_early",
            Self::DrainedTooEarly => "drained_too_early",
            Self::StaleViewAccepted => "stale_view_accepted",
            Self::ChangeWithoutCas => "change_without_cas",
            Self::HistoryForgotten => "history_forgotten",
            Self::EndedRenews => "ended_renews",
            Self::EpochNotRaised => "epoch_not_raised",
        }
    }

    /// The checkers that may be the first to see it.
    #[must_use]
    pub const fn caught_by(self) -> &'static [&'static str] {
        match self {
            Self::DuplicateReply | Self::DuplicateCall => &["one_outcome"],
            Self::ReorderPair => &["pair_order"],
            Self::LostMessage => &["no_endless_wait", "one_outcome"],
            // Where slots move, the time for giving one up ends such a wait.
            Self::ForgottenSections | Self::NoWaitDie => &["no_endless_wait", "one_outcome"],
            Self::HashOrder => &["same_trace"],
            Self::ExclusiveOverlap => &["exclusive_alone"],
            Self::DishonestError => &["honest_ran"],
            // A call that comes to the new owner too early may wait there for a turn of its own chain.
            Self::ResendBeforeFlushed => &["pair_order", "one_outcome"],
            Self::MovedButRan | Self::ReturnedTellLost => &["one_outcome"],
            Self::ServeWhileDraining | Self::DrainedTooSoon => &["single_activation", "own_slot"],
            Self::NoLeaseCheck => &["within_lease"],
            Self::DropHeldCalls | Self::MovedCallLost => &["no_endless_wait", "one_outcome"],
            // The turns that wait for each other are ended when the time for it is up.
            Self::OldChainsTurnedAway => &["one_outcome"],
            // What is not saved before the end is lost, or whoever waits for it is told so in fair weather.
            Self::EndsUnsaved => &["no_save_lost", "one_outcome", "convergence"],
            Self::ReplyBeforeSave => &["no_save_lost", "deleted_for_good"],
            Self::AnswerForgotten => &["request_once"],
            Self::NoStoreFence => &["store_fence"],
            Self::LeaseFromAnswer => &["past_no_lease", "one_owner"],
            Self::NoLocalDeadline => &["past_no_lease"],
            Self::ReleaseNotRetried => &["leaves", "convergence"],
            Self::TakeOverWithoutWaiting => &["past_no_lease", "one_owner"],
            Self::SettledTooEarly => &["one_owner"],
            Self::DrainedTooEarly => &["one_owner"],
            Self::StaleViewAccepted => &["one_owner", "epochs_grow"],
            Self::ChangeWithoutCas => &["one_view"],
            Self::HistoryForgotten => &["one_owner", "epochs_grow"],
            Self::EndedRenews => &["one_owner", "past_no_lease", "convergence"],
            Self::EpochNotRaised => &["epochs_grow"],
        }
    }

    /// Whether it takes two runs of a seed to see it.
    #[must_use]
    pub fn shows_in_two(self) -> bool {
        self.caught_by().contains(&"same_trace")
    }

    /// Whether it shows only where slots move.
    #[must_use]
    pub const fn needs_moves(self) -> bool {
        self.knob().is_some() || matches!(self, Self::ServeWhileDraining | Self::MovedCallLost)
    }

    /// Whether it shows only where entities are saved.
    #[must_use]
    pub const fn needs_store(self) -> bool {
        matches!(self, Self::ReplyBeforeSave | Self::EndsUnsaved | Self::AnswerForgotten)
    }

    /// The shard's own way to be wrong, where it is one.
    pub(crate) const fn knob(self) -> Option<Fault> {
        match self {
            Self::ResendBeforeFlushed => Some(Fault::ResendBeforeFlushed),
            Self::MovedButRan => Some(Fault::MovedButRan),
            Self::DrainedTooSoon => Some(Fault::DrainedTooSoon),
            Self::NoLeaseCheck => Some(Fault::NoLeaseCheck),
            Self::DropHeldCalls => Some(Fault::DropHeldCalls),
            Self::ReturnedTellLost => Some(Fault::ReturnedTellLost),
            Self::OldChainsTurnedAway => Some(Fault::OldChainsTurnedAway),
            Self::ReplyBeforeSave => Some(Fault::ReplyBeforeSave),
            Self::EndsUnsaved => Some(Fault::EndsUnsaved),
            Self::AnswerForgotten => Some(Fault::AnswerForgotten),
            Self::DuplicateReply
            | Self::DuplicateCall
            | Self::ReorderPair
            | Self::LostMessage
            | Self::HashOrder
            | Self::ExclusiveOverlap
            | Self::ForgottenSections
            | Self::NoWaitDie
            | Self::DishonestError
            | Self::ServeWhileDraining
            | Self::MovedCallLost
            | Self::NoStoreFence
            | Self::LeaseFromAnswer
            | Self::NoLocalDeadline
            | Self::ReleaseNotRetried
            | Self::TakeOverWithoutWaiting
            | Self::SettledTooEarly
            | Self::DrainedTooEarly
            | Self::StaleViewAccepted
            | Self::ChangeWithoutCas
            | Self::HistoryForgotten
            | Self::EndedRenews
            | Self::EpochNotRaised => None,
        }
    }

    /// Whether it is a fault of the control plane, which scenarios show; the others are of calls and turns.
    #[must_use]
    pub const fn is_of_the_fabric(self) -> bool {
        matches!(
            self,
            Self::NoStoreFence
                | Self::LeaseFromAnswer
                | Self::NoLocalDeadline
                | Self::ReleaseNotRetried
                | Self::TakeOverWithoutWaiting
                | Self::SettledTooEarly
                | Self::DrainedTooEarly
                | Self::StaleViewAccepted
                | Self::ChangeWithoutCas
                | Self::HistoryForgotten
                | Self::EndedRenews
                | Self::EpochNotRaised
        )
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
