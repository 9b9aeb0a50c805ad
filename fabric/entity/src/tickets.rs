//! Tickets: every syscall of one shard that has been made and not yet been told its outcome.
//!
//! # Invariants
//! - **C1** A token is answered at most once; whoever holds it learns of one outcome, or gives it up.
//! - **C2** At most [`limits::TOKENS_MAX`] tokens are out; a full table refuses, it never grows.
//!
//! - **C5** Nothing of a user is dropped in here: arguments, replies and foreign wakers are given out,
//!   since their destructors may call, and so come back to this table while it is borrowed.
//!
//! # Not here
//! Deadlines: the host keeps time, and answers a token that is late.

use std::fmt;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use epicserver_wire::{Time, Token, limits};

use crate::desk::{Pending, TurnId};
use crate::envelope::Request;
use crate::syscall::Answer;

/// Who is to be told when a token is answered.
#[derive(Default)]
pub enum Waiter {
    /// Nobody waits yet.
    #[default]
    Nobody,
    /// The task of this turn.
    Turn(TurnId),
    /// Whoever is behind a combinator's waker.
    Waker(Waker),
    /// A thread outside of every shard.
    Outside(Arc<dyn Pending>),
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => f.write_str("Nobody"),
            Self::Turn(turn) => write!(f, "{turn:?}"),
            Self::Waker(_) => f.write_str("Waker"),
            Self::Outside(_) => f.write_str("Outside"),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Free,
    /// A call that has not left yet.
    Made,
    Sent,
    Answered,
}

/// What a caller says of a call before it leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Terms {
    /// How long it wants to wait, in nanoseconds; [`Terms::NO_TIMEOUT`] if it does not say.
    timeout: u64,
    /// Whether it wants no answer.
    pub(crate) tell: bool,
}

impl Terms {
    const NO_TIMEOUT: u64 = u64::MAX;
    /// Of a caller that says nothing.
    pub(crate) const DEFAULT: Self = Self { timeout: Self::NO_TIMEOUT, tell: false };

    /// It wants to wait that long.
    pub(crate) fn set_timeout(&mut self, timeout: Duration) {
        let nanos = u64::try_from(timeout.as_nanos()).unwrap_or(Self::NO_TIMEOUT);
        self.timeout = nanos.min(Self::NO_TIMEOUT - 1);
    }

    /// When a call made on these terms is given up, if it leaves at `now` and waits for `default` unless
    /// it says otherwise.
    #[inline]
    pub(crate) fn deadline(self, now: Time, default: u64) -> Time {
        let wait = if self.timeout == Self::NO_TIMEOUT { default } else { self.timeout };
        Time::from_nanos(now.as_nanos().saturating_add(wait))
    }
}

/// What a phase brings stands beside it, not in it: so that each step writes and reads a word or
/// two, and not the whole ticket.
#[derive(Debug)]
struct Ticket {
    generation: u32,
    /// Of a free ticket: the next one.
    next: u32,
    phase: Phase,
    repeats: bool,
    made: Option<Request>,
    terms: Terms,
    /// The common answer stands alone: it is two words, and the others are many.
    reply: Option<Request>,
    answer: Option<Answer>,
    waiter: Waiter,
}

const END: u32 = u32::MAX;

/// The table of tickets of one shard.
#[derive(Debug)]
pub struct Tickets {
    tickets: Vec<Ticket>,
    free: u32,
    out: u32,
}

impl Default for Tickets {
    fn default() -> Self {
        Self { tickets: Vec::new(), free: END, out: 0 }
    }
}

impl Tickets {
    /// How many tokens are out.
    #[must_use]
    pub fn out(&self) -> u32 {
        self.out
    }

    #[inline]
    fn insert(&mut self, phase: Phase, repeats: bool) -> Option<Token> {
        if self.out >= limits::TOKENS_MAX {
            return None;
        }
        self.out += 1;
        if let Some(ticket) = self.tickets.get_mut(self.free as usize) {
            let index = self.free;
            self.free = ticket.next;
            ticket.phase = phase;
            ticket.repeats = repeats;
            return Some(Token::new(index, ticket.generation));
        }
        self.grow(phase, repeats)
    }

    #[cold]
    fn grow(&mut self, phase: Phase, repeats: bool) -> Option<Token> {
        let index = u32::try_from(self.tickets.len()).ok()?;
        let (made, reply, answer) = (None, None, None);
        let terms = Terms::DEFAULT;
        let waiter = Waiter::Nobody;
        self.tickets.push(Ticket {
            generation: 0,
            next: END,
            phase,
            repeats,
            made,
            terms,
            reply,
            answer,
            waiter,
        });
        Some(Token::new(index, 0))
    }

    /// A token for a call that has not left yet; `None` if the table is full (**C2**).
    #[inline]
    pub(crate) fn reserve(&mut self) -> Option<Token> {
        self.insert(Phase::Made, false)
    }

