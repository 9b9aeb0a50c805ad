//! Making activations and collecting them: at the first call, by time, by memory budget.
//!
//! # Invariants
//! - **N10** The bytes of a shard's activations stay within its budget: a new one makes idle ones
//!   leave, least recently used first, and is refused if that does not make room.
//!
//! # Not here
//! Saving (`saving`).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use epicserver_entity::{Activation, AnyCell, Desk, Head, Place, TurnId, detached};
use epicserver_proto::SlotId;
use epicserver_wire::{ClassId, EntityId, ErrorKind, Path, Time};

use crate::core::{Core, Mail, Ready, Table};
use crate::realm::Traffic;
use crate::turns::Task;

/// What an activation takes beside its state: its entry, its place in the index, an allocation.
const OVERHEAD_BYTES: usize = 128;
/// Activations that one pass looks at from the end of a list.
const LOOKS: usize = 64;

impl Core {
    pub(crate) fn bytes_of(cell: &Rc<dyn AnyCell>) -> u32 {
        // The `#[memory]` hook is user code too: one that panics adds nothing.
        let bytes = catch_unwind(AssertUnwindSafe(|| cell.bytes())).unwrap_or(0);
        u32::try_from(OVERHEAD_BYTES.saturating_add(bytes)).unwrap_or(u32::MAX)
    }

    /// Where the callee is active; it is made active if it is not.
    pub(crate) fn ensure(&self, desk: &Desk, head: &Head) -> Result<u32, ErrorKind> {
        let id = &head.to;
        let found = self.table.borrow().find(id, head.place.index(), |cell, id| cell.id() == id);
        if let Some(place) = found {
            return Ok(place);
        }
        if id.key().is_too_long() {
            return Err(ErrorKind::KeyTooLong);
        }
        let list = self.config.registry.entities().position(|info| info.id == id.type_id());
        let info = self.config.registry.entity(id.type_id());
        let (Some(info), Some(list)) = (info, list) else { return Err(ErrorKind::UnknownType) };
        let cell = (info.new_cell)(id.clone());
        let bytes = Self::bytes_of(&cell);
        self.make_room(desk, bytes)?;
        let slot = (self.config.fabric && id.class() != ClassId::STATELESS).then(|| SlotId::of(id));
        let place = {
            let mut table = self.table.borrow_mut();
            let inserted = table.insert(id.hash(), (list, slot), Rc::clone(&cell), self.time());
            inserted.map_err(|_| ErrorKind::Overloaded)?
        };
        cell.set_place(Place::new(place));
        if self.traffic.get() == Traffic::Busy && self.is_emptied(slot) {
            self.table.borrow_mut().set_emptied(place);
        }
        self.count(|c| c.activated += 1);
        if self.begins_to_load((place, list), info, &cell, &head.path) {
            return Ok(place);
        }
        self.make_state(desk, place, &cell, &head.path)?;
        if let Err(kind) = self.settle_in(desk, place, &cell) {
            self.abandon(desk, place, kind);
            return Err(kind);
        }
        Ok(place)
    }

    /// A new activation takes its room (**N10**).
    pub(crate) fn settle_in(
        &self,
        desk: &Desk,
        place: u32,
        cell: &Rc<dyn AnyCell>,
    ) -> Result<(), ErrorKind> {
        let bytes = Self::bytes_of(cell);
        self.table.borrow_mut().resize(place, bytes);
        // It is not idle while it makes room for itself.
        let scheduled = self.table.borrow_mut().schedule(place);
        let fits = self.table.borrow().could_fit(bytes) && self.make_room(desk, 0).is_ok();
        if !scheduled {
            self.table.borrow_mut().unschedule(place);
        }
        if fits { Ok(()) } else { Err(ErrorKind::OutOfBudget) }
    }

