//! What the nodes of a fabric ask of their coordinator, and what they are told, as plain data.
//!
//! A coordinator keeps one view, by its number, and one lease for each node that lives. It understands neither
//! what a view says nor what a node writes into its lease, so it can be a file, a table or a few keys of some other
//! service. Whoever asks may be told [`Answer::Failed`] instead of an answer: then it is not known whether the
//! coordinator did what it was asked.
//!
//! # Invariants
//! - **CO1** The view of a number is never replaced by another one of that number; each change counts up by one.
//! - **CO2** A lease that was ended by a change, or released, is never renewed again. A change ends a lease only if it
//!   has expired by the coordinator's own clock, or was released.
//! - **CO3** Answers to `Renew`, `Change` and `Release` follow from one atomic step; `Read` is a hint.
//!
//! # Not here
//! When to ask, and what follows from an answer. Time limits of the asking itself: whoever implements one gives up
//! after [`ASK_MAX`].

use std::time::Duration;

use epicserver_wire::NodeId;

/// How long a question may go unanswered before it counts as failed.
pub const ASK_MAX: Duration = Duration::from_secs(2);
/// Longest record of a lease, in bytes.
pub const RECORD_BYTES_MAX: usize = 8 << 10;
/// Longest view, in bytes.
pub const VIEW_BYTES_MAX: usize = 16 << 20;

/// What a node asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ask {
    /// What the view is, and who lives.
    Read,
    /// Lets the lease of `node` last for `ttl` from now on, and writes `record` into it; makes it if this node
    /// never had one.
    Renew {
        /// Whose.
        node: NodeId,
        /// What others may read there; at most [`RECORD_BYTES_MAX`].
        record: Vec<u8>,
        /// How long, from the moment at which the coordinator does it.
        ttl: Duration,
    },
    /// Puts the view `view` in place of the one numbered `from` (0: there is none yet), and ends leases.
    Change {
        /// What is replaced.
        from: u64,
        /// The view numbered `from + 1`; at most [`VIEW_BYTES_MAX`].
        view: Vec<u8>,
        /// Whose leases end with it (**CO2**); those that have none never get one again.
        ends: Vec<NodeId>,
    },
    /// Ends the lease of `node`, by its own wish. To ask again changes nothing.
    Release {
        /// Whose.
        node: NodeId,
    },
}

/// What it is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// To [`Ask::Read`].
    State {
        /// The view with its number, if there is one.
        view: Option<(u64, Vec<u8>)>,
        /// The leases that have neither ended nor been released, expired ones too, by node.
        leases: Vec<Lease>,
    },
    /// To [`Ask::Renew`]: the lease lasts.
    Renewed {
        /// The number of the view; 0 if there is none.
        number: u64,
    },
    /// To [`Ask::Renew`]: the lease has ended for ever (**CO2**).
    Evicted,
    /// To [`Ask::Change`]: done.
    Changed {
        /// The number of the view now.
        number: u64,
    },
    /// To [`Ask::Change`]: somebody else was faster, and nothing was done.
    Overtaken {
        /// The number of the view.
        number: u64,
    },
    /// To [`Ask::Change`]: nothing was done, since a lease that was to end lasts.
    Alive {
        /// Whose.
        node: NodeId,
    },
    /// To [`Ask::Release`].
    Released,
    /// It is not known whether the coordinator did what it was asked.
    Failed {
        /// Why, for people.
        why: String,
    },
}

/// A node's lease, as it is read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lease {
    /// Whose.
    pub node: NodeId,
    /// What the node has written there.
    pub record: Vec<u8>,
    /// How long it lasts still; zero if it has expired.
    pub left: Duration,
}
