//! Locks, events and queues of entities, by activation and name.
//!
//! # Invariants
//! - **N8** A lock has one holder; who waits for it was allowed to by wait-die, and is next in the
//!   order of asking.
//! - **N9** An activation has at most [`limits::SYNC_NAMES_MAX`] names, and a queue at most
//!   [`limits::QUEUE_MAX`] values; a push to a full one waits.
//!
//! # Not here
//! Deadlines: a token that is late is answered elsewhere, and passed over here.

use std::collections::{BTreeMap, VecDeque};

use epicserver_entity::{Answer, Desk, Syscall};
use epicserver_wire::{CallError, ErrorKind, Path, SectionId, Time, Token, limits};

use crate::core::Core;
use crate::tokens::Timer;

#[derive(Debug, Default)]
struct Lock {
    holder: Option<(u32, SectionId, Path)>,
    waiting: VecDeque<(u32, Token, Path)>,
}

impl Lock {
    /// Whether the lock is free; if not, the turn waits for it, or may not (**N8**).
    fn ask(&mut self, turn: u32, token: Token, path: &Path) -> Result<bool, ErrorKind> {
        let Some((_, section, holder)) = &self.holder else { return Ok(true) };
        let ahead = self.waiting.iter().all(|(_, _, other)| path.may_wait_for(other));
        if path.holds(*section) || !path.may_wait_for(holder) || !ahead {
            return Err(ErrorKind::WouldDeadlock);
        }
        self.waiting.push_back((turn, token, path.clone()));
        Ok(false)
    }
}

#[derive(Debug, Default)]
struct Signal {
    set: bool,
    waiting: VecDeque<Token>,
}

#[derive(Debug, Default)]
struct Queue {
    values: VecDeque<Vec<u8>>,
    popping: VecDeque<Token>,
    pushing: VecDeque<(Token, Vec<u8>)>,
}

type ByName<V> = BTreeMap<(u32, &'static str), V>;

/// Everything that activations of one shard have by name.
#[derive(Debug, Default)]
pub(crate) struct Named {
    locks: ByName<Lock>,
    events: ByName<Signal>,
    queues: ByName<Queue>,
}

fn entry<'a, V: Default>(
    map: &'a mut ByName<V>,
    place: u32,
    name: &'static str,
) -> Option<&'a mut V> {
    let known = map.contains_key(&(place, name));
    let names = map.range((place, "")..).take_while(|(key, _)| key.0 == place);
    if !known && names.count() >= limits::SYNC_NAMES_MAX {
        return None;
    }
    Some(map.entry((place, name)).or_default())
}

impl Named {
    /// The activation ends, and its names with it. Who waited was a task of it.
    pub(crate) fn remove(&mut self, place: u32) {
        self.locks.retain(|key, _| key.0 != place);
        self.events.retain(|key, _| key.0 != place);
        self.queues.retain(|key, _| key.0 != place);
    }
}

impl Core {
    fn overloaded(&self, desk: &Desk, token: Option<Token>) {
        let Some(token) = token else { return };
        let error = CallError::refused(ErrorKind::Overloaded, desk.path().chain());
        self.complete(desk, token, Answer::Failed(error));
    }

    pub(crate) fn want_lock(&self, desk: &Desk, turn: u32, token: Token, name: &'static str) {
        let (place, path) = {
            let table = self.table.borrow();
            (table.place_of(turn).unwrap_or(u32::MAX), table.path_of(turn).cloned())
        };
        let path = path.unwrap_or_default();
        let verdict = match entry(&mut self.named.borrow_mut().locks, place, name) {
            None => Err(ErrorKind::Overloaded),
            Some(lock) => lock.ask(turn, token, &path),
        };
        match verdict {
            Ok(true) => {
                self.granted(desk, turn, token, Some((place, name)));
            }
            Ok(false) => {}
            Err(kind) => {
                let error = CallError::refused(kind, path.chain());
                self.complete(desk, token, Answer::Failed(error));
            }
        }
    }

    /// The turn has the lock from now on.
    pub(crate) fn locked(&self, at: (u32, &'static str), turn: u32, section: SectionId) {
        let path = self.table.borrow().path_of(turn).cloned().unwrap_or_default();
        if let Some(lock) = self.named.borrow_mut().locks.get_mut(&at) {
            lock.holder = Some((turn, section, path));
        }
    }

    /// The section ends: if it was a lock, the next one has it.
    pub(crate) fn unlock(&self, desk: &Desk, place: u32, section: SectionId) {
        let names = self.locks_where(place, |_, held| held == section);
        for name in names {
            self.pass_on(desk, place, name);
        }
    }

    /// The turn ends: its locks pass on, and it waits for none.
    pub(crate) fn unlock_all(&self, desk: &Desk, place: u32, turn: u32) {
        if self.named.borrow().locks.is_empty() {
            return;
        }
        for lock in self.named.borrow_mut().locks.values_mut() {
            lock.waiting.retain(|(waiting, _, _)| *waiting != turn);
        }
        for name in self.locks_where(place, |holder, _| holder == turn) {
            self.pass_on(desk, place, name);
        }
    }

    /// The turn holds less than before: who waits for a lock of it and may not any more is told.
    pub(crate) fn cull_locks(&self, desk: &Desk, turn: u32) {
        if self.named.borrow().locks.is_empty() {
            return;
        }
        let path = self.table.borrow().path_of(turn).cloned().unwrap_or_default();
        let mut gone = Vec::new();
        for lock in self.named.borrow_mut().locks.values_mut() {
            let Some((_, _, held)) = lock.holder.as_mut().filter(|(holder, _, _)| *holder == turn)
            else {
                continue;
            };
            held.clone_from(&path);
            lock.waiting.retain(|(_, token, waiting)| {
                let may = waiting.may_wait_for(&path);
                gone.extend((!may).then_some((*token, waiting.chain())));
                may
            });
        }
        for (token, chain) in gone {
            let error = CallError::refused(ErrorKind::WouldDeadlock, chain);
            self.complete(desk, token, Answer::Failed(error));
        }
    }

    fn locks_where(&self, place: u32, is: impl Fn(u32, SectionId) -> bool) -> Vec<&'static str> {
        let named = self.named.borrow();
        let locks = named.locks.range((place, "")..).take_while(|(key, _)| key.0 == place);
        let held = locks.filter_map(|(key, lock)| lock.holder.as_ref().map(|h| (key.1, h.0, h.1)));
        held.filter(|(_, turn, section)| is(*turn, *section)).map(|(name, _, _)| name).collect()
    }

