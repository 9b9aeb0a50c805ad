//! States that outlive their activations: what a shard knows of each that is saved, and what it asks of the store.
//!
//! # Invariants
//! - **N27** Of one entity at most one op is unanswered; a shard has at most [`LOADS_MAX`] and [`COMMITS_MAX`] of them,
//!   and about [`COMMITS_BYTES_MAX`] of records in those, and begins further ones when these are answered.
//! - **N28** Each attempt to save an entity has a greater version than all before it, so that what became of one of which no
//!   answer came is seen by the next.
//!
//! # Not here
//! How a state is made of what was found (`load`), which are saved when (`commit`), who waits for it (`wait`). What entities are to
//! be reminded of (`agenda`), and when (`due`). Requests that are repeated (`answers`). How much may be
//! unsaved (`bound`).

mod agenda;
mod answers;
mod bound;
mod commit;
mod due;
mod load;
mod wait;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use epicserver_entity::{Desk, Policy, Request, TypeInfo};
use epicserver_record::{Done, Op, OpId, Owner, Slot};
use epicserver_wire::{ClassId, EntityId, MethodId, Path, Time};

use crate::config::Saves;
use crate::core::{Core, Mail};
use crate::{Config, Effect, Notice};
use agenda::Reminders;
use answers::Answers;
use wait::Waits;

pub(crate) use due::Watch;

/// Loads of one shard that may be unanswered; further ones wait.
const LOADS_MAX: usize = 1024;
/// Commits of one shard that may be unanswered.
const COMMITS_MAX: usize = 256;
/// Bytes of records in them after which no further one begins.
const COMMITS_BYTES_MAX: usize = 64 << 20;

/// What becomes of an activation whose state is saved.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Stage {
    /// Its state is being loaded, on behalf of whoever called first.
    Loading(Path),
    /// It is in use.
    Active,
    /// It was reset, and is loaded anew once it is known what became of the last save.
    Resetting,
    /// It ends when its state is saved.
    Leaving,
}

/// What is known of the saved state of one activation.
#[derive(Debug)]
struct Kept {
    stage: Stage,
    policy: Policy,
    /// Its type's list.
    list: usize,
    /// As whom it was loaded, and is saved.
    owner: Owner,
    /// The version that is stored; 0 if there is none.
    stored: u64,
    /// The schema version that it is written as.
    schema: u32,
    /// The greatest one that was tried (**N28**).
    tried: u64,
    /// The checksum of the stored state; `None` if there is none, or it is not known.
    sum: Option<u64>,
    /// The op that is unanswered, and the checksum that it saves.
    op: Option<(u64, Option<u64>)>,
    /// It is listed to be saved.
    listed: bool,
    /// It has to be saved though it did not change since that was tried.
    unsaved: bool,
    /// The entity was deleted: a tombstone is saved.
    deleted: bool,
    /// Bytes that it counts for as one that is changed and not saved; 0 if it is not.
    counts: u64,
    /// Its reminders, if it has or had any.
    reminders: Option<Box<Reminders>>,
    /// The method that is called for them.
    hook: Option<MethodId>,
    /// What it has answered to requests with ids.
    answers: Answers,
    waits: Waits,
}

/// What an unanswered op is for.
#[derive(Debug)]
enum Asked {
    Load(u32),
    Commit(Vec<u32>, usize),
    /// What is due first in each slot of a class.
    Heads(ClassId),
    /// What is due in a slot.
    Due(Slot),
    /// What an entity has answered.
    Answers(u32),
}

/// What a shard saves.
#[derive(Debug, Default)]
pub(crate) struct Saving {
    kept: Vec<Option<Box<Kept>>>,
    /// The layouts of each type, by its list: the present one, and that of the version that it writes.
    layouts: Vec<(u64, u64)>,
    asked: BTreeMap<u64, Asked>,
    loads: usize,
    commits: usize,
    bytes: usize,
    next: u64,
    /// Loads that wait for room.
    unsent: VecDeque<(u64, Op)>,
    /// The commit that is asked next, as far as it is known.
    gathered: Option<commit::Gathered>,
    /// Places to be saved as soon as there is room.
    soon: VecDeque<u32>,
    /// Places to be saved at a time, by list.
    later: Vec<VecDeque<(Time, u32)>>,
    /// After trouble nothing is saved until then.
    pause: Time,
    /// Attempts in a row that the store did not carry out.
    failures: u32,
    unsaved: bound::Unsaved,
}

