//! The shard's tables.
//!
//! # Not here
//! What a table is for: calls (`calls`), tokens (`tokens`), polling (`turns`), sections and locks (`sections`,
//! `named`), collection (`collect`), other nodes (`remote`).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use epicserver_entity::{Answer, AnyCell, Desk, Mode, Request};
use epicserver_proto::wheel::Wheel;
use epicserver_proto::{Activations, Waiting};
use epicserver_wire::{Born, CallError, EntityId, Path, ShardId, Time, Token, limits};

use crate::departures::Departures;
use crate::named::Named;
use crate::realm::{Realm, Traffic};
use crate::remote::Remote;
use crate::saving::{Saving, Watch};
use crate::tokens::{Note, Timer};
use crate::turns::Task;
use crate::wake::Wakers;
use crate::{Config, Counters, Effect, Event, Notice};

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

/// A call that comes to a mailbox, and goes in if it has to.
#[derive(Debug)]
pub(crate) struct Comer<'a>(pub(crate) &'a Request);

impl Waiting for Comer<'_> {
    fn path(&self) -> &Path {
        &self.0.head().path
    }

    fn is_exclusive(&self) -> bool {
        self.0.method().mode == Mode::Exclusive
    }

    fn turn(&self) -> Option<u32> {
        None
    }
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
            Self::Call(request) => Comer(request).is_exclusive(),
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

/// What is to be looked at: two numbers, which go through the queue in registers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ready {
    Mail(u32),
    Turn(u32),
    Deactivate(u32),
    /// Lost slots are looked through.
    Sweep,
    /// The first that stands aside.
    Aside,
}

/// What is rare and too long for [`Ready`], in the order in which that names it.
#[derive(Debug)]
pub(crate) enum Aside {
    /// A call that was made while an activation ended.
    Call(Request),
    /// A direct call has ended, and its caller may not go on yet.
    Answer(Token, Answer),
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
    pub(crate) aside: RefCell<VecDeque<Aside>>,
    pub(crate) named: RefCell<Named>,
    pub(crate) departures: RefCell<Departures>,
    pub(crate) timers: RefCell<Wheel<Timer>>,
    pub(crate) fired: RefCell<Vec<Timer>>,
    pub(crate) notes: RefCell<Vec<Note>>,
    pub(crate) effects: RefCell<Vec<Effect>>,
    pub(crate) unsent: RefCell<Vec<u32>>,
    pub(crate) direct: Cell<u64>,
    /// Calls may run directly: they are allowed to, and none waits that they would pass.
    pub(crate) direct_calls: Cell<bool>,
    /// So much is changed and not saved that changes wait.
    pub(crate) unsaved_full: Cell<bool>,
    /// The number of the view; 0 if there is none.
    pub(crate) number: Cell<u64>,
    /// How often the node was evicted.
    pub(crate) evictions: Cell<u64>,
    pub(crate) traffic: Cell<Traffic>,
    /// This node serves all there is, by the view.
    pub(crate) alone: Cell<bool>,
    /// What a chain is born under that begins now.
    pub(crate) born: Cell<Born>,
    pub(crate) realm: RefCell<Realm>,
    pub(crate) remote: RefCell<Remote>,
    /// When those that are late were looked for last among what waits.
    pub(crate) purged: Cell<Time>,
    /// When what is emptied is pressed on, and when holders of sections have waited long enough.
    pub(crate) drain_due: Cell<Time>,
    pub(crate) hold_due: Cell<Time>,
    /// A sweep is listed.
    pub(crate) sweep_ready: Cell<bool>,
    /// Something has changed that may change how calls find their way.
    pub(crate) tunes: Cell<bool>,
    /// The end of the lease, and the time until which events are handled as they come.
    pub(crate) until: Cell<Time>,
    pub(crate) gate: Cell<Time>,
    pub(crate) backlog: RefCell<VecDeque<Event>>,
    /// All that the node holds is being dropped.
    pub(crate) evicting: Cell<bool>,
    pub(crate) saving: RefCell<Saving>,
    pub(crate) watch: RefCell<Watch>,
    /// All is being collected for good.
    pub(crate) closing: Cell<bool>,
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
            aside: RefCell::default(),
            named: RefCell::default(),
            departures: RefCell::default(),
            timers: RefCell::new(Wheel::new(limits::TIMERS_MAX)),
            fired: RefCell::default(),
            notes: RefCell::default(),
            effects: RefCell::default(),
            unsent: RefCell::new(vec![0; usize::from(config.shards)]),
            direct: Cell::new(0),
            unsaved_full: Cell::new(false),
            direct_calls: Cell::new(config.direct && !config.fabric),
            number: Cell::new(0),
            evictions: Cell::new(0),
            traffic: Cell::new(if config.fabric { Traffic::Calm } else { Traffic::Alone }),
            alone: Cell::new(!config.fabric),
            born: Cell::default(),
            realm: RefCell::new(Realm::new(config.shards)),
            remote: RefCell::default(),
            purged: Cell::new(Time::ZERO),
            drain_due: Cell::new(Time::MAX),
            hold_due: Cell::new(Time::MAX),
            sweep_ready: Cell::new(false),
            tunes: Cell::new(false),
            until: Cell::new(Time::MAX),
            gate: Cell::new(Time::MAX),
            backlog: RefCell::default(),
            evicting: Cell::new(false),
            saving: RefCell::new(Saving::new(&config)),
            watch: RefCell::new(Watch::new(&config)),
            closing: Cell::new(false),
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

    pub(crate) fn entities(&self) -> Vec<EntityId> {
        self.table.borrow().states().map(|cell| cell.id().clone()).collect()
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
        let waits = self.has_turns_ready() || !self.backlog.borrow().is_empty();
        (waits || self.has_saves()) && !self.is_lapsed()
    }

    /// Whether a task or a mailbox is ready to run.
    pub(crate) fn has_turns_ready(&self) -> bool {
        !self.ready.borrow().is_empty()
    }

    #[inline]
    pub(crate) fn push(&self, ready: Ready) {
        self.ready.borrow_mut().push_back(ready);
    }

    /// What is too long to stand among what is ready comes when it is its turn there.
    pub(crate) fn push_aside(&self, aside: Aside) {
        self.aside.borrow_mut().push_back(aside);
        self.push(Ready::Aside);
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        if self.is_lapsed() {
            return None;
        }
        let timer = self.timers.borrow().deadline();
        let due = self.drain_due.get().min(self.hold_due.get());
        let due = (due != Time::MAX).then_some(due);
        let all = timer.into_iter().chain(self.next_collection()).chain(due);
        all.chain(self.next_save()).chain(self.next_reminder()).min()
    }

    /// What has changed since the last look is told, and done.
    pub(crate) fn wind_up(&self) {
        if self.tunes.get() {
            self.tune();
            self.schedule_sweep();
        }
        self.report();
    }

    pub(crate) fn tell_refused(&self, error: CallError) {
        self.count(|c| c.tells_refused += 1);
        self.effect(Effect::Notice(Notice::TellRefused(error)));
    }
}
