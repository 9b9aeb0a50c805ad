//! The lease: the time until which the node may act, and what becomes of all that it holds when it may not any more.
//!
//! # Invariants
//! - **N23** (I1) Past its lease a shard begins no turn, by its host's clock, and sends nothing, by the time that it is
//!   told with each event. A call that an entity makes to another of its shard may be part of the turn that has begun.
//! - **N21** What happens meanwhile waits in its order, at most [`limits::BACKLOG_MAX`] things, and comes before what
//!   happens later.
//! - **N26** Shards of a node are evicted one after the other: what one that was asks of one that was not yet is
//!   answered, call or flush, and no flush of what the node was before.
//! - **N22** Nothing that a node held before it was evicted runs after that, no hook either, and a lease of what the node
//!   is now is none for what it was before.
//!
//! # Not here
//! How a lease is renewed, and who ends it.

use std::collections::VecDeque;

use epicserver_entity::{Answer, Desk};
use epicserver_wire::header::Violation;
use epicserver_wire::{Born, CallError, ErrorKind, Ran, Time, Token, limits};

use crate::config::Fault;
use crate::core::{Aside, Core, Ready};
use crate::outside::Inlet;
use crate::realm::{Realm, Traffic};
use crate::tokens::Way;
use crate::{Effect, Event, Message, Notice};

const FLOOD: Violation = Violation::Unexpected("more than is kept while the lease has lapsed");

impl Core {
    /// The node may act until then, as the one that it is after so many evictions.
    pub(crate) fn lease(&self, evictions: u64, until: Time) {
        let until = if evictions == self.evictions.get() { until } else { Time::ZERO };
        if self.config.fault != Some(Fault::NoLeaseCheck) {
            self.until.set(until);
        }
        self.set_gate();
    }

    /// Events are handled as they come until then: while some wait, none is.
    fn set_gate(&self) {
        let waits = !self.backlog.borrow().is_empty();
        self.gate.set(if waits { Time::ZERO } else { self.until.get() });
    }

    /// Whether the node may not act (**N23**).
    #[inline]
    pub(crate) fn is_lapsed(&self) -> bool {
        self.time() >= self.until.get()
    }

    /// Whether a turn may begin. What time it is may have changed since the event: the process may have stood still.
    #[inline]
    pub(crate) fn may_begin(&self, desk: &Desk) -> bool {
        if let Some(clock) = self.config.clock.filter(|_| self.until.get() != Time::MAX) {
            self.set_now(desk, clock());
        }
        !self.is_lapsed()
    }

    /// Whether events wait, and may not.
    pub(crate) fn has_backlog(&self) -> bool {
        !self.is_lapsed() && !self.backlog.borrow().is_empty()
    }

    /// Gives the event back if it is to be handled now.
    #[inline]
    pub(crate) fn keep_back(&self, event: Event) -> Option<Event> {
        if self.time() < self.gate.get() { Some(event) } else { self.keep(event) }
    }

    #[cold]
    fn keep(&self, event: Event) -> Option<Event> {
        match event {
            // Nothing runs for these.
            Event::Message(Message::Reply { .. })
            | Event::Completed { .. }
            | Event::Woken(_)
            | Event::Sent { .. }
            | Event::LinkRoom(_)
            | Event::Evicted
            | Event::Stop => Some(event),
            // It cannot wait, and needs no lease.
            Event::Close if self.is_lapsed() => Some(event),
            Event::Message(_)
            | Event::Outside(_)
            | Event::Root(_)
            | Event::View(_)
            | Event::LinkUp(_)
            | Event::LinkDown(_)
            | Event::Packet { .. }
            | Event::Stored(_)
            | Event::Close => {
                self.put_back(event);
                None
            }
        }
    }

    fn put_back(&self, event: Event) {
        // Of all others there are no more than tokens, links, shards and views.
        if self.backlog.borrow().len() < limits::BACKLOG_MAX {
            self.backlog.borrow_mut().push_back(event);
        } else if let Event::Outside(inlet) = event {
            refuse(inlet, ErrorKind::Overloaded);
        } else if let Event::Root(_) = event {
            self.effect(Effect::Notice(Notice::SpawnRefused));
        } else if let Event::Packet { link, .. } = event {
            self.effect(Effect::Close { link, why: FLOOD });
        } else {
            self.backlog.borrow_mut().push_back(event);
        }
        self.set_gate();
    }

    /// The first event that waits.
    pub(crate) fn next_kept(&self) -> Option<Event> {
        let event = self.backlog.borrow_mut().pop_front();
        self.set_gate();
        event
    }

