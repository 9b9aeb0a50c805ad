//! Looking: when the coordinator is read, and who changes the view.
//!
//! Anyone may. So that not all do, nodes have ranks: members that do not look dead, by id, and after them those who wait
//! to join. The first looks as often as it renews, and does what has to be done; each later one looks more seldom, and
//! acts only when it sees the same need for longer.
//!
//! # Invariants
//! - **LO1** Every node looks again at some time, whoever fails before it.
//! - **LO2** A view is changed only from the very one that the leases were read with.
//!
//! # Not here
//! What has to be done: `plan`.

use std::collections::BTreeSet;
use std::time::Duration;

use epicserver_wire::{NodeId, Time};

use super::life::{Change, Life, Need};
use super::plan::{Lessee, Plan, lease_of, plan};
use super::{Effect, Notice};
use crate::coordinator::{Answer, Ask, Lease, VIEW_BYTES_MAX};
use crate::view::Member;

/// How often a node that waits for others asks them.
pub(super) const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How long a node that waits hears of it from those that it waits for before it reads what they have settled.
const WAIT: Duration = Duration::from_millis(1_200);
/// The longest time between two such reads.
const WAIT_MAX: Duration = Duration::from_secs(6);
/// How long after a failed read the next one is.
const READ_AGAIN: Duration = Duration::from_millis(400);
/// How long a node that hears of a view waits for it to be sent before it reads it.
const FETCH: Duration = Duration::from_millis(20);
const FETCH_SPREAD: Duration = Duration::from_millis(60);
/// How long the second in rank sees a need before it acts, and how much longer each later one.
const STEP_IN: Duration = Duration::from_secs(1);
const STEP_EACH: Duration = Duration::from_millis(250);
const STEPS_MAX: u32 = 64;
/// How often who waits to join looks whether it can do something itself, and how long at the most between two looks.
const JOIN_LOOK: Duration = Duration::from_secs(3);
const JOIN_LOOK_MAX: Duration = Duration::from_secs(30);
/// How long after a lease should have expired it is looked at.
const EXPIRED: Duration = Duration::from_millis(20);

fn lease<'a>(leases: &[&'a Lease], node: NodeId) -> Option<&'a Lease> {
    let at = leases.binary_search_by_key(&node, |lease| lease.node).ok()?;
    leases.get(at).copied()
}

/// How long the node of this rank lets others act before it does.
fn step_in(rank: usize) -> Duration {
    match u32::try_from(rank).unwrap_or(u32::MAX) {
        0 => Duration::ZERO,
        rank => STEP_IN + STEP_EACH * rank.min(STEPS_MAX),
    }
}

impl Life {
    /// When the coordinator is to be read.
    pub(super) fn reads_at(&self) -> Option<Time> {
        if self.read.is_some() || self.change.is_some() {
            return None; // LF1
        }
        let fetch = (self.heard > self.number()).then_some(self.fetch_at);
        let wait = self.holdings.is_waiting().then_some(self.wait_at);
        let due = [fetch, wait].into_iter().flatten().fold(self.look_at, Time::min);
        (due < Time::MAX).then(|| due.max(self.read_after))
    }

    /// There is a view of this number.
    pub(super) fn hear_of(&mut self, now: Time, number: u64) {
        if number > self.heard && number > self.number() {
            self.heard = number;
            self.fetch_at = now + FETCH + self.draw.up_to(FETCH_SPREAD);
        }
    }

    /// This node is waiting from now on, or still.
    pub(super) fn wait_anew(&mut self, now: Time) {
        self.waits = 0;
        self.wait_at = now + self.hurried(WAIT);
        self.ask_at = now;
    }

    /// There is another view, and so perhaps another rank.
    pub(super) fn look_by_rank(&mut self, now: Time) {
        let rank = self.rank(None);
        let next = self.next_look(now, rank);
        self.look_at = if self.look_at <= now { next } else { self.look_at.min(next) };
    }