    /// Runs a hook of the activation at `place` as a turn of its own; `None` if it panicked.
    pub(crate) fn run_hook<R>(
        &self,
        desk: &Desk,
        place: u32,
        path: Path,
        hook: impl FnOnce() -> R,
    ) -> Option<R> {
        let outer_path = desk.set_path(path);
        let outer = desk.begin(TurnId::NONE, Place::new(place), Time::MAX, 0);
        let ended = catch_unwind(AssertUnwindSafe(hook));
        desk.end(outer);
        drop(desk.set_path(outer_path));
        if ended.is_err() {
            self.count(|c| c.panics += 1);
        }
        ended.ok()
    }

    /// The handle of the activation at `place`, if there is one.
    pub(crate) fn cell(&self, place: u32) -> Option<Rc<dyn AnyCell>> {
        self.table.borrow().state(place).cloned()
    }

    /// Makes the state of a new activation, or begins to.
    pub(crate) fn make_state(
        &self,
        desk: &Desk,
        place: u32,
        cell: &Rc<dyn AnyCell>,
        path: &Path,
    ) -> Result<(), ErrorKind> {
        let made = self.run_hook(desk, place, path.clone(), || Rc::clone(cell).activate());
        let make = match made {
            Some(Activation::Ready(())) => return Ok(()),
            Some(Activation::Running(make)) => make,
            Some(Activation::Failed(_)) | None => {
                self.abandon(desk, place, ErrorKind::ActivationFailed);
                return Err(ErrorKind::ActivationFailed);
            }
        };
        // A hook that waits is an exclusive section of the first call's chain: what it calls
        // cannot come back and wait for it.
        let task = detached(async move {
            // Whether it worked shows in the cell.
            let _in_the_cell = make.await;
        });
        let Some(turn) = self.add_task(place, path.clone(), task) else {
            self.abandon(desk, place, ErrorKind::Overloaded);
            return Err(ErrorKind::Overloaded);
        };
        self.task(turn, |task| task.activates = true);
        let held = self.table.borrow_mut().take(turn, true);
        held.map(drop)
    }

    /// An asynchronous hook has ended: with a state, or the activation ends too.
    pub(crate) fn activated(&self, desk: &Desk, place: u32) {
        let Some(cell) = self.cell(place) else { return };
        if !cell.has_state() {
            return self.abandon(desk, place, ErrorKind::ActivationFailed);
        }
        if !self.opened(desk, place, &cell, true) {
            self.measure(place, &cell);
            self.schedule(place);
        }
    }

    /// An activation without a state ends; who waits for it is refused.
    pub(crate) fn abandon(&self, desk: &Desk, place: u32, kind: ErrorKind) {
        loop {
            let mail = self.table.borrow_mut().pop(place);
            let Some(mail) = mail else { break };
            self.refuse_mail(desk, mail, kind);
        }
        self.drop_turns(desk, place);
        self.named.borrow_mut().remove(place);
        self.take_out(desk, place, kind);
    }

    /// Removes an activation that is over. Whoever still waits for its state to be saved is told that it failed by `kind`.
    pub(crate) fn take_out(&self, desk: &Desk, place: u32, kind: ErrorKind) {
        self.forget_saved(desk, place, kind);
        let (slot, state) = {
            let mut table = self.table.borrow_mut();
            (table.slot_of(place), table.remove(place))
        };
        // What it holds is the user's, and may call.
        if catch_unwind(AssertUnwindSafe(|| drop(state))).is_err() {
            self.count(|c| c.panics += 1);
        }
        if let Some(slot) = slot.filter(|_| self.traffic.get() == Traffic::Busy) {
            self.vacated(slot);
        }
    }

