//! The caller's side of a change of owners: what may leave, and what waits until its old owner has had its say.
//!
//! # Invariants
//! - **N11** A call leaves for the new owner of its slot once each one who lost the slot, and can be reached, has
//!   given back what it had of this shard's calls, or lets it in itself (I3, I4).
//! - **N24** As long as anything of a slot waits here, for whatever reason, all that is said of the slot later waits
//!   behind it in one line (I4). What was given back waits until whoever did has decided all that was said to him.
//! - **N12** What waits here for a view or a flush is at most [`limits::UNSENT_MAX`], and has not run.
//!
//! # Not here
//! What the old owner does (`empty`). Links that have no room (`remote`).

use epicserver_entity::{Caller, Desk};
use epicserver_proto::passage::{Emptying, Passage, Verdict};
use epicserver_proto::{Lines, Lost, Site, SlotId};
use epicserver_wire::header::Violation;
use epicserver_wire::{ClassId, ErrorKind, NodeId, limits};

use crate::config::Fault;
use crate::core::Core;
use crate::realm::{Lane, Realm, Traffic};
use crate::remote::{Posted, Remote};
use crate::tokens::Way;
use crate::{Effect, Message};

/// What is to be done with a call while slots are on the move.
enum Step {
    Go,
    Wait(Lane),
    Try(Lane),
}

/// The passage to `lane`, if it can be reached.
fn passage_to<'a>(
    realm: &'a mut Realm,
    remote: &'a mut Remote,
    lane: Lane,
) -> Option<&'a mut Passage> {
    match lane {
        Lane::Here(shard) => realm.ways.get_mut(shard.index()),
        Lane::There(link, shard) => remote.by_link(link)?.1.passages.get_mut(shard.index()),
    }
}

impl Core {
    /// Sends a call to whoever owns its callee.
    pub(crate) fn direct(&self, desk: &Desk, posted: Posted, now: bool) {
        let Some(site) = self.site_of(&posted) else {
            return self.stand(desk, posted, |lines, slot, posted| {
                lines.push(slot, posted);
                lines.await_view(slot, 1);
            });
        };
        let posted = match self.traffic.get() {
            Traffic::Alone | Traffic::Calm => posted,
            Traffic::Busy => match self.in_turn(desk, posted).and_then(|p| self.pass(desk, p)) {
                Some(posted) => posted,
                None => return,
            },
        };
        self.to_owner(desk, site, posted, now);
    }

    /// Where its callee is, if there is a view.
    fn site_of(&self, posted: &Posted) -> Option<Site> {
        self.realm.borrow().ownership.as_ref().map(|o| o.site(posted.request.to()))
    }

    fn to_owner(&self, desk: &Desk, site: Site, posted: Posted, now: bool) {
        match site {
            Site::Served | Site::Awaited => self.to_shard(desk, posted.request, site, now),
            Site::There(at) => self.post_to_member(desk, at, posted),
            Site::Nowhere if posted.request.to().class() == ClassId::STATELESS => {
                self.deliver(desk, posted.request, now);
            }
            Site::Nowhere => self.refuse(desk, posted.request, ErrorKind::Nowhere),
        }
    }

    /// Gives the call back unless something of its slot waits here: it waits behind that (**N24**).
    fn in_turn(&self, desk: &Desk, posted: Posted) -> Option<Posted> {
        if !self.realm.borrow().lines.has(SlotId::of(posted.request.to())) {
            return Some(posted);
        }
        self.stand(desk, posted, Lines::push);
        None
    }

