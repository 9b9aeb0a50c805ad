//! Why a call failed, and whether its method ran.
//!
//! # Invariants
//! - **I5** An error that a handler which ran passes on never says `No`:
//!   [`CallError::crossed`] is applied wherever a reply is handed over.
//!
//! # Not here
//! Users' own errors: those are replies.

use std::fmt;

use crate::{ChainId, MethodId};

/// Whether the method of a failed call ran.
#[derive(Clone, Copy, PartialEq, Eq, Debug, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum Ran {
    /// It did not, and never will: the call may be repeated without a second thought.
    No,
    /// At least its first turn did.
    Yes,
    /// Nobody can tell any more.
    Unknown,
}

/// What went wrong with a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Its time ran out.
    Deadline,
    /// A queue, table or pool on its way is full.
    Overloaded,
    /// It needs an exclusive section that its own chain holds further up, or one whose holder
    /// may be waiting for what this chain holds. Let go of what is held, and repeat.
    WouldDeadlock,
    /// The method panicked; the entity's state was dropped.
    Panicked,
    /// Another method of the entity panicked while this one was parked.
    Reset,
    /// The entity's `activate` hook failed.
    ActivationFailed,
    /// The entity's state does not fit the shard's memory budget.
    OutOfBudget,
    /// No node serves this entity type.
    UnknownType,
    /// The entity type has no such method.
    UnknownMethod,
    /// The entity's key is longer than the limit.
    KeyTooLong,
    /// Arguments or reply are not what the method's signature says.
    Malformed,
    /// The chain holds more sections than the limit.
    TooManySections,
    /// The node that ran it is gone.
    NodeLost,
    /// The node is stopping.
    Stopping,
    /// The entity's slot went to another node, which the call did not reach.
    Moved,
    /// The call was awaited outside of the shard that made it, or outside any.
    NotInAnEntity,
    /// No node offers the placement class of the entity.
    Nowhere,
    /// The store where the entity's state is kept does not answer, or has no room.
    StoreUnavailable,
    /// What is stored of the entity cannot be read: it is corrupt, or of a version of its type that this program does
    /// not know. The bytes are kept as they are.
    StateUnreadable,
}

impl ErrorKind {
    fn text(self) -> &'static str {
        match self {
            Self::Deadline => "the deadline passed",
            Self::Overloaded => "a queue or table is full",
            Self::WouldDeadlock => "waiting for this exclusive section could deadlock",
            Self::Panicked => "the method panicked",
            Self::Reset => "another method of the entity panicked",
            Self::ActivationFailed => "the entity's activate hook failed",
            Self::OutOfBudget => "the entity does not fit the memory budget",
            Self::UnknownType => "no node serves this entity type",
            Self::UnknownMethod => "the entity type has no such method",
            Self::KeyTooLong => "the entity's key is longer than 512 bytes",
            Self::Malformed => "arguments or reply do not match the method's signature",
            Self::TooManySections => "the chain holds too many exclusive sections",
            Self::NodeLost => "the node was lost",
            Self::Stopping => "the node is stopping",
            Self::Moved => "the entity went to another node",
            Self::NotInAnEntity => "the call was awaited outside of the shard that made it",
            Self::Nowhere => "no node offers the entity's placement class",
            Self::StoreUnavailable => "the store of the entity's state is not available",
            Self::StateUnreadable => "the stored state of the entity cannot be read",
        }
    }
}

/// How far a call that met its deadline is known to have come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
#[non_exhaustive]
pub enum Progress {
    /// Not known.
    Unknown,
    /// It waited in the entity's mailbox for this method to end.
    QueuedBehind(MethodId),
    /// It waited in the entity's mailbox, or for the entity to load.
    Queued,
    /// It had been running for so many milliseconds.
    RunningForMs(u32),
}

/// Why a call failed.
///
/// Small and `Copy`; says whether the method [ran](Self::ran), and which chain it belonged to.
#[derive(Clone, Copy, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
#[non_exhaustive]
pub struct CallError {
    chain: ChainId,
    progress: Progress,
    kind: ErrorKind,
    ran: Ran,
}

impl CallError {
    /// An error of `kind`.
    #[must_use]
    pub const fn new(kind: ErrorKind, ran: Ran, chain: ChainId) -> Self {
        Self { chain, progress: Progress::Unknown, kind, ran }
    }

    /// A call that was refused before it ran.
    #[must_use]
    pub const fn refused(kind: ErrorKind, chain: ChainId) -> Self {
        Self::new(kind, Ran::No, chain)
    }

    /// A call whose deadline passed when it had come as far as `progress`.
    #[must_use]
    pub const fn deadline(ran: Ran, chain: ChainId, progress: Progress) -> Self {
        Self { chain, progress, kind: ErrorKind::Deadline, ran }
    }

    /// What went wrong.
    #[must_use]
    pub const fn kind(self) -> ErrorKind {
        self.kind
    }

    /// Whether the method ran.
    #[must_use]
    pub const fn ran(self) -> Ran {
        self.ran
    }

    /// The chain that the call belonged to; [`ChainId::NONE`] where it had none.
    #[must_use]
    pub const fn chain(self) -> ChainId {
        self.chain
    }

    /// How far it had come, where its deadline passed.
    #[must_use]
    pub const fn progress(self) -> Progress {
        self.progress
    }

    /// The error as the next caller up sees it: the method it called did run (**I5**).
    #[must_use]
    pub const fn crossed(self) -> Self {
        match self.ran {
            Ran::No => Self { ran: Ran::Yes, ..self },
            Ran::Yes | Ran::Unknown => self,
        }
    }
}

impl fmt::Debug for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CallError({:?}, ran: {:?}", self.kind, self.ran)?;
        if self.progress != Progress::Unknown {
            write!(f, ", {:?}", self.progress)?;
        }
        if self.chain.is_some() {
            write!(f, ", {:?}", self.chain)?;
        }
        f.write_str(")")
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.text())?;
        match self.progress {
            Progress::Unknown => {}
            Progress::Queued => f.write_str(" while it was queued")?,
            Progress::QueuedBehind(method) => write!(f, " while it was queued behind {method:?}")?,
            Progress::RunningForMs(ms) => write!(f, " when it had run for {ms} ms")?,
        }
        f.write_str(match self.ran {
            Ran::No => "; it did not run",
            Ran::Yes => "; it did run",
            Ran::Unknown => "; whether it ran is not known",
        })
    }
}

impl std::error::Error for CallError {}

const _: () = assert!(size_of::<CallError>() <= 32, "CallError is passed by value everywhere");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i5_crossing_a_reply_turns_no_into_yes_and_keeps_the_cause() {
        let refused = CallError::refused(ErrorKind::Overloaded, ChainId::NONE);
        assert_eq!(refused.crossed().ran(), Ran::Yes);
        assert_eq!(refused.crossed().kind(), ErrorKind::Overloaded);
        let lost = CallError::new(ErrorKind::NodeLost, Ran::Unknown, ChainId::NONE);
        assert_eq!(lost.crossed(), lost);
    }

    #[test]
    fn errors_read_as_sentences() {
        let error = CallError::deadline(Ran::No, ChainId::NONE, Progress::Queued);
        assert_eq!(error.to_string(), "the deadline passed while it was queued; it did not run");
    }
}
