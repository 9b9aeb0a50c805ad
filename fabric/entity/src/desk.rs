//! The desk: where the user code of one shard leaves its syscalls.
//!
//! Each host has one desk, and makes it the current one of its thread while it runs user code. So
//! references stay plain data, and user code needs no handle to whoever hosts it.
//!
//! # Invariants
//! - **D1** Calls leave in the order in which a turn made them: when it awaits or drops a later
//!   one, when it yields, and when it ends.
//! - **D2** A turn's calls stand above its floor in the outbox; a direct call's turn stacks on top.
//! - **D3** The call that was made last stands apart until another one is made, a turn begins or ends, or it leaves:
//!   most are awaited at once, and need neither a place in the outbox nor one in the table of tokens.
//!
//! # Not here
//! What becomes of a syscall: the [`Host`] decides.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use epicserver_wire::{CallError, ChainId, EntityId, Path, ShardId, Time, Token, limits};

use crate::cell::{AnyCell, Place};
use crate::entity::MethodInfo;
use crate::envelope::{Caller, Head, Request};
use crate::running::Running;
use crate::syscall::{Answer, Syscall};
use crate::tickets::{Terms, Tickets, Waiter};

/// A turn's task in its shard's table; [`TurnId::NONE`] for a method of one turn.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct TurnId(u32);

impl TurnId {
    /// No task.
    pub const NONE: Self = Self(u32::MAX);

    /// The task numbered `index`.
    #[must_use]
    pub const fn new(index: u32) -> Self {
        Self(index)
    }

    /// Its number.
    #[must_use]
    pub const fn index(self) -> u32 {
        self.0
    }
}

/// What is true while one turn runs.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// Its task.
    pub id: TurnId,
    /// Its activation.
    pub place: Place,
    /// When the call that it serves is given up.
    pub deadline: Time,
    /// The data pointer of its task's own waker, as a number.
    pub waker: usize,
    floor: u32,
    left: u32,
}

impl Turn {
    /// Outside of any turn.
    pub const NONE: Self = Self {
        id: TurnId::NONE,
        place: Place::NONE,
        deadline: Time::MAX,
        waker: 0,
        floor: 0,
        left: 0,
    };
}

/// The turn that runs, field by field: what is written in parts and read as a whole would be waited for.
#[derive(Debug)]
struct Current {
    id: Cell<TurnId>,
    place: Cell<Place>,
    deadline: Cell<Time>,
    waker: Cell<usize>,
    floor: Cell<u32>,
    left: Cell<u32>,
}

impl Current {
    const fn new(Turn { id, place, deadline, waker, floor, left }: Turn) -> Self {
        Self {
            id: Cell::new(id),
            place: Cell::new(place),
            deadline: Cell::new(deadline),
            waker: Cell::new(waker),
            floor: Cell::new(floor),
            left: Cell::new(left),
        }
    }

    #[inline(always)]
    fn get(&self) -> Turn {
        Turn {
            id: self.id.get(),
            place: self.place.get(),
            deadline: self.deadline.get(),
            waker: self.waker.get(),
            floor: self.floor.get(),
            left: self.left.get(),
        }
    }

    #[inline(always)]
    fn set(&self, Turn { id, place, deadline, waker, floor, left }: Turn) {
        self.id.set(id);
        self.place.set(place);
        self.deadline.set(deadline);
        self.waker.set(waker);
        self.floor.set(floor);
        self.left.set(left);
    }
}

/// A direct call of more than one turn that was let in, and what to restore when it is over.
#[derive(Debug)]
pub struct Entry {
    /// The callee's cell.
    pub cell: Rc<dyn AnyCell>,
    /// The caller's turn.
    pub outer: Turn,
    /// The caller's path, if the callee's is another one.
    pub outer_path: Option<Path>,
}