    /// Gives the call back if it may go to its owner (**N11**). It is the first that waits of its slot, if any does.
    fn pass(&self, desk: &Desk, posted: Posted) -> Option<Posted> {
        let step = {
            let (realm, remote) = (&mut *self.realm.borrow_mut(), &mut *self.remote.borrow_mut());
            self.step_of(realm, remote, &posted)
        };
        match step {
            Step::Go => return Some(posted),
            Step::Wait(lane) => self.await_answer(desk, posted, lane),
            Step::Try(Lane::Here(shard)) if shard == self.shard_id() => {
                self.deliver(desk, posted.request, false);
            }
            Step::Try(lane) => {
                {
                    let (realm, remote) =
                        (&mut *self.realm.borrow_mut(), &mut *self.remote.borrow_mut());
                    if let Some(passage) = passage_to(realm, remote, lane) {
                        passage.try_one();
                    }
                    // It may come back, and then goes before those that are made from now on (I4).
                    realm.tried = true;
                    self.direct_calls.set(false);
                }
                self.count(|c| c.tried += 1);
                let stays = match lane {
                    Lane::Here(shard) => {
                        let Posted { request, token, maker, tried } = posted;
                        let stays = self.to_ring(shard, request);
                        stays.map(|request| Posted { request, token, maker, tried })
                    }
                    Lane::There(link, _) => self.post_now(desk, link, posted),
                };
                if let Some(posted) = stays {
                    // A flush must find nothing on its way there that has not left.
                    self.await_answer(desk, posted, lane);
                }
            }
        }
        None
    }

    fn step_of(&self, realm: &mut Realm, remote: &mut Remote, posted: &Posted) -> Step {
        let Some(ownership) = realm.ownership.clone() else { return Step::Go };
        let (to, slot) = (posted.request.to(), SlotId::of(posted.request.to()));
        let losers: Vec<Lost> = realm.trail.losers(&ownership, slot).collect();
        let owner = ownership.directory().owner_of(slot.class, slot.index);
        // Those who lost it after whoever has given it back may let it in, as they do what was made later.
        let gave = |lost: &Lost| {
            posted.tried.is_some_and(|(node, view)| lost.node == node && lost.view <= view)
        };
        let untried = losers.iter().rposition(gave).map_or(0, |at| at + 1);
        for (at, lost) in losers.into_iter().enumerate() {
            let lane = if lost.node == ownership.me() {
                Lane::Here(to.shard(self.config.shards))
            } else if let Some(link) = remote.link_to(lost.node) {
                Lane::There(link.id, link.lane_of(to))
            } else {
                realm.bypassed.insert((slot, lost.node), lost.view);
                continue;
            };
            // Whoever was passed by has nothing, and would let in what was made after it (I4), though he can be
            // reached by now.
            if realm.bypassed.get(&(slot, lost.node)).is_some_and(|view| lost.view <= *view) {
                continue;
            }
            let Some(passage) = passage_to(realm, remote, lane) else { continue };
            let began_before = posted.request.head().path.born().is_before(lost.view);
            let may_try = at >= untried && owner != Some(lost.node) && began_before;
            match passage.verdict(lost.view, slot, may_try) {
                Verdict::Clear => {}
                Verdict::Wait if self.config.fault == Some(Fault::ResendBeforeFlushed) => {}
                Verdict::Wait => return Step::Wait(lane),
                Verdict::Try if lane != Lane::Here(self.shard_id()) => return Step::Try(lane),
                Verdict::Try if self.may_enter(realm, slot, &posted.request) => {
                    return Step::Try(lane);
                }
                // What was let in before may still have to go back.
                Verdict::Try if realm.drains.get(&slot).is_some_and(|drain| !drain.swept) => {
                    return Step::Wait(lane);
                }
                Verdict::Try => {}
            }
        }
        Step::Go
    }

    /// A call that is the first of its slot waits until `lane` has decided what was said to it.
    fn await_answer(&self, desk: &Desk, posted: Posted, lane: Lane) {
        self.stand(desk, posted, |lines, slot, posted| {
            lines.push_first(slot, posted);
            lines.await_lane(slot, lane);
        });
        self.ask_unless_asked(desk, lane);
    }

    /// A call that has not left waits before all that waits of its slot, but for what left before and was given back.
    pub(crate) fn stand_first(&self, desk: &Desk, posted: Posted) {
        if let Some(posted) = self.revive(desk, posted) {
            self.stand(desk, posted, Lines::push_first);
        }
    }

