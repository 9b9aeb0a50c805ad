//! The connection to the process that has the file.
//!
//! # Invariants
//! - **AS1** Each op that was sent is answered, or is to be asked again of whoever has the file next: all that were not taken, and
//!   of the others those that only read.
//! - **AS2** A process is called silent only by what was looked for and not found: while this one stands still, no time passes.
//!
//! # Not here
//! Who has the file: `keeping`.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::time::{Duration, Instant};

use epicserver_store::limits::{OPS_BYTES_MAX, OPS_MAX};
use epicserver_store::{Answer, Job, Op, Trouble};
use rustix::event::PollFlags;
use rustix::fd::{BorrowedFd, OwnedFd};

use crate::frame::{Frame, Hello, Refusal, VERSION};
use crate::limits::{FRAME_BYTES_MAX, OUT_BYTES_MAX};
use crate::other::Other;
use crate::stream::Stream;

/// An established connection.
#[derive(Debug)]
pub(crate) struct Asking {
    stream: Stream,
    other: Other,
    /// By the numbers under which they were asked.
    asked: BTreeMap<u64, (Job, usize)>,
    bytes: usize,
    next: u64,
    welcome: bool,
    bye: bool,
    silent: Duration,
    looked: Instant,
    patience: Duration,
}

/// How it has ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The connection has.
    Gone(String),
    /// The other has said what it must not.
    Wrong(String),
    /// The other does not speak any more.
    Silent,
    /// The other will not serve.
    Refused(Refusal),
}

impl Asking {
    /// Begins to speak over `socket`, to which this process has just connected.
    pub(crate) fn begin(socket: OwnedFd, fabric: &str, patience: Duration) -> io::Result<Self> {
        let stream = Stream::new(socket);
        let other = Other::of(stream.fd())?;
        let mut asking = Self {
            stream,
            other,
            asked: BTreeMap::new(),
            bytes: 0,
            next: 0,
            welcome: false,
            bye: false,
            silent: Duration::ZERO,
            looked: Instant::now(),
            patience,
        };
        let beat_ms = u32::try_from(asking.beat().as_millis()).unwrap_or(u32::MAX);
        let hello = Hello { version: VERSION, beat_ms, fabric: fabric.to_owned() };
        asking.stream.push(&Frame::Hello(hello));
        asking.stream.flush()?;
        Ok(asking)
    }

    /// How often the other is to be heard.
    pub(crate) fn beat(&self) -> Duration {
        self.patience / 5
    }

    pub(crate) fn interest(&self) -> (BorrowedFd<'_>, PollFlags) {
        self.stream.interest(true)
    }

    pub(crate) fn other(&self) -> &Other {
        &self.other
    }

    pub(crate) fn into_other(self) -> Other {
        self.other
    }

    /// Whether ops can be asked.
    pub(crate) fn is_welcome(&self) -> bool {
        self.welcome && !self.bye
    }

    /// Whether one more op may be asked.
    pub(crate) fn has_room(&self) -> bool {
        self.is_welcome()
            && self.asked.len() < OPS_MAX
            && self.stream.unsent() < OUT_BYTES_MAX
            && (self.asked.is_empty() || self.bytes <= OPS_BYTES_MAX)
    }

    /// Asks; gives the op back if it is one too many (**SO7**).
    pub(crate) fn ask(&mut self, job: Job) -> Result<(), Job> {
        let bytes = job.op.bytes();
        if !self.has_room()
            || (!self.asked.is_empty() && self.bytes.saturating_add(bytes) > OPS_BYTES_MAX)
        {
            return Err(job);
        }
        let id = self.next;
        self.next += 1;
        let Job { op, ticket } = job;
        let ask = Frame::Ask(id, op);
        self.stream.push(&ask);
        if let Frame::Ask(_, op) = ask {
            self.bytes += bytes;
            self.asked.insert(id, (Job { op, ticket }, bytes));
        }
        Ok(())
    }

