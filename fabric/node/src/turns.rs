//! Turns: starting methods, polling tasks, and what a panic leaves behind.
//!
//! # Invariants
//! - **N6** A panic ends its own call with `Panicked` and the activation's parked methods with
//!   `Reset`; calls that had not started run on a fresh activation.
//!
//! # Not here
//! Who may run: the activations decide.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::task::{Context, Poll};

use epicserver_entity::{
    Answer, AnyCell, AnyStarted, Caller, Desk, Entry, Head, MethodInfo, Mode, Place, Request,
    Running, TurnId,
};
use epicserver_wire::{Born, CallError, ErrorKind, Path, Ran, Time, Token};

use crate::core::{Core, Ready};
use crate::realm::Traffic;
use crate::tokens::Timer;
use crate::{Effect, Notice};

/// The task of one turn.
pub(crate) struct Task {
    /// Out of here while it is polled.
    pub(crate) running: Option<Box<dyn Running>>,
    pub(crate) caller: Caller,
    pub(crate) deadline: Time,
    pub(crate) method: Option<&'static MethodInfo>,
    pub(crate) started: Time,
    /// Listed to be polled.
    queued: bool,
    /// Its activation was reset while it was being polled.
    pub(crate) doomed: bool,
    /// It makes the state of its activation.
    pub(crate) activates: bool,
    /// Calls that it made and that are not answered.
    pub(crate) asked: u32,
    /// A section or lock that it wants once they are.
    pub(crate) wants: Option<(Token, Option<&'static str>)>,
    /// The tick that it may be dropped at.
    pub(crate) tick: Option<Token>,
}

/// The error of a call whose method began and did not return.
fn unfinished(kind: ErrorKind, path: &Path) -> CallError {
    let ran = if kind == ErrorKind::Panicked { Ran::Yes } else { Ran::Unknown };
    CallError::new(kind, ran, path.chain())
}

/// How a poll ended.
enum Polled {
    Pending,
    Done,
    Panicked,
}

impl Core {
    pub(crate) fn task<R>(&self, turn: u32, look: impl FnOnce(&mut Task) -> R) -> Option<R> {
        self.tasks.borrow_mut().get_mut(turn as usize)?.as_mut().map(look)
    }

    fn put_task(&self, turn: u32, task: Task) {
        let mut tasks = self.tasks.borrow_mut();
        let index = turn as usize;
        while tasks.len() <= index {
            tasks.push(None);
        }
        tasks[index] = Some(task);
    }

    fn new_task(
        &self,
        caller: Caller,
        deadline: Time,
        method: Option<&'static MethodInfo>,
    ) -> Task {
        Task {
            running: None,
            caller,
            deadline,
            method,
            started: self.time(),
            queued: false,
            doomed: false,
            activates: false,
            asked: 0,
            wants: None,
            tick: None,
        }
    }

    /// The path of a turn that begins now at `place`. What is let in where a slot is emptied counts as begun before that
    /// was lost: it is waited for, and so are the calls by which its chain comes back there.
    #[inline]
    fn begun(&self, place: u32, path: &Path) -> Path {
        let born = path.born().or_earlier(self.born.get());
        let busy = self.traffic.get() == Traffic::Busy;
        path.clone_under(if busy { self.born_before_loss(place, born) } else { born })
    }

    #[cold]
    fn born_before_loss(&self, place: u32, born: Born) -> Born {
        let lost = self.lost_by(place);
        lost.map_or(born, |lost| born.or_earlier(Born::under(lost.saturating_sub(1))))
    }

    /// The turn of a task that ticks begins anew: it is no part any more of what began the task. Where its
    /// activation is emptied it is, since that waits for it.
    pub(crate) fn is_born_again(&self, turn: u32) {
        let mut table = self.table.borrow_mut();
        if table.place_of(turn).is_some_and(|place| !table.is_leaving(place)) {
            table.set_born(turn, self.born.get());
        }
    }

    /// Opens a turn for a call. `None` if there is no room for one.
    pub(crate) fn open_turn(
        &self,
        place: u32,
        head: &Head,
        method: &'static MethodInfo,
    ) -> Option<(u32, Path)> {
        let mut path = self.begun(place, &head.path);
        let mut table = self.table.borrow_mut();
        let turn = table.begin(place, path.clone()).ok()?;
        if method.mode == Mode::Exclusive {
            if table.take(turn, true).is_err() {
                table.end(turn);
                return None;
            }
            path = table.path_of(turn).cloned().unwrap_or(path);
        }
        drop(table);
        self.put_task(turn, self.new_task(head.caller, head.deadline, Some(method)));
        Some((turn, path))
    }

