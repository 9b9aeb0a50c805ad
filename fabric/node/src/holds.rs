//! The callee's side of a change of owners: what is let in, what waits until its slot is served, what goes back.
//!
//! # Invariants
//! - **N13** A call enters where its slot is served, or is being emptied and lets it in; nowhere else.
//! - **N14** Calls wait for their slot in the order in which they came, at most [`limits::HELD_MAX`] in all.
//! - **N15** Who holds a section does not wait for a slot for more than [`limits::SECTION_HOLD_MAX`], by however many
//!   calls: whoever still empties the slot could be waiting for that section (I6).
//! - **N16** What was said before a flush has begun, waits at its owner, or has been given back when the flush is
//!   answered.
//!
//! # Not here
//! How a lost slot is emptied (`empty`).

use std::collections::VecDeque;

use epicserver_entity::{Caller, Desk, Place, Request};
use epicserver_proto::passage::Emptying;
use epicserver_proto::{Site, SlotId};
use epicserver_wire::{ClassId, ErrorKind, ShardId, Time, limits};

use crate::config::Fault;
use crate::core::Core;
use crate::realm::{Held, Lane, Traffic};
use crate::remote::{Posted, token_of};
use crate::{Effect, Message};

/// Calls that are let in before others have their turn.
const BATCH: usize = 64;
/// Slots that are named to those who ask what is still emptied; of more, none is.
const EMPTYING_MAX: usize = 512;

impl Core {
    /// A call arrives at its callee's shard, made under the view numbered `said`.
    pub(crate) fn admit(&self, desk: &Desk, request: Request, said: u64, now: bool) {
        if self.traffic.get() == Traffic::Alone && said == self.number.get() {
            return self.deliver(desk, request, now);
        }
        let site = self.realm.borrow().ownership.as_ref().map(|o| o.site(request.to()));
        match site {
            Some(site) => self.admit_at(desk, request, (site, said), now),
            None => self.keep_waiting(desk, request, said),
        }
    }

    /// The same, of which it is known where its slot is.
    #[inline]
    pub(crate) fn admit_at(
        &self,
        desk: &Desk,
        request: Request,
        (site, said): (Site, u64),
        now: bool,
    ) {
        let calm = self.traffic.get() != Traffic::Busy && said == self.number.get();
        if site == Site::Served && calm {
            return self.deliver(desk, request, now);
        }
        self.admit_slowly(desk, request, (site, said), now);
    }

    fn admit_slowly(&self, desk: &Desk, request: Request, (site, said): (Site, u64), now: bool) {
        let slot = SlotId::of(request.to());
        let (enters, waits, goes_back, ahead) = {
            let realm = &*self.realm.borrow();
            let held = realm.held.contains_key(&slot);
            let is_mine =
                matches!(site, Site::Served | Site::Awaited) && realm.tenure.covers(slot, said);
            let drain = realm.drains.get(&slot);
            let enters = match drain {
                Some(_) => self.may_enter(realm, slot, &request),
                None => site == Site::Served && is_mine && !held,
            };
            let ahead = (!is_mine && said > realm.number()).then_some(said);
            // What came before may still be in a mailbox, or wait, from where it goes back first.
            let unswept = drain.is_some_and(|drain| !drain.swept);
            let goes_back = !is_mine && (unswept || (held && realm.is_sweeping()));
            let waits = is_mine || ahead.is_some() || goes_back;
            (enters || slot.class == ClassId::STATELESS, waits, goes_back, ahead)
        };
        if enters {
            return self.deliver(desk, request, now);
        }
        if !waits {
            return self.give_back(desk, request);
        }
        if let Some(view) = ahead {
            self.behind(view);
        }
        if goes_back {
            // Behind those that a sweep finds there.
            self.realm.borrow_mut().sweeps.push_back(slot);
        }
        self.keep_waiting(desk, request, said);
        self.schedule_sweep();
    }

    /// The view that whoever of this node made a call has announced.
    pub(crate) fn view_of(&self, caller: Caller) -> u64 {
        let realm = self.realm.borrow();
        match caller {
            Caller::Token { shard, .. } | Caller::Teller { shard } if shard != self.shard_id() => {
                realm.views.get(shard.index()).copied().unwrap_or(0)
            }
            Caller::Nobody
            | Caller::Token { .. }
            | Caller::Teller { .. }
            | Caller::Remote { .. }
            | Caller::RemoteTeller { .. } => realm.number(),
        }
    }

