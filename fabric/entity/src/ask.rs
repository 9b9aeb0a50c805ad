//! Syscalls other than calls, as futures: asked at the first poll, given up when dropped.
//!
//! # Not here
//! Calls, which are recorded when they are made.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use epicserver_wire::{CallError, ChainId, ErrorKind, Ran, Time, Token};

use crate::desk::{Desk, DeskId, current};
use crate::syscall::{Answer, Syscall};

/// How an answer is read.
type Read<R> = fn(Answer) -> Option<R>;

/// A syscall that can be awaited.
#[must_use = "nothing is asked before it is awaited"]
pub struct Ask<R> {
    stage: Stage,
    read: Read<R>,
}

enum Stage {
    Made(Option<Syscall>),
    Sent {
        desk: DeskId,
        token: Token,
    },
    /// It could not be sent.
    Failed(CallError),
    Over,
}

fn failed(kind: ErrorKind, ran: Ran) -> CallError {
    CallError::new(kind, ran, ChainId::NONE)
}

impl<R> Ask<R> {
    pub(crate) fn new(syscall: Syscall, read: Read<R>) -> Self {
        Self { stage: Stage::Made(Some(syscall)), read }
    }

    /// One that is asked now, and not when it is awaited.
    pub(crate) fn sent(syscall: Syscall, read: Read<R>) -> Self {
        let stage = match current().map(|desk| (desk.id(), send(&desk, syscall))) {
            Some((desk, Ok(token))) => Stage::Sent { desk, token },
            Some((_, Err(error))) => Stage::Failed(error),
            None => Stage::Failed(failed(ErrorKind::NotInAnEntity, Ran::No)),
        };
        Self { stage, read }
    }

    /// Gives up after `timeout`: then the error says that the deadline passed.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        let Some(now) = current().map(|desk| desk.now()) else { return self };
        if let Stage::Made(Some(
            Syscall::Lock { until, .. }
            | Syscall::Wait { until, .. }
            | Syscall::Push { until, .. }
            | Syscall::Pop { until, .. },
        )) = &mut self.stage
        {
            *until = now + timeout;
        }
        self
    }
}

/// Sends `syscall`, after everything that the turn made before it.
fn send(desk: &Desk, syscall: Syscall) -> Result<Token, CallError> {
    desk.flush();
    let repeats = matches!(syscall, Syscall::Every { .. });
    let token = desk.tickets().borrow_mut().send(repeats);
    let token = token.ok_or_else(|| failed(ErrorKind::Overloaded, Ran::No))?;
    desk.host().submit(desk, Some(token), syscall);
    Ok(token)
}

impl<R> Future for Ask<R> {
    type Output = Result<R, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(desk) = current() else {
            return Poll::Ready(Err(failed(ErrorKind::NotInAnEntity, Ran::Unknown)));
        };
        if let Stage::Made(syscall) = &mut self.stage {
            let Some(syscall) = syscall.take() else { panic!("polled after it was over") };
            match send(&desk, syscall) {
                Ok(token) => self.stage = Stage::Sent { desk: desk.id(), token },
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        if let Stage::Failed(error) = self.stage {
            return Poll::Ready(Err(error));
        }
        let Stage::Sent { token, desk: of } = self.stage else {
            panic!("polled after it was over")
        };
        if of != desk.id() {
            return Poll::Ready(Err(failed(ErrorKind::NotInAnEntity, Ran::Unknown)));
        }
        let Poll::Ready(answer) = desk.poll_answer(token, cx) else { return Poll::Pending };
        self.stage = Stage::Over;
        if let Answer::Failed(error) = answer {
            return Poll::Ready(Err(error));
        }
        Poll::Ready((self.read)(answer).ok_or_else(|| failed(ErrorKind::Malformed, Ran::Yes)))
    }
}

impl<R> Drop for Ask<R> {
    fn drop(&mut self) {
        if let Stage::Sent { desk, token } = self.stage {
            give_up(desk, token);
        }
    }
}

impl<R> fmt::Debug for Ask<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.stage {
            Stage::Made(syscall) => write!(f, "Ask({syscall:?})"),
            Stage::Sent { token, .. } => write!(f, "Ask({token:?})"),
            Stage::Failed(error) => write!(f, "Ask({error:?})"),
            Stage::Over => f.write_str("Ask(over)"),
        }
    }
}

fn give_up(desk: DeskId, token: Token) {
    if let Some(current) = current().filter(|current| current.id() == desk) {
        current.give_up(token);
    }
}

/// A clock that ticks: see [`At::interval`](crate::At::interval).
pub struct Interval {
    start: Option<(Time, Duration)>,
    sent: Option<(DeskId, Token)>,
}

impl Interval {
    pub(crate) fn new(first: Time, period: Duration) -> Self {
        Self { start: Some((first, period.max(Duration::from_nanos(1)))), sent: None }
    }

    /// Waits for the next tick. Ticks that passed while nobody waited are one.
    ///
    /// # Errors
    /// If the shard has no room for another token, or the tick is awaited off its shard.
    pub async fn tick(&mut self) -> Result<(), CallError> {
        std::future::poll_fn(|cx| self.poll_tick(cx)).await
    }

    fn poll_tick(&mut self, cx: &Context<'_>) -> Poll<Result<(), CallError>> {
        let Some(desk) = current() else {
            return Poll::Ready(Err(failed(ErrorKind::NotInAnEntity, Ran::Unknown)));
        };
        if let Some((first, period)) = self.start.take() {
            match send(&desk, Syscall::Every { first, period }) {
                Ok(token) => self.sent = Some((desk.id(), token)),
                Err(error) => {
                    self.start = Some((first, period));
                    return Poll::Ready(Err(error));
                }
            }
        }
        match self.sent {
            Some((of, token)) if of == desk.id() => match desk.poll_answer(token, cx) {
                Poll::Ready(Answer::Failed(error)) => Poll::Ready(Err(error)),
                Poll::Ready(_) => Poll::Ready(Ok(())),
                Poll::Pending => Poll::Pending,
            },
            _ => Poll::Ready(Err(failed(ErrorKind::NotInAnEntity, Ran::Unknown))),
        }
    }
}

impl Drop for Interval {
    fn drop(&mut self) {
        if let Some((desk, token)) = self.sent {
            give_up(desk, token);
        }
    }
}

impl fmt::Debug for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Interval({:?})", self.sent)
    }
}