/// Whoever runs user code and answers its syscalls: a shard, or a [`Script`](crate::Script).
pub trait Host {
    /// A random number, not fit for secrets.
    fn random(&self) -> u64;
    /// The epoch of the slot in which the entity runs; 0 where it has none.
    fn fence(&self, of: &EntityId) -> u64;
    /// How many nodes are gone since this shard began.
    fn departed(&self) -> u64;
    /// Which shard this is.
    fn shard(&self) -> ShardId;
    /// The callee's cell, if a method of one turn may run on it at once, inside its caller's turn.
    /// Where that is joins the head, as a hint for the next call.
    fn open(&self, desk: &Desk, head: &mut Head) -> Option<Rc<dyn AnyCell>>;
    /// A method of one turn that ran directly has panicked. The caller's turn goes on.
    fn panicked(&self, desk: &Desk, place: Place, method: &'static MethodInfo);
    /// Lets a longer call run at once, inside its caller's turn, or says `None`: then it is
    /// submitted.
    fn enter(&self, desk: &Desk, head: &Head, method: &'static MethodInfo) -> Option<Entry>;
    /// A direct call panicked before it could be polled.
    fn leave(&self, desk: &Desk, entry: Entry);
    /// Polls a direct call once, and parks it if it is not done.
    ///
    /// # Errors
    /// If it panicked.
    fn adopt(
        &self,
        desk: &Desk,
        entry: Entry,
        running: Box<dyn Running>,
        token: Token,
    ) -> Result<Option<Request>, CallError>;
    /// The state of the activation at `place` has changed for the first time since it was [watched](AnyCell::watch), or
    /// a section that may have changed it has ended.
    fn changed(&self, place: Place);
    /// Whether the entity at `place` has this reminder, due at that time in ms since 1970.
    fn has_reminder(&self, place: Place, label: &str, due_ms: u64) -> bool;
    /// The hook has run for it, or there was nothing to run it for.
    fn reminded(&self, place: Place, label: &str, due_ms: u64);
    /// A call leaves: [`Syscall::Call`] or, without a token, [`Syscall::Tell`], in two words.
    fn call(&self, desk: &Desk, token: Option<Token>, request: Request);
    /// Any other syscall leaves. Without a token nobody waits for its answer.
    fn submit(&self, desk: &Desk, token: Option<Token>, syscall: Syscall);
    /// A task that serves no call begins on the current activation.
    fn spawn(&self, desk: &Desk, task: Box<dyn Running>);
    /// Nobody waits for the answer of `token` any more.
    fn give_up(&self, desk: &Desk, token: Token);
}

/// The way into a fabric for threads that run no entities.
pub trait Gateway: Send + Sync {
    /// Sends a call. `Err` if it cannot be taken.
    ///
    /// # Errors
    /// If the node is stopping or its inlet is full.
    fn submit(
        &self,
        request: Request,
        timeout: Option<std::time::Duration>,
        reply: bool,
    ) -> Result<Arc<dyn Pending>, CallError>;
}

/// A call that a foreign thread waits for.
pub trait Pending: Send + Sync {
    /// The answer, if there is one; otherwise the context's waker is woken when it comes.
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Answer>;
    /// Called by the shard, once.
    fn answer(&self, answer: Answer);
}

/// Which of the desks of a process a call was recorded at. Numbers come round again after [`COUNT`](Self::COUNT)
/// others, far more than there are shards; then generations of tokens still tell calls apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct DeskId(pub(crate) u16);

impl DeskId {
    /// How many there are.
    pub(crate) const COUNT: u16 = 4095;

    fn next() -> Self {
        use std::sync::atomic::{AtomicU16, Ordering};
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let after = |id| Some((id + 1) % Self::COUNT);
        let (Ok(id) | Err(id)) = NEXT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, after);
        Self(id)
    }
}

/// Where the user code of one shard leaves its syscalls.
pub struct Desk {
    id: DeskId,
    host: Rc<dyn Host>,
    tickets: RefCell<Tickets>,
    outbox: RefCell<Vec<Token>>,
    /// The call that was made last (**D3**).
    latest: Cell<Option<Latest>>,
    /// The token of a call that needed none: for the next one.
    spare: Cell<Option<Token>>,
    turn: Current,
    path: RefCell<Path>,
    now: Cell<Time>,
    depth: Cell<u32>,
    budget: Cell<u32>,
    origin: u64,
    serial: Cell<u64>,
}

/// A call that stands apart (**D3**).
#[derive(Clone, Copy)]
struct Latest {
    token: Token,
    /// Takes it out of the pool of its method, where it lies meanwhile: there its type is known.
    take: fn() -> Option<Request>,
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<Desk>>> = const { RefCell::new(None) };
}

/// While this lives, its desk is the current one of the thread.
#[derive(Debug)]
pub struct OnDesk {
    previous: Option<Rc<Desk>>,
}

impl Drop for OnDesk {
    fn drop(&mut self) {
        let previous = self.previous.take();
        // The thread's storage may be gone when a thread ends inside a turn; so is the desk then.
        drop(CURRENT.try_with(|current| current.replace(previous)));
    }
}

pub(crate) fn current() -> Option<Rc<Desk>> {
    CURRENT.try_with(|current| current.borrow().clone()).ok().flatten()
}

impl Desk {
    /// A desk of `host`. `origin` tells its chains apart from those of every other desk.
    #[must_use]
    pub fn new(host: Rc<dyn Host>, origin: u64) -> Rc<Self> {
        Rc::new(Self {
            id: DeskId::next(),
            host,
            tickets: RefCell::default(),
            outbox: RefCell::default(),
            latest: Cell::new(None),
            spare: Cell::new(None),
            turn: Current::new(Turn::NONE),
            path: RefCell::default(),
            now: Cell::new(Time::ZERO),
            depth: Cell::new(0),
            budget: Cell::new(limits::DIRECT_BUDGET),
            origin,
            serial: Cell::new(0),
        })
    }

