//! Reminders: calls that an entity asks for at a later time, and that find it even if it is in no memory by then.
//!
//! # Invariants
//! - **E9** The hook runs only for a reminder that the entity still has; and that it ran is noted where the hook ends, so that
//!   it is saved together with what the hook has changed.
//!
//! # Not here
//! When reminders are due, and where they are kept: hosts and stores know.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use epicserver_wire::{CallError, EntityId, MethodId, limits};

use crate::ask::Ask;
use crate::call::Call;
use crate::cell::StateCell;
use crate::cx::Cx;
use crate::desk::current;
use crate::entity::{Entity, Method};
use crate::reference::Target;
use crate::syscall::{Answer, Due, Syscall};

/// What the `#[reminded]` hook is told, and what an entity knows of its reminders.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Reminder {
    /// Which of the entity's.
    pub label: String,
    /// When it was to come, as the time since 1970-01-01 UTC.
    pub due: Duration,
    /// How often it comes again, if it does.
    pub every: Option<Duration>,
    /// How many times of one that comes again have passed unseen since: nobody could run the hook, and they are not made up
    /// for one by one.
    pub missed: u64,
}

impl Reminder {
    /// One that is due at `due`, and has missed nothing.
    #[must_use]
    pub fn new(label: impl Into<String>, due: Duration, every: Option<Duration>) -> Self {
        Self { label: label.into(), due, every, missed: 0 }
    }

    /// As the arguments say.
    #[doc(hidden)]
    #[must_use]
    pub fn of((label, due_ms, period_ms, missed): Args) -> Self {
        let due = Duration::from_millis(due_ms);
        let every = (period_ms > 0).then(|| Duration::from_millis(period_ms));
        Self { label, due, every, missed }
    }
}

/// A reminder as the arguments of a call: label, when it was due in ms, its period in ms or 0, what was missed.
#[doc(hidden)]
pub type Args = (String, u64, u64, u64);

/// An entity with a `#[reminded]` hook.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no hook for reminders",
    note = "write `#[reminded] fn wake(&mut self, reminder: Reminder)` in its `#[entity] impl`"
)]
pub trait Reminded: Entity {
    /// The hook, as a method. It is in no list of methods: nobody else can call it.
    type Hook: Method<Entity = Self, Args = Args, Reply = (), Output = Result<(), CallError>>;
}

/// The call of a hook.
type Calling = Pin<Box<dyn Future<Output = Result<(), CallError>>>>;

/// How an entity is reminded.
#[derive(Clone, Copy, Debug)]
pub struct Reminds {
    /// The hook's id.
    pub hook: MethodId,
    /// Calls the hook of an entity.
    pub call: fn(EntityId, Args) -> Calling,
}

impl Reminds {
    /// How an entity of type `T` is.
    #[must_use]
    pub const fn of<T: Reminded>() -> Self {
        Self { hook: <T::Hook as Method>::ID, call: |id, args| Box::pin(call::<T>(id, args)) }
    }
}

async fn call<T: Reminded>(id: EntityId, args: Args) -> Result<(), CallError> {
    // One that has terms of its own leaves, and is answered by way of whoever decides when it may be.
    Call::<T::Hook>::new(&Target::new(id), args).timeout(limits::CALL_TIMEOUT).await
}

/// For generated code: a hook of one turn.
#[doc(hidden)]
pub fn remind_turn<T: Entity>(cell: &Rc<StateCell<T>>, args: &Args, hook: impl FnOnce(Reminder)) {
    if has(cell, args) {
        hook(Reminder::of(args.clone()));
    }
    has_run(cell, args);
}

/// For generated code: a hook during whose waits others run.
#[doc(hidden)]
pub async fn remind_shared<T: Entity, F: Future<Output = ()>>(
    cx: Cx<T>,
    args: Args,
    hook: impl FnOnce(Cx<T>, Reminder) -> F,
) {
    let cell = Rc::clone(cx.cell());
    if has(&cell, &args) {
        hook(cx, Reminder::of(args.clone())).await;
    }
    has_run(&cell, &args);
}

/// Whether the entity has this reminder still, due at that time.
fn has<T: Entity>(cell: &Rc<StateCell<T>>, (label, due_ms, ..): &Args) -> bool {
    current().is_some_and(|desk| desk.host().has_reminder(cell.place(), label, *due_ms))
}

fn has_run<T: Entity>(cell: &Rc<StateCell<T>>, (label, due_ms, ..): &Args) {
    if let Some(desk) = current() {
        desk.host().reminded(cell.place(), label, *due_ms);
    }
}

/// A change of an entity's reminders. It is made already; awaited, it tells when it is durable.
#[derive(Debug)]
pub struct Reminding(Ask<()>);

impl Reminding {
    pub(crate) fn of(syscall: Syscall) -> Self {
        Self(Ask::sent(syscall, |answer| (answer == Answer::Done).then_some(())))
    }

    pub(crate) fn put(label: String, due: Due, every: Option<Duration>) -> Self {
        Self::of(Syscall::Remind { label, due, every })
    }
}

impl Future for Reminding {
    type Output = Result<(), CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx)
    }
}
