//! The shard's tables, and the way of calls and answers through them.
//!
//! # Invariants
//! - **N5** A call runs directly only if nothing waits for its callee and admission lets it in, no
//!   earlier call of its turn is unsent, the stack is less than
//!   [`limits::DIRECT_DEPTH_MAX`] calls deep, and its task's budget is not spent.
//!
//! # Not here
//! Polling (`turns`), sections and locks (`sections`, `named`), collection (`collect`).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use epicserver_entity::{
    Answer, AnyCell, Caller, Desk, Entry, Head, Host, MethodInfo, Mode, Place, Request, Running,
    Syscall, TurnId, Waiter,
};
use epicserver_proto::wheel::{TimerId, Wheel};
use epicserver_proto::{Activations, Admission, Seen, Waiting};
use epicserver_wire::{
    CallError, ChainId, ErrorKind, Path, Progress, Ran, ShardId, Time, Token, limits,
};

use crate::named::Named;
use crate::remote::{Posted, Remote};
use crate::turns::Task;
use crate::wake::Wakers;
use crate::{Config, Counters, Effect, Message, Notice};

/// What waits in a mailbox.
#[derive(Debug)]
pub(crate) enum Mail {
    Call(Request),
    /// Rare, and boxed to keep the common kind at two words.
    Section(Box<WantedSection>),
}

/// A turn that waits for its activation to be its own.
#[derive(Debug)]
pub(crate) struct WantedSection {
    pub(crate) turn: u32,
    pub(crate) token: Token,
    pub(crate) path: Path,
}

impl Waiting for Mail {
    fn path(&self) -> &Path {
        match self {
            Self::Call(request) => &request.head().path,
            Self::Section(wanted) => &wanted.path,
        }
    }

    fn is_exclusive(&self) -> bool {
        match self {
            Self::Call(request) => request.method().mode == Mode::Exclusive,
            Self::Section(_) => true,
        }
    }

    fn turn(&self) -> Option<u32> {
        match self {
            Self::Call(_) => None,
            Self::Section(wanted) => Some(wanted.turn),
        }
    }
}

/// What is to be looked at.
#[derive(Debug)]
pub(crate) enum Ready {
    Mail(u32),
    Turn(u32),
    /// A call that was made while an activation ended.
    Call(Request),
    Deactivate(u32),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Timer {
    Deadline(Token),
    Sleep(Token),
    Every {
        token: Token,
        next: Time,
        period_ns: u64,
    },
    /// Calls that another node did not own are sent again.
    Again,
}

/// What the shard keeps of a token, beside its ticket.
#[derive(Clone, Copy, Debug, Default)]
struct Note {
    timer: Option<TimerId>,
    maker: Option<u32>,
    callee: Option<u32>,
    /// It is under way to another node, or waits to leave.
    remote: bool,
}

pub(crate) type Table = Activations<Rc<dyn AnyCell>, Mail>;

pub(crate) struct Core {
    pub(crate) config: Config,
    now: Cell<Time>,
    random: Cell<u64>,
    stopping: Cell<bool>,
    /// Whether anything is ever collected by time.
    pub(crate) collects: bool,
    /// An activation is being collected.
    pub(crate) ending: Cell<bool>,
    pub(crate) table: RefCell<Table>,
    pub(crate) tasks: RefCell<Vec<Option<Task>>>,
    pub(crate) wakers: RefCell<Wakers>,
    pub(crate) ready: RefCell<VecDeque<Ready>>,
    pub(crate) named: RefCell<Named>,
    timers: RefCell<Wheel<Timer>>,
    fired: RefCell<Vec<Timer>>,
    notes: RefCell<Vec<Note>>,
    pub(crate) effects: RefCell<Vec<Effect>>,
    unsent: RefCell<Vec<u32>>,
    direct: Cell<u64>,
    /// Calls may run directly: they are allowed to, and none waits that they would pass.
    pub(crate) direct_calls: Cell<bool>,
    /// No other node owns anything.
    pub(crate) is_alone: Cell<bool>,
    pub(crate) remote: RefCell<Remote>,
    /// Calls that another node did not own, to be sent again.
    pub(crate) again: RefCell<Vec<Posted>>,
    pub(crate) counters: RefCell<Counters>,
}

impl Core {
    pub(crate) fn new(config: Config) -> Self {
        let types = config.registry.entities().count();
        let table = Activations::new(types, config.memory_bytes_max, config.origin);
        Self {
            now: Cell::new(Time::ZERO),
            random: Cell::new(config.seed),
            stopping: Cell::new(false),
            collects: config.idle.is_some() || config.registry.entities().any(|t| t.idle.is_some()),
            ending: Cell::new(false),
            table: RefCell::new(table),
            tasks: RefCell::default(),
            wakers: RefCell::new(Wakers::new(config.wakes.clone())),
            ready: RefCell::default(),
            named: RefCell::default(),
            timers: RefCell::new(Wheel::new(limits::TIMERS_MAX)),
            fired: RefCell::default(),
            notes: RefCell::default(),
            effects: RefCell::default(),
            unsent: RefCell::new(vec![0; usize::from(config.shards)]),
            direct: Cell::new(0),
            direct_calls: Cell::new(config.direct && !config.fabric),
            is_alone: Cell::new(!config.fabric),
            remote: RefCell::default(),
            again: RefCell::default(),
            counters: RefCell::default(),
            config,
        }
    }