    /// Has a call wait where `put` puts it. If somebody is said to wait for it, somebody does.
    fn stand(
        &self,
        desk: &Desk,
        posted: Posted,
        put: impl FnOnce(&mut Lines<Lane, Posted>, SlotId, Posted),
    ) {
        if self.evicting.get() {
            return posted.request.recycle();
        }
        if !self.may_queue(desk) {
            return self.refuse(desk, posted.request, ErrorKind::Overloaded);
        }
        if let Some(token) = posted.token {
            self.set_way(token, Way::Waits);
        }
        let slot = SlotId::of(posted.request.to());
        put(&mut self.realm.borrow_mut().lines, slot, posted);
        self.direct_calls.set(false);
        if self.traffic.get() != Traffic::Busy {
            self.tune();
        }
    }

    /// Whether one more may wait (**N12**). Those that have given up take no room.
    fn may_queue(&self, desk: &Desk) -> bool {
        let full = || self.realm.borrow().lines.len() >= limits::UNSENT_MAX as usize;
        if full() && self.purged.replace(self.time()) != self.time() {
            let is_late = |posted: &Posted| self.is_late(desk, posted);
            let late = self.realm.borrow_mut().lines.extract(is_late);
            late.into_iter().for_each(|posted| self.end_late(desk, posted));
        }
        !full()
    }

    /// Whether nothing is to become of a call any more: its deadline has passed.
    pub(crate) fn is_late(&self, desk: &Desk, posted: &Posted) -> bool {
        let waits = posted.token.is_some_and(|token| desk.tickets().borrow_mut().waits(token));
        !waits && posted.request.head().deadline <= self.time()
    }

    pub(crate) fn end_late(&self, desk: &Desk, posted: Posted) {
        match posted.token {
            // Its caller was told when the deadline passed.
            Some(_) => posted.request.recycle(),
            None => self.refuse(desk, posted.request, ErrorKind::Deadline),
        }
    }

    /// A call that has waited goes on, unless its deadline has passed. Whoever gave up the answer did not give up
    /// the work: it goes on as a tell.
    pub(crate) fn revive(&self, desk: &Desk, mut posted: Posted) -> Option<Posted> {
        if self.is_late(desk, &posted) {
            self.end_late(desk, posted);
            return None;
        }
        self.drop_token(desk, &mut posted);
        if let Some(token) = posted.token {
            self.set_way(token, Way::Here);
        }
        Some(posted)
    }

    /// If its maker has given up the answer, a call is a tell from now on.
    pub(crate) fn drop_token(&self, desk: &Desk, posted: &mut Posted) {
        let waits = |token| desk.tickets().borrow_mut().waits(token);
        if posted.token.take_if(|token| !waits(*token)).is_some() {
            posted.request.head_mut().caller = Caller::Nobody;
        }
    }

    /// Somebody knows a later view than this shard.
    pub(crate) fn behind(&self, view: u64) {
        let mut realm = self.realm.borrow_mut();
        if view > realm.asked_for.max(realm.number()) {
            realm.asked_for = view;
            self.effect(Effect::Behind { view });
        }
    }

    fn ask_unless_asked(&self, desk: &Desk, lane: Lane) {
        let pending = {
            let (realm, remote) = (&mut *self.realm.borrow_mut(), &mut *self.remote.borrow_mut());
            passage_to(realm, remote, lane).is_none_or(|passage| passage.is_pending())
        };
        if !pending {
            self.ask(desk, lane);
        }
    }

    /// Asks a shard to decide what was said to it before.
    pub(crate) fn ask(&self, desk: &Desk, lane: Lane) {
        let view = {
            let (realm, remote) = (&mut *self.realm.borrow_mut(), &mut *self.remote.borrow_mut());
            let view = realm.number();
            let Some(passage) = passage_to(realm, remote, lane) else { return };
            let first = !passage.is_pending();
            passage.ask();
            realm.pending += usize::from(first);
            if let Lane::There(link, shard) = lane {
                remote.flush_by(link, shard, view);
            }
            view
        };
        match lane {
            Lane::Here(shard) if shard == self.shard_id() => self.answer_flushes(desk),
            Lane::Here(to) => {
                let message = Message::Flush { from: self.shard_id(), view };
                self.effect(Effect::Send { to, message });
            }
            Lane::There(..) => {}
        }
    }

