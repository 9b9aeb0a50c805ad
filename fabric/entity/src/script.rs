//! The test kit: one entity, hand-fed by its author's unit test. No runtime, no mock, no I/O.
//!
//! A script starts methods of one entity, hands out each syscall they make as plain data, and is
//! told the answers. What the entity's own rules decide (who waits for an exclusive section) the
//! script decides too; everything else is the author's to answer, or not to.
//!
//! # Invariants
//! - **S1** Methods are polled in the order in which they were started, and only while no other one
//!   holds the exclusive section.
//!
//! # Not here
//! Time that passes: it stands still but for [`Script::advance`].

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use epicserver_wire::{
    CallError, ChainId, EntityId, ErrorKind, IntoKey, Path, Ran, SectionId, ShardId, Time, Token,
};

use crate::cell::{AnyCell, Place, StateCell};
use crate::desk::{Desk, Entry, Host, TurnId};
use crate::entity::{Entity, MethodInfo, entity_id};
use crate::envelope::{Head, Request};
use crate::message::Message;
use crate::reference::Ref;
use crate::running::{Activation, Running, detached};
use crate::syscall::{Answer, Syscall};
use crate::{At, Cx};

/// A syscall that a method made, to be answered by the author of the test.
#[derive(Debug)]
pub struct Asked {
    token: Option<Token>,
    run: usize,
    /// What was asked.
    pub syscall: Syscall,
}

impl Asked {
    /// The call that was made.
    ///
    /// # Panics
    /// If the syscall is neither a call nor a tell.
    #[must_use]
    pub fn call(&self) -> &Request {
        let (Syscall::Call(request) | Syscall::Tell(request)) = &self.syscall else {
            panic!("expected a call, got {:?}", self.syscall)
        };
        request
    }

    /// Whether this is a call of `method` (its name) of `entity`.
    #[must_use]
    pub fn is_call<T: Entity>(&self, entity: &Ref<T>, method: &str) -> bool {
        let (Syscall::Call(request) | Syscall::Tell(request)) = &self.syscall else {
            return false;
        };
        request.to() == Ref::id(entity) && request.method().name == method
    }

    /// Which of the started methods asked, counted from 0 in the order of starting.
    #[must_use]
    pub fn run(&self) -> usize {
        self.run
    }
}

/// A method that was started.
#[derive(Debug)]
pub struct Run<R> {
    index: usize,
    result: Rc<RefCell<Option<R>>>,
}

struct Task {
    running: Option<Box<dyn Running>>,
}

#[derive(Default)]
struct ScriptHost {
    random: Cell<u64>,
    asked: RefCell<VecDeque<Asked>>,
    spawned: RefCell<Vec<Box<dyn Running>>>,
    waiting: RefCell<VecDeque<(Token, TurnId)>>,
    holder: Cell<Option<TurnId>>,
    sections: Cell<u64>,
}

impl ScriptHost {
    fn grant(&self, desk: &Desk) {
        if self.holder.get().is_some() {
            return;
        }
        let Some((token, turn)) = self.waiting.borrow_mut().pop_front() else { return };
        let section = SectionId::new(0, self.sections.get());
        self.sections.set(self.sections.get() + 1);
        if desk.tickets().borrow_mut().answer(token, Answer::Section(section)).is_ok() {
            self.holder.set(Some(turn));
        }
    }
}

impl Host for ScriptHost {
    fn random(&self) -> u64 {
        // Knuth's MMIX generator: any fixed sequence serves.
        let next = self.random.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.random.set(next);
        next
    }

    fn fence(&self, _: &EntityId) -> u64 {
        0
    }

    fn departed(&self) -> u64 {
        0
    }

    fn shard(&self) -> ShardId {
        ShardId::new(0)
    }

    fn enter(&self, _: &Desk, _: &Head, _: &'static MethodInfo) -> Option<Entry> {
        None
    }

    fn open(&self, _: &Desk, _: &mut Head) -> Option<Rc<dyn AnyCell>> {
        None
    }