impl Saving {
    /// Nothing is saved yet, or, without a store, ever.
    pub(crate) fn new(config: &Config) -> Self {
        if config.saves.is_none() {
            return Self::default();
        }
        Self {
            layouts: config.registry.entities().map(layouts).collect(),
            later: config.registry.entities().map(|_| VecDeque::new()).collect(),
            ..Self::default()
        }
    }

    fn get(&mut self, place: u32) -> Option<&mut Kept> {
        self.kept.get_mut(place as usize)?.as_deref_mut()
    }

    /// Something is asked, of which this tells the answer.
    fn ask(&mut self, asked: Asked) -> u64 {
        let id = self.next_id();
        self.asked.insert(id, asked);
        id
    }

    fn next_id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn has_room(&self) -> bool {
        self.commits < COMMITS_MAX && self.bytes < COMMITS_BYTES_MAX
    }
}

fn layouts(info: &TypeInfo) -> (u64, u64) {
    ((info.layout)(), (info.written_layout)())
}

impl Core {
    /// What is saved, and by whom, if entities of this type are.
    fn saves(&self, info: &TypeInfo) -> Option<&Saves> {
        let saved = info.saved != Policy::Never && info.class != ClassId::STATELESS;
        self.config.saves.as_ref().filter(|_| saved)
    }

    /// As whom this node loads and saves the entity.
    fn owner_of(&self, id: &EntityId, saves: &Saves) -> Owner {
        if !self.config.fabric {
            return Owner { node: saves.node, epoch: saves.epoch };
        }
        let me = self.realm.borrow().ownership.as_ref().map_or(saves.node, |view| view.me());
        let fence = epicserver_entity::Host::fence(self, id);
        Owner { node: me, epoch: fence }
    }

    /// Milliseconds of the clock that all nodes share.
    fn wall_ms(&self) -> u64 {
        let began = self.config.saves.as_ref().map_or(0, |saves| saves.began_ms);
        began.saturating_add(self.time().as_nanos() / 1_000_000)
    }

    /// The layout of the type of what is at `place`.
    fn layout_of(&self, place: u32) -> u64 {
        let saving = &mut *self.saving.borrow_mut();
        let list = saving.get(place).map(|kept| kept.list);
        list.and_then(|list| saving.layouts.get(list)).map_or(0, |(present, _)| *present)
    }

    /// The schema version that the state at `place` is written as, and its layout.
    fn written_as(&self, place: u32, present: u32) -> (u32, u64) {
        let saving = &mut *self.saving.borrow_mut();
        let Some((list, schema)) = saving.get(place).map(|kept| (kept.list, kept.schema)) else {
            return (present, 0);
        };
        let layouts = saving.layouts.get(list);
        let layout = layouts.map(|(own, written)| if schema == present { *own } else { *written });
        (schema, layout.unwrap_or(0))
    }

    fn kept<R>(&self, place: u32, look: impl FnOnce(&mut Kept) -> R) -> Option<R> {
        self.saving.borrow_mut().get(place).map(look)
    }

    /// Asks for what is stored of an activation, at once if there is room, else before anything of that kind that is asked later.
    fn ask_load(&self, op: Op, asked: Asked) -> u64 {
        let saving = &mut *self.saving.borrow_mut();
        let id = saving.ask(asked);
        if saving.loads >= LOADS_MAX {
            saving.unsent.push_back((id, op));
            return id;
        }
        saving.loads += 1;
        self.effect(Effect::Store { id: OpId(id), op });
        id
    }

    /// Asks for reminders, of which there is a bounded number under way (**N36**).
    fn ask_rows(&self, op: Op, asked: Asked) {
        let id = self.saving.borrow_mut().ask(asked);
        self.effect(Effect::Store { id: OpId(id), op });
    }

    /// A call that was about to begin at `place` waits, before all others, until the activation is opened.
    fn wait_shut(&self, place: u32, request: Request) {
        let mut table = self.table.borrow_mut();
        table.put_back(place, Mail::Call(request));
        table.set_shut(place, true);
    }

