//! A new view: what it takes, what it gives, and what has to be asked before calls find their way by it.
//!
//! # Invariants
//! - **N20** A shard serves as one node until it is evicted.
//!
//! # Not here
//! Who decides on views.

use std::sync::Arc;

use epicserver_entity::Desk;
use epicserver_proto::Ownership;
use epicserver_wire::header::Violation;
use epicserver_wire::{Born, ClassId, LinkId, ShardId};

use crate::Effect;
use crate::core::Core;
use crate::realm::{Lane, Realm, Traffic};
use crate::remote::Remote;

/// A peer that does not decide what was said to it while so many views pass is given up.
const DEAF: Violation = Violation::Unexpected("no answer to a flush over too many views");

impl Core {
    /// This is who owns what from now on. Older snapshots than the present one are passed over.
    ///
    /// # Panics
    /// If it is of another node than the one before (**N20**).
    pub(crate) fn view(&self, desk: &Desk, now: Arc<Ownership>) {
        let before = self.realm.borrow_mut().ownership.take();
        if let Some(before) = &before {
            assert!(before.me() == now.me(), "N20: what is served as one node is not as another");
            if now.number() < before.number() {
                self.realm.borrow_mut().ownership = Some(Arc::clone(before));
                return;
            }
        }
        let turned = before.as_ref().is_none_or(|before| before.number() < now.number());
        let forgets = {
            let realm = &mut *self.realm.borrow_mut();
            realm.tenure.turn(&now);
            realm.trail.turn(before.as_deref(), &now)
        };
        if let Some(before) = &before {
            self.lose(now.lost_since(before), now.number());
        }
        let homeless = self.remote.borrow_mut().turn(&now, &self.realm.borrow().lines);
        {
            let realm = &mut *self.realm.borrow_mut();
            realm.sweeps.extend(realm.held.keys().copied());
            realm.reports = true;
            realm.ownership = Some(Arc::clone(&now));
            // Not before all shards are asked, and what has not left stands in line.
            realm.goes_on = true;
            if before.is_none() {
                realm.first = now.number();
                let asked = |(lane, view): &(Lane, u64)| match lane {
                    Lane::Here(_) => *view >= now.number(),
                    Lane::There(..) => true,
                };
                realm.flushes.retain(asked);
            }
            if turned {
                realm.since = self.time();
            }
        }
        self.number.set(now.number());
        self.born.set(Born::under(now.number()));
        let classes = self.config.registry.entities().map(|info| info.class);
        self.alone.set(now.is_alone(classes.filter(|class| *class != ClassId::STATELESS)));
        self.hang_up(forgets);
        self.watch_anew();
        if turned {
            self.announce(desk);
        }
        self.tune();
        self.schedule_sweep();
        // What has not left was made before what waits in line, and after what has left and may come back (I4).
        homeless.into_iter().rev().for_each(|posted| self.stand_first(desk, posted));
        self.turn_lines(desk);
        self.go_on(desk);
        self.answer_flushes(desk);
        self.trim(desk);
        if let Some(before) = &before {
            self.depart(desk, before, &now);
        }
    }

    /// Links over which something has been undecided since views that are forgotten.
    fn hang_up(&self, forgets: Option<u64>) {
        let Some(floor) = forgets else { return };
        let deaf: Vec<LinkId> = self.remote.borrow_mut().undecided_before(floor).collect();
        deaf.into_iter().for_each(|link| self.effect(Effect::Close { link, why: DEAF }));
    }

    /// Every shard to which this one has said something is asked to decide it.
    fn announce(&self, desk: &Desk) {
        let here = (0..self.config.shards).map(|shard| Lane::Here(ShardId::new(shard)));
        let there: Vec<Lane> = self.remote.borrow_mut().used().collect();
        self.realm.borrow_mut().tried = false;
        here.chain(there).collect::<Vec<Lane>>().into_iter().for_each(|lane| self.ask(desk, lane));
    }

    /// Earlier views that are of no more use are forgotten. If all are settled and something was tried meanwhile, it
    /// is asked for: nobody else would end the time for which they are of use.
    pub(crate) fn trim(&self, desk: &Desk) {
        let tried = {
            let (realm, remote) = (&mut *self.realm.borrow_mut(), &mut *self.remote.borrow_mut());
            realm.trim(remote)
        };
        tried.into_iter().for_each(|lane| self.ask(desk, lane));
        self.tune();
    }

    /// How calls find their way now, and whether some may run directly.
    pub(crate) fn tune(&self) {
        self.tunes.set(false);
        if !self.config.fabric {
            return;
        }
        let realm = &*self.realm.borrow();
        let moves = realm.is_sweeping() || realm.held_count > 0 || realm.pending > 0;
        let moves = moves || !realm.lines.is_empty();
        let busy = moves || !realm.trail.is_empty() || !realm.drains.is_empty();
        // Shards that speak under an earlier view may have been given something back.
        let me = self.shard_id().index();
        let others = realm.views.iter().enumerate().filter(|(shard, _)| *shard != me);
        let even = others.into_iter().all(|(_, view)| *view == realm.number());
        self.traffic.set(match (busy, self.alone.get() && even) {
            (true, _) => Traffic::Busy,
            (false, true) => Traffic::Alone,
            (false, false) => Traffic::Calm,
        });
        let direct = self.config.direct && realm.ownership.is_some() && !moves && !realm.tried;
        self.direct_calls.set(direct);
    }
}

impl Realm {
    /// Forgets earlier views. Gives the ways on which alone it depends that some cannot be (**PA2**).
    fn trim(&mut self, remote: &mut Remote) -> Vec<Lane> {
        let Some(ownership) = &self.ownership else { return Vec::new() };
        if self.pending > 0 || self.trail.is_empty() {
            return Vec::new();
        }
        let held = ownership.past().first().map(|(number, _)| *number);
        let here = self.ways.iter().filter_map(|way| way.of_interest_since());
        let floor = held.into_iter().chain(here).chain(remote.of_interest());
        self.trail.trim(floor.chain([ownership.number()]).min().unwrap_or(0));
        if self.trail.is_empty() {
            self.bypassed.clear();
        }
        if held.is_some() {
            return Vec::new();
        }
        let here = (0..).zip(&self.ways).filter(|(_, way)| way.has_tried());
        let here = here.map(|(shard, _)| Lane::Here(ShardId::new(shard)));
        here.chain(remote.tried()).collect()
    }
}