    /// A call waits for its slot to be served, or for the view that says whose it is (**N14**).
    fn keep_waiting(&self, desk: &Desk, request: Request, said: u64) {
        if self.realm.borrow().held_count >= limits::HELD_MAX as usize {
            return self.refuse(desk, request, ErrorKind::Overloaded);
        }
        if let Some(token) = self.own_token(&request) {
            self.set_way(token, crate::tokens::Way::Waits);
        }
        let since = self.waits_since(&request, said);
        if request.head().path.holds_any() {
            let due = since + limits::SECTION_HOLD_MAX;
            self.hold_due.set(self.hold_due.get().min(due));
        }
        {
            let mut realm = self.realm.borrow_mut();
            let held = Held { request, since, said };
            realm.held.entry(SlotId::of(held.request.to())).or_default().push_back(held);
            realm.held_count += 1;
        }
        self.count(|c| c.held += 1);
        self.tune();
    }

    /// Since when a call waits that comes now. For a slot that is not served yet all have waited since the view that
    /// gave it: a section would be held for ever by one call after another (**N15**).
    fn waits_since(&self, request: &Request, said: u64) -> Time {
        let realm = self.realm.borrow();
        let site = realm.ownership.as_ref().map(|ownership| ownership.site(request.to()));
        let awaited = site == Some(Site::Awaited) && said <= realm.number();
        if awaited { realm.since } else { self.time() }
    }

    /// The token of a call of this very shard.
    fn own_token(&self, request: &Request) -> Option<epicserver_wire::Token> {
        token_of(request).filter(|token| {
            request.head().caller == Caller::Token { shard: self.shard_id(), token: *token }
        })
    }

    /// Those that have held a section for too long while they waited are refused (**N15**).
    pub(crate) fn refuse_holders(&self, desk: &Desk) {
        let (mut late, mut next) = (Vec::new(), Time::MAX);
        {
            let realm = &mut *self.realm.borrow_mut();
            let due = |held: &Held| match held.request.head().path.holds_any() {
                true => held.since + limits::SECTION_HOLD_MAX,
                false => Time::MAX,
            };
            let is_late = |held: &Held| due(held) <= self.time();
            for held in realm.held.values_mut() {
                let (gone, stay) = std::mem::take(held).into_iter().partition(is_late);
                *held = stay;
                let gone: VecDeque<Held> = gone;
                late.extend(gone.into_iter().map(|held| held.request));
                next = held.iter().map(due).chain([next]).min().unwrap_or(next);
            }
            realm.held.retain(|_, held| !held.is_empty());
            realm.held_count -= late.len();
        }
        self.hold_due.set(next);
        late.into_iter().for_each(|request| self.refuse(desk, request, ErrorKind::WouldDeadlock));
        self.trim(desk);
    }

    /// Those that wait for `slot` go back if it was not this node's all the time, and a few of the others go in if
    /// they may by now. Says whether more may.
    pub(crate) fn release_held(&self, desk: &Desk, slot: SlotId) -> bool {
        for held in self.take_lost(slot) {
            if let Some(request) = self.revived(desk, held.request) {
                self.give_back(desk, request);
            }
        }
        for _ in 0..BATCH {
            let Some(held) = self.take_held(slot) else { return false };
            if self.config.fault == Some(Fault::DropHeldCalls) {
                held.request.recycle();
                continue;
            }
            if let Some(request) = self.revived(desk, held.request) {
                self.deliver(desk, request, false);
            }
        }
        true
    }

    /// Takes out those that do not wait for this node any more.
    fn take_lost(&self, slot: SlotId) -> VecDeque<Held> {
        let realm = &mut *self.realm.borrow_mut();
        let is_mine = realm.ownership.as_ref().is_some_and(|ownership| {
            matches!(ownership.site_of(slot), Site::Served | Site::Awaited)
        });
        let Some(held) = realm.held.remove(&slot) else { return VecDeque::new() };
        let stays = |held: &Held| {
            held.said > realm.number() || (is_mine && realm.tenure.covers(slot, held.said))
        };
        let (stay, lost): (VecDeque<Held>, VecDeque<Held>) = held.into_iter().partition(stays);
        realm.held_count -= lost.len();
        if !stay.is_empty() {
            realm.held.insert(slot, stay);
        }
        lost
    }