    /// After a panic: a fresh cell in the same place, for the calls that wait.
    pub(crate) fn restart(&self, desk: &Desk, place: u32, id: EntityId) {
        let Some(info) = self.config.registry.entity(id.type_id()) else { return };
        let cell = (info.new_cell)(id);
        cell.set_place(Place::new(place));
        let old = self.table.borrow_mut().replace(place, Rc::clone(&cell));
        if catch_unwind(AssertUnwindSafe(|| drop(old))).is_err() {
            self.count(|c| c.panics += 1);
        }
        if self.loads_again(desk, place) {
            return;
        }
        let path = Path::new(desk.new_chain());
        if self.make_state(desk, place, &cell, &path).is_ok()
            && self.table.borrow().mails(place) > 0
        {
            self.schedule(place);
        }
    }

    /// Makes room for `bytes`, by collecting idle activations (**N10**).
    fn make_room(&self, desk: &Desk, bytes: u32) -> Result<(), ErrorKind> {
        if !self.table.borrow().could_fit(bytes) {
            return Err(ErrorKind::OutOfBudget);
        }
        while !self.table.borrow().fits(bytes) {
            let Some(place) = self.oldest_idle(desk) else { return Err(ErrorKind::OutOfBudget) };
            self.end(desk, place);
        }
        Ok(())
    }

