//! What a method is given of its entity: [`At`] for any method, [`Cx`] for one that interleaves.
//!
//! # Invariants
//! - **X1** State is reached by `with` (a synchronous closure, so that no borrow can outlive the
//!   turn) or in an exclusive section.
//!
//! # Not here
//! What becomes of what is asked: the host decides.

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::rc::Rc;
use std::time::Duration;

use epicserver_wire::{CallError, ChainId, EntityKey, ErrorKind, Time, limits};

use crate::ask::{Ask, Interval};
use crate::cell::StateCell;
use crate::desk::{Desk, current};
use crate::entity::Entity;
use crate::reference::{Pool, Ref, Target};
use crate::remind::{Reminded, Reminder, Reminding};
use crate::running::detached;
use crate::sync::{Event, Lock, Queue};
use crate::syscall::{Answer, Due, Syscall};
use crate::watch::NodeWatch;

/// Where a method runs: its entity's key, the pool, clock, random numbers, timers.
pub struct At<T> {
    cell: Rc<StateCell<T>>,
}

fn desk() -> Rc<Desk> {
    current().expect("`At` and `Cx` are used on the shard of their entity")
}

impl<T: Entity> At<T> {
    pub(crate) fn new(cell: Rc<StateCell<T>>) -> Self {
        Self { cell }
    }

    /// For generated code: where the method of `cell` runs.
    #[doc(hidden)]
    #[must_use]
    pub fn of(cell: &Rc<StateCell<T>>) -> Self {
        Self::new(Rc::clone(cell))
    }

    /// The entity's key.
    ///
    /// # Panics
    /// Never: an entity of type `T` has a key of `T`'s key type.
    #[must_use]
    pub fn key(&self) -> T::Key {
        T::Key::from_key(self.cell.id().key()).expect("E1: the key is of the entity's key type")
    }

    /// A reference to this entity.
    #[must_use]
    pub fn this(&self) -> Ref<T> {
        let target = Target::new(self.cell.id().clone());
        target.remember(self.cell.place());
        Ref::to(target)
    }

    /// Every other entity.
    #[must_use]
    pub fn pool(&self) -> Pool {
        Pool::new()
    }

    /// The time of this turn: monotonic, nanoseconds since an origin that only the host knows.
    #[must_use]
    pub fn now(&self) -> Time {
        desk().now()
    }

    /// When the caller gives up; [`Time::MAX`] where nobody waits.
    #[must_use]
    pub fn deadline(&self) -> Time {
        desk().turn().deadline
    }

    /// The chain that this call belongs to.
    #[must_use]
    pub fn chain(&self) -> ChainId {
        desk().path().chain()
    }

    /// A random number; repeatable in tests and the simulator, not fit for secrets.
    #[must_use]
    pub fn random(&self) -> u64 {
        desk().host().random()
    }

    /// A number that grows each time that this entity's slot goes to another node, and stays while that node has it. What
    /// is outside of the fabric and has seen a higher one can tell by it that a turn is of an owner who has been
    /// replaced, and refuse what it asks for (a fencing token). 0 on a node that is in no fabric, and of
    /// stateless entities.
    #[must_use]
    pub fn fence(&self) -> u64 {
        desk().host().fence(self.cell.id())
    }

    /// A watch on the nodes of the fabric: it tells of each that is gone from now on, whether it left, died, or could not
    /// keep its lease. What it had is served by others by then. In a fabric of given nodes (the coordinator `static`)
    /// none is ever said to be gone.
    #[must_use]
    pub fn watch_nodes(&self) -> NodeWatch {
        NodeWatch::new(desk().host().departed())
    }

    /// Random bytes from the operating system, fit for secrets.
    pub fn random_bytes(&self, len: usize) -> Ask<Vec<u8>> {
        let len = len.min(limits::RANDOM_BYTES_MAX);
        Ask::new(Syscall::Random { len }, |answer| {
            if let Answer::Bytes(bytes) = answer { Some(bytes) } else { None }
        })
    }

    /// The wall clock: the time since 1970-01-01 UTC.
    pub fn wall_clock(&self) -> Ask<Duration> {
        Ask::new(Syscall::Now, |answer| {
            if let Answer::Wall(nanos) = answer { Some(Duration::from_nanos(nanos)) } else { None }
        })
    }

