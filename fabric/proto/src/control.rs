//! The control machine of a node: its lease, the views of its fabric, what it serves, and who looks dead.
//!
//! One for each node, on a thread on which no user code runs. It asks the coordinator, talks to the control threads of
//! other nodes, and tells the node's shards by snapshots what they may serve and until when.
//!
//! In:  [`Event`]   Out: [`Effect`]
//!
//! # Invariants
//! - **CN1** Nothing is decided by what a coordinator or a peer does not say for certain: a failed question, a plain
//!   read and a suspicion are reasons to look again, and a change is made by the coordinator in one step or not at all.
//! - **CN2** Views are gone by in the order of their numbers; an older one than is known is passed over.
//! - **CN3** A node whose lease has ended is over: it holds nothing, and only [`Event::Begin`] with another id makes
//!   something of it again.
//! - **CN4** A node that is to go ends its lease only once it holds nothing, all members go by views that give it
//!   nothing, and its host says that nothing is under way on its shards: what comes back to them finds its way by later
//!   views, and nobody says anything more to it.
//!
//! # Not here
//! Turns and mailboxes: what shards do with a snapshot. Links, clocks and the coordinator themselves. Where the ids of
//! nodes and the seeds come from.

use std::sync::Arc;
use std::time::Duration;

use epicserver_wire::{ClassId, NodeId, ShardId, Time};

mod holdings;
mod install;
mod life;
mod look;
mod plan;
mod renewals;
mod said;
mod served;
mod slots;
#[cfg(test)]
mod tests;

pub use said::SAID_BYTES_MAX;
pub use served::{Served, Turnover};

use crate::atlas::Atlas;
use crate::coordinator::{Answer, Ask};
use crate::fields::Unread;
use crate::view::{Member, View};
use life::Life;

/// How long a lease lasts, unless something else is asked for.
pub const TTL: Duration = Duration::from_secs(3);
/// How often it is renewed.
pub const RENEW: Duration = Duration::from_millis(750);
/// How much earlier than the coordinator a node holds its lease for over: at least the longest turn, and what clocks may
/// differ by within a lease.
pub const MARGIN: Duration = Duration::from_millis(500);

/// How patient a node is. The same for all nodes of a fabric.
#[derive(Clone, Debug)]
pub struct Config {
    /// How long a lease lasts.
    pub ttl: Duration,
    /// How often it is renewed.
    pub renew: Duration,
    /// How much earlier this node holds its lease for over.
    pub margin: Duration,
    /// Where directories are kept; nodes of one process may share one.
    pub atlas: Atlas,
}

impl Default for Config {
    fn default() -> Self {
        Self { ttl: TTL, renew: RENEW, margin: MARGIN, atlas: Atlas::default() }
    }
}

/// Which question an answer is to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AskId(pub u64);

/// What happens to a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event<'a> {
    /// The node begins, or begins again after [`Effect::Evicted`]. Before that nothing else counts.
    Begin {
        /// What it is, with an id that no node ever had.
        member: Member,
        /// A random number, for what is drawn.
        seed: u64,
    },
    /// The coordinator has answered, or is held not to any more ([`Answer::Failed`]). Each question gets one answer.
    Answer {
        /// Which question.
        id: AskId,
        /// What it says.
        answer: Answer,
    },
    /// The control thread of another node has said something.
    Said {
        /// Which node, as the link has proved.
        from: NodeId,
        /// The bytes of its [`Effect::Say`].
        bytes: &'a [u8],
    },
    /// There is a link to this node from now on.
    Linked {
        /// Which.
        node: NodeId,
    },
    /// The process of this node was seen to be gone. A hint: its lease decides.
    Died {
        /// Which.
        node: NodeId,
    },
    /// A shard holds nothing more of slots that it had to give up. Each shard says so once for each slot that was served
    /// by one snapshot and is not by the next that it has seen, whether it ever held anything of it or not.
    Drained {
        /// The number of the view of the snapshot by which it learned that it has to.
        view: u64,
        /// Which shard.
        shard: ShardId,
        /// Which slots, in any order.
        slots: Vec<(ClassId, Vec<u16>)>,
    },
    /// A shard has met a view of this number, which it does not know.
    Behind {
        /// Its number.
        view: u64,
    },
    /// The node is to hand everything over, and to go. It goes once it has said [`Effect::HandedOver`] and was told of
    /// [`Event::Quiet`].
    Leave,
    /// Nothing is under way any more on the shards of a node that leaves, or its host waits for that no longer.
    Quiet,
    /// The deadline has passed.
    Time,
}