    /// Somebody looks dead.
    pub(super) fn look_soon(&mut self, now: Time) {
        if self.belongs {
            self.look_at = self.look_at.min(now + step_in(self.rank(None)));
        }
    }

    /// How many come before this node when something has to be done; with the leases, which are by node, if they are at
    /// hand.
    fn rank(&self, leases: Option<&[&Lease]>) -> usize {
        let me = self.me();
        let lives = |node| match leases {
            Some(leases) => lease(leases, node).is_some_and(|lease| !lease.left.is_zero()),
            None => true,
        };
        let members = self.view.as_ref().map_or(&[][..], |view| &view.members);
        let able =
            |member: &&Member| !self.suspicion.is_dead(member.node()) && lives(member.node());
        if let Some(this) = self.view.as_ref().and_then(|view| view.member(me)) {
            let before = |member: &&Member| (member.leaving, member.node()) < (this.leaving, me);
            return members.iter().filter(before).filter(able).count();
        }
        // Whoever lives and is no member wants to become one, or is about to go.
        let others = leases.unwrap_or(&[]).iter().take_while(|lease| lease.node < me);
        let others = others.filter(|lease| !lease.left.is_zero());
        let member = |node| self.view.as_ref().is_some_and(|view| view.has(node));
        let able = members.iter().filter(able).count();
        able + others.filter(|lease| !member(lease.node)).count()
    }

    /// When the node of this rank looks again, if nothing is to be done.
    fn next_look(&mut self, now: Time, rank: usize) -> Time {
        if rank == 0 {
            return now + self.hurried(self.renew);
        }
        let seldom = Duration::from_secs(1).saturating_mul(u32::try_from(rank).unwrap_or(u32::MAX))
            + STEP_IN;
        let after = if self.belongs {
            seldom
        } else {
            // The members may all be gone: then their leases end soon.
            self.looks = (self.looks + 1).min(8);
            seldom.min((JOIN_LOOK * (1 << (self.looks - 1))).min(JOIN_LOOK_MAX))
        };
        now + after - self.draw.up_to(after / 10)
    }

    pub(super) fn answered_read(&mut self, now: Time, answer: Answer, out: &mut Vec<Effect>) {
        match answer {
            Answer::State { view, leases } => self.state(now, view, &leases, out),
            Answer::Failed { .. }
            | Answer::Renewed { .. }
            | Answer::Evicted
            | Answer::Changed { .. }
            | Answer::Overtaken { .. }
            | Answer::Alive { .. }
            | Answer::Released => self.read_after = now + self.hurried(READ_AGAIN),
        }
    }

    fn state(
        &mut self,
        now: Time,
        view: Option<(u64, Vec<u8>)>,
        leases: &[Lease],
        out: &mut Vec<Effect>,
    ) {
        let number = view.as_ref().map_or(0, |(number, _)| *number);
        if let Some((number, bytes)) = view.filter(|(number, _)| *number > self.number()) {
            match self.atlas.read(&bytes) {
                Ok(view) if view.number == number => self.hear_view(now, &view, out),
                read => {
                    let why = read.err().unwrap_or(crate::fields::Unread::Malformed);
                    out.push(Effect::Notice(Notice::View { why }));
                }
            }
        }
        if self.over || number != self.number() {
            // A read of the past, or of what this version cannot read.
            self.read_after = now + self.hurried(READ_AGAIN);
            return;
        }
        let mut leases: Vec<&Lease> = leases.iter().collect();
        leases.sort_unstable_by_key(|lease| lease.node);
        if self.wait_at <= now {
            self.waits = (self.waits + 1).min(4);
            self.wait_at = now + self.hurried((WAIT * (1 << self.waits)).min(WAIT_MAX));
        }
        let rank = self.rank(Some(&leases));
        let looks = rank == 0 || self.look_at <= now && !self.lets_others(now, number, rank);
        // Most read for the view alone: then only those who are waited for have anything to say.
        let awaited: BTreeSet<NodeId> = self.holdings.awaited().map(|(node, ..)| node).collect();
        leases.retain(|lease| looks || awaited.contains(&lease.node));
        let lessees: Vec<Lessee> = leases.into_iter().map(Lessee::of).collect();
        for lessee in &lessees {
            if let Some(record) = &lessee.record {
                self.holdings.settles(lessee.node, record.settled);
            }
        }
        if looks {
            self.look(now, (number, rank), &lessees, out);
        }
    }