    /// Keeps the call of a token that was reserved, until it leaves.
    pub(crate) fn keep(&mut self, token: Token, request: Request) {
        if let Some(ticket) = self.get(token) {
            ticket.made = Some(request);
        }
    }

    /// The call of `token`, which was only reserved, has left: from now on the token waits.
    #[inline]
    pub(crate) fn sent(&mut self, token: Token) {
        if let Some(ticket) = self.get(token) {
            ticket.phase = Phase::Sent;
        }
    }

    /// A token for a syscall that leaves now; `None` if the table is full (**C2**).
    pub fn send(&mut self, repeats: bool) -> Option<Token> {
        self.insert(Phase::Sent, repeats)
    }

    #[inline]
    fn get(&mut self, token: Token) -> Option<&mut Ticket> {
        let ticket = self.tickets.get_mut(token.index() as usize)?;
        (ticket.generation == token.generation() && ticket.phase != Phase::Free).then_some(ticket)
    }

    /// The terms of `token`'s call, if it has not left yet.
    pub(crate) fn terms(&mut self, token: Token) -> Option<&mut Terms> {
        let ticket = self.get(token).filter(|ticket| ticket.phase == Phase::Made)?;
        Some(&mut ticket.terms)
    }

    /// The call of `token`, if it has not left.
    pub(crate) fn made(&mut self, token: Token) -> Option<&mut Request> {
        self.get(token)?.made.as_mut()
    }

    /// Takes the call of `token` out, if it has not left: from now on the token waits.
    #[inline]
    pub(crate) fn leave(&mut self, token: Token) -> Option<(Request, Terms)> {
        let ticket = self.get(token)?;
        let request = ticket.made.take()?;
        ticket.phase = Phase::Sent;
        let terms = ticket.terms;
        if terms != Terms::DEFAULT {
            ticket.terms = Terms::DEFAULT;
        }
        Some((request, terms))
    }

    /// Whether `token` is out and unanswered.
    #[must_use]
    pub fn waits(&mut self, token: Token) -> bool {
        self.get(token).is_some_and(|ticket| ticket.phase == Phase::Sent)
    }

    /// The tokens that are out and unanswered.
    pub fn waiting(&self) -> impl Iterator<Item = Token> {
        let tickets = (0..).zip(&self.tickets).filter(|(_, ticket)| ticket.phase == Phase::Sent);
        tickets.map(|(index, ticket)| Token::new(index, ticket.generation))
    }

    /// Answers `token`, and says who is to be told. `Err` gives the answer back: the token was
    /// answered or given up before (**C1**).
    ///
    /// # Errors
    /// The answer, if nobody waits for it.
    pub fn answer(&mut self, token: Token, answer: Answer) -> Result<Waiter, Answer> {
        if let Answer::Reply(request) = answer {
            return self.reply(token, request).map_err(Answer::Reply);
        }
        match self.get(token) {
            Some(ticket) if ticket.phase == Phase::Sent => {
                ticket.phase = Phase::Answered;
                ticket.answer = Some(answer);
                Ok(std::mem::take(&mut ticket.waiter))
            }
            _ => Err(answer),
        }
    }

    /// Answers `token` with a reply.
    ///
    /// # Errors
    /// The reply, if nobody waits for it.
    #[inline]
    pub fn reply(&mut self, token: Token, request: Request) -> Result<Waiter, Request> {
        match self.get(token) {
            Some(ticket) if ticket.phase == Phase::Sent => {
                ticket.phase = Phase::Answered;
                ticket.reply = Some(request);
                Ok(std::mem::take(&mut ticket.waiter))
            }
            _ => Err(request),
        }
    }

    /// The reply of `token`, if that is its answer. The token ends with it.
    #[inline]
    pub(crate) fn take_reply(&mut self, token: Token) -> Option<Request> {
        let request = self.get(token)?.reply.take()?;
        self.release(token);
        Some(request)
    }

    /// The answer of `token`, if there is one. The token ends with it, unless it repeats.
    pub fn take(&mut self, token: Token) -> Option<Answer> {
        let ticket = self.get(token)?;
        if ticket.phase != Phase::Answered {
            return None;
        }
        let reply = ticket.reply.take().map(Answer::Reply);
        let answer = reply.or_else(|| ticket.answer.take());
        if ticket.repeats {
            ticket.phase = Phase::Sent;
        } else {
            self.release(token);
        }
        answer
    }

    /// Says who is to be told, and gives back who was (**C5**).
    #[must_use = "to be dropped where the table is not borrowed"]
    pub fn set_waiter(&mut self, token: Token, waiter: Waiter) -> Waiter {
        match self.get(token) {
            Some(ticket) => std::mem::replace(&mut ticket.waiter, waiter),
            None => waiter,
        }
    }