    /// Waits for `duration`.
    pub fn sleep(&self, duration: Duration) -> Ask<()> {
        let until = self.now() + duration;
        Ask::new(Syscall::Sleep { until }, |answer| (answer == Answer::Done).then_some(()))
    }

    /// A clock that ticks after each `period`.
    #[must_use]
    pub fn interval(&self, period: Duration) -> Interval {
        Interval::new(self.now() + period, period)
    }

    /// Runs `task` on this entity, interleaved with its methods, on a chain of its own. It ends with
    /// the activation. The shard counts a task that does not fit its tables.
    pub fn spawn(&self, task: impl AsyncFnOnce(Cx<T>) + 'static) {
        let cx = Cx::new(Rc::clone(&self.cell));
        let desk = desk();
        desk.host().spawn(&desk, detached(async move { task(cx).await }));
    }

    /// Runs `each` after every `period`, until the activation ends. It does not keep the activation
    /// alive. A time that comes while the one before still runs is left out.
    pub fn every(&self, period: Duration, mut each: impl AsyncFnMut(Cx<T>) + 'static) {
        let mut interval = self.interval(period);
        self.spawn(async move |cx| {
            while interval.tick().await.is_ok() {
                each(Cx::new(Rc::clone(&cx.at.cell))).await;
            }
        });
    }

    /// Collects this activation once nothing of it runs any more.
    pub fn deactivate(&self) {
        let desk = desk();
        desk.host().submit(&desk, None, Syscall::Deactivate);
    }

    /// Waits until all that has changed in the entity's state so far is durable. Where nothing is saved (the type
    /// is `saved = "never"`, or the node has no store) that is at once.
    ///
    /// Given up, it is saved all the same. Not to be awaited in an exclusive section, before whose end the state is not
    /// saved; nor where the entity is to be deleted, which is done when none of its methods runs any more.
    ///
    /// # Errors
    /// [`ErrorKind::StoreUnavailable`] if the store did not take it. It stays to be saved, and may have been.
    /// [`ErrorKind::WouldDeadlock`] in an exclusive section, or once the entity is to be deleted.
    pub fn save(&self) -> Ask<()> {
        Ask::new(Syscall::Save, |answer| (answer == Answer::Done).then_some(()))
    }

    /// Has the `#[reminded]` hook called at `at`, the time since 1970-01-01 UTC, even if this activation is gone by then, or the node, or
    /// the whole fabric was stopped and started: at the first time after that when it runs. In place of the entity's other
    /// reminder of this label, if it has one.
    ///
    /// It is called at least once: again, a few seconds later, while the call fails or the hook panics. What a hook of one turn
    /// changes is saved together with the note that it ran, so that a crash undoes both or none.
    ///
    /// It is kept with the state and becomes durable with it, for which it need not be awaited. To wait for that, the same holds
    /// as for [`save`](Self::save). Under `saved = "manual"` it saves the state too.
    ///
    /// # Errors
    /// When awaited: as [`save`](Self::save); [`ErrorKind::StoreUnavailable`] where the node has no store, [`ErrorKind::Overloaded`] if the
    /// entity has as many reminders as it may, 24, or the label is longer than 128 bytes. Nothing is kept then.
    pub fn remind_at(&self, label: impl Into<String>, at: Duration) -> Reminding
    where
        T: Reminded,
    {
        Reminding::put(label.into(), Due::At(at), None)
    }

    /// [`remind_at`](Self::remind_at) the time that it will be after `after`.
    ///
    /// # Errors
    /// As there.
    pub fn remind_in(&self, label: impl Into<String>, after: Duration) -> Reminding
    where
        T: Reminded,
    {
        Reminding::put(label.into(), Due::In(after), None)
    }

    /// [`remind_at`](Self::remind_at) again and again, for the first time after `period`; less than a second is taken for one. Times that pass while
    /// nobody can run the hook are not made up for one by one: the hook is told how many they were.
    ///
    /// # Errors
    /// As there.
    pub fn remind_every(&self, label: impl Into<String>, period: Duration) -> Reminding
    where
        T: Reminded,
    {
        let period = period.max(Duration::from_secs(1));
        Reminding::put(label.into(), Due::In(period), Some(period))
    }

