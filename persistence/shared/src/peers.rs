//! The processes that this one serves while it has the file.
//!
//! # Invariants
//! - **PE1** What a peer asks is taken in its order; each op that was taken is answered, until the peer has gone.
//! - **PE2** After a bye nothing of that peer is taken, and all that was taken is answered before it.
//! - **PE4** A process that comes again is served when all is done that it asked before, so that what it then reads is the last word.
//! - **PE3** A peer hears something at least as often as it wants to, unless it does not listen.
//!
//! # Not here
//! The file. When it is opened and closed: `holding`.

use std::io;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use epicserver_redb::Redb;
use epicserver_store::{Done, Keeper as _, OpId, Store, Wake};
use rustix::event::PollFlags;
use rustix::fd::{AsFd as _, BorrowedFd};

use crate::bell::Bell;
use crate::frame::{Frame, Hello, Refusal, VERSION};
use crate::limits::{FRAME_BYTES_MAX, HELLO_BYTES_MAX, OUT_BYTES_MAX, PEERS_MAX};
use crate::other::user_at;
use crate::stream::Stream;

/// All of them.
#[derive(Debug)]
pub(crate) struct Peers {
    fabric: String,
    patience: Duration,
    bell: Arc<Bell>,
    all: Vec<Peer>,
    /// What peers have asked who have gone, until it is done (**PE4**), with their processes.
    left: Vec<(i32, Box<dyn Store>)>,
    /// No more is taken.
    leaving: bool,
}

/// Whether there is more to do at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum More {
    Now,
    Later,
}

impl Peers {
    pub(crate) fn new(fabric: &str, patience: Duration, bell: &Arc<Bell>) -> Self {
        let bell = Arc::clone(bell);
        let (all, left) = (Vec::new(), Vec::new());
        Self { fabric: fabric.to_owned(), patience, bell, all, left, leaving: false }
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// Takes no more ops. Peers that are answered hear a bye.
    pub(crate) fn leave(&mut self) {
        self.leaving = true;
    }

    /// Whether all have heard all.
    pub(crate) fn have_heard(&self) -> bool {
        self.all.iter().all(|peer| peer.bye && peer.stream.unsent() == 0)
    }

    /// What they wait for.
    pub(crate) fn interest(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        self.all.iter().map(|peer| peer.stream.interest(peer.is_read(self.leaving)))
    }

    /// How long until one of them is to hear something.
    pub(crate) fn until_beat(&self, now: Instant) -> Option<Duration> {
        let due = |peer: &Peer| (peer.said + peer.beat).saturating_duration_since(now);
        self.all.iter().map(due).min()
    }

    /// Lets in whoever waits at the door.
    pub(crate) fn accept(&mut self, listener: &UnixListener) {
        while let Ok((socket, _)) = listener.accept() {
            let pid = match user_at(socket.as_fd()) {
                Ok(pid) => pid.as_raw_pid(),
                Err(why) => {
                    tracing::warn!(%why, "a stranger asked for the store, and was refused");
                    continue;
                }
            };
            let mut stream = Stream::new(socket.into());
            if self.all.len() + self.left.len() >= PEERS_MAX {
                tracing::warn!(pid, "the store serves as many processes as it can");
                stream.push(&Frame::Refuse(Refusal::Full));
                // It hears that much, or sees the end of the connection.
                let _said = stream.flush();
                continue;
            }
            let now = Instant::now();
            self.all.push(Peer {
                stream,
                pid,
                store: None,
                greeted: false,
                bye: false,
                beat: self.patience / 5,
                since: now,
                said: now,
            });
        }
    }

    /// Does for each what there is to do; `redb` is the file once it is open.
    pub(crate) fn turn(&mut self, redb: Option<&Redb>) -> More {
        self.left.retain_mut(|(_, store)| {
            store.poll(&mut Vec::new());
            store.unanswered() > 0
        });
        let mut more = More::Later;
        let now = Instant::now();
        let mut peers = std::mem::take(&mut self.all);
        for mut peer in peers.drain(..) {
            let left = self.left.iter().any(|(pid, _)| *pid == peer.pid);
            let redb = redb.filter(|_| !left);
            let turn = Turn { fabric: &self.fabric, bell: &self.bell, redb, leaving: self.leaving };
            match peer.turn(&turn, now) {
                Ok(Next::Gone) => {}
                Ok(_) if !peer.greeted && now.duration_since(peer.since) > self.patience => {
                    tracing::warn!(
                        pid = peer.pid,
                        "a process did not say what it wants of the store"
                    );
                    continue;
                }
                Ok(Next::Later) => {
                    self.all.push(peer);
                    continue;
                }
                Ok(Next::Now) => {
                    more = More::Now;
                    self.all.push(peer);
                    continue;
                }
                Err(why) => {
                    tracing::warn!(pid = peer.pid, %why, "the connection of a process was ended");
                }
            }
            let store = peer.store.filter(|store| store.unanswered() > 0);
            self.left.extend(store.map(|store| (peer.pid, store)));
        }
        more
    }
}

/// What a peer's turn needs to know.
struct Turn<'a> {
    fabric: &'a str,
    bell: &'a Arc<Bell>,
    redb: Option<&'a Redb>,
    leaving: bool,
}

