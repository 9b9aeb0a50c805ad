//! One life of a node, from its beginning to the end of its lease: what happens to it, and what is due when.
//!
//! # Invariants
//! - **LF1** At most one read, one change and one release are under way.
//!
//! # Not here
//! What is looked for in what the coordinator says (`look`); what follows from a view (`install`).

use std::sync::Arc;
use std::time::Duration;

use epicserver_wire::{NodeId, Time};

use super::holdings::Holdings;
use super::renewals::Renewals;
use super::said::Said;
use super::slots::SlotSet;
use super::{AskId, Config, Effect, Event, Notice, Stage};
use crate::atlas::Atlas;
use crate::coordinator::{Answer, Ask};
use crate::draw::Draw;
use crate::suspicion::Suspicion;
use crate::view::{Member, Record, View, Wants};

/// How long after a failed release it is asked for again.
const RELEASE_AGAIN: Duration = Duration::from_millis(500);

/// A change that is under way.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) id: AskId,
    pub(super) view: View,
}

/// That something has to be changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Need {
    /// By which view.
    pub(super) number: u64,
    /// Since when this node knows.
    pub(super) since: Time,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Release {
    Not,
    Due(Time),
    UnderWay(AskId),
}

#[derive(Debug)]
pub(super) struct Life {
    pub(super) member: Member,
    pub(super) ttl: Duration,
    pub(super) renew: Duration,
    pub(super) atlas: Atlas,
    pub(super) draw: Draw,
    next_ask: u64,
    pub(super) over: bool,
    pub(super) leaving: bool,
    /// The host has been told that everything is handed over.
    handed_over: bool,
    /// The host has said that nothing is under way on its shards.
    quiet: bool,
    /// Whether it is a member of the view.
    pub(super) belongs: bool,
    pub(super) view: Option<Arc<View>>,
    /// The highest number of a view that it has heard of.
    pub(super) heard: u64,
    pub(super) renewals: Renewals,
    pub(super) read: Option<AskId>,
    /// Before that nothing is read, since the last attempt failed.
    pub(super) read_after: Time,
    pub(super) fetch_at: Time,
    pub(super) look_at: Time,
    pub(super) looks: u32,
    pub(super) need: Option<Need>,
    pub(super) change: Option<Change>,
    pub(super) release: Release,
    pub(super) holdings: Holdings,
    /// Before that shards are not told again what else they may serve by the same view.
    pub(super) serve_at: Time,
    /// When those who are waited for are asked again.
    pub(super) ask_at: Time,
    /// When the coordinator is asked what they have let go of.
    pub(super) wait_at: Time,
    pub(super) waits: u32,
    pub(super) suspicion: Suspicion,
}

impl Life {
    pub(super) fn new(
        now: Time,
        config: &Config,
        member: Member,
        (asks, seed): (u64, u64),
    ) -> Self {
        let (node, shards) = (member.node(), member.shards);
        let mut draw = Draw::new(seed);
        Self {
            member,
            ttl: config.ttl,
            renew: config.renew,
            atlas: config.atlas.clone(),
            next_ask: asks,
            over: false,
            leaving: false,
            handed_over: false,
            quiet: false,
            belongs: false,
            view: None,
            heard: 0,
            renewals: Renewals::new(now, config.ttl.saturating_sub(config.margin)),
            read: None,
            read_after: Time::ZERO,
            fetch_at: Time::ZERO,
            look_at: Time::MAX,
            looks: 0,
            need: None,
            change: None,
            release: Release::Not,
            holdings: Holdings::new(node, shards),
            serve_at: Time::ZERO,
            ask_at: Time::ZERO,
            wait_at: Time::ZERO,
            waits: 0,
            suspicion: Suspicion::new(node, draw.fork()),
            draw,
        }
    }

    pub(super) fn me(&self) -> NodeId {
        self.member.node()
    }

    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    pub(super) fn view(&self) -> Option<&Arc<View>> {
        self.view.as_ref()
    }

    pub(super) fn number(&self) -> u64 {
        self.view.as_ref().map_or(0, |view| view.number)
    }

    pub(super) fn stage(&self) -> Stage {
        if self.leaving {
            Stage::Leaving
        } else if self.change.is_some() {
            Stage::Changing
        } else if !self.belongs {
            Stage::Joining
        } else if !self.holdings.is_drained() {
            Stage::Draining
        } else if self.holdings.is_waiting() {
            Stage::Waiting
        } else {
            Stage::Steady
        }
    }

