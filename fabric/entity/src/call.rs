//! Calls: made by a method of a reference, recorded at once, redeemed by `.await`.
//!
//! # Invariants
//! - **C3** A call ends in one outcome, or is dropped.
//! - **C4** (I5) Errors inside a reply are crossed where the reply is handed over, here.
//!
//! # Not here
//! Where the callee is, and whether it may run now.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use epicserver_wire::uuid::Uuid;
use epicserver_wire::{CallError, ChainId, ErrorKind, Ran, Time, Token, limits};

use crate::cell::AnyCell;
use crate::desk::{Desk, DeskId, Entry, Gateway, Pending, TurnId, current};
use crate::entity::{EveryTurn, Method, Mode, Repeatable, typed_cell};
use crate::envelope::{Envelope, Head, Pool, Request};
use crate::message::Message;
use crate::reference::Target;
use crate::running::Started;
use crate::syscall::Answer;
use crate::tickets::Terms;

/// A call that was made: await it for its outcome.
///
/// It leaves when it is awaited or dropped, when a call that was made after it does, or when the
/// method that made it waits for something else. So two calls that are made before either is
/// awaited run side by side. Dropping it gives up the answer, not the work.
#[must_use = "a call that is dropped runs, but nobody learns how it ended: await it, or say `.tell()`"]
pub struct Call<M: Method> {
    /// Where it is recorded, made or under way, if it is.
    ticket: Ticket,
    /// Where it is if not at a desk. Rare, and apart, so that a common call is two words that stay in registers.
    elsewhere: Option<Box<Elsewhere>>,
    method: PhantomData<fn() -> M>,
}

/// A token with the desk that gave it, in one word; or none.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Ticket(u64);

impl Ticket {
    const NONE: Self = Self(u64::MAX);
    const INDEX_BITS: u32 = 20;

    #[inline]
    fn new(desk: DeskId, token: Token) -> Self {
        let low = u32::from(desk.0) << Self::INDEX_BITS | token.index();
        Self(u64::from(token.generation()) << 32 | u64::from(low))
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "each part of the word has its bits")]
    fn desk(self) -> DeskId {
        DeskId(((self.0 as u32) >> Self::INDEX_BITS) as u16)
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "each part of the word has its bits")]
    fn token(self) -> Token {
        let index = self.0 as u32 & ((1 << Self::INDEX_BITS) - 1);
        Token::new(index, (self.0 >> 32) as u32)
    }
}

const _: () = assert!(limits::TOKENS_MAX <= 1 << Ticket::INDEX_BITS, "an index fits its bits");
const _: () = assert!(DeskId::COUNT < 1 << (32 - Ticket::INDEX_BITS), "no ticket looks like none");

enum Elsewhere {
    /// Of a thread that runs no entities.
    Outside(Outside),
    /// Not even made.
    Refused(CallError),
}

impl Elsewhere {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, CallError>> {
        match self {
            Self::Outside(outside) => outside.poll(cx),
            Self::Refused(error) => Poll::Ready(Err(*error)),
        }
    }
}

/// A call of a thread that runs no entities.
struct Outside {
    gateway: Arc<dyn Gateway>,
    /// Until it leaves.
    request: Option<Request>,
    timeout: Option<Duration>,
    /// Once it has left.
    pending: Option<Arc<dyn Pending>>,
}

impl Outside {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, CallError>> {
        if let Some(request) = self.request.take() {
            match self.gateway.submit(request, self.timeout, true) {
                Ok(pending) => self.pending = Some(pending),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        let Some(pending) = &self.pending else { panic!("a call is polled after it is over") };
        pending.poll(cx).map(Ok)
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        if let Some(request) = self.request.take() {
            // Nobody is there to be told; the node counts what it refuses.
            drop(self.gateway.submit(request, self.timeout, false));
        }
    }
}

impl<M: Method> Call<M> {
    /// The call of `target` with `args`.
    #[inline]
    pub fn new(target: &Target, args: M::Args) -> Self {
        if target.id().key().is_too_long() {
            return Self::refused(ErrorKind::KeyTooLong);
        }
        let Some(desk) = current() else { return Self::outside(target, args) };
        let Some(token) = desk.make(latest::<M>) else {
            return Self::refused(ErrorKind::Overloaded);
        };
        if let Err(envelope) = M::pool().with(|pool| pool.make(target, args)) {
            desk.made(token, Request::new(envelope));
        }
        Self { ticket: Ticket::new(desk.id(), token), elsewhere: None, method: PhantomData }
    }

