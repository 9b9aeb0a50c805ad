//! Activations of one shard: which exist, who may run on each, and which is collected next.
//!
//! Two modes and no others: *shared* turns of one activation interleave, an *exclusive* turn has
//! it to itself until it ends, parked turns included. Who has to wait does so in one mailbox,
//! first come, first served.
//!
//! # Invariants
//! - **A1** While a turn holds an activation, no other turn of that activation runs or resumes.
//! - **A2** A mailbox holds at most [`limits::MAILBOX_MAX`] calls, and has room for as many again
//!   that may pass; a full one refuses.
//! - **A3** Calls start in the order in which they came (I4), but for a shared call of a chain that
//!   has a turn parked here: that one passes all who wait but the shared calls of its own chain, or
//!   it would wait for itself.
//! - **A4** Nobody who holds a section waits for an older path (wait-die), and nobody waits for a
//!   section on its own path (I6). An exclusive turn starts only when no parked turn of another
//!   chain holds a section: it would freeze one that others may wait for.
//! - **A7** An activation that is emptied lets nobody in by itself: whoever wants in is looked at first.
//! - **A8** Nobody enters an activation that is shut, and whoever comes waits: for a store, not for a turn.
//! - **A6** Places and turns that are passed in are of living ones, where it is not said otherwise.
//! - **A5** Activations of one type are listed in the order of their last use, and only idle ones
//!   are offered for collection.
//!
//! # Not here
//! What a turn does, and how one is polled. Locks by name. Other shards.

mod lru;
mod mailbox;
mod slots;
#[cfg(test)]
mod tests;

use epicserver_wire::{Born, ChainId, EntityId, ErrorKind, Path, SectionId, Time, limits};
use hashbrown::HashTable;

use crate::ownership::SlotId;
use crate::slab::Slab;
use lru::{Links, Lists};
use slots::{Link, Slots};

const NONE: u32 = u32::MAX;

/// What waits in a mailbox.
pub trait Waiting {
    /// On whose behalf.
    fn path(&self) -> &Path;
    /// Whether it needs the activation to itself.
    fn is_exclusive(&self) -> bool;
    /// The turn that waits, if it has started already.
    fn turn(&self) -> Option<u32>;
}

/// What to do with whoever wants in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// Let it run now.
    Enter,
    /// Put it into the mailbox.
    Wait,
    /// Put it into the mailbox, from where it passes those who wait (**A3**).
    Pass,
    /// Refuse it.
    Refuse(ErrorKind),
}

/// There is no room for another activation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoRoom;

#[derive(Debug)]
struct Activation<S> {
    state: S,
    hash: u64,
    birth: u32,
    links: Links,
    slot: Link,
    first_mail: u32,
    last_mail: u32,
    mails: u32,
    first_turn: u32,
    holder: u32,
    bytes: u32,
    scheduled: bool,
    leaving: bool,
    /// Somebody in the mailbox may pass others.
    passes: bool,
    /// Its slot goes away (**A7**).
    emptied: bool,
    /// Nobody is let in for now (**A8**).
    shut: bool,
    /// Nobody runs on it inside another one's turn.
    apart: bool,
}

impl<S: Clone> Activation<S> {
    /// What a shared call needs to run at once; `None` if somebody waits or holds it.
    #[inline]
    fn open(&self, place: u32) -> Option<Open<S>> {
        if self.mails > 0 || self.holder != NONE || self.is_aside() {
            return None;
        }
        let seen = Seen { place, birth: self.birth };
        Some(Open { seen, state: self.state.clone(), newly: false })
    }
}

impl<S> Activation<S> {
    /// Whether a call has to be looked at before it runs.
    #[inline]
    fn is_aside(&self) -> bool {
        self.emptied || self.shut || self.apart
    }
}

#[derive(Debug)]
struct Turn {
    place: u32,
    previous: u32,
    next: u32,
    frozen: bool,
    section: Option<SectionId>,
    path: Path,
}

#[derive(Debug)]
struct Mail<W> {
    next: u32,
    waiting: W,
}

/// The activations of one shard, with a handle `S` for each, and what waits for them, `W`.
#[derive(Debug)]
pub struct Activations<S, W> {
    activations: Slab<Activation<S>>,
    index: HashTable<u32>,
    turns: Slab<Turn>,
    mails: Slab<Mail<W>>,
    lists: Lists,
    slots: Slots,
    bytes: u64,
    bytes_max: u64,
    origin: u32,
    sections: u64,
    births: u32,
}