    pub(super) fn suspects(&self) -> Vec<NodeId> {
        self.suspicion.dead().iter().copied().collect()
    }

    pub(super) fn handle(&mut self, now: Time, event: Event<'_>, out: &mut Vec<Effect>) {
        match event {
            Event::Begin { .. } | Event::Time => {}
            Event::Answer { id, answer } => self.answered(now, id, answer, out),
            Event::Said { from, bytes } => self.heard_from(now, from, bytes, out),
            Event::Linked { node } => self.ask_peers(Some(node), out),
            Event::Died { node } => self.suspicion.died(node),
            Event::Drained { view, shard, slots } => {
                let slots =
                    slots.into_iter().map(|(class, slots)| (class, slots.into_iter().collect()));
                let freed = self.holdings.drained((view, shard), slots);
                self.tell_freed(freed, out);
            }
            Event::Behind { view } => self.hear_of(now, view),
            Event::Leave => {
                self.leaving = true;
                self.renewals.hasten(now);
            }
            Event::Quiet => self.quiet = true,
        }
    }

    /// Does what is due.
    pub(super) fn keep_time(&mut self, now: Time, out: &mut Vec<Effect>) {
        if self.over {
            return;
        }
        if self.suspicion.deadline().is_some_and(|at| at <= now) {
            self.suspicion.time(now);
        }
        for (to, bytes) in self.suspicion.take_sends() {
            say(to, &Said::Suspicion(&bytes), out);
        }
        if self.suspicion.take_fallen() {
            self.look_soon(now);
        }
        self.serve(now, out);
        self.consider_release(now, out);
        match self.release {
            Release::Not if self.renewals.due() <= now => self.ask_renewal(now, out),
            Release::Due(at) if at <= now => {
                let node = self.me();
                let id = self.ask(Ask::Release { node }, out);
                self.release = Release::UnderWay(id);
            }
            Release::Not | Release::Due(_) | Release::UnderWay(_) => {}
        }
        if self.asks_at().is_some_and(|at| at <= now) {
            self.ask_at = now + self.hurried(super::look::ASK_AGAIN);
            self.ask_peers(None, out);
        }
        if self.reads_at().is_some_and(|at| at <= now) {
            self.read = Some(self.ask(Ask::Read, out));
        }
    }

    pub(super) fn deadline(&self) -> Time {
        let release = match self.release {
            Release::Not => self.renewals.due(),
            Release::Due(at) => at,
            Release::UnderWay(_) => Time::MAX,
        };
        let suspicion = self.suspicion.deadline();
        let serves = self.holdings.is_stirred().then_some(self.serve_at);
        let others = [suspicion, serves, self.asks_at(), self.reads_at()];
        others.into_iter().flatten().fold(release, Time::min)
    }

    /// When those who are waited for are asked.
    fn asks_at(&self) -> Option<Time> {
        self.holdings.is_waiting().then_some(self.ask_at)
    }

    pub(super) fn ask(&mut self, ask: Ask, out: &mut Vec<Effect>) -> AskId {
        self.next_ask += 1;
        let id = AskId(self.next_ask);
        out.push(Effect::Ask { id, ask });
        id
    }

    /// At most a tenth less than `time`, so that nodes which began together do not ask together for ever.
    pub(super) fn hurried(&mut self, time: Duration) -> Duration {
        time - self.draw.up_to(time / 10)
    }

    fn ask_renewal(&mut self, now: Time, out: &mut Vec<Effect>) {
        let wants = match (self.leaving, self.belongs) {
            (true, _) => Wants::Leave,
            (false, true) => Wants::Stay,
            (false, false) => Wants::Join,
        };
        let member = self.member.clone();
        let record = Record { member, wants, settled: self.holdings.settled() }.write();
        let id = self.ask(Ask::Renew { node: self.me(), record, ttl: self.ttl }, out);
        let after = self.hurried(self.renew);
        self.renewals.sent(now, id, after);
    }

    /// A node that leaves goes once it has nothing any more, nor anything under way (**CN4**).
    fn consider_release(&mut self, now: Time, out: &mut Vec<Effect>) {
        if !self.leaving || !matches!(self.release, Release::Not) || !self.has_nothing() {
            return;
        }
        if !std::mem::replace(&mut self.handed_over, true) {
            out.push(Effect::HandedOver);
        }
        if self.quiet && self.change.is_none() {
            self.release = Release::Due(now);
        }
    }

