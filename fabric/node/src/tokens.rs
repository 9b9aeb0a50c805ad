//! Tokens: their timers, and the way of answers to whoever waits.
//!
//! # Not here
//! Whether somebody waits: the tickets know.

use epicserver_entity::{Answer, Caller, Desk, Request, Waiter};
use epicserver_proto::Waiting as _;
use epicserver_proto::wheel::TimerId;
use epicserver_wire::{CallError, ChainId, ErrorKind, Path, Progress, Ran, Time, Token};

use crate::core::{Core, Mail};
use crate::turns::Task;
use crate::{Effect, Message};

#[derive(Clone, Copy, Debug)]
pub(crate) enum Timer {
    Deadline(Token),
    Sleep(Token),
    Every { token: Token, turn: u32, next: Time, period_ns: u64 },
}

/// What the shard keeps of a token, beside its ticket.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Note {
    timer: Option<TimerId>,
    pub(crate) maker: Option<u32>,
    pub(crate) callee: Option<u32>,
    way: Way,
    /// It is a call.
    call: bool,
}

/// How far the call of a token has come on its way to its callee.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Way {
    /// It is at this node, or was answered.
    #[default]
    Here,
    /// It waits at this shard, and has not run.
    Waits,
    /// It is under way to another node.
    Away,
}

impl Core {
    pub(crate) fn note(&self, token: Token, change: impl FnOnce(&mut Note)) {
        let mut notes = self.notes.borrow_mut();
        let index = token.index() as usize;
        if notes.len() <= index {
            notes.resize(index + 1, Note::default());
        }
        change(&mut notes[index]);
    }

    /// Notes where the call of `token` runs, and which turn made it.
    pub(crate) fn placed(&self, token: Token, callee: Option<u32>, maker: Option<u32>) {
        self.note(token, |note| {
            note.callee = callee;
            note.maker = maker;
        });
    }

    /// Arms the timer of `token`. A full wheel lets the token wait without one: the wheel has
    /// room for every token, so that only timers that repeat could fill it.
    #[inline]
    pub(crate) fn arm(&self, token: Token, at: Time, timer: Timer) {
        let timer = self.timer(at, timer);
        self.note(token, |note| note.timer = timer);
    }

    /// Says how far the call of `token` has come.
    pub(crate) fn set_way(&self, token: Token, way: Way) {
        self.note(token, |note| note.way = way);
    }

    /// How far it has come.
    pub(crate) fn way(&self, token: Token) -> Way {
        self.noted_of(token).way
    }

    /// Whether it is a call that `token` waits for.
    pub(crate) fn is_call(&self, token: Token) -> bool {
        self.noted_of(token).call
    }

    /// How many calls somebody waits for: those that left, and those that run inside their callers' turns.
    pub(crate) fn calls_waiting(&self, desk: &Desk) -> usize {
        let (tickets, tasks, shard) =
            (desk.tickets().borrow(), self.tasks.borrow(), self.shard_id());
        let runs = |token: Token| {
            let caller = Caller::Token { shard, token };
            tasks.iter().flatten().any(|task| task.caller == caller)
        };
        tickets.waiting().filter(|token| self.is_call(*token) || runs(*token)).count()
    }

    fn noted_of(&self, token: Token) -> Note {
        self.notes.borrow().get(token.index() as usize).copied().unwrap_or_default()
    }

    /// A call of the turn `maker` leaves, which has to be answered until `deadline`.
    #[inline]
    pub(crate) fn arm_call(&self, token: Token, deadline: Time, maker: Option<u32>) {
        let timer = self.timer(deadline, Timer::Deadline(token));
        self.note(token, |note| (note.timer, note.maker, note.call) = (timer, maker, true));
    }

    #[inline]
    fn timer(&self, at: Time, timer: Timer) -> Option<TimerId> {
        let may_come = at != Time::MAX;
        may_come.then(|| self.timers.borrow_mut().insert(at, timer).ok()).flatten()
    }