    #[cold]
    fn elsewhere(elsewhere: Elsewhere) -> Self {
        let elsewhere = Some(Box::new(elsewhere));
        Self { ticket: Ticket::NONE, elsewhere, method: PhantomData }
    }

    #[cold]
    fn refused(kind: ErrorKind) -> Self {
        Self::elsewhere(Elsewhere::Refused(CallError::refused(kind, ChainId::NONE)))
    }

    #[cold]
    fn outside(target: &Target, args: M::Args) -> Self {
        let Some(gateway) = target.gateway() else {
            return Self::refused(ErrorKind::NotInAnEntity);
        };
        Self::elsewhere(Elsewhere::Outside(Outside {
            gateway: Arc::clone(gateway),
            request: Some(Request::new(Envelope::<M>::new(target, args))),
            timeout: None,
            pending: None,
        }))
    }

    /// Whether it has been given its outcome, or was told.
    fn is_over(&self) -> bool {
        self.ticket == Ticket::NONE && self.elsewhere.is_none()
    }

    fn end(&mut self) {
        self.ticket = Ticket::NONE;
        self.elsewhere = None;
    }

    /// The desk where it is recorded, if that is the current one.
    #[inline]
    fn at_desk(&self) -> Option<Rc<Desk>> {
        current().filter(|current| current.id() == self.ticket.desk())
    }

    /// Gives up after `timeout`, if the caller's own deadline is not earlier. Without it a call
    /// takes at most [`limits::CALL_TIMEOUT`](epicserver_wire::limits::CALL_TIMEOUT).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        if let Some(desk) = self.at_desk() {
            desk.amend(self.ticket.token(), |terms| terms.set_timeout(timeout));
        } else if let Some(Elsewhere::Outside(outside)) = self.elsewhere.as_deref_mut() {
            outside.timeout = Some(timeout);
        }
        self
    }

    /// Gives the call an id by which it is known again: of all calls of the entity that have this id, the method runs for the
    /// first that comes, and the others get the reply that it gave, also when the caller or the entity's node has died in between.
    /// So a call whose outcome is not known may be sent again. It is drawn once for what is wanted, and has to be another one for
    /// each method.
    ///
    /// For methods of one turn and `#[exclusive]` ones of entities that are saved at `"every_turn"`; others do not compile. An entity
    /// keeps the replies of its last 1,000 such calls, each for a day. A method that has failed by an error of its own
    /// has replied; one that panicked has not, and runs again.
    ///
    /// # Errors
    /// When awaited: [`ErrorKind::StoreUnavailable`] where the node has no store, or it does not answer; [`ErrorKind::Malformed`] if
    /// the id was given to a call of another method.
    pub fn request_id(mut self, id: Uuid) -> Self
    where
        M: Repeatable,
        M::Entity: EveryTurn,
    {
        let id = id.as_u128();
        if let Some(desk) = self.at_desk() {
            desk.amend_request(self.ticket.token(), |request| request.set_request_id(id));
        } else if let Some(Elsewhere::Outside(outside)) = self.elsewhere.as_deref_mut()
            && let Some(request) = &mut outside.request
        {
            request.set_request_id(id);
        }
        self
    }

    /// Asks for no answer. It leaves in its turn; whether it arrives is not told.
    pub fn tell(mut self) {
        if let Some(desk) = self.at_desk() {
            desk.amend(self.ticket.token(), |terms| terms.tell = true);
            self.end();
        }
        // From outside, being dropped is what a tell does.
    }