    /// Whether a node that wants to join, for which there is always something to do, lets others do it still.
    fn lets_others(&mut self, now: Time, number: u64, rank: usize) -> bool {
        if self.belongs {
            return false;
        }
        let due = self.needed_since(now, number) + step_in(rank);
        if now < due {
            self.look_at = due;
        }
        now < due
    }

    /// Since when this node knows that something has to be done by this view; it does now.
    fn needed_since(&mut self, now: Time, number: u64) -> Time {
        let since = self.need.filter(|need| need.number == number).map_or(now, |need| need.since);
        self.need = Some(Need { number, since });
        since
    }

    /// Does what has to be done, if it is this node's turn.
    fn look(
        &mut self,
        now: Time,
        (number, rank): (u64, usize),
        lessees: &[Lessee],
        out: &mut Vec<Effect>,
    ) {
        let Some(plan) = plan(self.view.as_deref(), lessees) else {
            self.need = None;
            self.look_at = self.next_look(now, rank);
            if rank == 0 {
                self.look_at = self.look_at.min(self.next_end(now, lessees));
            }
            return;
        };
        let due = self.needed_since(now, number) + step_in(rank);
        if now < due {
            self.look_at = due;
            return;
        }
        self.propose(now, number, plan, out);
    }

    /// When the lease of a member that looks dead ends, if nobody renews it.
    fn next_end(&self, now: Time, lessees: &[Lessee]) -> Time {
        let ends = self.suspicion.dead().iter().filter_map(|node| lease_of(lessees, *node));
        ends.map(|lessee| now + lessee.left + EXPIRED).fold(Time::MAX, Time::min)
    }

    /// Asks for the change (**LO2**).
    fn propose(&mut self, now: Time, number: u64, plan: Plan, out: &mut Vec<Effect>) {
        let Plan { view, ends } = plan;
        let bytes = view.write();
        if bytes.len() > VIEW_BYTES_MAX {
            out.push(Effect::Notice(Notice::TooLong { bytes: bytes.len() }));
            self.look_at = now + self.hurried(self.renew);
            return;
        }
        let id = self.ask(Ask::Change { from: number, view: bytes, ends }, out);
        self.change = Some(Change { id, view });
    }

    pub(super) fn answered_change(
        &mut self,
        now: Time,
        change: Change,
        answer: Answer,
        out: &mut Vec<Effect>,
    ) {
        self.look_at = now + self.hurried(self.renew);
        match answer {
            Answer::Changed { number } if number == change.view.number => {
                let before = self.view.clone();
                let pushed = (number > self.number()).then(|| change.view.clone());
                let view = self.atlas.view(change.view);
                self.hear_view(now, &view, out);
                if let Some(view) = pushed.filter(|_| !self.over) {
                    self.push(before.as_deref(), &view, out);
                }
            }
            Answer::Overtaken { number } => self.hear_of(now, number),
            // A lease lasts that looked as if it did not, or nobody knows: look again (CN1).
            Answer::Alive { .. } | Answer::Failed { .. } => {
                self.look_at = now + self.hurried(READ_AGAIN);
            }
            Answer::Changed { .. }
            | Answer::State { .. }
            | Answer::Renewed { .. }
            | Answer::Evicted
            | Answer::Released => {}
        }
    }
}