    fn pass_on(&self, desk: &Desk, place: u32, name: &'static str) {
        loop {
            let next = {
                let mut named = self.named.borrow_mut();
                let Some(lock) = named.locks.get_mut(&(place, name)) else { return };
                lock.holder = None;
                let next = lock.waiting.pop_front();
                if next.is_none() {
                    named.locks.remove(&(place, name));
                }
                next
            };
            let Some((turn, token, _)) = next else { return };
            if self.granted(desk, turn, token, Some((place, name))) {
                return;
            }
        }
    }

    /// Events and queues.
    pub(crate) fn named_syscall(
        &self,
        desk: &Desk,
        place: u32,
        token: Option<Token>,
        syscall: Syscall,
    ) {
        match (syscall, token) {
            (Syscall::Wait { name, until }, Some(token)) => {
                self.until(token, until);
                self.wait_event(desk, place, name, token);
            }
            (Syscall::Set { name, set }, _) => self.set_event(desk, place, name, set),
            (Syscall::Push { name, value, until }, Some(token)) => {
                self.until(token, until);
                self.push_value(desk, (place, name), value, token);
            }
            (Syscall::Pop { name, until }, Some(token)) => {
                self.until(token, until);
                self.pop_value(desk, (place, name), token);
            }
            (syscall, token) => {
                drop(syscall);
                self.overloaded(desk, token);
            }
        }
    }

    fn until(&self, token: Token, until: Time) {
        self.arm(token, until, Timer::Deadline(token));
    }

    fn wait_event(&self, desk: &Desk, place: u32, name: &'static str, token: Token) {
        let mut named = self.named.borrow_mut();
        let Some(event) = entry(&mut named.events, place, name) else {
            drop(named);
            return self.overloaded(desk, Some(token));
        };
        if !event.set {
            if event.waiting.len().is_power_of_two() {
                // Those that have given up take no room.
                event.waiting.retain(|token| desk.tickets().borrow_mut().waits(*token));
            }
            event.waiting.push_back(token);
            return;
        }
        drop(named);
        self.complete(desk, token, Answer::Done);
    }

    fn set_event(&self, desk: &Desk, place: u32, name: &'static str, set: bool) {
        let woken = {
            let mut named = self.named.borrow_mut();
            let Some(event) = entry(&mut named.events, place, name) else { return };
            event.set = set;
            if set { std::mem::take(&mut event.waiting) } else { VecDeque::new() }
        };
        for token in woken {
            self.complete(desk, token, Answer::Done);
        }
    }

    fn push_value(&self, desk: &Desk, at: (u32, &'static str), value: Vec<u8>, token: Token) {
        let mut named = self.named.borrow_mut();
        let Some(queue) = entry(&mut named.queues, at.0, at.1) else {
            drop(named);
            return self.overloaded(desk, Some(token));
        };
        if queue.values.len() >= limits::QUEUE_MAX {
            queue.pushing.push_back((token, value));
            return;
        }
        queue.values.push_back(value);
        drop(named);
        self.complete(desk, token, Answer::Done);
        self.feed(desk, at);
    }

    fn pop_value(&self, desk: &Desk, at: (u32, &'static str), token: Token) {
        let mut named = self.named.borrow_mut();
        let Some(queue) = entry(&mut named.queues, at.0, at.1) else {
            drop(named);
            return self.overloaded(desk, Some(token));
        };
        queue.popping.push_back(token);
        drop(named);
        self.feed(desk, at);
    }

    /// Gives values to those who wait for one, and room to those who wait for room.
    fn feed(&self, desk: &Desk, at: (u32, &'static str)) {
        loop {
            let mut named = self.named.borrow_mut();
            let Some(queue) = named.queues.get_mut(&at) else { return };
            queue.popping.retain(|token| desk.tickets().borrow_mut().waits(*token));
            queue.pushing.retain(|(token, _)| desk.tickets().borrow_mut().waits(*token));
            let room = queue.values.len() < limits::QUEUE_MAX;
            if room && let Some((token, value)) = queue.pushing.pop_front() {
                queue.values.push_back(value);
                drop(named);
                self.complete(desk, token, Answer::Done);
                continue;
            }
            if queue.popping.is_empty() || queue.values.is_empty() {
                return;
            }
            let (token, value) = (queue.popping.pop_front(), queue.values.pop_front());
            drop(named);
            if let (Some(token), Some(value)) = (token, value) {
                self.complete(desk, token, Answer::Bytes(value));
            }
        }
    }
}