    /// Says that the task of `turn` is to be told, unless somebody else was to be: then `false`.
    #[inline]
    pub(crate) fn set_turn(&mut self, token: Token, turn: TurnId) -> bool {
        let Some(ticket) = self.get(token) else { return true };
        let bare = matches!(ticket.waiter, Waiter::Nobody | Waiter::Turn(_));
        if bare {
            ticket.waiter = Waiter::Turn(turn);
        }
        bare
    }

    /// Whether somebody is parked until `token` is answered.
    #[must_use]
    pub fn is_waited(&mut self, token: Token) -> bool {
        self.get(token).is_some_and(|ticket| {
            ticket.phase == Phase::Sent && !matches!(ticket.waiter, Waiter::Nobody)
        })
    }

    /// Ends `token`, answered or not, and gives what it held (**C5**). A token that is no longer
    /// valid is left alone.
    #[inline]
    #[must_use = "to be dropped where the table is not borrowed"]
    pub fn free(&mut self, token: Token) -> Option<Remains> {
        let ticket = self.get(token)?;
        let bare = ticket.phase == Phase::Sent && matches!(ticket.waiter, Waiter::Nobody);
        let remains = if bare { None } else { Some(ticket.empty()) };
        self.release(token);
        remains
    }

    /// Ends `token`, which is out and holds nothing any more.
    #[inline]
    fn release(&mut self, token: Token) {
        let Some(ticket) = self.tickets.get_mut(token.index() as usize) else { return };
        ticket.generation = ticket.generation.wrapping_add(1);
        ticket.phase = Phase::Free;
        ticket.next = self.free;
        self.free = token.index();
        self.out -= 1;
    }
}

/// What a token held that was ended: to be dropped.
#[expect(dead_code, reason = "it is only dropped")]
#[derive(Debug)]
pub struct Remains {
    made: Option<Request>,
    reply: Option<Request>,
    answer: Option<Answer>,
    waiter: Waiter,
}

impl Ticket {
    #[cold]
    fn empty(&mut self) -> Remains {
        self.terms = Terms::DEFAULT;
        Remains {
            made: self.made.take(),
            reply: self.reply.take(),
            answer: self.answer.take(),
            waiter: std::mem::take(&mut self.waiter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c1_the_second_answer_is_given_back() {
        let mut tickets = Tickets::default();
        let token = tickets.send(false).unwrap();
        assert!(tickets.answer(token, Answer::Done).is_ok());
        assert_eq!(tickets.answer(token, Answer::Wall(1)).unwrap_err(), Answer::Wall(1));
        assert_eq!(tickets.take(token), Some(Answer::Done));
        assert_eq!(tickets.take(token), None);
    }

    #[test]
    fn those_that_wait_are_those_that_are_out_and_unanswered() {
        let mut tickets = Tickets::default();
        let [free, answered, waits] = [(); 3].map(|()| tickets.send(false).unwrap());
        drop(tickets.free(free));
        assert!(tickets.answer(answered, Answer::Done).is_ok());
        assert_eq!(tickets.waiting().collect::<Vec<_>>(), [waits]);
    }

    #[test]
    fn c1_a_token_of_an_earlier_use_answers_nothing() {
        let mut tickets = Tickets::default();
        let old = tickets.send(false).unwrap();
        drop(tickets.free(old));
        let new = tickets.send(false).unwrap();
        assert_eq!(old.index(), new.index());
        assert!(tickets.answer(old, Answer::Done).is_err());
        assert!(tickets.waits(new));
    }

    #[test]
    fn a_token_that_repeats_is_answered_again_and_again() {
        let mut tickets = Tickets::default();
        let token = tickets.send(true).unwrap();
        for _ in 0..3 {
            assert!(tickets.answer(token, Answer::Done).is_ok());
            assert_eq!(tickets.take(token), Some(Answer::Done));
        }
        drop(tickets.free(token));
        assert_eq!(tickets.out(), 0);
    }

    #[test]
    fn c5_who_waited_is_given_out_and_not_dropped_inside() {
        let waker = Arc::new(Woken);
        let waiter = || Waiter::Waker(Waker::from(Arc::clone(&waker)));
        let mut tickets = Tickets::default();
        let token = tickets.send(false).unwrap();
        assert!(matches!(tickets.set_waiter(token, waiter()), Waiter::Nobody));
        assert!(matches!(tickets.set_waiter(token, waiter()), Waiter::Waker(_)));
        let remains = tickets.free(token);
        assert_eq!(Arc::strong_count(&waker), 2);
        drop(remains);
        assert!(matches!(tickets.set_waiter(token, waiter()), Waiter::Waker(_)));
        assert_eq!(Arc::strong_count(&waker), 1);
    }

    struct Woken;

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {}
    }

    #[test]
    fn c2_a_full_table_refuses() {
        let mut tickets = Tickets { tickets: Vec::new(), free: END, out: limits::TOKENS_MAX };
        assert_eq!(tickets.send(false), None);
    }
}