    #[inline]
    fn poll_at_desk(&self, cx: &Context<'_>) -> Poll<M::Output> {
        let Some(current) = self.at_desk() else {
            let error = CallError::new(ErrorKind::NotInAnEntity, Ran::Unknown, ChainId::NONE);
            return Poll::Ready(M::output(Err(error)));
        };
        let token = self.ticket.token();
        if current.take_latest(token) {
            let Some(envelope) = M::pool().with(Pool::take_latest) else {
                unreachable!("D3: a call that stands apart lies in its method's pool")
            };
            if let Some(outcome) = depart_alone::<M>(&current, token, envelope) {
                return Poll::Ready(M::output(outcome));
            }
        } else if let Some(request) = current.take_reply(token) {
            return Poll::Ready(M::output(typed::<M>(request)));
        } else if let Some((request, terms)) = current.take_made(token)
            && let Some(outcome) = depart::<M>(&current, token, request, terms)
        {
            return Poll::Ready(M::output(outcome));
        }
        current.poll_answer(token, cx).map(outcome_of::<M>)
    }
}

fn outcome_of<M: Method>(answer: Answer) -> M::Output {
    M::output(match answer {
        Answer::Reply(request) => typed::<M>(request),
        Answer::Failed(error) => Err(error),
        Answer::Done
        | Answer::Wall(_)
        | Answer::Bytes(_)
        | Answer::Section(_)
        | Answer::Reminders(_)
        | Answer::Gone { .. } => Err(malformed()),
    })
}

fn malformed() -> CallError {
    CallError::new(ErrorKind::Malformed, Ran::Unknown, ChainId::NONE)
}

#[inline]
fn typed<M: Method>(request: Request) -> Result<M::Reply, CallError> {
    request.typed::<M>().ok_or_else(malformed)?.into_outcome()
}

/// The call of `M` that stands apart on this thread. A thread that ends may have lost it.
fn latest<M: Method>() -> Option<Request> {
    M::pool().try_with(Pool::take_latest).ok().flatten().map(Request::new)
}

/// A call leaves that stood apart: if it is one turn that may run directly, it needs no token.
#[inline]
fn depart_alone<M: Method>(
    desk: &Rc<Desk>,
    token: Token,
    mut envelope: Box<Envelope<M>>,
) -> Option<Result<M::Reply, CallError>> {
    if M::MODE == Mode::Turn
        && let Some(cell) = opened(desk, envelope.head_mut())
    {
        let outcome = one_turn::<M>(desk, envelope, desk.deadline(Terms::DEFAULT), cell);
        desk.needs_no_token(token);
        return Some(outcome);
    }
    desk.sent(token);
    depart_queued::<M>(desk, token, Request::new(envelope), Terms::DEFAULT)
}

/// The call leaves: straight into the callee's first turn where the host lets it, and through
/// the host's queues otherwise. `None` means that its answer is still to come.
fn depart<M: Method>(
    desk: &Rc<Desk>,
    token: Token,
    mut request: Request,
    terms: Terms,
) -> Option<Result<M::Reply, CallError>> {
    if M::MODE == Mode::Turn
        && let Some(cell) = opened(desk, request.head_mut())
    {
        let envelope = request.typed::<M>();
        let run = |envelope| one_turn::<M>(desk, envelope, desk.deadline(terms), cell);
        let outcome = envelope.ok_or_else(malformed).and_then(run);
        desk.end_token(token);
        return Some(outcome);
    }
    depart_queued::<M>(desk, token, request, terms)
}

/// The callee's cell, if a method of one turn may run on it now. Then a direct call has begun.
#[inline]
fn opened(desk: &Desk, head: &mut Head) -> Option<Rc<dyn AnyCell>> {
    if !desk.nest() {
        return None;
    }
    let cell = desk.host().open(desk, head);
    if cell.is_none() {
        desk.unnest();
    }
    cell
}

