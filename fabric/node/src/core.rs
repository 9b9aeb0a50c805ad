//! The shard's tables.
//!
//! # Not here
//! What a table is for: calls (`calls`), tokens (`tokens`), polling (`turns`), sections and locks (`sections`,
//! `named`), collection (`collect`), other nodes (`remote`).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use epicserver_entity::{AnyCell, Desk, Mode, Request};
use epicserver_proto::wheel::Wheel;
use epicserver_proto::{Activations, Waiting};
use epicserver_wire::{CallError, Path, ShardId, Time, Token, limits};

use crate::named::Named;
use crate::remote::{Posted, Remote};
use crate::tokens::{Note, Timer};
use crate::turns::Task;
use crate::wake::Wakers;
use crate::{Config, Counters, Effect, Notice};

/// What waits in a mailbox.
#[derive(Debug)]
pub(crate) enum Mail {
    Call(Request),
    /// Rare, and boxed to keep the common kind at two words.
    Section(Box<WantedSection>),
}

/// A turn that waits for its activation to be its own.
#[derive(Debug)]
pub(crate) struct WantedSection {
    pub(crate) turn: u32,
    pub(crate) token: Token,
    pub(crate) path: Path,
}

impl Waiting for Mail {
    fn path(&self) -> &Path {
        match self {
            Self::Call(request) => &request.head().path,
            Self::Section(wanted) => &wanted.path,
        }
    }

    fn is_exclusive(&self) -> bool {
        match self {
            Self::Call(request) => request.method().mode == Mode::Exclusive,
            Self::Section(_) => true,
        }
    }

    fn turn(&self) -> Option<u32> {
        match self {
            Self::Call(_) => None,
            Self::Section(wanted) => Some(wanted.turn),
        }
    }
}

/// What is to be looked at.
#[derive(Debug)]
pub(crate) enum Ready {
    Mail(u32),
    Turn(u32),
    /// A call that was made while an activation ended.
    Call(Request),
    Deactivate(u32),
}

pub(crate) type Table = Activations<Rc<dyn AnyCell>, Mail>;

pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) now: Cell<Time>,
    pub(crate) random: Cell<u64>,
    stopping: Cell<bool>,
    /// Whether anything is ever collected by time.
    pub(crate) collects: bool,
    /// An activation is being collected.
    pub(crate) ending: Cell<bool>,
    pub(crate) table: RefCell<Table>,
    pub(crate) tasks: RefCell<Vec<Option<Task>>>,
    pub(crate) wakers: RefCell<Wakers>,
    pub(crate) ready: RefCell<VecDeque<Ready>>,
    pub(crate) named: RefCell<Named>,
    pub(crate) timers: RefCell<Wheel<Timer>>,
    pub(crate) fired: RefCell<Vec<Timer>>,
    pub(crate) notes: RefCell<Vec<Note>>,
    pub(crate) effects: RefCell<Vec<Effect>>,
    pub(crate) unsent: RefCell<Vec<u32>>,
    pub(crate) direct: Cell<u64>,
    /// Calls may run directly: they are allowed to, and none waits that they would pass.
    pub(crate) direct_calls: Cell<bool>,
    /// No other node owns anything.
    pub(crate) is_alone: Cell<bool>,
    pub(crate) remote: RefCell<Remote>,
    /// Calls that another node did not own, to be sent again.
    pub(crate) again: RefCell<Vec<Posted>>,
    pub(crate) counters: RefCell<Counters>,
}

impl Core {
    pub(crate) fn new(config: Config) -> Self {
        let types = config.registry.entities().count();
        let table = Activations::new(types, config.memory_bytes_max, config.origin);
        Self {
            now: Cell::new(Time::ZERO),
            random: Cell::new(config.seed),
            stopping: Cell::new(false),
            collects: config.idle.is_some() || config.registry.entities().any(|t| t.idle.is_some()),
            ending: Cell::new(false),
            table: RefCell::new(table),
            tasks: RefCell::default(),
            wakers: RefCell::new(Wakers::new(config.wakes.clone())),
            ready: RefCell::default(),
            named: RefCell::default(),
            timers: RefCell::new(Wheel::new(limits::TIMERS_MAX)),
            fired: RefCell::default(),
            notes: RefCell::default(),
            effects: RefCell::default(),
            unsent: RefCell::new(vec![0; usize::from(config.shards)]),
            direct: Cell::new(0),
            direct_calls: Cell::new(config.direct && !config.fabric),
            is_alone: Cell::new(!config.fabric),
            remote: RefCell::default(),
            again: RefCell::default(),
            counters: RefCell::default(),
            config,
        }
    }

    pub(crate) fn count(&self, change: impl FnOnce(&mut Counters)) {
        change(&mut self.counters.borrow_mut());
    }

    pub(crate) fn counters(&self) -> Counters {
        Counters { direct: self.direct.get(), ..*self.counters.borrow() }
    }

    pub(crate) fn activations(&self) -> (u32, u64) {
        let table = self.table.borrow();
        (table.len(), table.bytes())
    }

    pub(crate) fn set_now(&self, desk: &Desk, now: Time) {
        desk.set_now(now);
        self.now.set(desk.now());
    }

    pub(crate) fn time(&self) -> Time {
        self.now.get()
    }

    pub(crate) fn shard_id(&self) -> ShardId {
        self.config.shard
    }

    pub(crate) fn stop(&self) {
        self.stopping.set(true);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    pub(crate) fn effect(&self, effect: Effect) {
        self.effects.borrow_mut().push(effect);
    }

    pub(crate) fn take_effects(&self, out: &mut Vec<Effect>) {
        out.append(&mut self.effects.borrow_mut());
    }

    pub(crate) fn sent(&self, to: ShardId, count: u32) {
        if let Some(unsent) = self.unsent.borrow_mut().get_mut(to.index()) {
            *unsent = unsent.saturating_sub(count);
        }
    }

    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.borrow().is_empty()
    }

    #[inline]
    pub(crate) fn push(&self, ready: Ready) {
        self.ready.borrow_mut().push_back(ready);
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        let timer = self.timers.borrow().deadline();
        timer.into_iter().chain(self.next_collection()).min()
    }

    pub(crate) fn tell_refused(&self, error: CallError) {
        self.count(|c| c.tells_refused += 1);
        self.effect(Effect::Notice(Notice::TellRefused(error)));
    }
}