    fn panicked(&self, _: &Desk, _: Place, _: &'static MethodInfo) {}

    fn changed(&self, _: Place) {}

    fn has_reminder(&self, _: Place, _: &str, _: u64) -> bool {
        true
    }

    fn reminded(&self, _: Place, _: &str, _: u64) {}

    fn leave(&self, _: &Desk, _: Entry) {}

    fn adopt(
        &self,
        _: &Desk,
        _: Entry,
        _: Box<dyn Running>,
        _: Token,
    ) -> Result<Option<Request>, CallError> {
        Ok(None)
    }

    fn call(&self, desk: &Desk, token: Option<Token>, request: Request) {
        let tell = token.is_none();
        let syscall = if tell { Syscall::Tell(request) } else { Syscall::Call(request) };
        self.submit(desk, token, syscall);
    }

    fn submit(&self, desk: &Desk, token: Option<Token>, syscall: Syscall) {
        let turn = desk.turn().id;
        match (token, syscall) {
            (Some(token), Syscall::Exclusive) => {
                self.waiting.borrow_mut().push_back((token, turn));
                self.grant(desk);
            }
            (None, Syscall::Release { .. }) if self.holder.get() == Some(turn) => {
                self.holder.set(None);
                self.grant(desk);
            }
            (token, syscall) => {
                let run = turn.index() as usize;
                self.asked.borrow_mut().push_back(Asked { token, run, syscall });
            }
        }
    }

    fn spawn(&self, desk: &Desk, task: Box<dyn Running>) {
        self.spawned.borrow_mut().push(task);
        self.submit(desk, None, Syscall::Spawn);
    }

    fn give_up(&self, _: &Desk, token: Token) {
        self.waiting.borrow_mut().retain(|(waiting, _)| *waiting != token);
    }
}

/// One entity and the methods that run on it.
///
/// ```text
/// let mut player = Script::new("bob", Player::default());
/// let level = player.start(|cx| Player::enter_level(cx, barrels));
/// let hit = player.next().expect("a call");
/// player.reply(hit, true);
/// assert_eq!(player.finish(level), Ok(1));
/// ```
///
/// The macros name the façade, so that this stands compiled in its tests: in
/// `runtime/epicserver/tests/script.rs`, with each of the ways to start and to answer.
pub struct Script<T: Entity> {
    cell: Rc<StateCell<T>>,
    host: Rc<ScriptHost>,
    desk: Rc<Desk>,
    tasks: Vec<Task>,
    entity: PhantomData<T>,
}

impl<T: Entity> Script<T> {
    /// The entity with `key`, in `state`.
    #[must_use]
    pub fn new(key: impl IntoKey<T::Key>, state: T) -> Self {
        let cell = Rc::new(StateCell::with_state(entity_id::<T>(key.into_key()), state));
        let host = Rc::new(ScriptHost::default());
        let desk = Desk::new(Rc::clone(&host) as Rc<dyn Host>, 0);
        Self { cell, host, desk, tasks: Vec::new(), entity: PhantomData }
    }

    /// The entity with `key` as its `#[activate]` hook or `Default` makes it.
    ///
    /// # Panics
    /// If the hook is asynchronous or fails: start it like a method to test it.
    #[must_use]
    pub fn activated(key: impl IntoKey<T::Key>) -> Self {
        let cell = Rc::new(StateCell::new(entity_id::<T>(key.into_key())));
        let host = Rc::new(ScriptHost::default());
        let desk = Desk::new(Rc::clone(&host) as Rc<dyn Host>, 0);
        let guard = desk.enter();
        match T::activate(At::new(Rc::clone(&cell))) {
            Activation::Ready(state) => cell.set_state(state),
            Activation::Running(_) => panic!("the activate hook of {} waits", T::NAME),
            Activation::Failed(_) => panic!("the activate hook of {} failed", T::NAME),
        }
        drop(guard);
        Self { cell, host, desk, tasks: Vec::new(), entity: PhantomData }
    }

    /// Starts a method that interleaves.
    pub fn start<F>(&mut self, method: impl FnOnce(Cx<T>) -> F) -> Run<F::Output>
    where
        F: Future + 'static,
    {
        let cx = Cx::new(Rc::clone(&self.cell));
        let future = {
            let _on = self.desk.enter();
            method(cx)
        };
        self.add(future, false)
    }

    /// Starts an `#[exclusive]` method, or anything else that has the entity to itself.
    pub fn start_exclusive<R: 'static>(
        &mut self,
        method: impl AsyncFnOnce(&mut T, At<T>) -> R + 'static,
    ) -> Run<R> {
        let cell = Rc::clone(&self.cell);
        let at = At::new(Rc::clone(&cell));
        self.add(async move { cell.hold(async |state| method(state, at).await).await }, true)
    }

    /// Runs a method of one turn.
    ///
    /// # Panics
    /// If a started method holds the exclusive section.
    pub fn turn<R>(&mut self, method: impl FnOnce(&mut T, At<T>) -> R) -> R {
        assert!(self.host.holder.get().is_none(), "S1: an exclusive section is held");
        let _on = self.desk.enter();
        let outer = self.desk.begin(TurnId::new(u32::MAX - 1), Place::NONE, Time::MAX, 0);
        let at = At::new(Rc::clone(&self.cell));
        let result = self.cell.with(|state| method(state, at));
        self.desk.end(outer);
        result
    }