    /// The chain of the turn that made the call of `token`.
    pub(crate) fn chain_of(&self, token: Token) -> ChainId {
        let table = self.table.borrow();
        let maker = self.noted_of(token).maker;
        maker.and_then(|turn| table.path_of(turn)).map(Path::chain).unwrap_or_default()
    }

    pub(crate) fn fire(&self, desk: &Desk) {
        if self.timers.borrow().deadline().is_none_or(|deadline| deadline > self.time()) {
            return self.press_on(desk);
        }
        let mut fired = self.fired.take();
        self.timers.borrow_mut().expire(self.time(), &mut fired);
        for timer in fired.drain(..) {
            match timer {
                Timer::Sleep(token) => self.complete(desk, token, Answer::Done),
                Timer::Deadline(token) => self.expire(desk, token),
                Timer::Every { token, turn, next, period_ns } => {
                    self.tick(desk, (token, turn), next, period_ns);
                }
            }
        }
        self.fired.replace(fired);
        self.press_on(desk);
    }

    /// Time has passed for what does not wait for ever, though nobody has a timer of his own.
    fn press_on(&self, desk: &Desk) {
        if self.drain_due.get() <= self.time() {
            self.press();
        }
        if self.hold_due.get() <= self.time() {
            self.refuse_holders(desk);
        }
    }

    fn tick(&self, desk: &Desk, (token, turn): (Token, u32), due: Time, period_ns: u64) {
        self.is_born_again(turn);
        let missed = self.time().as_nanos().saturating_sub(due.as_nanos()) / period_ns.max(1);
        let step = period_ns.saturating_mul(missed + 1);
        let next = Time::from_nanos(due.as_nanos().saturating_add(step));
        self.wake(desk, token, Answer::Done);
        self.arm(token, next, Timer::Every { token, turn, next, period_ns });
    }

    /// A token's time is up: what is known of it becomes its answer.
    fn expire(&self, desk: &Desk, token: Token) {
        let note = self.noted_of(token);
        let there = note.callee.and_then(|place| self.progress(place, token));
        let error = match (note.way, there) {
            // Nothing comes of it where it waits: its deadline has passed.
            (Way::Waits, _) => {
                CallError::deadline(Ran::No, self.chain_of(token), Progress::Unknown)
            }
            (Way::Here | Way::Away, Some((chain, ran, progress))) => {
                CallError::deadline(ran, chain, progress)
            }
            (Way::Here | Way::Away, None) => {
                CallError::deadline(Ran::Unknown, self.chain_of(token), Progress::Unknown)
            }
        };
        self.complete(desk, token, Answer::Failed(error));
    }

    /// How far the call of `token` has come at its callee. One that still waits is withdrawn.
    fn progress(&self, place: u32, token: Token) -> Option<(ChainId, Ran, Progress)> {
        let caller = Caller::Token { shard: self.shard_id(), token };
        let mine = |mail: &Mail| match mail {
            Mail::Call(request) => request.head().caller == caller,
            Mail::Section(wanted) => wanted.token == token,
        };
        let withdrawn = self.table.borrow_mut().withdraw(place, mine);
        if let Some(mail) = withdrawn {
            let chain = mail.path().chain();
            if let Mail::Call(request) = mail {
                request.recycle();
            }
            let holder = self.table.borrow().holder(place);
            let method = holder.and_then(|turn| self.task(turn, |task| task.method).flatten());
            let progress = method.map_or(Progress::Queued, |m| Progress::QueuedBehind(m.id));
            self.look_again(place);
            return Some((chain, Ran::No, progress));
        }
        let turns: Vec<u32> = self.table.borrow().turns_of(place).collect();
        let started = turns.into_iter().find_map(|turn| {
            let started = |task: &mut Task| (task.caller == caller).then_some(task.started);
            Some((self.table.borrow().path_of(turn)?.chain(), self.task(turn, started)??))
        });
        let (chain, started) = started?;
        let ms = self.time().since(started).as_millis();
        Some((chain, Ran::Yes, Progress::RunningForMs(u32::try_from(ms).unwrap_or(u32::MAX))))
    }