    /// The node is none any more: all that it holds is dropped (**N22**), and whoever waits here is told.
    pub(crate) fn evict(&self, desk: &Desk) {
        self.evicting.set(true);
        self.evictions.set(self.evictions.get() + 1);
        self.lease(self.evictions.get(), Time::ZERO);
        self.traffic.set(Traffic::Calm);
        self.alone.set(false);
        self.number.set(0);
        self.born.set(Born::NONE);
        self.direct_calls.set(false);
        let realm =
            std::mem::replace(&mut *self.realm.borrow_mut(), Realm::new(self.config.shards));
        self.forget_realm(desk, realm);
        self.drop_links(desk);
        self.drop_backlog(desk);
        self.drop_activations(desk);
        self.forget_store();
        let calls: Vec<Token> = desk.tickets().borrow().waiting().collect();
        for token in calls.into_iter().filter(|token| self.is_call(*token)) {
            let ran = if self.way(token) == Way::Waits { Ran::No } else { Ran::Unknown };
            let error = CallError::new(ErrorKind::NodeLost, ran, self.chain_of(token));
            self.complete(desk, token, Answer::Failed(error));
        }
        let ready = std::mem::take(&mut *self.ready.borrow_mut());
        for one in ready {
            match one {
                Ready::Turn(_) => self.push(one),
                Ready::Mail(_) | Ready::Deactivate(_) | Ready::Sweep | Ready::Aside => {}
            }
        }
        let aside = std::mem::take(&mut *self.aside.borrow_mut());
        for one in aside {
            if let Aside::Call(request) | Aside::Answer(_, Answer::Reply(request)) = one {
                request.recycle();
            }
        }
        self.sweep_ready.set(false);
        self.drain_due.set(Time::MAX);
        self.hold_due.set(Time::MAX);
        self.evicting.set(false);
        self.tune();
    }

    fn forget_realm(&self, desk: &Desk, mut realm: Realm) {
        for held in std::mem::take(&mut realm.held).into_values().flatten() {
            self.refuse(desk, held.request, ErrorKind::NodeLost);
        }
        for posted in realm.lines.extract(|_| true) {
            self.refuse(desk, posted.request, ErrorKind::NodeLost);
        }
    }

    fn drop_backlog(&self, desk: &Desk) {
        let mut kept = VecDeque::new();
        for event in self.backlog.take() {
            match event {
                Event::Outside(inlet) => refuse(inlet, ErrorKind::NodeLost),
                // What belongs to no entity goes on as whatever the node will be.
                Event::Root(_) | Event::Close => kept.push_back(event),
                // Whoever says so may have been evicted before this shard, and then waits as what the node is now. If
                // not, the answer finds nobody.
                Event::Message(Message::Flush { .. }) => kept.push_back(event),
                Event::Message(Message::Call(request)) => {
                    self.refuse(desk, request, ErrorKind::NodeLost);
                }
                Event::Message(Message::Returned { request, .. }) => request.recycle(),
                Event::Message(_)
                | Event::Completed { .. }
                | Event::Woken(_)
                | Event::Sent { .. }
                | Event::View(_)
                | Event::LinkUp(_)
                | Event::LinkDown(_)
                | Event::LinkRoom(_)
                | Event::Stored(_)
                | Event::Packet { .. }
                | Event::Evicted
                | Event::Stop => {}
            }
        }
        self.backlog.replace(kept);
        self.set_gate();
    }

    fn drop_activations(&self, desk: &Desk) {
        loop {
            let oldest = (0..self.config.registry.entities().count())
                .find_map(|list| self.table.borrow().oldest(list));
            let Some(place) = oldest else { return };
            while let Some(mail) = self.table.borrow_mut().pop(place) {
                self.refuse_mail(desk, mail, ErrorKind::NodeLost);
            }
            let turns: Vec<u32> = self.table.borrow().turns_of(place).collect();
            turns.into_iter().for_each(|turn| self.end_turn(desk, turn, ErrorKind::NodeLost));
            self.named.borrow_mut().remove(place);
            self.take_out(desk, place, ErrorKind::NodeLost);
        }
    }
}

fn refuse(inlet: Inlet, kind: ErrorKind) {
    let error = CallError::refused(kind, epicserver_wire::ChainId::NONE);
    inlet.request.recycle();
    if let Some(pending) = inlet.pending {
        pending.answer(Answer::Failed(error));
    }
}