enum Next {
    Now,
    Later,
    Gone,
}

#[derive(Debug)]
struct Peer {
    stream: Stream,
    pid: i32,
    /// Its handle on the file, once that is open.
    store: Option<Box<dyn Store>>,
    /// It has said who it is.
    greeted: bool,
    bye: bool,
    beat: Duration,
    since: Instant,
    /// When it was told something last.
    said: Instant,
}

impl Peer {
    /// Whether what it says would be taken.
    fn is_read(&self, leaving: bool) -> bool {
        !leaving && self.stream.unsent() < OUT_BYTES_MAX
    }

    fn turn(&mut self, turn: &Turn<'_>, now: Instant) -> io::Result<Next> {
        let mut more = false;
        let mut ended = false;
        if self.is_read(turn.leaving) {
            ended = self.stream.fill()?.ended;
            more = self.take(turn)?;
        }
        if self.greeted && self.store.is_none() && !turn.leaving {
            self.welcome(turn);
        }
        self.answer();
        if turn.leaving && !self.bye && self.store.as_ref().is_none_or(|of| of.unanswered() == 0) {
            self.bye = true;
            self.stream.push(&Frame::Bye);
        }
        if self.stream.unsent() == 0 && now.duration_since(self.said) >= self.beat {
            self.stream.push(&Frame::Beat);
        }
        if self.stream.flush()? {
            self.said = now;
        }
        if ended {
            return Ok(Next::Gone);
        }
        // What was put by while much was to be sent may have been let go by the flush.
        let room = self.is_read(turn.leaving);
        Ok(if more && room { Next::Now } else { Next::Later })
    }

    /// Takes what has come; says whether some of it was put by.
    fn take(&mut self, turn: &Turn<'_>) -> io::Result<bool> {
        loop {
            if self.stream.unsent() >= OUT_BYTES_MAX {
                return Ok(true);
            }
            let max = if self.greeted { FRAME_BYTES_MAX } else { HELLO_BYTES_MAX };
            match self.stream.take(max).map_err(violation)? {
                None => return Ok(false),
                Some(Frame::Hello(hello)) if !self.greeted => self.greet(&hello, turn)?,
                Some(Frame::Ask(id, op)) => {
                    let store = self.store.as_mut();
                    let store = store.ok_or_else(|| violation("an op before it was welcome"))?;
                    let taken = store.submit(OpId(id), op);
                    taken.map_err(|_| violation("more ops than there may be"))?;
                    // Answers leave by and by, so that what it asks does not grow to more than it would wait for.
                    self.answer();
                }
                Some(
                    Frame::Hello(_)
                    | Frame::Welcome
                    | Frame::Refuse(_)
                    | Frame::Beat
                    | Frame::Done(..)
                    | Frame::Bye,
                ) => return Err(violation("a frame that is not for it to say")),
            }
        }
    }

    fn greet(&mut self, hello: &Hello, turn: &Turn<'_>) -> io::Result<()> {
        let refusal = if hello.version != VERSION {
            Some(Refusal::Version(VERSION))
        } else if hello.fabric != turn.fabric {
            Some(Refusal::Fabric(turn.fabric.to_owned()))
        } else {
            None
        };
        if let Some(refusal) = refusal {
            self.stream.push(&Frame::Refuse(refusal));
            // It hears that much, or sees the end of the connection.
            let _said = self.stream.flush();
            return Err(violation("it is of another fabric or version"));
        }
        self.greeted = true;
        self.beat = Duration::from_millis(u64::from(hello.beat_ms).max(1));
        Ok(())
    }

    fn welcome(&mut self, turn: &Turn<'_>) {
        let Some(redb) = turn.redb else { return };
        let bell = Arc::clone(turn.bell);
        // There are more handles than peers.
        if let Ok(store) = redb.handle(Wake::new(move || bell.ring())) {
            self.store = Some(store);
            self.stream.push(&Frame::Welcome);
            tracing::debug!(pid = self.pid, "a process is served");
        }
    }

    fn answer(&mut self) {
        let Some(store) = &mut self.store else { return };
        let mut done = Vec::new();
        store.poll(&mut done);
        for Done { id: OpId(id), result } in done {
            self.stream.push(&Frame::Done(id, result));
        }
    }
}

fn violation(what: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}
