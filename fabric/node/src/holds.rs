//! The callee's side of a change of owners: what is let in, what waits until its slot is served, what goes back.
//!
//! # Invariants
//! - **N13** A call enters where its slot is served, or is being emptied and lets it in; nowhere else.
//! - **N14** Calls wait for their slot in the order in which they came, at most [`limits::HELD_MAX`] in all.
//! - **N15** Who holds a section does not wait for a slot for more than [`limits::SECTION_HOLD_MAX`]: whoever still
//!   empties the slot could be waiting for that section (I6).
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
use crate::realm::{Held, Lane, Realm, Traffic};
use crate::remote::{Posted, token_of};
use crate::{Effect, Message};

/// Calls that are let in, or given back, before others have their turn.
const BATCH: usize = 64;
/// Slots that are named to those who ask what is still emptied; of more, none is.
const EMPTYING_MAX: usize = 512;

impl Core {
    /// A call arrives at its callee's shard.
    pub(crate) fn admit(&self, desk: &Desk, request: Request, now: bool) {
        if self.traffic.get() == Traffic::Alone {
            return self.deliver(desk, request, now);
        }
        let site = self.realm.borrow().ownership.as_ref().map(|o| o.site(request.to()));
        match site {
            Some(site) => self.admit_at(desk, request, site, now),
            None => self.keep_waiting(desk, request),
        }
    }

    /// The same, of which it is known where its slot is.
    #[inline]
    pub(crate) fn admit_at(&self, desk: &Desk, request: Request, site: Site, now: bool) {
        if site == Site::Served && self.traffic.get() != Traffic::Busy {
            return self.deliver(desk, request, now);
        }
        self.admit_slowly(desk, request, site, now);
    }

    fn admit_slowly(&self, desk: &Desk, request: Request, site: Site, now: bool) {
        let slot = SlotId::of(request.to());
        let is_mine = matches!(site, Site::Served | Site::Awaited);
        let (enters, waits, ahead) = {
            let realm = &*self.realm.borrow();
            let drains = realm.drains.contains_key(&slot);
            let enters = match drains {
                true => self.may_enter(realm, slot, &request),
                false => site == Site::Served && !realm.held.contains_key(&slot),
            };
            let view = self.view_of(realm, request.head().caller);
            let ahead = (!is_mine && view > realm.number()).then_some(view);
            // What came before may still be in a mailbox, from where it goes back first.
            let unswept = realm.drains.get(&slot).is_some_and(|drain| !drain.swept);
            let held = realm.held.contains_key(&slot);
            let waits = is_mine || ahead.is_some() || unswept || held;
            (enters || slot.class == ClassId::STATELESS, waits, ahead)
        };
        if enters {
            return self.deliver(desk, request, now);
        }
        if let Some(view) = ahead {
            self.behind(view);
        }
        match waits {
            true => self.keep_waiting(desk, request),
            false => self.give_back(desk, request),
        }
    }

    /// The view that whoever made a call has announced.
    fn view_of(&self, realm: &Realm, caller: Caller) -> u64 {
        match caller {
            Caller::Remote { link, shard, .. } | Caller::RemoteTeller { link, shard } => {
                self.remote.borrow_mut().view_of(link, shard)
            }
            Caller::Token { shard, .. } | Caller::Teller { shard } if shard != self.shard_id() => {
                realm.views.get(shard.index()).copied().unwrap_or(0)
            }
            Caller::Nobody | Caller::Token { .. } | Caller::Teller { .. } => realm.number(),
        }
    }

    /// A call waits for its slot to be served, or for the view that says whose it is (**N14**).
    fn keep_waiting(&self, desk: &Desk, request: Request) {
        if self.realm.borrow().held_count >= limits::HELD_MAX as usize {
            return self.refuse(desk, request, ErrorKind::Overloaded);
        }
        if let Some(token) = self.own_token(&request) {
            self.set_way(token, crate::tokens::Way::Waits);
        }
        if request.head().path.holds_any() {
            let due = self.time() + limits::SECTION_HOLD_MAX;
            self.hold_due.set(self.hold_due.get().min(due));
        }
        {
            let mut realm = self.realm.borrow_mut();
            let held = Held { request, since: self.time() };
            realm.held.entry(SlotId::of(held.request.to())).or_default().push_back(held);
            realm.held_count += 1;
        }
        self.count(|c| c.held += 1);
        self.tune();
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
        self.trim();
    }

    /// A few of those that wait for `slot` go in or back, if they may by now. Says whether more may.
    pub(crate) fn release_held(&self, desk: &Desk, slot: SlotId) -> bool {
        for _ in 0..BATCH {
            let site = {
                let realm = &*self.realm.borrow();
                let Some(ownership) = &realm.ownership else { return false };
                let site = ownership.site_of(slot);
                let mine = matches!(site, Site::Served | Site::Awaited);
                // What is emptied first, and served anew, lets nobody in meanwhile.
                if mine && (site == Site::Awaited || realm.drains.contains_key(&slot)) {
                    return false;
                }
                site
            };
            let Some(request) = self.take_held(slot) else { return false };
            if self.config.fault == Some(Fault::DropHeldCalls) {
                request.recycle();
                continue;
            }
            self.let_go(desk, request, site);
        }
        true
    }

    fn take_held(&self, slot: SlotId) -> Option<Request> {
        let realm = &mut *self.realm.borrow_mut();
        let held = realm.held.get_mut(&slot)?;
        let one = held.pop_front();
        if held.is_empty() {
            realm.held.remove(&slot);
        }
        realm.held_count -= usize::from(one.is_some());
        one.map(|held| held.request)
    }

    fn let_go(&self, desk: &Desk, request: Request, site: Site) {
        let own = self.own_token(&request);
        let posted = Posted { token: own, maker: Place::NONE, tried: false, request };
        let request = match own {
            Some(_) => match self.revive(desk, posted) {
                Some(posted) => posted.request,
                None => return,
            },
            None => posted.request,
        };
        match site {
            Site::Served => self.deliver(desk, request, false),
            Site::Awaited | Site::There(_) | Site::Nowhere => self.give_back(desk, request),
        }
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
                let posted = Posted { token, maker: Posted::ANY, tried: true, request };
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
        let posted = Posted { token, maker: Posted::ANY, tried: true, request };
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
        if let Some(known) = self.realm.borrow_mut().views.get_mut(from.index()) {
            *known = view;
        }
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
                unreachable!("PA3: a passage that is pending has been asked");
            }
        }
    }
}