    fn lists(&self) -> impl Iterator<Item = (usize, Option<Duration>)> + '_ {
        let types = self.config.registry.entities().enumerate();
        types.map(|(list, info)| (list, info.idle.or(self.config.idle)))
    }

    pub(crate) fn may_end(&self, desk: &Desk, turn: u32) -> bool {
        // A method has a caller, what runs is not waiting, and a call of its own is not a tick.
        let waits = |task: &mut Task| {
            task.tick.filter(|_| task.running.is_some() && task.method.is_none() && task.asked == 0)
        };
        let tick = self.task(turn, waits).flatten();
        tick.is_some_and(|tick| desk.tickets().borrow_mut().is_waited(tick))
    }

    fn oldest_idle(&self, desk: &Desk) -> Option<u32> {
        let table = self.table.borrow();
        let current = desk.turn().place.index();
        let oldest = self.lists().filter_map(|(list, _)| {
            table.oldest_idle(list, LOOKS, |turn| self.may_end(desk, turn))
        });
        let others = oldest.filter(|(place, _)| *place != current);
        others.min_by_key(|(_, used)| *used).map(|(place, _)| place)
    }

    /// When the next activation will have been idle for long enough.
    pub(crate) fn next_collection(&self) -> Option<Time> {
        if !self.collects {
            return None;
        }
        let table = self.table.borrow();
        let due = |(list, idle): (usize, Option<Duration>)| Some(table.oldest_use(list)? + idle?);
        self.lists().filter_map(due).min()
    }

    /// Collects what has been idle for long enough.
    pub(crate) fn collect(&self, desk: &Desk) {
        if !self.collects {
            return;
        }
        for (list, idle) in self.lists() {
            let Some(idle) = idle else { continue };
            for _ in 0..LOOKS {
                let due = self.table.borrow().oldest_use(list).map(|used| used + idle);
                if due.is_none_or(|due| due > self.time()) {
                    break;
                }
                self.collect_oldest(desk, list);
            }
        }
    }

    fn collect_oldest(&self, desk: &Desk, list: usize) {
        let (oldest, place) = {
            let table: &Table = &self.table.borrow();
            let idle = table.oldest_idle(list, 1, |turn| self.may_end(desk, turn));
            (table.oldest(list), idle)
        };
        match (place, oldest) {
            (Some((place, _)), _) => self.end(desk, place),
            // It is at work, so it is not idle: it is looked at again after another idle time.
            (None, Some(place)) => {
                self.table.borrow_mut().touch(place, self.time());
            }
            (None, None) => {}
        }
    }

    /// The entity asks for its own collection.
    pub(crate) fn leaves(&self, place: u32) {
        if self.table.borrow().state(place).is_some() {
            self.table.borrow_mut().set_leaving(place);
            self.push(Ready::Deactivate(place));
        }
    }

    /// Collects an entity that asked for it, if nothing of it runs any more; otherwise its last
    /// turn comes here again. Another one may have the place by now, which did not ask.
    pub(crate) fn deactivate(&self, desk: &Desk, place: u32) {
        let (table, may_end) = (&self.table, |turn| self.may_end(desk, turn));
        if table.borrow().is_leaving(place) && table.borrow().is_idle(place, may_end) {
            self.end(desk, place);
        }
    }

    /// Collects an idle activation: its hook runs, its ticking tasks are dropped. If its state is to be saved, it ends
    /// when it is.
    pub(crate) fn end(&self, desk: &Desk, place: u32) {
        let Some(cell) = self.cell(place) else { return };
        if self.is_leaving_saved(place) {
            return;
        }
        let outer_ending = self.ending.replace(true);
        self.drop_turns(desk, place);
        // One that panics has had its turn.
        let _ended = self.run_hook(desk, place, Path::new(desk.new_chain()), || cell.deactivate());
        // The hook may have called its own entity: that call finds it at work, or a new activation.
        self.drop_turns(desk, place);
        self.ending.set(outer_ending);
        if !self.leaves_when_saved(desk, place) {
            self.finish_end(desk, place);
        }
    }

    /// Removes an activation that has ended; who waits for it is sent on.
    pub(crate) fn finish_end(&self, desk: &Desk, place: u32) {
        let outer_ending = self.ending.replace(true);
        self.named.borrow_mut().remove(place);
        let mut waiting: Vec<Mail> = Vec::new();
        while let Some(mail) = self.table.borrow_mut().pop(place) {
            waiting.push(mail);
        }
        self.table.borrow_mut().unschedule(place);
        self.take_out(desk, place, ErrorKind::NodeLost);
        self.count(|c| c.collected += 1);
        self.ending.set(outer_ending);
        for mail in waiting {
            if let Mail::Call(request) = mail {
                // Whoever made it, it has arrived already.
                let said = self.view_of(request.head().caller);
                self.admit(desk, request, said, false);
            }
        }
    }

    fn drop_turns(&self, desk: &Desk, place: u32) {
        let turns: Vec<u32> = self.table.borrow().turns_of(place).collect();
        for turn in turns {
            match self.task(turn, |task| task.running.take()).flatten() {
                Some(running) => self.drop_running(desk, turn, running),
                None => {
                    // It is being polled further up this stack, and is on its own from now on.
                    self.task(turn, |task| task.doomed = true);
                    self.table.borrow_mut().orphan(turn);
                    continue;
                }
            }
            self.close_turn(desk, turn);
        }
    }

    /// Nothing runs but tasks that wait for a tick, and nothing waits.
    pub(crate) fn is_quiet(&self, desk: &Desk) -> bool {
        let turns: Vec<u32> = {
            let tasks = self.tasks.borrow();
            let living = tasks.iter().enumerate().filter(|(_, task)| task.is_some());
            living.filter_map(|(index, _)| u32::try_from(index).ok()).collect()
        };
        let settled = !self.has_ready() && self.is_settled() && self.is_saved();
        settled && turns.into_iter().all(|turn| self.may_end(desk, turn))
    }

    /// The shard ends: each activation runs its hook, if the node may still act.
    pub(crate) fn close(&self, desk: &Desk) {
        self.stop();
        if self.is_lapsed() {
            self.evict(desk);
        }
        // What the hooks say to entities of this shard is not heard: it would wake them again.
        self.closing.set(true);
        for (list, _) in self.lists() {
            let places: Vec<u32> = self.table.borrow().all_of(list).collect();
            for place in places {
                while let Some(mail) = self.table.borrow_mut().pop(place) {
                    self.refuse_mail(desk, mail, ErrorKind::Stopping);
                }
                self.end(desk, place);
            }
        }
    }

    /// The task of `turn` may be dropped while it waits for `tick`.
    pub(crate) fn keeps_time(&self, turn: u32, tick: epicserver_wire::Token) {
        self.task(turn, |task| task.tick = Some(tick));
    }
}
