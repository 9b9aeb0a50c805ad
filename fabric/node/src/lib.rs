//! One shard as a pure value: events go in with the time, effects come out as a list.
//!
//! A [`Shard`] owns the activations, tasks and tokens of one execution thread, and runs user code
//! itself, since user code is pure too. Whoever hosts it (a pinned thread, the simulator) feeds it
//! events, calls [`Shard::run`] while there is work, wakes it at its [`Shard::deadline`], and
//! carries out the effects.
//!
//! # Invariants
//! - **N1** A call that reaches a shard is answered once, or nobody waits for it.
//! - **N2** No borrow of the shard's own tables is held while user code runs.
//! - **N3** Each turn of the loop polls a bounded number of tasks, and each poll makes at most
//!   [`limits::DIRECT_BUDGET`](epicserver_wire::limits::DIRECT_BUDGET) direct calls.
//!
//! # Not here
//! Clocks, threads, rings, sockets. Who the members of the fabric are.

mod calls;
mod collect;
mod config;
mod core;
mod host;
mod named;
mod outside;
mod remote;
mod sections;
mod tokens;
mod turns;
mod wake;

use std::rc::Rc;
use std::sync::Arc;

use epicserver_entity::{Answer, Desk, Host, Request, TurnId, detached};
use epicserver_proto::Directory;
use epicserver_wire::frame::{Frame, FrameMut};
use epicserver_wire::header::Violation;
use epicserver_wire::{LinkId, NodeId, ShardId, Time, Token};

pub use crate::config::Config;
pub use crate::outside::{Inlet, RootTask};
pub use crate::remote::LinkUp;
pub use crate::wake::WakeSink;

use crate::core::Core;

/// What one shard says to another.
#[derive(Debug)]
pub enum Message {
    /// A call of an entity there.
    Call(Request),
    /// The outcome of a call from there.
    Reply {
        /// The caller's token.
        token: Token,
        /// The outcome.
        answer: Answer,
    },
}

/// Everything that can happen to a shard.
#[derive(Debug)]
pub enum Event {
    /// Another shard of the node says something.
    Message(Message),
    /// A thread that runs no entities calls one.
    Outside(Inlet),
    /// A task that belongs to no entity is to run here.
    Root(RootTask),
    /// A task was woken by a waker that left the shard.
    Woken(TurnId),
    /// The host's answer to an effect that asked for one.
    Completed {
        /// Whose answer it is.
        token: Token,
        /// The answer.
        answer: Answer,
    },
    /// So many messages for the shard have left the host.
    Sent {
        /// Where to.
        to: ShardId,
        /// How many.
        count: u32,
    },
    /// These are the members of the fabric from now on; this node is `me`.
    Members {
        /// This node.
        me: NodeId,
        /// Who owns what.
        directory: Arc<Directory>,
    },
    /// Another node can be reached.
    LinkUp(LinkUp),
    /// It cannot any more.
    LinkDown(LinkId),
    /// A link that had no room has some.
    LinkRoom(LinkId),
    /// Whole messages came from another node.
    Packet {
        /// By this link.
        link: LinkId,
        /// The messages.
        frame: Frame,
    },
    /// No call from outside is taken any more.
    Stop,
    /// Every activation is collected and every task dropped, with its hooks.
    Close,
}

/// Everything that a shard may ask of its host. Plain data.
#[derive(Debug)]
pub enum Effect {
    /// Give the message to the shard, after all that were given before.
    Send {
        /// Which shard.
        to: ShardId,
        /// The message.
        message: Message,
    },
    /// Give the messages to the link, after all that were given before.
    Transmit {
        /// The link.
        link: LinkId,
        /// The messages, but for what the body holds of the last one.
        head: FrameMut,
        /// The rest of the last one.
        body: Option<Frame>,
    },
    /// A peer sent what no sound peer sends: end its link.
    Close {
        /// The link.
        link: LinkId,
        /// What it sent.
        why: Violation,
    },
    /// Answer with the wall clock.
    Wall {
        /// Whose answer it is.
        token: Token,
    },
    /// Answer with random bytes.
    Random {
        /// Whose answer it is.
        token: Token,
        /// How many.
        len: usize,
    },
    /// Something that an operator may want to know.
    Notice(Notice),
}

