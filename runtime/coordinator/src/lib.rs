//! Coordinators: who agrees on the one view of a fabric, and on which of its nodes live.
//!
//! In:  [`Ask`]   Out: [`Answer`], and the hint that something has changed
//!
//! A [`Coordinator`] is one process's way to what all processes of its fabric share: a file, a table, a few
//! keys. It is asked and polled and never blocks, so that the thread which renews leases can drive it.
//! Whatever blocks, or lives in a runtime of its own, does so on a thread behind a [`Near`].
//!
//! # Invariants
//! - **CN1** Each ask that is taken gets exactly one answer, at the latest from the first
//!   [`poll`](Coordinator::poll) that begins [`GIVE_UP`] after it was asked.
//! - **CN2** The asks of one handle are carried out one after another, in the order in which they were made.
//! - **CN3** Nothing is sent twice. What was sent and not answered ends as [`Answer::Failed`], by which nobody
//!   knows whether it happened.
//! - **CN4** A node of which a handle has said that it is renewed never gets another lease from that handle: one
//!   that is gone was ended, however long ago. So what has ended need not be remembered for ever.
//! - **CN5** A handle has at most [`ASKS_MAX`] asks that are not answered; further ones are given back.
//! - **CN6** The number of the view never goes back for one handle. A coordinator that has lost what it
//!   knew, or was exchanged for another one, gives failures.
//!
//! # Not here
//! When to ask, and what follows from an answer. What a view or a record says. Which coordinator a fabric has.

mod check;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod ended;
mod far;
pub mod fixed;
mod known;
pub mod local;
mod memory;
mod near;
#[cfg(feature = "tls")]
pub mod tls;
mod wake;
mod work;

use std::fmt;
use std::time::Duration;

pub use check::check;
pub use ended::Ended;
pub use epicserver_proto::coordinator::{
    ASK_MAX, Answer, Ask, Lease, RECORD_BYTES_MAX, VIEW_BYTES_MAX,
};
pub use far::{Asked, Far, Hints, Ticket};
pub use fixed::Static;
pub use known::Known;
pub use memory::{Memory, MemoryHandle};
pub use near::{Near, start};
pub use wake::Wake;
pub use work::{Work, work};

/// Asks of one handle that may be unanswered (**CN5**).
pub const ASKS_MAX: usize = 16;
/// Leases that one change may end.
pub const ENDS_MAX: usize = 4096;
/// Leases that one coordinator keeps, expired ones too. Whoever proposes changes ends those that have expired, whether
/// their nodes were ever members or not; else no further node can join once there are as many.
pub const LEASES_MAX: usize = 8192;
/// Nodes whose leases have ended that a coordinator remembers at the least (**CN4**).
pub const ENDED_MAX: usize = 8192;
/// Longest lease.
pub const TTL_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// How long after it was asked a handle gives an ask up by itself: longer than [`ASK_MAX`], after which whoever does the
/// work gives up with a reason.
pub const GIVE_UP: Duration = Duration::from_millis(2250);

const _: () = assert!(ENDED_MAX >= ENDS_MAX, "what one change ends is remembered");
const _: () = assert!(GIVE_UP.as_nanos() > ASK_MAX.as_nanos(), "the better reason comes first");

/// Which of one handle's asks an answer is to; whoever asks chooses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AskId(pub u64);

/// One process's way to its fabric's coordinator.
///
/// To drop it waits for the ask that is being carried out, at the most; the others have no answer. It releases no lease:
/// where the coordinator sees that a lease's holder is gone, as [`local`] does, the lease is over at once, else it runs
/// out. So drop it only when no turn runs any more.
pub trait Coordinator: fmt::Debug + Send {
    /// What this kind of coordinator is called, in configuration and logs.
    fn name(&self) -> &'static str;

    /// Whether the view is given and never changes, so that nobody need propose another one.
    fn is_fixed(&self) -> bool {
        false
    }

    /// Asks. Does not block.
    ///
    /// # Errors
    /// Gives the ask back if [`ASKS_MAX`] wait (**CN5**): poll, or wait to be woken.
    fn ask(&mut self, id: AskId, ask: Ask) -> Result<(), Ask>;

    /// Appends the answers that have come. Does not block. To be called when the handle's [`Wake`] was rung, and every
    /// second while asks wait, since those that are given up ring nothing (**CN1**).
    fn poll(&mut self, done: &mut Vec<(AskId, Answer)>);

    /// Whether the view, or somebody's lease or record, may have changed since this was last called: a reason to read, and
    /// no more than that. It may be said for nothing, and where the coordinator is out of reach it may be missed.
    fn take_changed(&mut self) -> bool;
}
