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
mod departures;
mod empty;
mod holds;
mod host;
mod lease;
mod named;
mod outside;
mod realm;
mod remote;
mod saving;
mod sections;
mod tokens;
mod turns;
mod view;
mod wake;
mod ways;

use std::rc::Rc;
use std::sync::Arc;

use epicserver_entity::{Answer, Desk, Host, Request, TurnId, detached};
use epicserver_proto::passage::Emptying;
use epicserver_proto::{Ownership, SlotId};
use epicserver_record::{Done, Op, OpId, Slot};
use epicserver_wire::frame::{Frame, FrameMut};
use epicserver_wire::header::Violation;
use epicserver_wire::{EntityId, LinkId, ShardId, Time, Token};

pub use crate::config::{Config, Fault, Saves};
pub use crate::outside::{Inlet, RootTask};
pub use crate::remote::LinkUp;
pub use crate::wake::WakeSink;

use crate::core::Core;
use crate::realm::Lane;

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
    /// A call from there has not run: another node owns its callee, or the shard there does not know better.
    Returned {
        /// Which shard gives it back.
        from: ShardId,
        /// The view that it knows.
        view: u64,
        /// The call.
        request: Request,
    },
    /// A reminder of a slot that the shard watches was saved.
    Due {
        /// Which slot.
        slot: Slot,
        /// When it is due, in ms since 1970.
        due_ms: u64,
    },
    /// All that follows is said under a view, and all that came before it is to be decided.
    Flush {
        /// Which shard says so.
        from: ShardId,
        /// The number of the view.
        view: u64,
    },
    /// It is: it has begun, waits at its owner, or has been given back.
    Flushed {
        /// Which shard says so.
        from: ShardId,
        /// The view of the flush.
        view: u64,
        /// The slots that are still emptied there.
        emptying: Emptying,
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
    /// This is who owns what from now on. The numbers of views rise; of one view, later snapshots serve more.
    View(Arc<Ownership>),
    /// The store has answered.
    Stored(Done),
    /// The node's lease was ended, and it is none any more: all that it holds is dropped. It may become another
    /// one by the next view.
    Evicted,
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
    /// By this view, and those before it, these slots were lost and nothing of them is left on this shard. Said for
    /// each view, with all that were empty already, and whenever more of them are.
    Drained {
        /// The number of the view.
        view: u64,
        /// Which slots.
        slots: Vec<SlotId>,
        /// How many are not empty yet. If there are none, the shard holds nothing that the view does not give.
        left: u32,
    },
    /// Somebody knows a later view: find out about it.
    Behind {
        /// The number of the view.
        view: u64,
    },
    /// Ask the store.
    Store {
        /// Which op it is.
        id: OpId,
        /// What is asked.
        op: Op,
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
    /// What is stored of an entity could not be served; whoever called it was told.
    NotLoaded {
        /// Which entity.
        entity: EntityId,
        /// Why.
        why: String,
    },
    /// The state of an entity could not be saved, and will not be as it is.
    NotSaved {
        /// Which entity.
        entity: EntityId,
        /// Why.
        why: String,
    },
    /// The store does not do what it is asked. It is asked again until it does.
    StoreTrouble(String),
    /// It does again.
    StoreBack,
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
    /// Activations of slots that were lost, which were ended with what still ran there when the time for that was up.
    pub forced: u64,
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
    /// Calls that came back, since their callee's slot has gone elsewhere.
    pub moved: u64,
    /// Calls that waited for their callee's slot to be served.
    pub held: u64,
    /// States that were loaded.
    pub loaded: u64,
    /// States that were saved, and tombstones.
    pub saved: u64,
    /// States that were not written, since what is stored is the same.
    pub unchanged: u64,
    /// Calls that were tried where their callee's slot is emptied.
    pub tried: u64,
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
        if let Some(event) = self.core.keep_back(event) {
            self.core.happened(&self.desk, event);
        }
        self.core.wind_up();
        self.core.take_effects(out);
    }

    /// The node's lease lasts until then: the shard does nothing past it, by the time that it is told. A shard that
    /// was never told of a lease needs none. `evictions` says how often the node was evicted before it had this lease:
    /// a shard that has not heard of the last one yet has none, since what it holds was another node's.
    pub fn lease(&mut self, evictions: u64, until: Time) {
        self.core.lease(evictions, until);
    }

    /// Fires timers, and runs what is ready: at most `steps` tasks or mailboxes. Says whether more
    /// is ready.
    pub fn run(&mut self, now: Time, steps: u32, out: &mut Vec<Effect>) -> bool {
        let _on = self.desk.enter();
        self.core.set_now(&self.desk, now);
        if self.core.is_lapsed() {
            return false;
        }
        for _ in 0..steps {
            if !self.core.has_backlog() {
                break;
            }
            let event = self.core.next_kept();
            event.into_iter().for_each(|event| self.core.happened(&self.desk, event));
        }
        self.core.fire(&self.desk);
        for _ in 0..steps {
            if !self.core.step(&self.desk) {
                break;
            }
        }
        self.core.collect(&self.desk);
        self.core.watch_reminders();
        self.core.save(&self.desk);
        self.core.wind_up();
        self.core.take_effects(out);
        self.core.has_ready()
    }

    /// Everything that was said to other nodes since the last flush becomes effects. To be called once
    /// a round: what is said in one round leaves together.
    pub fn flush(&mut self, now: Time, out: &mut Vec<Effect>) {
        let _on = self.desk.enter();
        self.core.set_now(&self.desk, now);
        if self.core.is_lapsed() {
            return;
        }
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

    /// After [`Event::Close`]: whether all is collected, and saved.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.core.activations().0 == 0 && self.core.is_saved()
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

    /// Which entities are active here, in no order: for the simulator, which looks whether they are elsewhere too.
    #[must_use]
    pub fn entities(&self) -> Vec<EntityId> {
        self.core.entities()
    }

    /// Until when it may act, as far as it knows ([`lease`](Self::lease)).
    #[must_use]
    pub fn acts_until(&self) -> Time {
        self.core.until.get()
    }

    /// How many calls somebody here waits for.
    #[must_use]
    pub fn calls_waiting(&self) -> usize {
        self.core.calls_waiting(&self.desk)
    }
}

impl Core {
    /// Something happened that may be handled now.
    fn happened(&self, desk: &Desk, event: Event) {
        match event {
            Event::Message(Message::Call(request)) => {
                let said = self.view_of(request.head().caller);
                self.admit(desk, request, said, true);
            }
            Event::Message(Message::Reply { token, answer })
            | Event::Completed { token, answer } => self.complete(desk, token, answer),
            Event::Message(Message::Returned { from, view, request }) => {
                self.returned(desk, (from, view), request);
            }
            Event::Message(Message::Due { slot, due_ms }) => self.expect_reminder(slot, due_ms),
            Event::Message(Message::Flush { from, view }) => self.flush_of(desk, from, view),
            Event::Message(Message::Flushed { from, view, emptying }) => {
                // A shard of this node answers what it was asked; after an eviction nobody has asked.
                let _unasked = self.flushed(desk, Lane::Here(from), view, emptying);
            }
            Event::Outside(inlet) => self.outside(desk, inlet),
            Event::Root(task) => self.root(desk, detached(task.start())),
            Event::Woken(turn) => self.woken(turn),
            Event::Sent { to, count } => self.sent(to, count),
            Event::View(ownership) => self.view(desk, ownership),
            Event::Stored(done) => self.stored(desk, done),
            Event::Evicted => self.evict(desk),
            Event::LinkUp(up) => self.link_up(desk, &up),
            Event::LinkDown(link) => self.link_down(desk, link),
            Event::LinkRoom(link) => self.link_room(link),
            Event::Packet { link, frame } => self.packet(desk, link, &frame),
            Event::Stop => self.stop(),
            Event::Close => self.close(desk),
        }
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
