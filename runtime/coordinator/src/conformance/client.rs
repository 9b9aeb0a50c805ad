//! A handle that is asked and waited for, as a test wants it.
//!
//! # Not here
//! What is asked.

use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use epicserver_wire::NodeId;

use super::Subject;
use crate::{Answer, Ask, AskId, Coordinator, Lease, Wake};

/// How long something is waited for that should come, before it counts as missing.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a wait is, where nothing rings.
const PAUSE: Duration = Duration::from_millis(100);
/// A lease that outlives every test.
pub(super) const LONG: Duration = Duration::from_secs(3600);
/// A lease that is waited out. Some coordinators count seconds.
pub(super) const SHORT: Duration = Duration::from_secs(1);

/// A handle that blocks until what it asked is answered.
#[derive(Debug)]
pub struct Client {
    handle: Box<dyn Coordinator>,
    rung: Receiver<()>,
    asked: u64,
}

impl Client {
    /// A handle on `subject`.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn open(subject: &dyn Subject) -> Self {
        Self::try_open(subject).unwrap_or_else(|why| panic!("cannot be opened: {why}"))
    }

    /// A handle on `subject`.
    ///
    /// # Errors
    /// Says why there is none.
    pub fn try_open(subject: &dyn Subject) -> Result<Self, String> {
        let (ring, rung) = sync_channel(1);
        // A ring that nobody has heard yet is as good as two.
        let wake = Wake::new(move || {
            let _rung = ring.try_send(());
        });
        let handle = subject.open(wake)?;
        Ok(Self { handle, rung, asked: 0 })
    }

    /// The handle itself.
    pub fn handle(&mut self) -> &mut dyn Coordinator {
        &mut *self.handle
    }

    /// Waits until the handle was rung, or for a moment.
    ///
    /// # Panics
    /// If it can never be rung any more.
    pub fn pause(&mut self) {
        let rung = self.rung.recv_timeout(PAUSE);
        assert_ne!(rung, Err(RecvTimeoutError::Disconnected), "the handle dropped its wake");
    }

    /// Asks, and waits for the answer.
    ///
    /// # Panics
    /// If it does not come, or another one does.
    pub fn ask(&mut self, ask: Ask) -> Answer {
        self.asked += 1;
        let (id, what) = (AskId(self.asked), format!("{ask:?}"));
        assert!(self.handle.ask(id, ask).is_ok(), "a handle of which nothing is asked is full");
        let mut done = Vec::new();
        until("an answer", || {
            self.handle.poll(&mut done);
            if done.is_empty() {
                self.pause();
            }
            !done.is_empty()
        });
        let [(answered, answer)] = <[_; 1]>::try_from(done).expect("CN1: two answers to one ask");
        assert_eq!(answered, id, "the answer is to another ask than {what}");
        answer
    }

    /// The view and the leases.
    ///
    /// # Panics
    /// If they cannot be read.
    pub fn read(&mut self) -> (Option<(u64, Vec<u8>)>, Vec<Lease>) {
        let answer = self.ask(Ask::Read);
        let Answer::State { view, leases } = answer else {
            panic!("asked to read, it says {answer:?}");
        };
        (view, leases)
    }

    /// Asks to renew.
    pub fn renew(&mut self, node: NodeId, record: &[u8], ttl: Duration) -> Answer {
        self.ask(Ask::Renew { node, record: record.to_owned(), ttl })
    }

    /// Asks to change the view.
    pub fn change(&mut self, from: u64, view: &[u8], ends: &[NodeId]) -> Answer {
        self.ask(Ask::Change { from, view: view.to_owned(), ends: ends.to_owned() })
    }

    /// The same, for who goes on whatever comes of it.
    pub(super) fn try_change(&mut self, from: u64, view: &[u8], ends: &[NodeId]) -> Outcome {
        match self.change(from, view, ends) {
            Answer::Changed { number } => {
                assert_eq!(number, from + 1, "CO1: a change counts by more than one");
                Outcome::Changed
            }
            Answer::Overtaken { number } => {
                assert_ne!(number, from, "nothing was faster");
                Outcome::Overtaken(number)
            }
            Answer::Alive { node } => {
                assert!(ends.contains(&node), "{node} was not to end");
                Outcome::Alive
            }
            Answer::Failed { why } => Outcome::Failed(why),
            answer @ (Answer::State { .. }
            | Answer::Renewed { .. }
            | Answer::Evicted
            | Answer::Released) => panic!("asked to change, it says {answer:?}"),
        }
    }

    /// Asks to release.
    pub fn release(&mut self, node: NodeId) -> Answer {
        self.ask(Ask::Release { node })
    }

    /// Waits until the lease of `node` has run out.
    pub fn wait_out(&mut self, node: NodeId) {
        until("the end of a lease", || {
            let (_, leases) = self.read();
            leases.iter().all(|lease| lease.node != node || lease.left.is_zero())
        });
    }

    /// Waits for a hint.
    pub fn wait_for_hint(&mut self) {
        until("a hint", || {
            let changed = self.handle.take_changed();
            if !changed {
                self.pause();
            }
            changed
        });
    }
}

/// What came of a change.
#[derive(Debug)]
pub(super) enum Outcome {
    Changed,
    Overtaken(u64),
    Alive,
    Failed(String),
}

/// Tries until `come` says that it has.
///
/// # Panics
/// If that takes too long.
pub(super) fn until(what: &str, mut come: impl FnMut() -> bool) {
    let began = Instant::now();
    while !come() {
        assert!(began.elapsed() < PATIENCE, "{what} never comes");
    }
}

/// The answer that a change to `number` was made.
pub(super) fn changed(number: u64) -> Answer {
    Answer::Changed { number }
}

/// The answer that a lease lasts while the view has this `number`.
pub(super) fn renewed(number: u64) -> Answer {
    Answer::Renewed { number }
}
