//! The far end of handles: where a store's own thread takes ops, and what it answers them by.
//!
//! It is awaited: by a runtime, or by [`wait`](Lane::wait), which blocks.
//!
//! # Not here
//! The bound on what waits: handles keep it, see **SO7**.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::Thread;

use crate::{Answer, Done, Op, OpId, Trouble, Wake};

/// An op that is to be carried out.
#[derive(Debug)]
pub struct Job {
    /// What is asked; it has passed [`check`](crate::check).
    pub op: Op,
    /// The right to answer it.
    pub ticket: Ticket,
}

/// The right to answer one op. One that is dropped says [`Trouble::Unknown`] (**SO1**).
#[derive(Debug)]
pub struct Ticket {
    id: OpId,
    bytes: usize,
    desk: Option<Arc<Desk>>,
}

impl Ticket {
    pub(crate) fn new(id: OpId, bytes: usize, desk: Arc<Desk>) -> Self {
        Self { id, bytes, desk: Some(desk) }
    }

    /// Answers.
    pub fn answer(mut self, result: Result<Answer, Trouble>) {
        self.leave(result);
    }

    fn leave(&mut self, result: Result<Answer, Trouble>) {
        if let Some(desk) = self.desk.take() {
            desk.leave(Done { id: self.id, result }, self.bytes);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let why = "its thread has ended".to_owned();
        self.leave(Err(Trouble::Unknown(why)));
    }
}

/// Where one handle's answers are left.
pub(crate) struct Desk {
    answers: Mutex<Vec<(Done, usize)>>,
    wake: Wake,
}

impl Desk {
    pub(crate) fn new(wake: Wake) -> Self {
        Self { answers: Mutex::new(Vec::new()), wake }
    }

    /// Leaves an answer, and wakes whoever polls if it is the first since that was done.
    pub(crate) fn leave(&self, done: Done, bytes: usize) {
        let mut answers = lock(&self.answers);
        let first = answers.is_empty();
        answers.push((done, bytes));
        drop(answers);
        if first {
            self.wake.ring();
        }
    }

    pub(crate) fn take(&self) -> Vec<(Done, usize)> {
        std::mem::take(&mut *lock(&self.answers))
    }
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Desk")
    }
}

/// What waits for one thread.
#[derive(Default)]
pub(crate) struct Inbox {
    jobs: Mutex<VecDeque<Job>>,
    waker: Mutex<Option<Waker>>,
    /// The thread has ended.
    gone: AtomicBool,
}

impl Inbox {
    /// Puts `job` there; gives it back if the thread has ended.
    pub(crate) fn push(&self, job: Job) -> Result<(), Job> {
        let mut jobs = lock(&self.jobs);
        // Under the lock, so that none is put there after the last was taken out.
        if self.gone.load(Ordering::SeqCst) {
            return Err(job);
        }
        jobs.push_back(job);
        let first = jobs.len() == 1;
        drop(jobs);
        if first {
            self.rouse();
        }
        Ok(())
    }

    pub(crate) fn rouse(&self) {
        let waker = lock(&self.waker).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inbox")
    }
}

/// All threads of a store.
#[derive(Debug)]
pub(crate) struct Hall {
    pub(crate) inboxes: Vec<Inbox>,
    /// The store was dropped.
    pub(crate) closed: AtomicBool,
}

/// Where one thread of a store takes its ops. When it is dropped, all that still wait there are answered.
#[derive(Debug)]
pub struct Lane {
    pub(crate) hall: Arc<Hall>,
    pub(crate) index: usize,
}

impl Lane {
    fn inbox(&self) -> &Inbox {
        &self.hall.inboxes[self.index]
    }

    /// The next op that is there already.
    pub fn try_next(&mut self) -> Option<Job> {
        lock(&self.inbox().jobs).pop_front()
    }

    /// The next op; `None` once the store was dropped.
    pub fn poll_next(&mut self, cx: &Context<'_>) -> Poll<Option<Job>> {
        if let Poll::Ready(job) = self.look() {
            return Poll::Ready(job);
        }
        *lock(&self.inbox().waker) = Some(cx.waker().clone());
        // What came between the two is not waited for.
        self.look()
    }

    fn look(&mut self) -> Poll<Option<Job>> {
        if self.hall.closed.load(Ordering::SeqCst) {
            return Poll::Ready(None);
        }
        self.try_next().map_or(Poll::Pending, |job| Poll::Ready(Some(job)))
    }

    /// The next op; `None` once the store was dropped.
    pub async fn next(&mut self) -> Option<Job> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The same, for a thread that blocks.
    pub fn wait(&mut self) -> Option<Job> {
        let waker = Waker::from(Arc::new(Parked(std::thread::current())));
        loop {
            match self.poll_next(&Context::from_waker(&waker)) {
                Poll::Ready(job) => return job,
                Poll::Pending => std::thread::park(),
            }
        }
    }

    /// Whether the store was dropped, so that what takes long can be left.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.hall.closed.load(Ordering::SeqCst)
    }

    /// Has `job` carried out by the thread numbered `to`.
    pub fn pass_on(&self, job: Job, to: usize) {
        // One that has ended: the ticket says so when it is dropped.
        let _gone = self.hall.inboxes[to].push(job);
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let mut jobs = lock(&self.inbox().jobs);
        self.inbox().gone.store(true, Ordering::SeqCst);
        let left = std::mem::take(&mut *jobs);
        drop(jobs);
        for Job { ticket, .. } in left {
            ticket.answer(Err(Trouble::Unavailable("it was closed".to_owned())));
        }
    }
}

struct Parked(Thread);

impl std::task::Wake for Parked {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

pub(crate) fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