    /// A shard has decided what was said to it before `view`: what waited goes on.
    pub(crate) fn flushed(
        &self,
        desk: &Desk,
        lane: Lane,
        view: u64,
        emptying: Emptying,
    ) -> Result<(), Violation> {
        {
            let (realm, remote) = (&mut *self.realm.borrow_mut(), &mut *self.remote.borrow_mut());
            if matches!(lane, Lane::Here(_)) && view < realm.first {
                return Ok(());
            }
            let Some(passage) = passage_to(realm, remote, lane) else { return Ok(()) };
            if !passage.flushed(view, emptying)? {
                return Ok(());
            }
            realm.pending -= 1;
            let number = realm.number();
            realm.lines.answered(lane, number);
        }
        self.go_on(desk);
        self.trim(desk);
        Ok(())
    }

    /// What waits goes on, as far as it may, each slot's in its order.
    pub(crate) fn go_on(&self, desk: &Desk) {
        // Whoever has begun comes to what may go on meanwhile too.
        if std::mem::replace(&mut self.realm.borrow_mut().goes_on, true) {
            return;
        }
        loop {
            let next = {
                let realm = &mut *self.realm.borrow_mut();
                let number = realm.number();
                realm.lines.take_next(number)
            };
            let Some(posted) = next else { break };
            let posted = self.revive(desk, posted).and_then(|posted| self.pass(desk, posted));
            let Some(posted) = posted else { continue };
            let site = self.site_of(&posted).unwrap_or(Site::Nowhere);
            self.to_owner(desk, site, posted, false);
        }
        self.realm.borrow_mut().goes_on = false;
        self.tunes.set(true);
    }

    /// The view has changed, and has been announced: what waited for it may go on from now on, and those are asked who
    /// have given something back.
    pub(crate) fn turn_lines(&self, desk: &Desk) {
        let awaited = {
            let realm = &mut *self.realm.borrow_mut();
            let number = realm.number();
            realm.lines.turn(number)
        };
        awaited.into_iter().for_each(|lane| self.ask_unless_asked(desk, lane));
        self.realm.borrow_mut().goes_on = false;
    }

    /// A call that `lane` had comes back from there, where the view numbered `view` is known: it has not run. It waits
    /// until nothing else is to come back from there (**N24**).
    pub(crate) fn came_back(&self, desk: &Desk, lane: Lane, view: u64, mut posted: Posted) {
        let node = self.node_at(lane);
        posted.tried = node.map(|node| (node, view));
        self.count(|c| c.moved += 1);
        let Some(posted) = self.revive(desk, posted) else { return };
        let asks = self.must_ask(lane, &posted, node);
        self.stand(desk, posted, |lines, slot, posted| {
            match asks {
                // Nobody is there any more who could have others.
                None => lines.push_first(slot, posted),
                Some(_) => lines.push_back(slot, lane, posted),
            }
            lines.await_view(slot, view);
        });
        if view > self.realm.borrow().number() {
            // When that is known here, it is asked.
            self.behind(view);
        } else if asks == Some(true) {
            self.ask(desk, lane);
        }
        self.go_on(desk);
    }

    /// Whether `lane`, which gives a call back, has to be asked so that its answer is for all that was said of the slot;
    /// `None` if it is not there any more.
    fn must_ask(&self, lane: Lane, posted: &Posted, node: Option<NodeId>) -> Option<bool> {
        let (realm, remote) = (&mut *self.realm.borrow_mut(), &mut *self.remote.borrow_mut());
        let owner = realm.ownership.as_ref().and_then(|o| o.directory().owner(posted.request.to()));
        let asked = realm.lines.awaits(SlotId::of(posted.request.to()), lane);
        let passage = passage_to(realm, remote, lane)?;
        // To an owner things are said while an answer is awaited, which is not for them.
        let covered = passage.is_pending() && !(passage.is_used() && owner == node);
        Some(!asked && !covered)
    }

    /// Which node is at the end of `lane`, as far as that is known.
    fn node_at(&self, lane: Lane) -> Option<NodeId> {
        match lane {
            Lane::Here(_) => self.realm.borrow().ownership.as_ref().map(|ownership| ownership.me()),
            Lane::There(link, _) => self.remote.borrow_mut().node_of(link),
        }
    }
}