    /// Makes this the current desk of the thread until the guard is dropped.
    #[must_use]
    pub fn enter(self: &Rc<Self>) -> OnDesk {
        let previous = CURRENT.with(|current| current.replace(Some(Rc::clone(self))));
        OnDesk { previous }
    }

    /// Whoever answers.
    #[must_use]
    pub fn host(&self) -> &dyn Host {
        &*self.host
    }

    /// The time of this tick.
    #[must_use]
    pub fn now(&self) -> Time {
        self.now.get()
    }

    /// A tick begins. Time never goes back for user code, whatever the host's clock does.
    pub fn set_now(&self, now: Time) {
        self.now.set(self.now.get().max(now));
    }

    /// A task or a mailbox begins to run: it may make so many direct calls until it yields.
    pub fn refill(&self) {
        self.budget.set(limits::DIRECT_BUDGET);
    }

    /// Whether the stack and the budget have room for another direct call. If so, it is begun.
    #[inline]
    pub fn nest(&self) -> bool {
        let (depth, budget) = (self.depth.get(), self.budget.get());
        if depth >= limits::DIRECT_DEPTH_MAX || budget == 0 {
            return false;
        }
        self.depth.set(depth + 1);
        self.budget.set(budget - 1);
        true
    }

    /// A direct call is over.
    #[inline]
    pub fn unnest(&self) {
        self.depth.set(self.depth.get() - 1);
    }

    pub(crate) fn id(&self) -> DeskId {
        self.id
    }

    /// The table of tokens.
    #[must_use]
    pub fn tickets(&self) -> &RefCell<Tickets> {
        &self.tickets
    }

    /// The turn that runs.
    #[must_use]
    pub fn turn(&self) -> Turn {
        self.turn.get()
    }

    /// The path of the turn that runs.
    #[must_use]
    pub fn path(&self) -> Path {
        self.path.borrow().clone()
    }

    /// Changes the path of the turn that runs, and gives the one before.
    #[inline]
    pub fn set_path(&self, path: Path) -> Path {
        self.path.replace(path)
    }

    /// A chain that begins now.
    pub fn new_chain(&self) -> ChainId {
        let serial = self.serial.get();
        self.serial.set(serial + 1);
        ChainId::new(self.now(), (self.origin << 40) | (serial & ((1 << 40) - 1)))
    }