    /// Adds a task that serves no call.
    pub(crate) fn add_task(
        &self,
        place: u32,
        path: Path,
        running: Box<dyn Running>,
    ) -> Option<u32> {
        // What belongs to no entity begins no chain by itself.
        let path = if place == u32::MAX { path } else { self.begun(place, &path) };
        let turn = self.table.borrow_mut().begin(place, path).ok()?;
        let mut task = self.new_task(Caller::Nobody, Time::MAX, None);
        task.running = Some(running);
        self.put_task(turn, task);
        self.wake_turn(turn);
        Some(turn)
    }

    pub(crate) fn root(&self, _: &Desk, running: Box<dyn Running>) {
        if self.add_task(u32::MAX, Path::default(), running).is_none() {
            self.effect(Effect::Notice(Notice::SpawnRefused));
        }
    }

    pub(crate) fn woken(&self, turn: TurnId) {
        self.wake_turn(turn.index());
    }

    /// Lists a task to be polled, once.
    pub(crate) fn wake_turn(&self, turn: u32) {
        let listed = self.task(turn, |task| std::mem::replace(&mut task.queued, true));
        if listed == Some(false) {
            self.push(Ready::Turn(turn));
        }
    }

    /// The activation is used: it moves up in the order of last use, and is measured again.
    #[inline]
    pub(crate) fn used(&self, place: u32, cell: &Rc<dyn AnyCell>) {
        if self.table.borrow_mut().touch(place, self.time()) {
            self.measure(place, cell);
        }
    }

    /// The budget counts what the activation takes now.
    pub(crate) fn measure(&self, place: u32, cell: &Rc<dyn AnyCell>) {
        let bytes = Self::bytes_of(cell);
        self.table.borrow_mut().resize(place, bytes);
    }

    /// Starts a method that was admitted.
    pub(crate) fn start(&self, desk: &Desk, place: u32, request: Request) {
        let head = request.head();
        if head.deadline <= self.time() {
            return self.refuse(desk, request, ErrorKind::Deadline);
        }
        let Some(request) = self.begins(desk, place, request) else { return };
        let used = self.table.borrow_mut().use_at(place, self.time());
        let Some((cell, newly)) = used else {
            return self.refuse(desk, request, ErrorKind::ActivationFailed);
        };
        if newly {
            self.measure(place, &cell);
        }
        match request.method().mode {
            Mode::Turn => self.start_turn(desk, place, cell, request),
            Mode::Shared | Mode::Exclusive => {
                match self.open_turn(place, request.head(), request.method()) {
                    Some((turn, _)) => {
                        // It may have passed some who wait, and hold what they must not wait for.
                        self.cull(desk, turn);
                        self.start_task(desk, turn, cell, request);
                    }
                    None => self.refuse(desk, request, ErrorKind::Overloaded),
                }
            }
        }
    }

    fn start_turn(&self, desk: &Desk, place: u32, cell: Rc<dyn AnyCell>, request: Request) {
        let head = request.head();
        let (caller, method) = (head.caller, request.method());
        let path = self.begun(place, &head.path);
        let chain = path.chain();
        let outer_path = desk.set_path(path);
        let outer = desk.begin(TurnId::NONE, Place::new(place), head.deadline, 0);
        let started = catch_unwind(AssertUnwindSafe(|| match request.start(cell) {
            AnyStarted::Ready(request) => Some(request),
            AnyStarted::Running(_) => None,
        }));
        desk.end(outer);
        drop(desk.set_path(outer_path));
        match started {
            Ok(Some(request)) => self.reply_from(desk, place, caller, request),
            Ok(None) => unreachable!("N1: a turn has no task"),
            Err(_) => {
                let error = CallError::new(ErrorKind::Panicked, Ran::Yes, chain);
                self.answer(desk, caller, Answer::Failed(error));
                self.reset(desk, place, Some(method));
            }
        }
    }

    fn start_task(&self, desk: &Desk, turn: u32, cell: Rc<dyn AnyCell>, request: Request) {
        let chain = request.head().path.chain();
        // Making the future runs the method's arguments through user code at most; it still counts.
        match catch_unwind(AssertUnwindSafe(|| request.start(cell))) {
            Ok(AnyStarted::Running(running)) => {
                self.task(turn, |task| task.running = Some(running));
                self.resume(desk, turn);
            }
            Ok(AnyStarted::Ready(_)) => unreachable!("N1: a task is polled before it is done"),
            Err(_) => self.panicked(desk, turn, chain),
        }
    }

