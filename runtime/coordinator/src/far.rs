//! The far end of a handle: where a thread of its own takes asks and leaves answers.
//!
//! It is awaited: by a runtime, or by [`work`](crate::work()), which blocks.
//!
//! # Not here
//! Giving up on asks that nobody answers: the near end does.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use crossbeam_queue::ArrayQueue;

use crate::{ASKS_MAX, Answer, Ask, Wake};

/// Answers that may lie there between two polls: to asks that wait, and to those that were given up before.
const ANSWERS_MAX: usize = 2 * ASKS_MAX + 1;

/// An ask that is to be carried out.
#[derive(Debug)]
pub struct Asked {
    /// What is asked.
    pub ask: Ask,
    /// Until when it is to be answered; [`Answer::Failed`] if that cannot be.
    pub until: Instant,
    /// What its answer is left under.
    pub ticket: Ticket,
}

/// The right to answer one ask.
#[derive(Debug)]
pub struct Ticket(pub(crate) u64);

/// The far end. When it is dropped, the near end fails whatever is asked.
#[derive(Debug)]
pub struct Far(pub(crate) Arc<Shared>);

impl Far {
    /// The next ask; `None` once the near end was dropped.
    pub async fn next(&mut self) -> Option<Asked> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The same, to be polled.
    pub fn poll_next(&mut self, cx: &Context<'_>) -> Poll<Option<Asked>> {
        if let Poll::Ready(asked) = self.take_next() {
            return Poll::Ready(asked);
        }
        *self.0.waker() = Some(cx.waker().clone());
        // What came between the two is not waited for.
        self.take_next()
    }

    fn take_next(&self) -> Poll<Option<Asked>> {
        if self.0.closed.load(Ordering::SeqCst) {
            return Poll::Ready(None);
        }
        self.0.asks.pop().map_or(Poll::Pending, |asked| Poll::Ready(Some(asked)))
    }

    /// Resolves once the near end was dropped, so that what is under way can be left.
    pub async fn closed(&mut self) {
        std::future::poll_fn(|cx| {
            *self.0.waker() = Some(cx.waker().clone());
            if self.0.closed.load(Ordering::SeqCst) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Answers the ask of `ticket`.
    ///
    /// # Panics
    /// If there are more answers than asks, which is a mistake of this crate.
    pub fn answer(&mut self, ticket: Ticket, answer: Answer) {
        let room = self.0.answers.push((ticket, answer));
        assert!(room.is_ok(), "CN5: more answers than asks");
        self.0.wake.ring();
    }

    /// What says that something may have changed; it may outlive this end.
    #[must_use]
    pub fn hints(&self) -> Hints {
        Hints(Arc::clone(&self.0))
    }
}

/// Says to a near end that the view or a lease may have changed.
#[derive(Clone, Debug)]
pub struct Hints(Arc<Shared>);

impl Hints {
    /// Says so.
    pub fn say_changed(&self) {
        if !self.0.changed.swap(true, Ordering::SeqCst) {
            self.0.wake.ring();
        }
    }
}

/// What both ends of a handle have.
pub(crate) struct Shared {
    pub(crate) asks: ArrayQueue<Asked>,
    pub(crate) answers: ArrayQueue<(Ticket, Answer)>,
    pub(crate) changed: AtomicBool,
    pub(crate) closed: AtomicBool,
    pub(crate) wake: Wake,
    waker: Mutex<Option<Waker>>,
}

impl Shared {
    pub(crate) fn new(wake: Wake) -> Self {
        Self {
            asks: ArrayQueue::new(ASKS_MAX),
            answers: ArrayQueue::new(ANSWERS_MAX),
            changed: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            wake,
            waker: Mutex::new(None),
        }
    }

    /// Tells the far end that there is an ask, or that no more will come.
    pub(crate) fn wake_far(&self) {
        let waker = self.waker().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn waker(&self) -> std::sync::MutexGuard<'_, Option<Waker>> {
        self.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("asks", &self.asks.len()).finish_non_exhaustive()
    }
}