    /// Takes the reminder of this label away, if there is one. As [`remind_at`](Self::remind_at), it need not be awaited.
    ///
    /// # Errors
    /// When awaited: as [`save`](Self::save).
    pub fn forget(&self, label: impl Into<String>) -> Reminding
    where
        T: Reminded,
    {
        Reminding::of(Syscall::Forget { label: label.into() })
    }

    /// The reminders of this entity, in the order of their labels.
    pub fn reminders(&self) -> Ask<Vec<Reminder>>
    where
        T: Reminded,
    {
        Ask::new(Syscall::Reminders, |answer| {
            if let Answer::Reminders(all) = answer { Some(all) } else { None }
        })
    }

    /// Deletes the entity and its reminders: once nothing of this activation runs any more it is collected, and its stored state is
    /// replaced by a tombstone. A later call makes a new entity.
    pub fn delete(&self) {
        let desk = desk();
        desk.host().submit(&desk, None, Syscall::Delete);
    }

    /// The lock of this entity that is called `name`.
    #[must_use]
    pub fn lock(&self, name: &'static str) -> Lock {
        Lock::new(name)
    }

    /// The event of this entity that is called `name`.
    #[must_use]
    pub fn event(&self, name: &'static str) -> Event {
        Event::new(name)
    }

    /// The queue of this entity that is called `name`.
    #[must_use]
    pub fn queue<V>(&self, name: &'static str) -> Queue<V> {
        Queue::new(name)
    }
}

impl<T> fmt::Debug for At<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "At({:?})", self.cell)
    }
}

/// What a method that interleaves has in place of `self`.
///
/// Neither `Copy` nor `Send`, and `exclusive` needs it mutably: `with` cannot meet a section of
/// the same task.
pub struct Cx<T> {
    at: At<T>,
}

impl<T: Entity> Cx<T> {
    pub(crate) fn new(cell: Rc<StateCell<T>>) -> Self {
        Self { at: At::new(cell) }
    }

    pub(crate) fn cell(&self) -> &Rc<StateCell<T>> {
        &self.at.cell
    }

    /// Reads or changes the state, in one piece with nothing between.
    ///
    /// # Panics
    /// If it is called inside itself, every time.
    pub fn with<R>(&self, turn: impl FnOnce(&mut T) -> R) -> R {
        self.at.cell.with(turn)
    }

    /// Runs `section` with nothing else running on this entity, its parked methods included.
    ///
    /// Calls that this method has under way are waited for first.
    ///
    /// # Errors
    /// [`ErrorKind::WouldDeadlock`] if the section is held further up this chain, or waiting could
    /// close a circle of waits; [`ErrorKind::TooManySections`]. Nothing of `section` has run then.
    pub async fn exclusive<R>(
        &mut self,
        section: impl AsyncFnOnce(&mut T) -> R,
    ) -> Result<R, CallError> {
        let held = Ask::new(Syscall::Exclusive, crate::sync::guard).await?;
        let result = self.at.cell.hold(section).await;
        drop(held);
        Ok(result)
    }

    /// Runs `work`, and gives up on it after `timeout`: it is dropped then.
    ///
    /// # Errors
    /// [`ErrorKind::Deadline`] if it took longer.
    pub async fn within<F: Future>(
        &self,
        timeout: Duration,
        work: F,
    ) -> Result<F::Output, CallError> {
        let mut sleep = std::pin::pin!(self.sleep(timeout));
        let mut work = std::pin::pin!(work);
        std::future::poll_fn(|cx| {
            if let std::task::Poll::Ready(output) = work.as_mut().poll(cx) {
                return std::task::Poll::Ready(Ok(output));
            }
            sleep.as_mut().poll(cx).map(|slept| {
                let late = CallError::new(
                    ErrorKind::Deadline,
                    epicserver_wire::Ran::Unknown,
                    self.chain(),
                );
                Err(slept.err().unwrap_or(late))
            })
        })
        .await
    }
}

impl<T> Deref for Cx<T> {
    type Target = At<T>;

    fn deref(&self) -> &At<T> {
        &self.at
    }
}

impl<T> fmt::Debug for Cx<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cx({:?})", self.at.cell)
    }
}