    fn add<R: 'static>(
        &mut self,
        future: impl Future<Output = R> + 'static,
        exclusive: bool,
    ) -> Run<R> {
        let result = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&result);
        let desk = Rc::clone(&self.desk);
        let index = self.tasks.len();
        let running = detached(async move {
            let held = if exclusive { Some(hold().await) } else { None };
            let output = future.await;
            drop(held);
            *slot.borrow_mut() = Some(output);
            drop(desk);
        });
        self.tasks.push(Task { running: Some(running) });
        Run { index, result }
    }

    /// Runs everything that can run.
    fn run(&mut self) {
        let desk = Rc::clone(&self.desk);
        let _on = desk.enter();
        for index in 0.. {
            let spawned = self.host.spawned.take();
            self.tasks.extend(spawned.into_iter().map(|task| Task { running: Some(task) }));
            let Some(task) = self.tasks.get_mut(index) else { break };
            let turn = TurnId::new(u32::try_from(index).unwrap_or(u32::MAX));
            if self.host.holder.get().is_some_and(|holder| holder != turn) {
                continue;
            }
            let Some(running) = &mut task.running else { continue };
            let outer = desk.begin(turn, Place::NONE, Time::MAX, 0);
            let chain = ChainId::new(Time::from_nanos(1), u64::from(turn.index()));
            let path = desk.set_path(Path::new(chain));
            let done = running.poll(&mut Context::from_waker(Waker::noop())).is_ready();
            desk.end(outer);
            drop(desk.set_path(path));
            if done && let Some(running) = task.running.take() {
                drop(running.finish());
            }
        }
    }

    /// The next syscall that needs an answer, or that the author may want to see.
    #[expect(clippy::should_implement_trait, reason = "a script is asked again after each answer")]
    pub fn next(&mut self) -> Option<Asked> {
        let early = self.host.asked.borrow_mut().pop_front();
        early.or_else(|| {
            // A method that lets go of the section lets another one run: twice reaches both.
            self.run();
            self.run();
            self.host.asked.borrow_mut().pop_front()
        })
    }

    fn answer(&mut self, asked: Asked, answer: Answer) {
        let Some(token) = asked.token else { return };
        // A method may have given it up meanwhile: then there is nobody to tell.
        let told = self.desk.tickets().borrow_mut().answer(token, answer);
        drop(told);
    }

    /// Answers a call with what the method's body would have returned.
    ///
    /// # Panics
    /// If `asked` is no call, or its method returns another type.
    pub fn reply<R: Message>(&mut self, mut asked: Asked, reply: R) {
        let syscall = std::mem::replace(&mut asked.syscall, Syscall::Now);
        let Syscall::Call(mut request) = syscall else {
            panic!("expected a call, got {syscall:?}")
        };
        if let Err(expected) = request.put_reply(reply) {
            panic!("{:?} returns {expected}", request.method());
        }
        self.answer(asked, Answer::Reply(request));
    }

    /// Answers any syscall with an error of `kind`.
    pub fn fail(&mut self, asked: Asked, kind: ErrorKind) {
        let ran = if kind == ErrorKind::Deadline { Ran::Unknown } else { Ran::No };
        self.answer(asked, Answer::Failed(CallError::new(kind, ran, ChainId::NONE)));
    }

    /// Answers any syscall with `answer`: [`Answer::Done`] for a sleep that is over.
    pub fn complete(&mut self, asked: Asked, answer: Answer) {
        if let Syscall::Sleep { until } = asked.syscall {
            self.desk.set_now(until);
        }
        self.answer(asked, answer);
    }

    /// Lets a clock tick: unlike any other syscall it may be answered again and again.
    ///
    /// # Panics
    /// If `asked` is no clock.
    pub fn tick(&mut self, asked: &Asked) {
        let Syscall::Every { .. } = asked.syscall else {
            panic!("expected a clock, got {asked:?}")
        };
        if let Some(token) = asked.token {
            // The clock may have been dropped meanwhile: then there is nobody to tell.
            let told = self.desk.tickets().borrow_mut().answer(token, Answer::Done);
            drop(told);
        }
    }

    /// Answers a lock: it is held now.
    pub fn grant(&mut self, asked: Asked) {
        let serial = self.host.sections.get();
        self.host.sections.set(serial + 1);
        self.answer(asked, Answer::Section(SectionId::new(1, serial)));
    }

    /// Lets time pass.
    pub fn advance(&mut self, duration: Duration) {
        self.desk.set_now(self.desk.now() + duration);
    }

    /// What `run` returned, if it has.
    pub fn result<R>(&mut self, run: &Run<R>) -> Option<R> {
        self.run();
        run.result.borrow_mut().take()
    }

    /// What `run` returned.
    ///
    /// # Panics
    /// If it has not: it waits for an answer.
    #[expect(clippy::needless_pass_by_value, reason = "a run has one result")]
    pub fn finish<R>(&mut self, run: Run<R>) -> R {
        let result = self.result(&run);
        let Some(result) = result else {
            panic!("method {} has not returned; it waits for {:?}", run.index, self.host.asked)
        };
        result
    }

    /// The state, between turns.
    ///
    /// # Panics
    /// If a started method holds the exclusive section.
    pub fn state<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        self.cell.with(|state| look(state))
    }
}

/// Takes the exclusive section for as long as the guard lives.
async fn hold() -> crate::sync::LockGuard {
    let ask = crate::ask::Ask::new(Syscall::Exclusive, crate::sync::guard);
    match ask.await {
        Ok(guard) => guard,
        Err(error) => panic!("S1: a script grants sections: {error}"),
    }
}

impl<T: Entity> fmt::Debug for Script<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Script").field("cell", &self.cell).finish_non_exhaustive()
    }
}
