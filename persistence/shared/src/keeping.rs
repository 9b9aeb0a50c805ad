//! The thread that finds out who has the file: this process, which then serves the others, or another one, which it then asks.
//!
//! # Invariants
//! - **KE1** What was taken from handles goes to whoever has the file in its order, before what comes later.
//! - **KE2** Nothing waits for a holder for longer than patience lasts.
//!
//! # Not here
//! What is said over a connection: `asking`, `peers`. What is done while this process has the file: `holding`.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Sender;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use epicserver_store::{Job, Lane, Op, Trouble};
use rustix::event::PollFlags;

use crate::asking::{Asking, End};
use crate::bell::{Bell, is_ready};
use crate::frame::Refusal;
use crate::limits::OP_BYTES_MAX;
use crate::other::Other;
use crate::place::{Place, Seat};
use crate::{Error, Options};

/// How often it is looked whether anybody has the file, while nobody can be reached.
pub(crate) const RETRY: Duration = Duration::from_millis(5);

/// All that the thread has.
pub(crate) struct Keeping {
    pub(crate) options: Options,
    pub(crate) place: Place,
    pub(crate) lane: Lane,
    pub(crate) bell: Arc<Bell>,
    pub(crate) waker: Waker,
    /// Whether this process has the file.
    pub(crate) holds: Arc<AtomicBool>,
    /// What was taken from the lane and has to be asked once more, in its order.
    pub(crate) again: VecDeque<Job>,
    /// Since when nobody is known who has the file.
    pub(crate) apart: Option<Instant>,
    /// Until when nothing is tried, since it has just failed.
    pub(crate) rest: Option<Instant>,
    /// A process that has been told to end.
    pub(crate) ending: Option<Other>,
    /// What has failed last, for people.
    pub(crate) why: String,
    /// Who opens, until that is done.
    pub(crate) told: Option<Sender<Result<(), Error>>>,
}

enum Met {
    /// This process may open the file.
    Seat(Seat),
    /// Another one has it.
    Holder(Box<Asking>),
    Nobody,
}

impl Keeping {
    pub(crate) fn run(mut self) {
        while !self.lane.is_closed() {
            self.refuse_late();
            match self.look() {
                Ok(Met::Seat(seat)) => self.hold(seat),
                Ok(Met::Holder(asking)) => self.ask(*asking),
                Ok(Met::Nobody) => self.pause(),
                Err(source) => {
                    let path = self.place.file.clone();
                    self.fail(Error::Beside { path, source });
                }
            }
        }
    }

    fn look(&mut self) -> io::Result<Met> {
        if let Some(ending) = &self.ending {
            if !is_ready(ending.ended(), PollFlags::IN) {
                return Ok(Met::Nobody);
            }
            tracing::info!(pid = ending.pid(), "the process that had the store has ended");
            self.ending = None;
        }
        if self.rest.is_some_and(|until| Instant::now() < until) {
            return Ok(Met::Nobody);
        }
        self.rest = None;
        if let Some(lock) = self.place.take()? {
            return self.place.listen(lock).map(Met::Seat);
        }
        let Some(socket) = self.place.connect()? else {
            self.why = "another process has it and does not listen".to_owned();
            return Ok(Met::Nobody);
        };
        match Asking::begin(socket, &self.options.fabric, self.options.patience) {
            Ok(asking) => Ok(Met::Holder(Box::new(asking))),
            Err(error) if is_gone(&error) => Ok(Met::Nobody),
            Err(error) => Err(error),
        }
    }

    /// Waits for a short while, or until something happens.
    fn pause(&self) {
        let ended = self.ending.as_ref().map(|other| (other.ended(), PollFlags::IN));
        self.bell.wait(ended.as_slice(), RETRY);
    }

    /// Whoever opens is told; later, it is tried again after a while.
    pub(crate) fn fail(&mut self, error: Error) {
        self.why = error.to_string();
        if let Some(told) = self.told.take() {
            // Whoever opens waits for it.
            let _heard = told.send(Err(error));
        } else {
            tracing::warn!(why = self.why, "the shared store is out of reach");
        }
        self.rest = Some(Instant::now() + self.options.patience / 5);
    }

    /// There is somebody who has the file.
    pub(crate) fn settle(&mut self) {
        self.apart = None;
        if let Some(told) = self.told.take() {
            // Whoever opens waits for it.
            let _heard = told.send(Ok(()));
        }
    }