    /// Those that wait so go on, unless they wait for something else by now.
    fn open_again(&self, place: u32) {
        if self.kept(place, |kept| kept.stage == Stage::Active) == Some(true) {
            self.table.borrow_mut().set_shut(place, false);
            self.schedule(place);
        }
    }

    /// The store has answered.
    pub(crate) fn stored(&self, desk: &Desk, done: Done) {
        let Done { id: OpId(id), result } = done;
        let asked = {
            let saving = &mut *self.saving.borrow_mut();
            let asked = saving.asked.remove(&id);
            match &asked {
                Some(Asked::Load(_) | Asked::Answers(_)) => saving.loads -= 1,
                Some(Asked::Commit(_, bytes)) => {
                    saving.commits -= 1;
                    saving.bytes -= bytes;
                }
                Some(Asked::Heads(_) | Asked::Due(_)) | None => {}
            }
            asked
        };
        match asked {
            Some(Asked::Load(place)) => self.found(desk, (place, id), result),
            Some(Asked::Commit(places, _)) => self.committed(desk, (places, id), result),
            Some(Asked::Heads(class)) => self.found_heads(class, result),
            Some(Asked::Answers(place)) => self.found_answers((place, id), result),
            Some(Asked::Due(slot)) => self.found_due(desk, slot, result),
            // What was asked before all was dropped.
            None => {}
        }
        self.send_loads();
    }

    fn send_loads(&self) {
        let saving = &mut *self.saving.borrow_mut();
        let room = LOADS_MAX.saturating_sub(saving.loads).min(saving.unsent.len());
        saving.loads += room;
        for (id, op) in saving.unsent.drain(..room) {
            self.effect(Effect::Store { id: OpId(id), op });
        }
    }

    /// What is known of a place is of no use any more; who waits there is told.
    pub(crate) fn forget_saved(&self, desk: &Desk, place: u32, kind: epicserver_wire::ErrorKind) {
        let kept = {
            let saving = &mut *self.saving.borrow_mut();
            saving.kept.get_mut(place as usize).and_then(Option::take)
        };
        if let Some(kept) = kept {
            self.counts_no_more(kept.counts);
            self.fail_waits(desk, kept.waits.into_all(), kind);
        }
    }

    /// All that the shard knows of the store is dropped; who waits is told.
    pub(crate) fn forget_store(&self) {
        let saving = &mut *self.saving.borrow_mut();
        saving.asked.clear();
        saving.unsent.clear();
        saving.gathered = None;
        saving.soon.clear();
        saving.later.iter_mut().for_each(VecDeque::clear);
        (saving.loads, saving.commits, saving.bytes) = (0, 0, 0);
        (saving.pause, saving.failures) = (Time::ZERO, 0);
        saving.unsaved = bound::Unsaved::default();
        self.unsaved_full.set(false);
        self.forget_watch();
    }

    /// Whether nothing is asked of the store, and nothing waits to be.
    pub(crate) fn is_saved(&self) -> bool {
        let saving = self.saving.borrow();
        saving.asked.is_empty() && saving.gathered.is_none() && saving.soon.is_empty()
    }

    /// The store did not carry something out. Says it when it begins.
    fn in_trouble(&self, why: &epicserver_record::Trouble) {
        const FIRST_MS: u64 = 50;
        const LONGEST_MS: u64 = 2_000;
        let saving = &mut *self.saving.borrow_mut();
        let pause_ms = (FIRST_MS << saving.failures.min(6)).min(LONGEST_MS);
        // Answers that come together are one failure.
        if saving.pause <= self.time() {
            saving.failures = saving.failures.saturating_add(1);
        }
        saving.pause = self.time() + Duration::from_millis(pause_ms);
        if saving.failures == 1 {
            self.effect(Effect::Notice(Notice::StoreTrouble(why.to_string())));
        }
    }

    /// It has carried something out.
    fn out_of_trouble(&self) {
        let saving = &mut *self.saving.borrow_mut();
        if std::mem::take(&mut saving.failures) > 0 {
            saving.pause = Time::ZERO;
            self.effect(Effect::Notice(Notice::StoreBack));
        }
    }
}