    /// Whether it never was a member, or holds nothing and no member goes by a view that gives it something.
    fn has_nothing(&self) -> bool {
        let me = self.me();
        let Some(view) = &self.view else { return true };
        let Some(member) = view.member(me) else { return true };
        member.leaving
            && self.holdings.is_drained()
            && view.history.iter().all(|past| !past.gives(me))
    }

    fn answered(&mut self, now: Time, id: AskId, answer: Answer, out: &mut Vec<Effect>) {
        if let Answer::Failed { why } = &answer {
            out.push(Effect::Notice(Notice::Failed { why: why.clone() }));
        }
        if let Some(sent) = self.renewals.take(id) {
            self.answered_renewal(now, sent, answer, out);
        } else if self.read == Some(id) {
            self.read = None;
            self.answered_read(now, answer, out);
        } else if let Some(change) = self.change.take_if(|change| change.id == id) {
            self.answered_change(now, change, answer, out);
        } else if matches!(self.release, Release::UnderWay(release) if release == id) {
            match answer {
                Answer::Released | Answer::Evicted => self.end(Effect::Left, out),
                Answer::Failed { .. }
                | Answer::State { .. }
                | Answer::Renewed { .. }
                | Answer::Changed { .. }
                | Answer::Overtaken { .. }
                | Answer::Alive { .. } => self.release = Release::Due(now + RELEASE_AGAIN),
            }
        }
    }

    fn answered_renewal(&mut self, now: Time, sent: Time, answer: Answer, out: &mut Vec<Effect>) {
        match answer {
            Answer::Renewed { number } => {
                if let Some(until) = self.renewals.renewed(sent) {
                    out.push(Effect::Lease { until });
                }
                if self.look_at == Time::MAX {
                    self.look_at = now;
                }
                self.hear_of(now, number);
            }
            Answer::Evicted => self.evicted(out),
            // CN1: the next renewal is on its way before this one would have been of use.
            Answer::Failed { .. }
            | Answer::State { .. }
            | Answer::Changed { .. }
            | Answer::Overtaken { .. }
            | Answer::Alive { .. }
            | Answer::Released => {}
        }
    }

    /// This node's lease has ended (**CN3**).
    pub(super) fn evicted(&mut self, out: &mut Vec<Effect>) {
        if self.leaving {
            self.end(Effect::Left, out);
        } else {
            let node = self.me();
            self.end(Effect::Evicted { node }, out);
        }
    }

    fn end(&mut self, how: Effect, out: &mut Vec<Effect>) {
        if !std::mem::replace(&mut self.over, true) {
            out.push(how);
        }
    }

    fn heard_from(&mut self, now: Time, from: NodeId, bytes: &[u8], out: &mut Vec<Effect>) {
        self.suspicion.lives(from);
        match Said::read(bytes) {
            Ok(Said::Suspicion(bytes)) => {
                if !self.suspicion.heard(now, from, bytes) {
                    let why = crate::fields::Unread::Malformed;
                    out.push(Effect::Notice(Notice::Said { from, why }));
                }
            }
            Ok(Said::Ask(about)) => self.asked(now, from, &about, out),
            Ok(Said::Released(about)) => {
                self.hear_of(now, about.number);
                self.holdings.released(from, about.number, (about.class, &about.slots));
            }
            Ok(Said::Whole(view)) => {
                let view = self.atlas.view(view);
                self.hear_view(now, &view, out);
            }
            Ok(Said::Delta(delta)) => {
                let view = self.view.as_ref().and_then(|view| self.atlas.after(view, &delta));
                match view {
                    Some(view) => self.hear_view(now, &view, out),
                    None => self.hear_of(now, delta.to),
                }
            }
            Ok(Said::Later) => {}
            Err(why) => out.push(Effect::Notice(Notice::Said { from, why })),
        }
    }
}

/// Says something to another control thread, if it is not too long.
pub(super) fn say(to: NodeId, said: &Said<'_>, out: &mut Vec<Effect>) {
    if let Some(bytes) = said.write() {
        out.push(Effect::Say { to, bytes });
    }
}

/// The parts of a set, as messages have them.
pub(super) fn parts(slots: &SlotSet) -> impl Iterator<Item = SlotSet> + '_ {
    slots.parts()
}
