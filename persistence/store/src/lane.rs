//! The far end of handles: where a store's own thread takes ops, and what it answers them by.
//!
//! It is awaited: by a runtime, or by [`wait`](Lane::wait), which blocks.
//!
//! # Not here
//! The bound on what waits: handles keep it, see **SO7**.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use crate::{Answer, Done, Op, OpId, Trouble, Wake};

/// How long a thread that has nothing to do stays awake.
const LINGER: Duration = Duration::from_micros(50);

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

/// What is made of an op before it goes on, or why it does not.
pub type Fit = fn(Op) -> Result<Op, Trouble>;

/// Where what comes to an inbox goes instead.
struct Onwards {
    to: Door,
    fit: Fit,
}

impl Onwards {
    fn pass(&self, Job { op, ticket }: Job) {
        match (self.fit)(op) {
            Ok(op) => self.to.pass_on(Job { op, ticket }),
            Err(trouble) => ticket.answer(Err(trouble)),
        }
    }
}

/// What waits for one thread.
#[derive(Default)]
pub(crate) struct Inbox {
    jobs: Mutex<VecDeque<Job>>,
    /// Set once, with `jobs` locked, so that nothing passes what came before.
    onwards: OnceLock<Onwards>,
    waker: Mutex<Option<Waker>>,
    /// The thread has ended.
    gone: AtomicBool,
}

impl Inbox {
    /// Puts `job` there; gives it back if the thread has ended.
    pub(crate) fn push(&self, job: Job) -> Result<(), Job> {
        if let Some(onwards) = self.onwards.get() {
            onwards.pass(job);
            return Ok(());
        }
        let mut jobs = lock(&self.jobs);
        if let Some(onwards) = self.onwards.get() {
            drop(jobs);
            onwards.pass(job);
            return Ok(());
        }
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

    fn lead_on(&self, onwards: Onwards) {
        let mut jobs = lock(&self.jobs);
        jobs.drain(..).for_each(|job| onwards.pass(job));
        // It is set once: the first one stays.
        let _before = self.onwards.set(onwards);
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

    /// The same, for a thread that blocks. It stays awake a little while first, and lets others run meanwhile: to be woken takes
    /// longer than most of what is asked.
    pub fn wait(&mut self) -> Option<Job> {
        let began = Instant::now();
        while began.elapsed() < LINGER {
            if let Poll::Ready(job) = self.look() {
                return job;
            }
            std::thread::yield_now();
        }
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

    /// What has come here and was not taken goes to `to`, and from now on all that comes does so at once, on the thread that
    /// submits it. Only the first call does anything.
    pub fn lead_on(&mut self, to: Door, fit: Fit) {
        self.inbox().lead_on(Onwards { to, fit });
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

/// A way in for ops that others have taken.
#[derive(Clone, Debug)]
pub struct Door {
    pub(crate) hall: Arc<Hall>,
    pub(crate) route: fn(&Op) -> usize,
}

impl Door {
    /// Has `job` carried out and answered, as if a handle of this store had taken it: for one that has handles of its own and
    /// keeps their bounds. Does not block.
    pub fn pass_on(&self, job: Job) {
        let to = (self.route)(&job.op);
        if let Err(Job { ticket, .. }) = self.hall.inboxes[to].push(job) {
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

#[cfg(test)]
mod tests {
    use epicserver_wire::NodeId;

    use super::*;
    use crate::{Lanes, Owner, Store as _};

    fn claim(epoch: u64) -> Op {
        Op::Claim { owner: Owner { node: NodeId::new(1), epoch }, slots: Vec::new() }
    }

    fn epochs(lane: &mut Lane) -> Vec<u64> {
        let epoch = |job: Job| {
            let Op::Claim { owner, .. } = job.op else { panic!("{:?}", job.op) };
            owner.epoch
        };
        std::iter::from_fn(|| lane.try_next()).map(epoch).collect()
    }

    #[test]
    fn what_is_led_on_goes_there_in_its_order_if_it_fits() {
        let (near, mut first) = Lanes::new(1, |_| 0);
        let (far, mut second) = Lanes::new(1, |_| 0);
        let mut handle = near.handle(Wake::new(|| ())).unwrap();
        handle.submit(OpId(1), claim(1)).unwrap();
        handle.submit(OpId(2), claim(2)).unwrap();
        let fit = |op| {
            let fits = !matches!(op, Op::Purge { .. });
            if fits { Ok(op) } else { Err(Trouble::Refused("it does not fit".to_owned())) }
        };
        first[0].lead_on(far.door(), fit);
        handle.submit(OpId(3), claim(3)).unwrap();
        handle.submit(OpId(4), Op::Purge { before_ms: 0 }).unwrap();
        assert_eq!(epochs(&mut second[0]), [1, 2, 3]);
        assert_eq!(epochs(&mut first[0]), [] as [u64; 0]);
        drop(second);
        handle.submit(OpId(5), claim(5)).unwrap();
        let mut done = Vec::new();
        handle.poll(&mut done);
        let refused = |id| done.iter().any(|done| done.id == OpId(id) && done.result.is_err());
        assert!(refused(4) && refused(5), "{done:?}");
        assert_eq!(handle.unanswered(), 0, "what was taken out by hand was answered as unknown");
    }
}
