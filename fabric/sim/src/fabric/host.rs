//! A host: a control machine, a clock, and shards as far as they hold slots.
//!
//! # Not here
//! What its effects do to the rest of the world: `fleet`.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use epicserver_proto::Atlas;
use epicserver_proto::control::{Config, Control, Served, Stage, Turnover};
use epicserver_proto::view::{Member, Share};
use epicserver_wire::{NodeId, Time};

use super::clock::Clock;
use super::queue::{Happening, Whom};
use crate::rng::Rng;

/// A shard, as far as it holds slots.
#[derive(Default)]
pub(super) struct Shard {
    /// What it goes by.
    pub(super) served: Option<Arc<Served>>,
    /// When the last snapshot that was sent to it arrives.
    pub(super) last: Time,
}

/// How two snapshots differ, and which they are: shards of one host ask for the same, one after another.
pub(super) struct Differs {
    before: Option<Arc<Served>>,
    after: Arc<Served>,
    turnover: Rc<Turnover>,
}

fn same(one: Option<&Arc<Served>>, other: Option<&Arc<Served>>) -> bool {
    one.map(Arc::as_ptr) == other.map(Arc::as_ptr)
}

/// What it has cost so far.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Cost {
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) asks: u64,
    pub(super) ask_bytes: u64,
}

pub(super) struct Host {
    pub(super) control: Control,
    pub(super) clock: Clock,
    pub(super) node: NodeId,
    share: Share,
    shard_count: u16,
    pub(super) life: u32,
    pub(super) up: bool,
    pub(super) still_until: Time,
    /// What happened to it while it stood still.
    pub(super) deferred: Vec<Happening>,
    /// Its deadline, by its own clock.
    pub(super) until: Time,
    /// When it is told the time next.
    pub(super) tick: Time,
    pub(super) shards: Vec<Shard>,
    differs: Option<Differs>,
    pub(super) cut_off_until: Time,
    /// Since when it is to leave.
    pub(super) leaving: Option<Time>,
    /// How many slots its shards serve, each.
    pub(super) serves: Vec<usize>,
    pub(super) cost: Cost,
}

impl Host {
    pub(super) fn new(clock: Clock, share: Share, shard_count: u16, atlas: &Atlas) -> Self {
        Self {
            control: control(atlas),
            clock,
            node: share.node,
            share,
            shard_count,
            life: 0,
            up: false,
            still_until: Time::ZERO,
            deferred: Vec::new(),
            until: Time::ZERO,
            tick: Time::MAX,
            shards: Vec::new(),
            differs: None,
            cut_off_until: Time::ZERO,
            leaving: None,
            serves: Vec::new(),
            cost: Cost::default(),
        }
    }

    /// A process begins, or a node in a process whose lease has ended.
    pub(super) fn begin(&mut self, atlas: &Atlas, rng: &mut Rng) -> Member {
        self.node = NodeId::new(rng.next());
        self.share.node = self.node;
        if self.control.stage() != Stage::Over {
            self.control = control(atlas);
        }
        self.up = true;
        self.life += 1;
        self.until = Time::ZERO;
        self.tick = Time::MAX;
        self.leaving = None;
        self.shards = (0..self.shard_count).map(|_| Shard::default()).collect();
        self.serves = vec![0; self.shards.len()];
        let mut member = Member::of(self.node, self.shard_count);
        member.share = self.share.clone();
        member.addresses = vec!["tcp://10.0.0.1:7000".to_owned()];
        member
    }

    /// Its process, or its node, is over.
    pub(super) fn end(&mut self) {
        self.up = false;
        self.life += 1;
        self.shards.clear();
        self.differs = None;
        self.serves.clear();
        self.tick = Time::MAX;
    }

    /// A shard goes by another snapshot.
    pub(super) fn take(&mut self, shard: usize, after: &Arc<Served>) -> Rc<Turnover> {
        let before = self.shards[shard].served.replace(Arc::clone(after));
        let known = self.differs.as_ref().filter(|known| {
            same(known.before.as_ref(), before.as_ref()) && Arc::ptr_eq(&known.after, after)
        });
        if let Some(known) = known {
            return Rc::clone(&known.turnover);
        }
        let turnover = Rc::new(after.turnover(before.as_deref()));
        let (after, kept) = (Arc::clone(after), Rc::clone(&turnover));
        self.differs = Some(Differs { before, after, turnover: kept });
        turnover
    }

    pub(super) fn stands_still(&self, now: Time) -> bool {
        self.still_until > now
    }

    /// Whether it may run turns, as far as it knows.
    pub(super) fn is_valid(&self, now: Time) -> bool {
        self.up && self.clock.shows(now) < self.until
    }

    /// What it is about, in a word.
    pub(super) fn stage(&self) -> String {
        if self.up {
            format!("{:?}", self.control.stage()).to_lowercase()
        } else {
            "gone".to_owned()
        }
    }

    pub(super) fn whom(&self, host: usize) -> Whom {
        Whom { host, life: self.life }
    }
}

fn control(atlas: &Atlas) -> Control {
    Control::new(Config { atlas: atlas.clone(), ..Config::default() })
}

/// How long a lease lasts for a host that counts from the answer, as it must not.
pub(super) const LASTS: Duration =
    epicserver_proto::control::TTL.saturating_sub(epicserver_proto::control::MARGIN);