/// What a node asks of its host.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Ask the coordinator.
    Ask {
        /// Which question the answer is to.
        id: AskId,
        /// What.
        ask: Ask,
    },
    /// Shards may run turns and send messages until then, by this node's clock.
    Lease {
        /// Until when.
        until: Time,
    },
    /// Who the members are now, and where they can be reached. Messages of nodes that are none count no more.
    View(Arc<View>),
    /// What shards go by now, in the form that [`Served::ownership`] makes of it. Only the last one counts.
    Serve(Arc<Served>),
    /// Say this to the control thread of another node. It may get lost.
    Say {
        /// Which node.
        to: NodeId,
        /// At most [`SAID_BYTES_MAX`] bytes.
        bytes: Vec<u8>,
    },
    /// A member is one no more, for those who watch.
    Gone {
        /// Which.
        node: NodeId,
        /// Whether it had handed over what it had, and left.
        left: bool,
    },
    /// This node's lease has ended: drop all that it holds, answer all that waits, close all links, and begin again.
    Evicted {
        /// Which node it was.
        node: NodeId,
    },
    /// This node, which is to go, has handed over what it had, and everybody knows; said once. What its shards have under
    /// way may still need it, and the views that come: it is a member until [`Event::Quiet`].
    HandedOver,
    /// This node has left, as it was told to.
    Left,
    /// Something that people may want to know.
    Notice(Notice),
}

/// What people may want to know.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Notice {
    /// What a peer said could not be read.
    Said {
        /// Which peer.
        from: NodeId,
        /// Why.
        why: Unread,
    },
    /// The view could not be read: this node is of an earlier version, or something else writes there.
    View {
        /// Why.
        why: Unread,
    },
    /// The coordinator did not do what it was asked, or did and could not say so.
    Failed {
        /// Why.
        why: String,
    },
    /// A view would be too long, so who wants to join has to wait.
    TooLong {
        /// How long it would be, in bytes.
        bytes: usize,
    },
}

/// The control machine.
#[derive(Debug)]
pub struct Control {
    config: Config,
    /// Of which life it is; numbers of questions tell lives apart.
    turn: u64,
    life: Option<Life>,
}

impl Control {
    /// That of a node which has not begun.
    ///
    /// # Panics
    /// If a lease is no longer than the margin and two renewals.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let lasts = config.margin + 2 * config.renew <= config.ttl;
        assert!(lasts && !config.renew.is_zero(), "RE1: a lease lasts over a lost renewal");
        Self { config, turn: 0, life: None }
    }

    /// Something happened.
    ///
    /// # Panics
    /// If a node begins that says too much of itself ([`Member::flaw`]), or begins while it lives.
    pub fn handle(&mut self, now: Time, event: Event<'_>, out: &mut Vec<Effect>) {
        if let Event::Begin { member, seed } = event {
            assert!(self.life.is_none(), "CN3: a node begins only once");
            assert_eq!(member.flaw(), None, "VI3: a node says too much of itself");
            self.turn += 1;
            let life = Life::new(now, &self.config, member, (self.turn << 32, seed));
            self.life.insert(life).keep_time(now, out);
        } else if let Some(life) = &mut self.life {
            life.handle(now, event, out);
            life.keep_time(now, out);
        }
        if self.life.as_ref().is_some_and(Life::is_over) {
            self.life = None;
        }
    }

    /// When [`Event::Time`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        self.life.as_ref().map(Life::deadline)
    }

    /// The view that it goes by.
    #[must_use]
    pub fn view(&self) -> Option<&Arc<View>> {
        self.life.as_ref().and_then(Life::view)
    }

    /// What it is about, for those who watch.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.life.as_ref().map_or(Stage::Over, Life::stage)
    }

    /// The members that look dead to it.
    #[must_use]
    pub fn suspects(&self) -> Vec<NodeId> {
        self.life.as_ref().map(Life::suspects).unwrap_or_default()
    }
}

/// What a node is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stage {
    /// It has not begun, or is over.
    Over,
    /// It is no member yet.
    Joining,
    /// It serves all that it owns.
    Steady,
    /// It waits for others to let go of what it owns.
    Waiting,
    /// It is handing over what it owns no more.
    Draining,
    /// It has a change of the view under way.
    Changing,
    /// It is to go.
    Leaving,
}