    /// Takes the first out, if it may go in.
    fn take_held(&self, slot: SlotId) -> Option<Held> {
        let realm = &mut *self.realm.borrow_mut();
        let served = realm.ownership.as_ref()?.site_of(slot) == Site::Served;
        // What is emptied first, and served anew, lets nobody in meanwhile.
        if !served || realm.drains.contains_key(&slot) {
            return None;
        }
        let held = realm.held.get_mut(&slot)?;
        let one = held.pop_front();
        if held.is_empty() {
            realm.held.remove(&slot);
        }
        realm.held_count -= usize::from(one.is_some());
        one
    }

    /// A call that has waited here, unless nothing is to become of it any more.
    fn revived(&self, desk: &Desk, request: Request) -> Option<Request> {
        let Some(token) = self.own_token(&request) else { return Some(request) };
        let posted = Posted { token: Some(token), maker: Place::NONE, tried: None, request };
        self.revive(desk, posted).map(|posted| posted.request)
    }

    /// A call that has not begun goes back to where it was made.
    pub(crate) fn give_back(&self, desk: &Desk, request: Request) {
        let view = self.realm.borrow().number();
        let me = self.shard_id();
        match request.head().caller {
            Caller::Remote { link, shard, token } => {
                self.return_to(link, shard, Some(token), request);
            }
            Caller::RemoteTeller { .. } | Caller::Teller { .. } if self.loses_tells() => {
                request.recycle();
            }
            Caller::RemoteTeller { link, shard } => self.return_to(link, shard, None, request),
            Caller::Token { shard, .. } | Caller::Teller { shard } if shard != me => {
                let message = Message::Returned { from: me, view, request };
                self.effect(Effect::Send { to: shard, message });
            }
            Caller::Nobody | Caller::Token { .. } | Caller::Teller { .. } => {
                let token = token_of(&request);
                let posted = Posted { token, maker: Posted::ANY, tried: None, request };
                self.came_back(desk, Lane::Here(me), view, posted);
            }
        }
    }

    fn loses_tells(&self) -> bool {
        self.config.fault == Some(Fault::ReturnedTellLost)
    }

    /// Another shard of this node gives a call back.
    pub(crate) fn returned(&self, desk: &Desk, (from, view): (ShardId, u64), mut request: Request) {
        let token = token_of(&request);
        if token.is_none() {
            request.head_mut().caller = Caller::Nobody;
        }
        let posted = Posted { token, maker: Posted::ANY, tried: None, request };
        self.came_back(desk, Lane::Here(from), view, posted);
    }

    /// Another shard wants to be told once all that it said before is decided.
    pub(crate) fn flush_asked(&self, desk: &Desk, lane: Lane, view: u64) {
        self.realm.borrow_mut().flushes.push((lane, view));
        self.behind(view);
        self.answer_flushes(desk);
    }

    /// Another shard of this node speaks under `view` from now on, and wants to be told once all is decided.
    pub(crate) fn flush_of(&self, desk: &Desk, from: ShardId, view: u64) {
        if view < self.realm.borrow().first {
            return;
        }
        if let Some(known) = self.realm.borrow_mut().views.get_mut(from.index()) {
            *known = view;
        }
        self.tunes.set(true);
        self.flush_asked(desk, Lane::Here(from), view);
    }

    /// Answers those whose calls are decided (**N16**).
    pub(crate) fn answer_flushes(&self, desk: &Desk) {
        let (number, emptying, due) = {
            let realm = &mut *self.realm.borrow_mut();
            if realm.is_sweeping() {
                return;
            }
            let number = realm.number();
            let (due, later) = std::mem::take(&mut realm.flushes)
                .into_iter()
                .partition(|(_, view)| *view <= number);
            realm.flushes = later;
            let due: Vec<(Lane, u64)> = due;
            let emptying = match realm.drains.len() {
                0..=EMPTYING_MAX => Emptying::These(realm.drains.keys().copied().collect()),
                _ => Emptying::Any,
            };
            (number, emptying, due)
        };
        let me = Lane::Here(self.shard_id());
        for (lane, view) in due {
            match lane {
                Lane::Here(to) if lane != me => {
                    let emptying = emptying.clone();
                    let message = Message::Flushed { from: self.shard_id(), view, emptying };
                    self.effect(Effect::Send { to, message });
                }
                Lane::Here(_) => {}
                Lane::There(link, shard) => self.flushed_by(link, shard, view, &emptying),
            }
        }
        // What this shard said to itself is decided too.
        while self.realm.borrow().ways[self.shard_id().index()].is_pending() {
            if self.flushed(desk, me, number, emptying.clone()).is_err() {
                unreachable!("PA1: a passage that is pending has been asked");
            }
        }
    }
}