    pub(crate) fn count(&self, change: impl FnOnce(&mut Counters)) {
        change(&mut self.counters.borrow_mut());
    }

    pub(crate) fn counters(&self) -> Counters {
        Counters { direct: self.direct.get(), ..*self.counters.borrow() }
    }

    pub(crate) fn activations(&self) -> (u32, u64) {
        let table = self.table.borrow();
        (table.len(), table.bytes())
    }

    pub(crate) fn set_now(&self, desk: &Desk, now: Time) {
        desk.set_now(now);
        self.now.set(desk.now());
    }

    pub(crate) fn time(&self) -> Time {
        self.now.get()
    }

    pub(crate) fn shard_id(&self) -> ShardId {
        self.config.shard
    }

    pub(crate) fn stop(&self) {
        self.stopping.set(true);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    pub(crate) fn effect(&self, effect: Effect) {
        self.effects.borrow_mut().push(effect);
    }

    pub(crate) fn take_effects(&self, out: &mut Vec<Effect>) {
        out.append(&mut self.effects.borrow_mut());
    }

    pub(crate) fn sent(&self, to: ShardId, count: u32) {
        if let Some(unsent) = self.unsent.borrow_mut().get_mut(to.index()) {
            *unsent = unsent.saturating_sub(count);
        }
    }

    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.borrow().is_empty()
    }

    #[inline]
    pub(crate) fn push(&self, ready: Ready) {
        self.ready.borrow_mut().push_back(ready);
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        let timer = self.timers.borrow().deadline();
        timer.into_iter().chain(self.next_collection()).min()
    }

    pub(crate) fn tell_refused(&self, error: CallError) {
        self.count(|c| c.tells_refused += 1);
        self.effect(Effect::Notice(Notice::TellRefused(error)));
    }

    // Timers.

    fn note(&self, token: Token, change: impl FnOnce(&mut Note)) {
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
        let timer = (at != Time::MAX).then(|| self.timers.borrow_mut().insert(at, timer).ok());
        self.note(token, |note| note.timer = timer.flatten());
    }

    /// The call of `token` leaves for another node.
    pub(crate) fn mark_remote(&self, token: Token) {
        self.note(token, |note| note.remote = true);
    }

    /// The call of `token` has its outcome, and nothing of it is under way any more.
    pub(crate) fn unmark_remote(&self, token: Token) {
        self.note(token, |note| note.remote = false);
    }

    /// Whether the call of `token` goes to another node.
    pub(crate) fn is_remote(&self, token: Token) -> bool {
        self.notes.borrow().get(token.index() as usize).is_some_and(|note| note.remote)
    }

    /// What another node did not own is sent again in a while.
    pub(crate) fn arm_again(&self) {
        const PAUSE: std::time::Duration = std::time::Duration::from_millis(5);
        if self.again.borrow().len() == 1 {
            // A full wheel has no room for it; then what waits here meets its deadline.
            let _full = self.timers.borrow_mut().insert(self.time() + PAUSE, Timer::Again);
        }
    }

