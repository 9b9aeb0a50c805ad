//! Calls: the way of each to its callee's shard, mailbox and start.
//!
//! # Not here
//! Whether the callee is at this node (`ways`, `holds`); how a method runs (`turns`).

use epicserver_entity::{Answer, Caller, Desk, Place, Request};
use epicserver_proto::{Admission, Site};
use epicserver_wire::{CallError, ClassId, ErrorKind, ShardId, limits};

use crate::core::{Aside, Comer, Core, Mail, Ready};
use crate::realm::Traffic;
use crate::remote::{Posted, token_of};
use crate::{Effect, Message};

impl Core {
    /// Sends a call to its callee's node and shard. With `now`, it may run at once if that is here.
    pub(crate) fn route(&self, desk: &Desk, request: Request, now: bool) {
        self.route_from(desk, request, desk.turn().place, now);
    }

    /// The same for a call that `maker` has made.
    fn route_from(&self, desk: &Desk, request: Request, maker: Place, now: bool) {
        if self.traffic.get() == Traffic::Alone {
            return self.to_shard(desk, request, Site::Served, now);
        }
        let token = token_of(&request);
        self.direct(desk, Posted { request, token, maker, tried: None }, now);
    }

    /// Sends a call to its callee's shard of this node, which is where `site` says.
    pub(crate) fn to_shard(&self, desk: &Desk, request: Request, site: Site, now: bool) {
        let to = request.to().shard(self.config.shards);
        if to == self.shard_id() {
            return self.admit_at(desk, request, (site, self.number.get()), now);
        }
        if request.to().class() == ClassId::STATELESS {
            return self.deliver(desk, request, now);
        }
        if let Some(request) = self.to_ring(to, request) {
            self.refuse(desk, request, ErrorKind::Overloaded);
        }
    }

    /// Gives a call to another shard of this node, or back if that does not keep up.
    pub(crate) fn to_ring(&self, to: ShardId, mut request: Request) -> Option<Request> {
        let full = self.unsent.borrow().get(to.index()).is_none_or(|n| *n >= limits::UNSENT_MAX);
        if full {
            return Some(request);
        }
        if let Some(unsent) = self.unsent.borrow_mut().get_mut(to.index()) {
            *unsent += 1;
        }
        if request.head().caller == Caller::Nobody {
            request.head_mut().caller = Caller::Teller { shard: self.shard_id() };
        }
        self.effect(Effect::Send { to, message: Message::Call(request) });
        None
    }

    /// Admits a call to its callee's activation, which is made if there is none.
    pub(crate) fn deliver(&self, desk: &Desk, request: Request, now: bool) {
        if self.closing.get() {
            return self.refuse(desk, request, ErrorKind::Stopping);
        }
        if self.ending.get() {
            // What an activation says at its end must not end others below it on the stack.
            return self.push_aside(Aside::Call(request));
        }
        let place = match self.ensure(desk, request.head()) {
            Ok(place) => place,
            Err(kind) => return self.refuse(desk, request, kind),
        };
        if let Caller::Token { shard, token } = request.head().caller
            && shard == self.shard_id()
        {
            self.note(token, |note| note.callee = Some(place));
        }
        let now = now && self.may_begin(desk);
        let verdict = self.table.borrow().admit(place, &Comer(&request));
        match verdict {
            Admission::Refuse(kind) => self.refuse(desk, request, kind),
            Admission::Enter if now => self.start(desk, place, request),
            Admission::Enter | Admission::Wait => {
                self.count(|c| c.queued += 1);
                self.table.borrow_mut().wait(place, Mail::Call(request));
                self.schedule(place);
            }
            Admission::Pass => {
                self.count(|c| c.queued += 1);
                self.table.borrow_mut().pass(place, Mail::Call(request));
                self.schedule(place);
            }
        }
    }

    /// Has the mailbox looked at soon.
    pub(crate) fn schedule(&self, place: u32) {
        if !self.table.borrow_mut().schedule(place) {
            self.push(Ready::Mail(place));
        }
    }

    /// Does the next thing that is ready. Says whether there was one.
    pub(crate) fn step(&self, desk: &Desk) -> bool {
        if self.ready.borrow().is_empty() || !self.may_begin(desk) {
            return false;
        }
        let Some(ready) = self.ready.borrow_mut().pop_front() else { return false };
        desk.refill();
        match ready {
            Ready::Turn(turn) => self.resume(desk, turn),
            Ready::Mail(place) => self.pump(desk, place),
            Ready::Deactivate(place) => self.deactivate(desk, place),
            Ready::Sweep => self.sweep(desk),
            Ready::Aside => self.look_aside(desk),
        }
        true
    }

    fn look_aside(&self, desk: &Desk) {
        let aside = self.aside.borrow_mut().pop_front();
        match aside {
            Some(Aside::Call(request)) => self.admit(desk, request, self.number.get(), true),
            Some(Aside::Answer(token, answer)) => self.complete(desk, token, answer),
            None => {}
        }
    }

    /// Lets in who may go in, but no more than a few at a time.
    fn pump(&self, desk: &Desk, place: u32) {
        const BATCH: u32 = 16;
        self.table.borrow_mut().unschedule(place);
        for count in 0..BATCH {
            if count > 0 && !self.may_begin(desk) {
                break;
            }
            let next = self.table.borrow_mut().next(place);
            match next {
                // Whoever they wait for looks again.
                None if self.table.borrow().mails(place) > 0 => return,
                None => break,
                Some((mail, Admission::Refuse(kind))) => self.refuse_mail(desk, mail, kind),
                Some((Mail::Call(request), _)) => self.start(desk, place, request),
                Some((Mail::Section(wanted), _)) => self.hold(desk, wanted.turn, wanted.token),
            }
        }
        self.look_again(place);
    }

    /// Something has happened at an activation: who waits may go on now, or it may leave.
    pub(crate) fn look_again(&self, place: u32) {
        if self.table.borrow().mails(place) > 0 {
            self.schedule(place);
        } else if self.table.borrow().is_leaving(place) {
            self.push(Ready::Deactivate(place));
        }
    }

    pub(crate) fn refuse_mail(&self, desk: &Desk, mail: Mail, kind: ErrorKind) {
        match mail {
            Mail::Call(request) => self.refuse(desk, request, kind),
            Mail::Section(wanted) => {
                let error = CallError::refused(kind, wanted.path.chain());
                self.complete(desk, wanted.token, Answer::Failed(error));
            }
        }
    }
}
