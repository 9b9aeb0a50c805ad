//! The old owner's side of a change of owners: slots that are lost become empty.
//!
//! What has not begun goes back to where it was made. Chains that began before the slot was lost are let in for a
//! while: a turn that waits here, or in another slot that is being emptied, may wait for them, and they are ever
//! fewer. An activation of which nothing runs any more is collected; what still runs at the end is ended.
//!
//! # Invariants
//! - **N17** One step of the loop looks at no more than [`BATCH`] activations.
//! - **N18** A slot is empty once, and is said to be, for each time that it is lost; after that nothing of it runs.
//! - **N19** A slot is empty at most [`limits::DRAIN_MAX`] after it was lost, if the shard runs.
//!
//! # Not here
//! Who owns the slot now, and when he may serve it.

use std::collections::BTreeSet;

use epicserver_entity::{Caller, Desk, Head, Request, Target};
use epicserver_proto::{Epoch, SlotId};
use epicserver_wire::frame::{Frame, Part};
use epicserver_wire::{ErrorKind, Time, limits};

use crate::Effect;
use crate::config::Fault;
use crate::core::{Core, Mail, Ready};
use crate::realm::{Drain, Lane, Realm, Stage};

/// Activations that are looked at in one step.
const BATCH: u32 = 64;

impl Core {
    /// These slots are lost by the view numbered `view`.
    pub(crate) fn lose(&self, slots: impl IntoIterator<Item = (SlotId, Epoch)>, view: u64) {
        let table = self.table.borrow();
        let realm = &mut *self.realm.borrow_mut();
        let since = self.time();
        for (slot, epoch) in slots {
            if realm.drains.contains_key(&slot) {
                continue;
            }
            if table.is_vacant(slot) {
                realm.drained.push(slot);
                continue;
            }
            let stage = Stage::First;
            let drain = Drain { epoch, view, since, stage, swept: false, kept: false };
            realm.drains.insert(slot, drain);
            realm.sweeps.push_back(slot);
            if self.drains_too_soon() {
                realm.drained.push(slot);
            }
        }
        if !realm.drains.is_empty() {
            let next = since + limits::DRAIN_OPEN_MAX;
            self.drain_due.set(self.drain_due.get().min(next));
        }
    }

    fn drains_too_soon(&self) -> bool {
        self.config.fault == Some(Fault::DrainedTooSoon)
    }

    /// Whether `slot` is being emptied: what becomes active there is too.
    pub(crate) fn is_emptied(&self, slot: Option<SlotId>) -> bool {
        slot.is_some_and(|slot| self.realm.borrow().drains.contains_key(&slot))
    }

    /// The view by which the slot of `place` was lost, if it is being emptied.
    pub(crate) fn lost_by(&self, place: u32) -> Option<u64> {
        let slot = self.table.borrow().slot_of(place)?;
        self.realm.borrow().drains.get(&slot).map(|drain| drain.view)
    }

    /// Whether a call may enter `slot`, which is lost.
    pub(crate) fn may_enter(&self, realm: &Realm, slot: SlotId, request: &Request) -> bool {
        let Some(drain) = realm.drains.get(&slot) else { return false };
        let (table, head) = (self.table.borrow(), request.head());
        let place = table.find(&head.to, head.place.index(), |cell, id| cell.id() == id);
        let chain = head.path.chain();
        place.is_some_and(|place| table.has_turn_of(place, chain)) || self.is_old(drain, request)
    }

    /// Whether the chain of a call began before the slot was lost, and that still counts.
    fn is_old(&self, drain: &Drain, request: &Request) -> bool {
        drain.stage == Stage::First
            && request.head().path.born().is_before(drain.view)
            && self.config.fault != Some(Fault::OldChainsTurnedAway)
    }

    /// Has the slots that are listed looked through soon.
    pub(crate) fn schedule_sweep(&self) {
        if self.realm.borrow().is_sweeping() && !self.sweep_ready.replace(true) {
            self.push(Ready::Sweep);
        }
    }

    /// Looks at a few activations of lost slots (**N17**).
    pub(crate) fn sweep(&self, desk: &Desk) {
        self.sweep_ready.set(false);
        for _ in 0..BATCH {
            let Some((slot, drain)) = self.next_swept() else {
                self.answer_flushes(desk);
                return self.trim(desk);
            };
            let place = drain.and_then(|_| self.table.borrow_mut().next_swept());
            match (place, drain) {
                (Some(place), Some(drain)) => self.empty(desk, place, &drain),
                _ => {
                    if let Some(drain) = self.realm.borrow_mut().drains.get_mut(&slot) {
                        drain.swept = true;
                    }
                    if self.release_held(desk, slot) {
                        break;
                    }
                    self.realm.borrow_mut().sweeping = None;
                }
            }
        }
        self.schedule_sweep();
    }

    /// The slot that is looked through, or the next one.
    fn next_swept(&self) -> Option<(SlotId, Option<Drain>)> {
        let realm = &mut *self.realm.borrow_mut();
        let slot = match realm.sweeping {
            Some(slot) => slot,
            None => {
                let slot = realm.sweeps.pop_front()?;
                realm.sweeping = Some(slot);
                self.table.borrow_mut().sweep(slot);
                slot
            }
        };
        Some((slot, realm.drains.get(&slot).copied()))
    }