    /// Polls a task, unless somebody else holds its activation.
    pub(crate) fn resume(&self, desk: &Desk, turn: u32) {
        let mut table = self.table.borrow_mut();
        let resumes = table.resumes(turn);
        let running = self.task(turn, |task| {
            task.queued = false;
            if resumes.is_some() { task.running.take() } else { None }
        });
        let (Some((place, path)), Some(Some(mut running))) = (resumes, running) else { return };
        let outer_path = desk.set_path(path.clone());
        drop(table);
        let deadline = self.task(turn, |task| task.deadline).unwrap_or(Time::MAX);
        let outer = desk.begin(TurnId::new(turn), Place::new(place), deadline, 0);
        let polled = self.poll(desk, turn, &mut running);
        desk.end(outer);
        let path = desk.set_path(outer_path);
        self.settle(desk, turn, (running, polled), |core, caller, outcome| match outcome {
            Ok(Some(request)) => core.reply_from(desk, place, caller, request),
            Ok(None) => {}
            Err(kind) => {
                core.answer(desk, caller, Answer::Failed(unfinished(kind, &path)));
            }
        });
    }

    fn where_is(&self, turn: u32) -> (u32, Path) {
        let table = self.table.borrow();
        let path = table.path_of(turn).cloned().unwrap_or_default();
        (table.place_of(turn).unwrap_or(u32::MAX), path)
    }

    /// Polls once, as the current turn.
    fn poll(&self, desk: &Desk, turn: u32, running: &mut Box<dyn Running>) -> Polled {
        let waker = self.wakers.borrow_mut().lend(turn);
        desk.set_waker(waker.data().addr());
        let poll = AssertUnwindSafe(|| running.poll(&mut Context::from_waker(&waker)));
        let polled = match catch_unwind(poll) {
            Ok(Poll::Pending) => Polled::Pending,
            Ok(Poll::Ready(())) => Polled::Done,
            Err(_) => Polled::Panicked,
        };
        self.wakers.borrow_mut().give_back(turn, waker);
        polled
    }

    /// Parks a task that was polled, or ends it and says how.
    fn settle(
        &self,
        desk: &Desk,
        turn: u32,
        (running, polled): (Box<dyn Running>, Polled),
        ended: impl FnOnce(&Self, Caller, Result<Option<Request>, ErrorKind>),
    ) {
        let mut running = Some(running);
        let doomed = self.task(turn, |task| {
            if matches!(polled, Polled::Pending) && !task.doomed {
                task.running = running.take();
            }
            task.doomed
        });
        // A task that is parked has nothing to be settled.
        let Some(running) = running else { return };
        let doomed = doomed.unwrap_or(false);
        let caller = self.task(turn, |task| task.caller).unwrap_or(Caller::Nobody);
        match polled {
            // What it did after the reset, it did to a state that is gone.
            Polled::Pending | Polled::Done if doomed => {
                self.drop_running(desk, turn, running);
                self.close_turn(desk, turn);
                ended(self, caller, Err(ErrorKind::Reset));
            }
            Polled::Pending => drop(running),
            Polled::Done => {
                let request = running.finish();
                let (place, _) = self.where_is(turn);
                let activated = self.task(turn, |task| task.activates) == Some(true);
                self.close_turn(desk, turn);
                ended(self, caller, Ok(request));
                if activated {
                    self.activated(desk, place);
                }
            }
            Polled::Panicked => {
                let (place, _) = self.where_is(turn);
                let method = self.task(turn, |task| task.method).flatten();
                let activates = self.task(turn, |task| task.activates) == Some(true);
                self.drop_running(desk, turn, running);
                self.close_turn(desk, turn);
                ended(self, caller, Err(ErrorKind::Panicked));
                if doomed {
                    // It belonged to the state before; the one of now is not to blame.
                    return self.panic_notice(place, method);
                }
                if activates {
                    // There is no state to start anew from: whoever waits is told.
                    self.panic_notice(place, None);
                    return self.activated(desk, place);
                }
                self.reset(desk, place, method);
            }
        }
    }

    fn panicked(&self, desk: &Desk, turn: u32, chain: epicserver_wire::ChainId) {
        let (place, _) = self.where_is(turn);
        let caller = self.task(turn, |task| task.caller).unwrap_or(Caller::Nobody);
        let method = self.task(turn, |task| task.method).flatten();
        self.close_turn(desk, turn);
        let error = CallError::new(ErrorKind::Panicked, Ran::Yes, chain);
        self.answer(desk, caller, Answer::Failed(error));
        self.reset(desk, place, method);
    }

    /// Drops a task's future, as a last turn of its own, so that what its destructors say leaves;
    /// they may panic too, which is contained.
    pub(crate) fn drop_running(&self, desk: &Desk, turn: u32, running: Box<dyn Running>) {
        let (place, path) = self.where_is(turn);
        let outer_path = desk.set_path(path);
        let outer = desk.begin(TurnId::new(turn), Place::new(place), Time::MAX, 0);
        self.finish_running(running);
        desk.end(outer);
        drop(desk.set_path(outer_path));
    }