    pub(crate) fn fire(&self, desk: &Desk) {
        if self.timers.borrow().deadline().is_none_or(|deadline| deadline > self.time()) {
            return;
        }
        let mut fired = self.fired.take();
        self.timers.borrow_mut().expire(self.time(), &mut fired);
        for timer in fired.drain(..) {
            match timer {
                Timer::Sleep(token) => self.complete(desk, token, Answer::Done),
                Timer::Deadline(token) => self.expire(desk, token),
                Timer::Again => self.again(desk),
                Timer::Every { token, next, period_ns } => self.tick(desk, token, next, period_ns),
            }
        }
        self.fired.replace(fired);
    }

    fn tick(&self, desk: &Desk, token: Token, due: Time, period_ns: u64) {
        let missed = self.time().as_nanos().saturating_sub(due.as_nanos()) / period_ns.max(1);
        let step = period_ns.saturating_mul(missed + 1);
        let next = Time::from_nanos(due.as_nanos().saturating_add(step));
        self.wake(desk, token, Answer::Done);
        self.arm(token, next, Timer::Every { token, next, period_ns });
    }

    /// A token's time is up: what is known of it becomes its answer.
    fn expire(&self, desk: &Desk, token: Token) {
        if let Some(chain) = self.recall(token) {
            let error = CallError::deadline(Ran::No, chain, Progress::Unknown);
            return self.complete(desk, token, Answer::Failed(error));
        }
        let note = self.notes.borrow().get(token.index() as usize).copied().unwrap_or_default();
        let error = match note.callee.and_then(|place| self.progress(place, token)) {
            Some((chain, ran, progress)) => CallError::deadline(ran, chain, progress),
            None => {
                // Its callee is elsewhere; the chain is that of the turn that made it.
                let table = self.table.borrow();
                let chain = note.maker.and_then(|turn| table.path_of(turn)).map(Path::chain);
                CallError::deadline(Ran::Unknown, chain.unwrap_or_default(), Progress::Unknown)
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

    // Answers.

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
            Caller::Nobody => return request.recycle(),
            Caller::Remote { link, shard, token } => {
                return self.answer_remote(link, (shard, token), Answer::Reply(request));
            }
        };
        if shard != self.shard_id() {
            let message = Message::Reply { token, answer: Answer::Reply(request) };
            return self.effect(Effect::Send { to: shard, message });
        }
        if !desk.tickets().borrow_mut().waits(token) {
            return self.late(Answer::Reply(request));
        }
        self.forget(desk, token);
        let told = desk.tickets().borrow_mut().reply(token, request);
        match told {
            Ok(waiter) => self.tell(desk, token, waiter),
            Err(request) => self.late(Answer::Reply(request)),
        }
    }

    /// Ends what the shard keeps of a token.
    fn forget(&self, desk: &Desk, token: Token) {
        let note = match self.notes.borrow_mut().get_mut(token.index() as usize) {
            Some(note) => std::mem::take(note),
            None => return,
        };
        if let Some(timer) = note.timer {
            self.timers.borrow_mut().cancel(timer);
        }
        if note.remote {
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
            Caller::Nobody => {
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

    pub(crate) fn refuse(&self, desk: &Desk, request: Request, kind: ErrorKind) {
        let head = request.head();
        let (caller, chain) = (head.caller, head.path.chain());
        request.recycle();
        self.answer(desk, caller, Answer::Failed(CallError::refused(kind, chain)));
    }

    // Calls.

    /// A call arrives from another shard.
    pub(crate) fn arrive(&self, desk: &Desk, request: Request) {
        self.deliver(desk, request, true);
    }

    /// Sends a call to its callee's node and shard. With `now`, it may run at once if that is here.
    pub(crate) fn route(&self, desk: &Desk, request: Request, now: bool) {
        self.route_from(desk, request, desk.turn().place, now);
    }

    /// The same for a call that `maker` has made.
    pub(crate) fn route_from(&self, desk: &Desk, request: Request, maker: Place, now: bool) {
        let mut request = request;
        if !self.is_alone.get() {
            let Some(stays) = self.route_away(desk, request, maker) else { return };
            request = stays;
        }
        let to = request.to().shard(self.config.shards);
        if to == self.shard_id() {
            return self.deliver(desk, request, now);
        }
        let full = self.unsent.borrow().get(to.index()).is_none_or(|n| *n >= limits::UNSENT_MAX);
        if full {
            return self.refuse(desk, request, ErrorKind::Overloaded);
        }
        if let Some(unsent) = self.unsent.borrow_mut().get_mut(to.index()) {
            *unsent += 1;
        }
        self.effect(Effect::Send { to, message: Message::Call(request) });
    }

    /// Admits a call to its callee's activation, which is made if there is none.
    fn deliver(&self, desk: &Desk, request: Request, now: bool) {
        if self.ending.get() {
            // What an activation says at its end must not end others below it on the stack.
            return self.push(Ready::Call(request));
        }
        let place = match self.ensure(desk, request.head()) {
            Ok(place) => place,
            Err(kind) => return self.refuse(desk, request, kind),
        };
        if let Caller::Token { shard, token } = request.head().caller
            && shard == self.shard_id()
        {
            self.note(token, |note| note.callee = Some(place));
        }
        let mail = Mail::Call(request);
        let verdict = self.table.borrow().admit(place, &mail);
        match (verdict, mail) {
            (Admission::Refuse(kind), mail) => self.refuse_mail(desk, mail, kind),
            (Admission::Enter, Mail::Call(request)) if now => self.start(desk, place, request),
            (Admission::Enter | Admission::Wait, mail) => {
                self.count(|c| c.queued += 1);
                self.table.borrow_mut().wait(place, mail);
                self.schedule(place);
            }
            (Admission::Pass, mail) => {
                self.count(|c| c.queued += 1);
                self.table.borrow_mut().pass(place, mail);
                self.schedule(place);
            }
        }
    }

    /// Has the mailbox looked at soon.
    pub(crate) fn schedule(&self, place: u32) {
        if !self.table.borrow_mut().schedule(place) {
            self.push(Ready::Mail(place));
        }
    }

    /// Does the next thing that is ready. Says whether there was one.
    pub(crate) fn step(&self, desk: &Desk) -> bool {
        let Some(ready) = self.ready.borrow_mut().pop_front() else { return false };
        desk.refill();
        match ready {
            Ready::Turn(turn) => self.resume(desk, turn),
            Ready::Mail(place) => self.pump(desk, place),
            Ready::Call(request) => self.deliver(desk, request, true),
            Ready::Deactivate(place) => self.deactivate(desk, place),
        }
        true
    }

    /// Lets in who may go in, but no more than a few at a time.
    fn pump(&self, desk: &Desk, place: u32) {
        const BATCH: u32 = 16;
        self.table.borrow_mut().unschedule(place);
        for _ in 0..BATCH {
            let next = self.table.borrow_mut().next(place);
            match next {
                // Whoever they wait for looks again.
                None if self.table.borrow().mails(place) > 0 => return,
                None => break,
                Some((mail, Admission::Refuse(kind))) => self.refuse_mail(desk, mail, kind),
                Some((Mail::Call(request), _)) => self.start(desk, place, request),
                Some((Mail::Section(wanted), _)) => self.hold(desk, wanted.turn, wanted.token),
            }
        }
        self.look_again(place);
    }

    /// Something has happened at an activation: who waits may go on now, or it may leave.
    pub(crate) fn look_again(&self, place: u32) {
        if self.table.borrow().mails(place) > 0 {
            self.schedule(place);
        } else if self.table.borrow().is_leaving(place) {
            self.push(Ready::Deactivate(place));
        }
    }

    pub(crate) fn refuse_mail(&self, desk: &Desk, mail: Mail, kind: ErrorKind) {
        match mail {
            Mail::Call(request) => self.refuse(desk, request, kind),
            Mail::Section(wanted) => {
                let error = CallError::refused(kind, wanted.path.chain());
                self.complete(desk, wanted.token, Answer::Failed(error));
            }
        }
    }
}

impl Host for Core {
    fn random(&self) -> u64 {
        // SplitMix64 (Steele, Lea, Flood 2014).
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn shard(&self) -> ShardId {
        self.config.shard
    }

    #[inline]
    fn open(&self, _: &Desk, head: &mut Head) -> Option<Rc<dyn AnyCell>> {
        if !self.direct_calls.get() {
            return None;
        }
        let last = Seen { place: head.place.index(), birth: head.birth };
        let mut table = self.table.borrow_mut();
        let open = table.open(&head.to, last, self.now.get(), |cell, id| cell.id() == id)?;
        drop(table);
        let (Seen { place, birth }, cell) = (open.seen, open.state);
        (head.place, head.birth) = (Place::new(place), birth);
        self.direct.set(self.direct.get() + 1);
        if open.newly {
            self.measure(place, &cell);
        }
        Some(cell)
    }

    fn panicked(&self, desk: &Desk, place: Place, method: &'static MethodInfo) {
        self.reset(desk, place.index(), Some(method));
    }

    fn enter(&self, desk: &Desk, head: &Head, method: &'static MethodInfo) -> Option<Entry> {
        if !self.direct_calls.get() {
            return None;
        }
        let place = self.place_here(head)?;
        if !self.table.borrow().is_open(place, method.mode == Mode::Exclusive) || !desk.nest() {
            return None;
        }
        let opened = self.open_turn(place, head, method);
        let cell = self.table.borrow().state(place).map(Rc::clone);
        let (Some((turn, path)), Some(cell)) = (opened, cell) else {
            desk.unnest();
            return None;
        };
        self.used(place, &cell);
        self.direct.set(self.direct.get() + 1);
        let path = path.unwrap_or_else(|| head.path.clone());
        let outer_path = Some(desk.set_path(path));
        let outer = desk.begin(TurnId::new(turn), Place::new(place), head.deadline, 0);
        Some(Entry { cell, outer, outer_path })
    }

    fn leave(&self, desk: &Desk, entry: Entry) {
        let turn = desk.turn();
        desk.end(entry.outer);
        if let Some(path) = entry.outer_path {
            drop(desk.set_path(path));
        }
        desk.unnest();
        self.close_turn(desk, turn.id.index());
        self.reset(desk, turn.place.index(), None);
    }

    fn adopt(
        &self,
        desk: &Desk,
        entry: Entry,
        running: Box<dyn Running>,
        token: Token,
    ) -> Result<Option<Request>, CallError> {
        let outcome = self.first_poll(desk, entry, running, token);
        desk.unnest();
        outcome
    }

    fn call(&self, desk: &Desk, token: Option<Token>, request: Request) {
        if let Some(token) = token {
            let turn = desk.turn().id;
            if turn != TurnId::NONE {
                self.asked(turn.index());
                self.note(token, |note| note.maker = Some(turn.index()));
            }
            self.arm(token, request.head().deadline, Timer::Deadline(token));
        }
        self.route(desk, request, false);
    }

    fn submit(&self, desk: &Desk, token: Option<Token>, syscall: Syscall) {
        let turn = desk.turn();
        match (syscall, token) {
            (Syscall::Call(request) | Syscall::Tell(request), token) => {
                self.call(desk, token, request);
            }
            (Syscall::Sleep { until }, Some(token)) => self.arm(token, until, Timer::Sleep(token)),
            (Syscall::Every { first, period }, Some(token)) => {
                self.keeps_time(turn.id.index(), token);
                let period_ns = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
                self.arm(token, first, Timer::Every { token, next: first, period_ns });
            }
            (Syscall::Now, Some(token)) => self.effect(Effect::Wall { token }),
            (Syscall::Random { len }, Some(token)) => self.effect(Effect::Random { token, len }),
            (Syscall::Exclusive, Some(token)) => self.want(desk, turn.id.index(), token, None),
            (Syscall::Lock { name, until }, Some(token)) => {
                self.arm(token, until, Timer::Deadline(token));
                self.want(desk, turn.id.index(), token, Some(name));
            }
            (Syscall::Release { section }, _) => self.release(desk, section),
            (Syscall::Deactivate, _) => self.leaves(turn.place.index()),
            (syscall, token) => self.named_syscall(desk, turn.place.index(), token, syscall),
        }
    }

    fn spawn(&self, desk: &Desk, task: Box<dyn Running>) {
        // The state that it would work on is gone, and its place may be another's.
        if self.task(desk.turn().id.index(), |task| task.doomed) == Some(true) {
            return drop(task);
        }
        let place = desk.turn().place.index();
        let path = Path::new(desk.new_chain());
        if self.add_task(place, path, task).is_none() {
            self.effect(Effect::Notice(Notice::SpawnRefused));
        }
    }

    fn give_up(&self, desk: &Desk, token: Token) {
        self.withdraw(desk, token);
        self.forget(desk, token);
    }
}

impl Core {
    /// Where the callee is active, if it is here. A call that finds it inactive is submitted: only
    /// then does it have the path on whose behalf the `activate` hook runs, and a hook that fails is
    /// tried once.
    #[inline]
    fn place_here(&self, head: &Head) -> Option<u32> {
        self.table.borrow().find(&head.to, head.place.index(), |cell, id| cell.id() == id)
    }
}