    /// The turn that runs is polled with this waker (its data pointer, as a number).
    pub fn set_waker(&self, waker: usize) {
        self.turn.waker.set(waker);
    }

    /// Begins a turn on top of the one that runs (**D2**), which is given back.
    #[inline]
    pub fn begin(&self, id: TurnId, place: Place, deadline: Time, waker: usize) -> Turn {
        self.settle();
        let outer = self.turn.get();
        let floor = u32::try_from(self.outbox.borrow().len()).unwrap_or(u32::MAX);
        self.turn.set(Turn { id, place, deadline, waker, floor, left: floor });
        outer
    }

    /// The turn yields or ends: what it made leaves (**D1**), and `outer` goes on.
    #[inline]
    pub fn end(&self, outer: Turn) {
        self.settle();
        let left = self.turn.left.get() as usize;
        if self.outbox.borrow().len() > left {
            self.flush();
        }
        self.turn.set(outer);
    }

    /// Everything that the turn made leaves (**D1**).
    pub fn flush(&self) {
        self.settle();
        while let Some(token) = self.next_made() {
            self.let_go(token);
        }
    }

    /// The call that was made last joins those that were made before it (**D3**).
    #[inline]
    fn settle(&self) {
        if let Some(latest) = self.latest.take() {
            self.settle_latest(latest);
        }
    }

    #[inline(never)]
    fn settle_latest(&self, Latest { token, take }: Latest) {
        if let Some(request) = take() {
            self.join(token, request);
        }
    }

    fn join(&self, token: Token, request: Request) {
        if self.outbox.borrow().len() >= limits::OUTBOX_MAX {
            self.flush();
        }
        self.tickets.borrow_mut().keep(token, request);
        self.outbox.borrow_mut().push(token);
    }

    fn next_made(&self) -> Option<Token> {
        let left = self.turn.left.get();
        let mut outbox = self.outbox.borrow_mut();
        let token = outbox.get(left as usize).copied()?;
        let left = left + 1;
        self.turn.left.set(left);
        if left as usize == outbox.len() {
            let floor = self.turn.floor.get();
            outbox.truncate(floor as usize);
            self.turn.left.set(floor);
        }
        Some(token)
    }

    /// Records a call that stands apart from now on, and that `take` gives; `None` if there are too many.
    #[inline]
    pub(crate) fn make(&self, take: fn() -> Option<Request>) -> Option<Token> {
        self.settle();
        let spare = self.spare.take();
        let token = spare.or_else(|| self.tickets.borrow_mut().reserve())?;
        self.latest.set(Some(Latest { token, take }));
        Some(token)
    }

    /// The call of `token` does not stand apart after all: this is it.
    #[cold]
    pub(crate) fn made(&self, token: Token, request: Request) {
        self.latest.set(None);
        self.join(token, request);
    }

    pub(crate) fn amend(&self, token: Token, change: impl FnOnce(&mut Terms)) {
        self.settle();
        if let Some(terms) = self.tickets.borrow_mut().terms(token) {
            change(terms);
        }
    }

    /// Changes a call that has not left.
    pub(crate) fn amend_request(&self, token: Token, change: impl FnOnce(&mut Request)) {
        self.settle();
        if let Some(request) = self.tickets.borrow_mut().made(token) {
            change(request);
        }
    }

    /// Whether the call of `token` stands apart. If so, it is the caller's from now on, and everything that was
    /// made before it leaves.
    #[inline]
    pub(crate) fn take_latest(&self, token: Token) -> bool {
        if self.latest.get().is_none_or(|latest| latest.token != token) {
            return false;
        }
        self.latest.set(None);
        while let Some(next) = self.next_made() {
            self.let_go(next);
        }
        true
    }

    /// The call of `token`, which stood apart, has left and is under way.
    #[inline]
    pub(crate) fn sent(&self, token: Token) {
        self.tickets.borrow_mut().sent(token);
    }