    /// KE2: refuses what has waited for too long.
    pub(crate) fn refuse_late(&mut self) {
        let Some(since) = self.apart else { return };
        let waited = since.elapsed();
        if waited >= 2 * self.options.patience && self.told.is_some() {
            let path = self.place.file.clone();
            self.fail(Error::Nobody { path, why: self.why.clone() });
        }
        if waited < self.options.patience {
            return;
        }
        let why = || format!("nobody serves it: {}", self.why);
        for Job { op, ticket } in std::mem::take(&mut self.again) {
            // It may have been done before it was to be asked again.
            let claims = matches!(op, Op::Load { claim: Some(_), .. });
            let trouble = if claims { Trouble::Unknown } else { Trouble::Unavailable };
            ticket.answer(Err(trouble(why())));
        }
        while let Poll::Ready(Some(Job { ticket, .. })) =
            self.lane.poll_next(&Context::from_waker(&self.waker))
        {
            ticket.answer(Err(Trouble::Unavailable(why())));
        }
    }

    /// What is to be asked next (**KE1**).
    pub(crate) fn next_job(&mut self) -> Option<Job> {
        loop {
            let job = match self.again.pop_front() {
                Some(job) => job,
                None => match self.lane.poll_next(&Context::from_waker(&self.waker)) {
                    Poll::Ready(job) => job?,
                    Poll::Pending => return None,
                },
            };
            match fitting(job.op) {
                Ok(op) => return Some(Job { op, ticket: job.ticket }),
                Err(trouble) => job.ticket.answer(Err(trouble)),
            }
        }
    }

    /// Asks another process, until that cannot go on.
    fn ask(&mut self, mut asking: Asking) {
        let mut known = false;
        let end = loop {
            if self.lane.is_closed() {
                return;
            }
            if let Err(end) = asking.turn() {
                break end;
            }
            if asking.is_welcome() {
                if !known {
                    known = true;
                    self.settle();
                    tracing::info!(pid = asking.other().pid(), "another process has the store");
                }
                self.ask_all(&mut asking);
            } else {
                if asking.is_bye() {
                    self.apart.get_or_insert_with(Instant::now);
                }
                self.refuse_late();
            }
            asking.flush();
            self.bell.wait(&[asking.interest()], asking.beat());
        };
        self.apart.get_or_insert_with(Instant::now);
        let mut again = asking.take_unanswered(&end);
        again.append(&mut self.again);
        self.again = again;
        self.part(end, asking);
    }

    fn ask_all(&mut self, asking: &mut Asking) {
        while asking.has_room()
            && let Some(job) = self.next_job()
        {
            if let Err(job) = asking.ask(job) {
                self.again.push_front(job);
                return;
            }
        }
    }

    /// Sees to it that the process that was asked does not stand in the way of the next.
    fn part(&mut self, end: End, asking: Asking) {
        let bye = asking.is_bye();
        let other = asking.into_other();
        let pid = other.pid();
        match end {
            // It has let go of the file before.
            End::Gone(_) if bye => {}
            End::Gone(why) | End::Wrong(why) => {
                tracing::warn!(pid, why, "the process that had the store is asked no more");
                self.why = why;
                self.bell.wait(&[(other.ended(), PollFlags::IN)], RETRY);
            }
            End::Silent => {
                self.why = format!("process {pid}, which has it, is silent");
                tracing::warn!(pid, "the process that has the store is silent, and is ended");
                match other.end() {
                    Ok(()) => self.ending = Some(other),
                    Err(source) => {
                        let path = self.place.file.clone();
                        self.fail(Error::Beside { path, source });
                    }
                }
            }
            End::Refused(Refusal::Full) => {
                let path = self.place.file.clone();
                if self.told.is_some() {
                    self.why = Refusal::Full.to_string();
                    self.rest = Some(Instant::now() + self.options.patience / 5);
                } else {
                    self.fail(Error::Refused { path, pid, why: Refusal::Full.to_string() });
                }
            }
            End::Refused(refusal) => {
                let path = self.place.file.clone();
                self.fail(Error::Refused { path, pid, why: refusal.to_string() });
            }
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe].contains(&error.kind())
}

/// The op in a form that means the same in every process, if it is not too long to be sent to one.
pub(crate) fn fitting(op: Op) -> Result<Op, Trouble> {
    let bytes = op.bytes();
    if bytes > OP_BYTES_MAX {
        let why = format!("an op of {bytes} bytes, and {OP_BYTES_MAX} are the most");
        return Err(Trouble::Refused(why));
    }
    let whole = |path: PathBuf| {
        std::path::absolute(&path)
            .map_err(|error| Trouble::Refused(format!("{}: {error}", path.display())))
    };
    Ok(match op {
        Op::Backup { to } => Op::Backup { to: whole(to)? },
        Op::Restore { from } => Op::Restore { from: whole(from)? },
        Op::Claim { .. }
        | Op::Load { .. }
        | Op::Commit(_)
        | Op::Scan { .. }
        | Op::Purge { .. }
        | Op::Verify { .. } => op,
    })
}