/// What an operator may want to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// User code panicked; the entity's activation was reset.
    Panicked {
        /// The entity, where there is one.
        entity: Option<String>,
        /// The method, where there is one.
        method: Option<&'static str>,
    },
    /// A tell was refused, and there is nobody to tell.
    TellRefused(epicserver_wire::CallError),
    /// A task could not be spawned: the table of turns is full.
    SpawnRefused,
}

/// What a shard has done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Counters {
    /// Calls that ran inside their caller's turn.
    pub direct: u64,
    /// Calls that went through a mailbox.
    pub queued: u64,
    /// Activations made.
    pub activated: u64,
    /// Activations collected.
    pub collected: u64,
    /// Panics of user code.
    pub panics: u64,
    /// Replies that nobody waited for any more.
    pub late: u64,
    /// Tells that were refused.
    pub tells_refused: u64,
    /// Calls that left for other nodes.
    pub remote: u64,
    /// Messages of other nodes that no sound one sends.
    pub violations: u64,
}

/// One shard.
pub struct Shard {
    core: Rc<Core>,
    desk: Rc<Desk>,
}

impl Shard {
    /// An empty shard.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let origin = config.origin;
        let core = Rc::new(Core::new(config));
        let desk = Desk::new(Rc::clone(&core) as Rc<dyn Host>, u64::from(origin));
        Self { core, desk }
    }

    /// Something happened.
    pub fn handle(&mut self, now: Time, event: Event, out: &mut Vec<Effect>) {
        let _on = self.desk.enter();
        self.core.set_now(&self.desk, now);
        match event {
            Event::Message(Message::Call(request)) => self.core.arrive(&self.desk, request),
            Event::Message(Message::Reply { token, answer })
            | Event::Completed { token, answer } => self.core.complete(&self.desk, token, answer),
            Event::Outside(inlet) => self.core.outside(&self.desk, inlet),
            Event::Root(task) => self.core.root(&self.desk, detached(task.start())),
            Event::Woken(turn) => self.core.woken(turn),
            Event::Sent { to, count } => self.core.sent(to, count),
            Event::Members { me, directory } => self.core.direct(&self.desk, me, directory),
            Event::LinkUp(up) => self.core.link_up(&self.desk, &up),
            Event::LinkDown(link) => self.core.link_down(&self.desk, link),
            Event::LinkRoom(link) => self.core.link_room(link),
            Event::Packet { link, frame } => self.core.packet(&self.desk, link, &frame),
            Event::Stop => self.core.stop(),
            Event::Close => self.core.close(&self.desk),
        }
        self.core.take_effects(out);
    }

    /// Fires timers, and runs what is ready: at most `steps` tasks or mailboxes. Says whether more
    /// is ready.
    pub fn run(&mut self, now: Time, steps: u32, out: &mut Vec<Effect>) -> bool {
        let _on = self.desk.enter();
        self.core.set_now(&self.desk, now);
        self.core.fire(&self.desk);
        for _ in 0..steps {
            if !self.core.step(&self.desk) {
                break;
            }
        }
        self.core.collect(&self.desk);
        self.core.take_effects(out);
        self.core.has_ready()
    }

    /// Everything that was said to other nodes since the last flush becomes effects. To be called once
    /// a round: what is said in one round leaves together.
    pub fn flush(&mut self, now: Time, out: &mut Vec<Effect>) {
        let _on = self.desk.enter();
        self.core.set_now(&self.desk, now);
        self.core.flush_remote(&self.desk);
        self.core.take_effects(out);
    }

    /// When it has to run again although nothing happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        self.core.deadline()
    }

    /// Whether anything is ready to run.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.core.has_ready()
    }

    /// Whether no task is left but those that only wait for a tick, and no call waits.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.core.is_quiet(&self.desk)
    }

    /// What it has done so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.core.counters()
    }

    /// How many activations it holds, and the bytes that they count for.
    #[must_use]
    pub fn activations(&self) -> (u32, u64) {
        self.core.activations()
    }
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shard").field("counters", &self.counters()).finish_non_exhaustive()
    }
}

impl Drop for Shard {
    fn drop(&mut self) {
        // Futures of user code are dropped where their guards can still reach the desk.
        let _on = self.desk.enter();
        self.core.drop_tasks(&self.desk);
    }
}