/// A call leaves whose method cannot be run to its end at once.
fn depart_queued<M: Method>(
    desk: &Rc<Desk>,
    token: Token,
    mut request: Request,
    terms: Terms,
) -> Option<Result<M::Reply, CallError>> {
    desk.address(&mut request, terms, Some(token));
    if M::MODE != Mode::Turn
        && let Some(entry) = desk.host().enter(desk, request.head(), M::INFO)
    {
        return polled::<M>(desk, token, request, entry);
    }
    desk.host().call(desk, Some(token), request);
    None
}

/// Runs a method of one turn on top of its caller's turn.
#[inline]
fn one_turn<M: Method>(
    desk: &Desk,
    call: Box<Envelope<M>>,
    deadline: Time,
    cell: Rc<dyn AnyCell>,
) -> Result<M::Reply, CallError> {
    let cell = typed_cell::<M::Entity>(cell);
    let place = cell.place();
    let outer = desk.begin(TurnId::NONE, place, deadline, 0);
    let started = catch_unwind(AssertUnwindSafe(|| M::start(call, cell)));
    desk.end(outer);
    desk.unnest();
    match started {
        Ok(Started::Ready(call, mut reply)) => {
            call.recycle();
            reply.crossed();
            Ok(reply)
        }
        Ok(Started::Running(_)) => Err(malformed()),
        Err(_) => {
            desk.host().panicked(desk, place, M::INFO);
            Err(CallError::new(ErrorKind::Panicked, Ran::Yes, desk.path().chain()))
        }
    }
}

/// Polls a longer method once on top of its caller's turn.
fn polled<M: Method>(
    desk: &Rc<Desk>,
    token: Token,
    request: Request,
    entry: Entry,
) -> Option<Result<M::Reply, CallError>> {
    let chain = request.head().path.chain();
    let cell = typed_cell::<M::Entity>(Rc::clone(&entry.cell));
    let call = request.typed::<M>()?;
    let outcome = match catch_unwind(AssertUnwindSafe(|| M::start(call, cell))) {
        Ok(Started::Ready(..)) => unreachable!("E4: only a method of one turn is ready at once"),
        Ok(Started::Running(running)) => match desk.host().adopt(desk, entry, running, token) {
            Ok(None) => None,
            Ok(Some(request)) => Some(typed::<M>(request)),
            Err(error) => Some(Err(error)),
        },
        Err(_) => {
            desk.host().leave(desk, entry);
            Some(Err(CallError::new(ErrorKind::Panicked, Ran::Yes, chain)))
        }
    };
    if outcome.is_some() {
        desk.end_token(token);
    }
    outcome
}

impl<M: Method> Future for Call<M> {
    type Output = M::Output;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = if self.ticket != Ticket::NONE {
            self.poll_at_desk(cx)
        } else {
            let Some(elsewhere) = self.elsewhere.as_deref_mut() else {
                panic!("a call is polled after it is over")
            };
            elsewhere.poll(cx).map(|answer| match answer {
                Ok(answer) => outcome_of::<M>(answer),
                Err(error) => M::output(Err(error)),
            })
        };
        if outcome.is_ready() {
            self.end();
        }
        outcome
    }
}

impl<M: Method> Drop for Call<M> {
    #[inline]
    fn drop(&mut self) {
        if self.ticket != Ticket::NONE
            && let Some(current) = self.at_desk()
        {
            current.give_up(self.ticket.token());
        }
    }
}

impl<M: Method> fmt::Debug for Call<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match self.elsewhere.as_deref() {
            None if self.is_over() => "over",
            None => return write!(f, "Call({:?}, {:?})", M::INFO, self.ticket.token()),
            Some(Elsewhere::Outside(_)) => "outside",
            Some(Elsewhere::Refused(_)) => "refused",
        };
        write!(f, "Call({:?}, {stage})", M::INFO)
    }
}