    /// The call of `token`, which stood apart, is over already.
    #[inline]
    pub(crate) fn needs_no_token(&self, token: Token) {
        if let Some(other) = self.spare.replace(Some(token)) {
            self.end_token(other);
        }
    }

    /// Everything that was made up to `token` leaves, but for `token` itself, which is given.
    pub(crate) fn take_made(&self, token: Token) -> Option<(Request, Terms)> {
        let made = self.tickets.borrow_mut().leave(token)?;
        while let Some(next) = self.next_made() {
            if next == token {
                break;
            }
            self.let_go(next);
        }
        Some(made)
    }

    /// When a call that leaves now is given up.
    pub(crate) fn deadline(&self, terms: Terms) -> Time {
        const DEFAULT: u64 = limits::CALL_TIMEOUT.as_secs() * 1_000_000_000;
        terms.deadline(self.now(), DEFAULT).min(self.turn.deadline.get())
    }

    /// Fills in who waits, for how long, and on whose behalf.
    pub(crate) fn address(&self, request: &mut Request, terms: Terms, token: Option<Token>) {
        let head = request.head_mut();
        match token {
            Some(token) => {
                head.deadline = self.deadline(terms);
                head.caller = Caller::Token { shard: self.host.shard(), token };
                head.path = self.path();
            }
            None => {
                head.deadline = terms.deadline(self.now(), u64::MAX);
                head.caller = Caller::Nobody;
                // Else a tell would not be let in where the calls of its turn are, and be passed by them (I4).
                head.path = Path::default().born_under(self.path.borrow().born());
            }
        }
        if !head.path.chain().is_some() {
            head.path = Path::new(self.new_chain()).born_under(head.path.born());
        }
    }

    fn let_go(&self, token: Token) {
        let Some((request, terms)) = self.tickets.borrow_mut().leave(token) else { return };
        self.send(token, request, terms);
    }

    fn send(&self, token: Token, mut request: Request, terms: Terms) {
        if terms.tell {
            self.end_token(token);
            self.address(&mut request, terms, None);
            return self.host.call(self, None, request);
        }
        self.address(&mut request, terms, Some(token));
        self.host.call(self, Some(token), request);
    }

    /// Ends `token`; what it held is dropped where the table is not borrowed.
    #[inline]
    pub(crate) fn end_token(&self, token: Token) {
        let remains = self.tickets.borrow_mut().free(token);
        drop(remains);
    }

    /// The holder of `token` gives it up: a call that has not left leaves now, as a tell.
    pub(crate) fn give_up(&self, token: Token) {
        self.amend(token, |terms| terms.tell = true);
        match self.take_made(token) {
            Some((request, terms)) => self.send(token, request, terms),
            None => {
                self.host.give_up(self, token);
                self.end_token(token);
            }
        }
    }

    /// The reply of `token`, if that is its answer and it is there.
    #[inline]
    pub(crate) fn take_reply(&self, token: Token) -> Option<Request> {
        self.tickets.borrow_mut().take_reply(token)
    }

    /// The answer of `token`; if there is none yet, `cx`'s waker is woken by it.
    pub(crate) fn poll_answer(&self, token: Token, cx: &Context<'_>) -> Poll<Answer> {
        let answer = self.tickets.borrow_mut().take(token);
        if let Some(answer) = answer {
            return Poll::Ready(answer);
        }
        let turn = self.turn.id.get();
        // The task's own waker needs no cloning: its id says as much.
        let own = turn != TurnId::NONE && cx.waker().data().addr() == self.turn.waker.get();
        if own && self.tickets.borrow_mut().set_turn(token, turn) {
            return Poll::Pending;
        }
        let waiter = if own { Waiter::Turn(turn) } else { Waiter::Waker(cx.waker().clone()) };
        let before = self.tickets.borrow_mut().set_waiter(token, waiter);
        drop(before);
        Poll::Pending
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        // A call that nobody sends any more must not be taken for the next desk's.
        drop(self.latest.take().and_then(|latest| (latest.take)()));
    }
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk")
            .field("id", &self.id)
            .field("turn", &self.turn)
            .finish_non_exhaustive()
    }
}