    /// Reads what has come and sends what waits; says if that was the end.
    pub(crate) fn turn(&mut self) -> Result<(), End> {
        let gone = |error: io::Error| End::Gone(error.to_string());
        let now = Instant::now();
        // AS2.
        self.silent += now.duration_since(self.looked).min(self.beat());
        self.looked = now;
        let came = self.stream.fill().map_err(gone)?;
        if came.bytes > 0 {
            self.silent = Duration::ZERO;
        }
        loop {
            let frame = self.stream.take(FRAME_BYTES_MAX);
            match frame.map_err(|why| End::Wrong(format!("it says what is no frame: {why}")))? {
                Some(frame) => self.handle(frame)?,
                None => break,
            }
        }
        if came.ended {
            return Err(End::Gone("the connection has ended".to_owned()));
        }
        if self.silent >= self.patience {
            return Err(End::Silent);
        }
        Ok(())
    }

    /// Sends what waits.
    pub(crate) fn flush(&mut self) {
        // Where that fails, what the other has said last is read next time, and then the end.
        let _sent = self.stream.flush();
    }

    /// Whether the other has said that it takes no more.
    pub(crate) fn is_bye(&self) -> bool {
        self.bye
    }

    fn handle(&mut self, frame: Frame) -> Result<(), End> {
        let wrong = |what: &str| Err(End::Wrong(format!("it says {what}")));
        match frame {
            Frame::Beat => Ok(()),
            Frame::Welcome => {
                self.welcome = true;
                Ok(())
            }
            Frame::Refuse(refusal) => Err(End::Refused(refusal)),
            Frame::Bye => {
                self.bye = true;
                Ok(())
            }
            Frame::Done(id, result) => {
                let Some((job, bytes)) = self.asked.remove(&id) else {
                    return wrong("an answer to what it was not asked");
                };
                self.bytes -= bytes;
                if result.as_ref().is_ok_and(|answer| !fits(&job.op, answer)) {
                    let why = "what was answered is no answer to it".to_owned();
                    job.ticket.answer(Err(Trouble::Unknown(why)));
                    return wrong("an answer of another kind");
                }
                job.ticket.answer(result);
                Ok(())
            }
            Frame::Hello(_) | Frame::Ask(..) => wrong("what is not for it to say"),
        }
    }

    /// What is to be asked again, in its order, where nothing more will be heard; the rest is answered (**AS1**).
    pub(crate) fn take_unanswered(&mut self, end: &End) -> VecDeque<Job> {
        // What cannot be understood would not be understood again.
        let wrong = matches!(end, End::Wrong(_));
        let mut again = VecDeque::new();
        self.bytes = 0;
        for (job, _) in std::mem::take(&mut self.asked).into_values() {
            if !wrong && (self.bye || only_reads(&job.op)) {
                again.push_back(job);
            } else {
                let why = "the process that had the file has gone".to_owned();
                job.ticket.answer(Err(Trouble::Unknown(why)));
            }
        }
        again
    }
}

/// Whether to do it twice is as good as once. A load may claim, and to repeat that changes nothing.
fn only_reads(op: &Op) -> bool {
    match op {
        Op::Load { .. } | Op::Scan { .. } | Op::Verify { .. } => true,
        Op::Claim { .. }
        | Op::Commit(_)
        | Op::Purge { .. }
        | Op::Backup { .. }
        | Op::Restore { .. } => false,
    }
}

/// Whether `answer` is one to `op`.
fn fits(op: &Op, answer: &Answer) -> bool {
    match answer {
        Answer::Claimed { .. } => matches!(op, Op::Claim { .. }),
        Answer::Loaded(_) => matches!(op, Op::Load { .. }),
        Answer::Committed(outcomes) => {
            matches!(op, Op::Commit(saves) if saves.len() == outcomes.len())
        }
        Answer::Scanned { .. } => matches!(op, Op::Scan { .. }),
        Answer::Purged { .. } => matches!(op, Op::Purge { .. }),
        Answer::Verified { .. } => matches!(op, Op::Verify { .. }),
        Answer::BackedUp { .. } => matches!(op, Op::Backup { .. }),
        Answer::Restored { .. } => matches!(op, Op::Restore { .. }),
    }
}