    fn finish_running(&self, running: Box<dyn Running>) {
        match catch_unwind(AssertUnwindSafe(|| running.finish())) {
            Ok(Some(request)) => request.recycle(),
            Ok(None) => {}
            Err(_) => self.count(|c| c.panics += 1),
        }
    }

    /// A turn ends; those that it kept out go on.
    pub(crate) fn close_turn(&self, desk: &Desk, turn: u32) {
        let place = self.table.borrow().place_of(turn);
        let held = self.table.borrow_mut().end(turn);
        if let Some(task) = self.tasks.borrow_mut().get_mut(turn as usize) {
            *task = None;
        }
        let Some(place) = place.filter(|place| *place != u32::MAX) else { return };
        self.unlock_all(desk, place, turn);
        if held {
            self.thaw(place);
        }
        self.look_again(place);
    }

    /// The turns that an exclusive one kept from running go on.
    pub(crate) fn thaw(&self, place: u32) {
        let mut thawed = Vec::new();
        self.table.borrow_mut().thaw(place, |turn| thawed.push(turn));
        for turn in thawed.into_iter().rev() {
            self.wake_turn(turn);
        }
    }

    /// The first poll of a direct call, inside its caller's turn.
    pub(crate) fn first_poll(
        &self,
        desk: &Desk,
        entry: Entry,
        mut running: Box<dyn Running>,
        token: Token,
    ) -> Result<Option<Request>, CallError> {
        let turn = desk.turn().id.index();
        let polled = self.poll(desk, turn, &mut running);
        let deadline = desk.turn().deadline;
        desk.end(entry.outer);
        let path = match entry.outer_path {
            Some(outer) => desk.set_path(outer),
            None => desk.path(),
        };
        let place = self.table.borrow().place_of(turn);
        let mut outcome = Ok(None);
        self.settle(desk, turn, (running, polled), |_, _, ended| {
            outcome = ended.map_err(|kind| unfinished(kind, &path));
        });
        if matches!(outcome, Ok(None)) {
            self.parked(desk, token, deadline, place);
        }
        outcome
    }

    /// A direct call parked: from now on its token waits like any other.
    fn parked(&self, desk: &Desk, token: Token, deadline: Time, callee: Option<u32>) {
        let caller = desk.turn().id;
        self.arm(token, deadline, Timer::Deadline(token));
        self.placed(token, callee, (caller != TurnId::NONE).then_some(caller.index()));
        if caller != TurnId::NONE {
            self.asked(caller.index());
        }
    }

    /// User code of an activation panicked: it starts anew (**N6**).
    pub(crate) fn reset(&self, desk: &Desk, place: u32, method: Option<&'static MethodInfo>) {
        self.panic_notice(place, method);
        let Some(cell) = self.cell(place) else { return };
        let turns: Vec<u32> = self.table.borrow().turns_of(place).collect();
        for turn in turns {
            self.end_turn(desk, turn, ErrorKind::Reset);
        }
        self.named.borrow_mut().remove(place);
        self.restart(desk, place, cell.id().clone());
    }

    fn panic_notice(&self, place: u32, method: Option<&'static MethodInfo>) {
        self.count(|c| c.panics += 1);
        let entity = self.table.borrow().state(place).map(|cell| format!("{:?}", cell.id()));
        let method = method.map(|method| method.name);
        self.effect(Effect::Notice(Notice::Panicked { entity, method }));
    }

    /// Ends a turn that has not ended by itself: whoever called it does not learn how far it came.
    pub(crate) fn end_turn(&self, desk: &Desk, turn: u32, kind: ErrorKind) {
        let Some((running, caller)) = self.task(turn, |task| (task.running.take(), task.caller))
        else {
            return;
        };
        let Some(running) = running else {
            // It is being polled further up this stack: it ends when that poll returns.
            self.task(turn, |task| task.doomed = true);
            return;
        };
        let (_, path) = self.where_is(turn);
        let mail = self.table.borrow().place_of(turn);
        self.withdraw_sections(mail, turn);
        self.drop_running(desk, turn, running);
        self.close_turn(desk, turn);
        let error = CallError::new(kind, Ran::Unknown, path.chain());
        self.answer(desk, caller, Answer::Failed(error));
    }

    /// Drops every task, for the shard's end.
    pub(crate) fn drop_tasks(&self, desk: &Desk) {
        let tasks = std::mem::take(&mut *self.tasks.borrow_mut());
        for (turn, task) in (0..).zip(tasks) {
            if let Some(running) = task.and_then(|task| task.running) {
                self.drop_running(desk, turn, running);
            }
        }
    }
}