    /// An activation of a lost slot: what may not enter goes back, and it ends if nothing of it runs.
    fn empty(&self, desk: &Desk, place: u32, drain: &Drain) {
        self.table.borrow_mut().set_emptied(place);
        let over = drain.stage == Stage::Over;
        let mut stays = self.stays(place, drain).into_iter();
        let gone = self.table.borrow_mut().withdraw_all(place, |mail| {
            let stays = stays.next() == Some(true);
            matches!(mail, Mail::Call(_)) && (over || !stays)
        });
        for mail in gone {
            let Mail::Call(request) = mail else { continue };
            // What was kept for a turn that is ended now would come behind what its caller has said since, and was
            // given back before it (I4).
            let chain = request.head().path.chain();
            if over && (drain.kept || self.table.borrow().has_turn_of(place, chain)) {
                self.refuse(desk, request, ErrorKind::Moved);
            } else {
                self.turn_away(desk, place, request);
            }
        }
        if over {
            return self.end_all(desk, place);
        }
        let idle = self.table.borrow().is_idle(place, |turn| self.may_end(desk, turn));
        if idle {
            self.end(desk, place);
        } else {
            self.look_again(place);
        }
    }

    /// Which of those that wait at an activation stay there, in their order: who may still enter, and tells that stand
    /// before a call which may for the sake of a turn, with all that stands before those. Once the turn has ended the
    /// call does not pass the tells any more, and they have to begin here too (I4). Whose tell it is nobody knows here,
    /// but by which way it came.
    fn stays(&self, place: u32, drain: &Drain) -> Vec<bool> {
        let table = self.table.borrow();
        let mail: Vec<&Mail> = table.waiting(place).collect();
        let (mut lanes, mut told) = (BTreeSet::new(), BTreeSet::new());
        let look = |mail: &&Mail| {
            let Mail::Call(request) = mail else { return true };
            let Head { caller, path, .. } = request.head();
            let (old, lane) = (self.is_old(drain, request), self.lane_of(*caller));
            let parked = table.has_turn_of(place, path.chain());
            if parked && !old {
                lanes.insert(lane);
            }
            if is_tell(*caller) && lanes.contains(&lane) {
                told.insert(lane);
            }
            old || parked || told.contains(&lane)
        };
        let mut stays: Vec<bool> = mail.iter().rev().map(look).collect();
        stays.reverse();
        stays
    }

    /// By which way a call came.
    fn lane_of(&self, caller: Caller) -> Lane {
        match caller {
            Caller::Nobody => Lane::Here(self.shard_id()),
            Caller::Token { shard, .. } | Caller::Teller { shard } => Lane::Here(shard),
            Caller::Remote { link, shard, .. } | Caller::RemoteTeller { link, shard } => {
                Lane::There(link, shard)
            }
        }
    }

    fn turn_away(&self, desk: &Desk, place: u32, request: Request) {
        if self.config.fault == Some(Fault::MovedButRan) {
            let args = request.encode_args().map(|args| Frame::copy_of(&args));
            let target = Target::new(request.to().clone());
            let copy = args.and_then(|args| (request.method().read)(target, Part::all(&args)));
            copy.into_iter().for_each(|copy| self.start(desk, place, copy));
        }
        self.give_back(desk, request);
    }

    /// Ends whatever runs at an activation, and the activation.
    fn end_all(&self, desk: &Desk, place: u32) {
        let turns: Vec<u32> = self.table.borrow().turns_of(place).collect();
        self.count(|c| c.forced += u64::from(!turns.is_empty()));
        for turn in turns {
            self.end_turn(desk, turn, ErrorKind::Moved);
        }
        self.end(desk, place);
    }

    /// Time has passed for slots that are being emptied.
    pub(crate) fn press(&self) {
        let (now, mut next) = (self.time(), Time::MAX);
        {
            let realm = &mut *self.realm.borrow_mut();
            for (slot, drain) in &mut realm.drains {
                let (stage, due) = match drain.since {
                    since if since + limits::DRAIN_MAX <= now => (Stage::Over, Time::MAX),
                    since if since + limits::DRAIN_OPEN_MAX <= now => {
                        (Stage::Last, since + limits::DRAIN_MAX)
                    }
                    since => (Stage::First, since + limits::DRAIN_OPEN_MAX),
                };
                next = next.min(due);
                if stage > drain.stage {
                    drain.kept = drain.stage == Stage::Last && drain.swept;
                    (drain.stage, drain.swept) = (stage, false);
                    realm.sweeps.push_back(*slot);
                }
            }
        }
        self.drain_due.set(next);
        self.schedule_sweep();
    }

    /// An activation of `slot` is gone.
    pub(crate) fn vacated(&self, slot: SlotId) {
        let realm = &mut *self.realm.borrow_mut();
        if !realm.drains.contains_key(&slot) || !self.table.borrow().is_vacant(slot) {
            return;
        }
        realm.drains.remove(&slot);
        if !self.drains_too_soon() {
            realm.drained.push(slot);
        }
        realm.reports = true;
        if realm.held.contains_key(&slot) && realm.sweeping != Some(slot) {
            realm.sweeps.push_back(slot);
        }
        self.tunes.set(true);
    }

    /// The host is told which slots have become empty (**N18**).
    pub(crate) fn report(&self) {
        let realm = &mut *self.realm.borrow_mut();
        if std::mem::take(&mut realm.reports) {
            let (view, slots) = (realm.number(), std::mem::take(&mut realm.drained));
            let left = u32::try_from(realm.drains.len()).unwrap_or(u32::MAX);
            self.effect(Effect::Drained { view, slots, left });
        }
    }
}

fn is_tell(caller: Caller) -> bool {
    match caller {
        Caller::Nobody | Caller::Teller { .. } | Caller::RemoteTeller { .. } => true,
        Caller::Token { .. } | Caller::Remote { .. } => false,
    }
}