/// Where an activation is, as whoever found it remembers it. A later one at the same place has another birth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Its place.
    pub place: u32,
    /// Its birth, which is not 0.
    pub birth: u32,
}

/// An activation that a call may run on at once.
#[derive(Debug)]
pub struct Open<S> {
    /// Where it is.
    pub seen: Seen,
    /// Its handle.
    pub state: S,
    /// Whether this is its first use at this time.
    pub newly: bool,
}

impl<S, W: Waiting> Activations<S, W> {
    /// No activations. `types` is how many lists for collection there are, `bytes_max` the memory
    /// budget, `origin` the shard's number in the fabric.
    #[must_use]
    pub fn new(types: usize, bytes_max: u64, origin: u32) -> Self {
        Self {
            activations: Slab::new(limits::ACTIVATIONS_MAX),
            index: HashTable::new(),
            turns: Slab::new(limits::TURNS_MAX),
            mails: Slab::new(u32::MAX),
            lists: Lists::new(types),
            slots: Slots::default(),
            bytes: 0,
            bytes_max,
            origin,
            sections: 0,
            births: 0,
        }
    }

    /// How many activations there are.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.activations.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.activations.is_empty()
    }

    /// How many turns are running or parked.
    #[must_use]
    pub fn turns(&self) -> u32 {
        self.turns.len()
    }

    /// Bytes that the activations count for.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn at(&self, place: u32) -> &Activation<S> {
        self.activations.get(place).expect("A6: places are of living activations")
    }

    fn at_mut(&mut self, place: u32) -> &mut Activation<S> {
        self.activations.get_mut(place).expect("A6: places are of living activations")
    }

    fn turn(&self, turn: u32) -> &Turn {
        self.turns.get(turn).expect("A6: turns are living")
    }

    /// The handle of the activation at `place`, if there is one.
    #[must_use]
    pub fn state(&self, place: u32) -> Option<&S> {
        Some(&self.activations.get(place)?.state)
    }

    /// The handles of all activations.
    pub fn states(&self) -> impl Iterator<Item = &S> {
        self.index.iter().filter_map(|place| self.state(*place))
    }

    /// Puts another handle in place of the one at `place`: the activation starts anew.
    pub fn replace(&mut self, place: u32, state: S) -> Option<S> {
        Some(std::mem::replace(&mut self.activations.get_mut(place)?.state, state))
    }

    /// Where the activation of `id` is; `hint` is looked at first.
    #[inline]
    #[must_use]
    pub fn find(
        &self,
        id: &EntityId,
        hint: u32,
        is: impl Fn(&S, &EntityId) -> bool,
    ) -> Option<u32> {
        if let Some(activation) = self.activations.get(hint)
            && activation.hash == id.hash()
            && is(&activation.state, id)
        {
            return Some(hint);
        }
        let same = |place: &u32| {
            let activation = self.at(*place);
            activation.hash == id.hash() && is(&activation.state, id)
        };
        self.index.find(id.hash(), same).copied()
    }

    /// The activation of `id`, if a shared call may run on it at once ([`is_open`](Self::is_open)); it counts as
    /// used at `now`. Where it was seen last is looked at first, and then nothing is compared but hashes: a birth
    /// that comes again, after four thousand million others, does so at another hash.
    #[inline]
    pub fn open(
        &mut self,
        id: &EntityId,
        last: Seen,
        now: Time,
        is: impl Fn(&S, &EntityId) -> bool,
    ) -> Option<Open<S>>
    where
        S: Clone,
    {
        if let Some(activation) = self.activations.get(last.place)
            && activation.birth == last.birth
            && activation.hash == id.hash()
            && activation.links.used == now
        {
            return activation.open(last.place);
        }
        let place = self.find(id, last.place, is)?;
        let open = self.activations.get(place)?.open(place)?;
        let newly = self.touch(place, now);
        Some(Open { newly, ..open })
    }

    /// Whether `bytes` more fit the budget.
    #[must_use]
    pub fn fits(&self, bytes: u32) -> bool {
        self.bytes + u64::from(bytes) <= self.bytes_max
    }

    /// Whether `bytes` could ever fit the budget.
    #[must_use]
    pub fn could_fit(&self, bytes: u32) -> bool {
        u64::from(bytes) <= self.bytes_max
    }

    /// Adds the activation of the entity with `hash`, in list `list` and perhaps in a slot. It counts for no
    /// bytes yet.
    ///
    /// # Errors
    /// If the table is full.
    pub fn insert(
        &mut self,
        hash: u64,
        (list, slot): (usize, Option<SlotId>),
        state: S,
        now: Time,
    ) -> Result<u32, NoRoom> {
        self.births = self.births.checked_add(1).unwrap_or(1);
        let activation = Activation {
            state,
            hash,
            birth: self.births,
            links: Links::new(list, now),
            slot: Link::new(slot),
            first_mail: NONE,
            last_mail: NONE,
            mails: 0,
            first_turn: NONE,
            holder: NONE,
            bytes: 0,
            scheduled: false,
            leaving: false,
            passes: false,
            emptied: false,
            shut: false,
            apart: false,
        };
        let place = self.activations.insert(activation).map_err(|_| NoRoom)?;
        let activations = &self.activations;
        let rehash = |place: &u32| activations.get(*place).map_or(0, |a| a.hash);
        self.index.insert_unique(hash, place, rehash);
        lru::push_front(&mut self.activations, &mut self.lists, place);
        slots::push(&mut self.activations, &mut self.slots, place);
        Ok(place)
    }

    /// The bytes that the activation counts for.
    #[must_use]
    pub fn bytes_of(&self, place: u32) -> u32 {
        self.activations.get(place).map_or(0, |activation| activation.bytes)
    }

    /// Says how many bytes the activation counts for now.
    pub fn resize(&mut self, place: u32, bytes: u32) {
        let before = std::mem::replace(&mut self.at_mut(place).bytes, bytes);
        self.bytes = self.bytes - u64::from(before) + u64::from(bytes);
    }

    /// Removes an activation that has neither turns nor mail.
    pub fn remove(&mut self, place: u32) -> Option<S> {
        lru::unlink(&mut self.activations, &mut self.lists, place);
        slots::unlink(&mut self.activations, &mut self.slots, place);
        let activation = self.activations.remove(place)?;
        assert!(activation.first_turn == NONE, "A5: a collected activation has no turns");
        assert!(activation.mails == 0, "A5: a collected activation has no mail");
        self.bytes -= u64::from(activation.bytes);
        if let Ok(entry) = self.index.find_entry(activation.hash, |other| *other == place) {
            entry.remove();
        }
        Some(activation.state)
    }

    /// The handle of the activation at `place`, which is used at `now`; and whether that was not known yet.
    #[inline]
    pub fn use_at(&mut self, place: u32, now: Time) -> Option<(S, bool)>
    where
        S: Clone,
    {
        let activation = self.activations.get(place)?;
        let state = activation.state.clone();
        let newly = activation.links.used != now && self.touch(place, now);
        Some((state, newly))
    }

    /// The activation is used at `now`. Says whether that was not known yet.
    #[inline]
    pub fn touch(&mut self, place: u32, now: Time) -> bool {
        let newly = self.at(place).links.used != now;
        if newly {
            lru::unlink(&mut self.activations, &mut self.lists, place);
            self.at_mut(place).links.used = now;
            lru::push_front(&mut self.activations, &mut self.lists, place);
        }
        newly
    }

    /// The activation of list `list` whose last use is the longest ago among those for which
    /// `may_end` says that each of their turns may be dropped, and when that use was (**A5**).
    /// Looks at no more than `looks` activations.
    #[must_use]
    pub fn oldest_idle(
        &self,
        list: usize,
        looks: usize,
        may_end: impl Fn(u32) -> bool,
    ) -> Option<(u32, Time)> {
        let mut place = self.lists.oldest(list)?;
        for _ in 0..looks {
            let activation = self.activations.get(place)?;
            if self.is_idle(place, &may_end) {
                return Some((place, activation.links.used));
            }
            place = activation.links.newer;
        }
        None
    }

    /// The activation used longest ago in list `list`.
    #[must_use]
    pub fn oldest(&self, list: usize) -> Option<u32> {
        self.lists.oldest(list)
    }

    /// The activation is to be collected as soon as it is idle.
    pub fn set_leaving(&mut self, place: u32) {
        self.at_mut(place).leaving = true;
    }

    /// Whether it is.
    #[must_use]
    pub fn is_leaving(&self, place: u32) -> bool {
        self.activations.get(place).is_some_and(|activation| activation.leaving)
    }

    /// The slot of an activation, if it is in one.
    #[must_use]
    pub fn slot_of(&self, place: u32) -> Option<SlotId> {
        self.activations.get(place)?.slot.slot()
    }

    /// Whether `slot` has no activation.
    #[must_use]
    pub fn is_vacant(&self, slot: SlotId) -> bool {
        self.slots.first(slot) == NONE
    }

    /// Begins to look at all activations of `slot`; what was looked at before is left.
    pub fn sweep(&mut self, slot: SlotId) {
        self.slots.sweep(slot);
    }

    /// The next activation that was in the slot when that began, and is still.
    pub fn next_swept(&mut self) -> Option<u32> {
        self.slots.next(&self.activations)
    }

    /// The activation is emptied from now on (**A7**), and is to be collected as soon as it is idle.
    pub fn set_emptied(&mut self, place: u32) {
        let activation = self.at_mut(place);
        (activation.emptied, activation.leaving) = (true, true);
    }

    /// Whether nobody is let in for now (**A8**): its state is not there yet, or is on its way out.
    pub fn set_shut(&mut self, place: u32, shut: bool) {
        if let Some(activation) = self.activations.get_mut(place) {
            activation.shut = shut;
        }
    }

    /// No call runs on it inside its caller's turn from now on.
    pub fn set_apart(&mut self, place: u32) {
        self.at_mut(place).apart = true;
    }

    /// The activations of list `list`, the one used longest ago first.
    pub fn all_of(&self, list: usize) -> impl Iterator<Item = u32> {
        let newer = |place: &u32| Some(self.activations.get(*place)?.links.newer);
        let next = move |place: &u32| newer(place).filter(|newer| *newer != NONE);
        std::iter::successors(self.lists.oldest(list), next)
    }

    /// Whether a turn of `chain` is parked at `place`.
    #[must_use]
    pub fn has_turn_of(&self, place: u32, chain: ChainId) -> bool {
        self.turns_of(place).any(|turn| self.turn(turn).path.chain() == chain)
    }

    /// Changes on whose behalf a turn runs.
    pub fn set_born(&mut self, turn: u32, born: Born) {
        if let Some(entry) = self.turns.get_mut(turn) {
            entry.path = std::mem::take(&mut entry.path).born_under(born);
        }
    }

    /// When the activation used longest ago in list `list` was used.
    #[must_use]
    pub fn oldest_use(&self, list: usize) -> Option<Time> {
        Some(self.at(self.lists.oldest(list)?).links.used)
    }

    /// Whether nothing waits for the activation and `may_end` says that each of its turns may be
    /// dropped.
    #[must_use]
    pub fn is_idle(&self, place: u32, may_end: impl Fn(u32) -> bool) -> bool {
        let activation = self.at(place);
        activation.mails == 0
            && !activation.scheduled
            && !activation.shut
            && self.turns_of(place).all(may_end)
    }

    /// The turns of an activation, the youngest first.
    pub fn turns_of(&self, place: u32) -> impl Iterator<Item = u32> {
        let first = self.activations.get(place).map_or(NONE, |a| a.first_turn);
        let next = |turn: &u32| self.turns.get(*turn).map(|t| t.next).filter(|n| *n != NONE);
        std::iter::successors(Some(first).filter(|turn| *turn != NONE), next)
    }

    /// Whether a call may run at once inside its caller's turn: nothing waits for the activation,
    /// and nobody holds it. An exclusive one must find no parked turn either.
    #[inline]
    #[must_use]
    pub fn is_open(&self, place: u32, exclusive: bool) -> bool {
        let activation = self.at(place);
        let free = activation.mails == 0 && activation.holder == NONE && !activation.is_aside();
        free && (!exclusive || activation.first_turn == NONE)
    }

    /// Whether somebody has asked already for the mailbox to be looked at; from now on, yes.
    pub fn schedule(&mut self, place: u32) -> bool {
        self.activations
            .get_mut(place)
            .is_none_or(|activation| std::mem::replace(&mut activation.scheduled, true))
    }

    /// The mailbox is being looked at.
    pub fn unschedule(&mut self, place: u32) {
        if let Some(activation) = self.activations.get_mut(place) {
            activation.scheduled = false;
        }
    }

    /// A turn begins; on no activation if `place` is not of one.
    ///
    /// # Errors
    /// If there are [`limits::TURNS_MAX`] already.
    pub fn begin(&mut self, place: u32, path: Path) -> Result<u32, NoRoom> {
        let next = self.activations.get(place).map_or(NONE, |activation| activation.first_turn);
        let turn = Turn { place, previous: NONE, next, frozen: false, section: None, path };
        let turn = self.turns.insert(turn).map_err(|_| NoRoom)?;
        if let Some(next) = self.turns.get_mut(next) {
            next.previous = turn;
        }
        if let Some(activation) = self.activations.get_mut(place) {
            activation.first_turn = turn;
        }
        Ok(turn)
    }

    /// Where a turn runs.
    #[must_use]
    pub fn place_of(&self, turn: u32) -> Option<u32> {
        Some(self.turns.get(turn)?.place)
    }

    /// On whose behalf a turn runs.
    #[must_use]
    pub fn path_of(&self, turn: u32) -> Option<&Path> {
        Some(&self.turns.get(turn)?.path)
    }

    /// Where a turn runs and on whose behalf, if it may run or resume now; if not, it is listed to be resumed
    /// (**A1**).
    pub fn resumes(&mut self, turn: u32) -> Option<(u32, &Path)> {
        let entry = self.turns.get_mut(turn)?;
        let holder = self.activations.get(entry.place).map_or(NONE, |a| a.holder);
        entry.frozen = holder != NONE && holder != turn;
        (!entry.frozen).then_some((entry.place, &entry.path))
    }

    /// A section begins for `turn`, whose path it joins; with `hold`, the turn holds its activation.
    ///
    /// # Errors
    /// [`ErrorKind::TooManySections`].
    pub fn take(&mut self, turn: u32, hold: bool) -> Result<SectionId, ErrorKind> {
        let section = SectionId::new(self.origin, self.sections);
        let entry = self.turns.get_mut(turn).ok_or(ErrorKind::Overloaded)?;
        entry.path = entry.path.with(section).ok_or(ErrorKind::TooManySections)?;
        self.sections += 1;
        if hold {
            entry.section = Some(section);
            let place = entry.place;
            let holder = std::mem::replace(&mut self.at_mut(place).holder, turn);
            assert!(holder == NONE, "A1: one turn holds an activation");
        }
        Ok(section)
    }

    /// A section of `turn` ends. Says whether the turn held its activation by it.
    pub fn release(&mut self, turn: u32, section: SectionId) -> bool {
        let Some(entry) = self.turns.get_mut(turn) else { return false };
        entry.path = entry.path.without(section);
        if entry.section != Some(section) {
            return false;
        }
        entry.section = None;
        let place = entry.place;
        self.at_mut(place).holder = NONE;
        true
    }

    /// The turns of an activation that were kept from running, the first to be kept last; from now
    /// on they are not listed any more.
    pub fn thaw(&mut self, place: u32, mut resume: impl FnMut(u32)) {
        let mut turn = self.activations.get(place).map_or(NONE, |a| a.first_turn);
        while let Some(entry) = self.turns.get_mut(turn) {
            if std::mem::take(&mut entry.frozen) {
                resume(turn);
            }
            turn = entry.next;
        }
    }

    /// A turn is on no activation from now on.
    pub fn orphan(&mut self, turn: u32) {
        let Some(path) = self.path_of(turn).cloned() else { return };
        self.unlink_turn(turn);
        if let Some(entry) = self.turns.get_mut(turn) {
            *entry = Turn {
                place: NONE,
                previous: NONE,
                next: NONE,
                frozen: false,
                section: None,
                path,
            };
        }
    }

    /// A turn ends, and with it its sections. Says whether it held its activation.
    pub fn end(&mut self, turn: u32) -> bool {
        let held = self.unlink_turn(turn);
        self.turns.remove(turn);
        held
    }

    fn unlink_turn(&mut self, turn: u32) -> bool {
        let Some(entry) = self.turns.get(turn) else { return false };
        let (place, previous, next) = (entry.place, entry.previous, entry.next);
        if let Some(previous) = self.turns.get_mut(previous) {
            previous.next = next;
        } else if let Some(activation) = self.activations.get_mut(place) {
            activation.first_turn = next;
        }
        if let Some(next) = self.turns.get_mut(next) {
            next.previous = previous;
        }
        let Some(activation) = self.activations.get_mut(place) else { return false };
        let held = activation.holder == turn;
        if held {
            activation.holder = NONE;
        }
        held
    }

    /// The turn that holds an activation, if one does.
    #[must_use]
    pub fn holder(&self, place: u32) -> Option<u32> {
        Some(self.activations.get(place)?.holder).filter(|holder| *holder != NONE)
    }
}