    /// Tells whoever waits for `token`. A late answer is counted and dropped (**N1**).
    pub(crate) fn complete(&self, desk: &Desk, token: Token, answer: Answer) {
        if !desk.tickets().borrow_mut().waits(token) {
            return self.late(answer);
        }
        self.forget(desk, token);
        self.wake(desk, token, answer);
    }

    fn late(&self, answer: Answer) {
        self.count(|c| c.late += 1);
        if let Answer::Reply(request) = answer {
            request.recycle();
        }
    }

    /// Gives a reply to whoever called.
    pub(crate) fn reply(&self, desk: &Desk, caller: Caller, request: Request) {
        let (shard, token) = match caller {
            Caller::Token { shard, token } => (shard, token),
            Caller::Nobody | Caller::Teller { .. } | Caller::RemoteTeller { .. } => {
                return request.recycle();
            }
            Caller::Remote { link, shard, token } => {
                return self.answer_remote(link, (shard, token), Answer::Reply(request));
            }
        };
        if shard != self.shard_id() {
            let message = Message::Reply { token, answer: Answer::Reply(request) };
            return self.effect(Effect::Send { to: shard, message });
        }
        let told = desk.tickets().borrow_mut().reply(token, request);
        match told {
            Ok(waiter) => {
                self.forget(desk, token);
                self.tell(desk, token, waiter);
            }
            Err(request) => self.late(Answer::Reply(request)),
        }
    }

    /// Ends what the shard keeps of a token.
    pub(crate) fn forget(&self, desk: &Desk, token: Token) {
        let note = match self.notes.borrow_mut().get_mut(token.index() as usize) {
            Some(note) => std::mem::take(note),
            None => return,
        };
        if let Some(timer) = note.timer {
            self.timers.borrow_mut().cancel(timer);
        }
        if note.way == Way::Away {
            self.forget_remote(token);
        }
        if let Some(maker) = note.maker {
            self.answered(desk, maker);
        }
    }

    fn wake(&self, desk: &Desk, token: Token, answer: Answer) {
        let told = desk.tickets().borrow_mut().answer(token, answer);
        match told {
            Ok(waiter) => self.tell(desk, token, waiter),
            Err(answer) => self.late(answer),
        }
    }

    fn tell(&self, desk: &Desk, token: Token, waiter: Waiter) {
        match waiter {
            Waiter::Nobody => {}
            Waiter::Turn(turn) => self.wake_turn(turn.index()),
            Waiter::Waker(waker) => waker.wake(),
            Waiter::Outside(pending) => {
                let answer = desk.tickets().borrow_mut().take(token);
                if let Some(answer) = answer {
                    pending.answer(answer);
                }
            }
        }
    }

    /// Sends an outcome to whoever called.
    pub(crate) fn answer(&self, desk: &Desk, caller: Caller, answer: Answer) {
        match caller {
            Caller::Nobody | Caller::Teller { .. } | Caller::RemoteTeller { .. } => {
                if let Answer::Reply(request) = answer {
                    request.recycle();
                } else if let Answer::Failed(error) = answer
                    && error.ran() == Ran::No
                {
                    self.tell_refused(error);
                }
            }
            Caller::Token { shard, token } if shard == self.shard_id() => {
                self.complete(desk, token, answer);
            }
            Caller::Token { shard, token } => {
                self.effect(Effect::Send { to: shard, message: Message::Reply { token, answer } });
            }
            Caller::Remote { link, shard, token } => {
                self.answer_remote(link, (shard, token), answer);
            }
        }
    }

    /// What `token` asked for is refused.
    pub(crate) fn refuse_token(&self, desk: &Desk, token: Token, kind: ErrorKind) {
        let error = CallError::refused(kind, self.chain_of(token));
        self.complete(desk, token, Answer::Failed(error));
    }

    pub(crate) fn refuse(&self, desk: &Desk, request: Request, kind: ErrorKind) {
        let head = request.head();
        let (caller, chain) = (head.caller, head.path.chain());
        request.recycle();
        self.answer(desk, caller, Answer::Failed(CallError::refused(kind, chain)));
    }
}
