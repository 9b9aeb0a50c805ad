//! What user code asks of its shard while it runs.
//!
//! # Invariants
//! - **N5** A call runs directly only if nothing waits for its callee and admission lets it in, no
//!   earlier call of its turn is unsent, the stack is less than
//!   [`limits::DIRECT_DEPTH_MAX`](epicserver_wire::limits::DIRECT_DEPTH_MAX) calls deep, and its task's budget is
//!   not spent.
//!
//! # Not here
//! What becomes of a call that does not run directly (`calls`).

use std::rc::Rc;

use epicserver_entity::{
    Answer, AnyCell, Desk, Entry, Head, Host, MethodInfo, Mode, Place, Request, Running, Syscall,
    TurnId,
};
use epicserver_proto::{Epoch, Seen, SlotId};
use epicserver_wire::{CallError, EntityId, Path, ShardId, Token};

use crate::core::{Aside, Core};
use crate::tokens::Timer;
use crate::{Effect, Notice};

impl Host for Core {
    fn random(&self) -> u64 {
        // SplitMix64 (Steele, Lea, Flood 2014).
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn fence(&self, of: &EntityId) -> u64 {
        let (slot, realm) = (SlotId::of(of), self.realm.borrow());
        let drained = realm.drains.get(&slot).map(|drain| drain.epoch);
        let served = || realm.ownership.as_ref()?.epoch_of(slot.class, slot.index);
        drained.or_else(served).map_or(0, |Epoch(epoch)| epoch)
    }

    fn departed(&self) -> u64 {
        self.departures.borrow().count()
    }

    fn shard(&self) -> ShardId {
        self.config.shard
    }

    #[inline]
    fn open(&self, _: &Desk, head: &mut Head) -> Option<Rc<dyn AnyCell>> {
        if !self.direct_calls.get() || self.unsaved_full.get() {
            return None;
        }
        let last = Seen { place: head.place.index(), birth: head.birth };
        let mut table = self.table.borrow_mut();
        let open = table.open(&head.to, last, self.now.get(), |cell, id| cell.id() == id)?;
        drop(table);
        let (Seen { place, birth }, cell) = (open.seen, open.state);
        (head.place, head.birth) = (Place::new(place), birth);
        self.direct.set(self.direct.get() + 1);
        if open.newly {
            self.measure(place, &cell);
        }
        Some(cell)
    }

    fn panicked(&self, desk: &Desk, place: Place, method: &'static MethodInfo) {
        self.reset(desk, place.index(), Some(method));
    }

    fn changed(&self, place: Place) {
        self.changed_at(place.index());
    }

    fn has_reminder(&self, place: Place, label: &str, due_ms: u64) -> bool {
        self.has_reminder_at(place.index(), label, due_ms)
    }

    fn reminded(&self, place: Place, label: &str, due_ms: u64) {
        self.reminded_at(place.index(), label, due_ms);
    }

    fn enter(&self, desk: &Desk, head: &Head, method: &'static MethodInfo) -> Option<Entry> {
        if !self.direct_calls.get() || self.unsaved_full.get() {
            return None;
        }
        let place = self.place_here(head)?;
        if !self.table.borrow().is_open(place, method.mode == Mode::Exclusive) || !desk.nest() {
            return None;
        }
        let opened = self.open_turn(place, head, method);
        let cell = self.table.borrow().state(place).map(Rc::clone);
        let (Some((turn, path)), Some(cell)) = (opened, cell) else {
            desk.unnest();
            return None;
        };
        self.used(place, &cell);
        self.direct.set(self.direct.get() + 1);
        let outer_path = Some(desk.set_path(path));
        let outer = desk.begin(TurnId::new(turn), Place::new(place), head.deadline, 0);
        Some(Entry { cell, outer, outer_path })
    }

    fn leave(&self, desk: &Desk, entry: Entry) {
        let turn = desk.turn();
        desk.end(entry.outer);
        if let Some(path) = entry.outer_path {
            drop(desk.set_path(path));
        }
        desk.unnest();
        self.close_turn(desk, turn.id.index());
        self.reset(desk, turn.place.index(), None);
    }

    fn adopt(
        &self,
        desk: &Desk,
        entry: Entry,
        running: Box<dyn Running>,
        token: Token,
    ) -> Result<Option<Request>, CallError> {
        let outcome = self.first_poll(desk, entry, running, token).transpose();
        desk.unnest();
        let Some(outcome) = outcome else { return Ok(None) };
        if self.table.borrow_mut().resumes(desk.turn().id.index()).is_some() {
            return outcome.map(Some);
        }
        // Another branch of the chain has taken the caller's activation meanwhile: the caller goes on when that gives it up.
        let answer = outcome.map_or_else(Answer::Failed, Answer::Reply);
        self.push_aside(Aside::Answer(token, answer));
        Ok(None)
    }

    fn call(&self, desk: &Desk, token: Option<Token>, request: Request) {
        if let Some(token) = token {
            let turn = desk.turn().id;
            let maker = (turn != TurnId::NONE).then_some(turn.index());
            if let Some(maker) = maker {
                self.asked(maker);
            }
            self.arm_call(token, request.head().deadline, maker);
        }
        self.route(desk, request, false);
    }

    fn submit(&self, desk: &Desk, token: Option<Token>, syscall: Syscall) {
        let turn = desk.turn();
        match (syscall, token) {
            (Syscall::Call(request) | Syscall::Tell(request), token) => {
                self.call(desk, token, request);
            }
            (Syscall::Sleep { until }, Some(token)) => self.arm(token, until, Timer::Sleep(token)),
            (Syscall::Every { first, period }, Some(token)) => {
                self.keeps_time(turn.id.index(), token);
                let period_ns = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
                let turn = turn.id.index();
                self.arm(token, first, Timer::Every { token, turn, next: first, period_ns });
            }
            (Syscall::Now, Some(token)) => self.effect(Effect::Wall { token }),
            (Syscall::Random { len }, Some(token)) => self.effect(Effect::Random { token, len }),
            (Syscall::Exclusive, Some(token)) => self.want(desk, turn.id.index(), token, None),
            (Syscall::Lock { name, until }, Some(token)) => {
                self.arm(token, until, Timer::Deadline(token));
                self.want(desk, turn.id.index(), token, Some(name));
            }
            (Syscall::Release { section }, _) => self.release(desk, section),
            (Syscall::Watch { seen }, Some(token)) => self.watch(desk, seen, token),
            (Syscall::Save, Some(token)) => self.barrier(desk, turn.place.index(), token),
            (Syscall::Remind { label, due, every }, token) => {
                self.remind(desk, turn.place.index(), token, (label, due, every));
            }
            (Syscall::Forget { label }, token) => {
                self.forget_reminder(desk, turn.place.index(), token, &label);
            }
            (Syscall::Reminders, Some(token)) => {
                let all = self.reminders(turn.place.index());
                self.complete(desk, token, Answer::Reminders(all));
            }
            (Syscall::Delete, _) => self.delete(desk, turn.place.index()),
            (Syscall::Deactivate, _) => self.leaves(turn.place.index()),
            (syscall, token) => self.named_syscall(desk, turn.place.index(), token, syscall),
        }
    }

    fn spawn(&self, desk: &Desk, task: Box<dyn Running>) {
        // The state that it would work on is gone, and its place may be another's.
        if self.task(desk.turn().id.index(), |task| task.doomed) == Some(true) {
            return drop(task);
        }
        let place = desk.turn().place.index();
        // It is part of what the turn does: where that may still enter, it may.
        let path = Path::new(desk.new_chain()).born_under(desk.path().born());
        if self.add_task(place, path, task).is_none() {
            self.effect(Effect::Notice(Notice::SpawnRefused));
        }
    }

    fn give_up(&self, desk: &Desk, token: Token) {
        self.withdraw(desk, token);
        self.forget(desk, token);
    }
}

impl Core {
    /// Where the callee is active, if it is here. A call that finds it inactive is submitted: only
    /// then does it have the path on whose behalf the `activate` hook runs, and a hook that fails is
    /// tried once.
    #[inline]
    fn place_here(&self, head: &Head) -> Option<u32> {
        self.table.borrow().find(&head.to, head.place.index(), |cell, id| cell.id() == id)
    }
}
