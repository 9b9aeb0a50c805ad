//! Checkers that look at shards and at what they say, so that they hold for any program: nothing has to be written
//! into the entities.
//!
//! - `single_activation`: no entity is active on two shards that may both act.
//! - `own_slot`: an entity becomes active only where its slot is served or emptied.
//! - `within_lease`: nothing begins on a node whose lease has ended.
//! - `one_outcome`: nobody is answered twice.
//! - `no_endless_wait`: no call waits when nothing will ever happen ([`World::comes_to_rest`]).
//!
//! # Not here
//! The same and more for entities that know of the log (`log`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use epicserver_node::Shard;
use epicserver_proto::SlotId;
use epicserver_wire::frame::Frame;
use epicserver_wire::header::{Kind, Message as Wire};
use epicserver_wire::{ClassId, EntityId, Time, Token};

use super::{End, World, weather};
use crate::log::Violation;
use crate::storm::Storm;

/// How long shards do nothing until it is clear that nothing will happen any more: longer than any lease, and than
/// any node is paused.
const STILL: Duration = Duration::from_mins(1);

/// What was seen of a shard when it acted last.
#[derive(Clone, Default)]
struct Seen {
    /// Calls that ran or waited, and activations made.
    begun: u64,
    activated: (u64, u32),
    active: Vec<EntityId>,
}

/// What the checkers know.
#[derive(Default)]
pub(super) struct Guard {
    shards: BTreeMap<usize, Seen>,
    answered: BTreeSet<(usize, u32, u32)>,
    /// When anything happened last but in the control plane.
    stirred: Time,
    violation: Option<Violation>,
}

impl Guard {
    fn violate(&mut self, checker: &'static str, what: String) {
        self.violation.get_or_insert(Violation { checker, what });
    }
}

impl World {
    /// From now on the checkers look.
    pub(crate) fn guard(&mut self) {
        self.guard = Some(Guard { stirred: self.now, ..Guard::default() });
    }

    /// What the checkers found.
    pub(crate) fn violation(&self) -> Option<&Violation> {
        self.guard.as_ref()?.violation.as_ref()
    }

    /// The nodes have met; from now on this happens to them.
    pub(crate) fn storm(&mut self, storm: &Storm) {
        self.weather = weather::Weather::new(storm, self.now);
    }

    /// A shard has acted, and nobody has heard of it yet.
    pub(super) fn check(&mut self, member: usize) {
        let Some(mut guard) = self.guard.take() else { return };
        guard.stirred = self.now;
        if let Some(shard) = &self.members[member].shard {
            let counters = shard.counters();
            let begun = counters.direct + counters.queued + counters.activated;
            let activated = (counters.activated, shard.activations().0);
            let seen = guard.shards.entry(member).or_default();
            let (acts, changed) = (seen.begun != begun, seen.activated != activated);
            (seen.begun, seen.activated) = (begun, activated);
            if acts {
                self.check_lease(&mut guard, member);
            }
            if changed {
                self.check_places(&mut guard, member, shard);
            }
        }
        self.guard = Some(guard);
    }

    fn check_lease(&self, guard: &mut Guard, member: usize) {
        let node = self.members[member].node;
        let lease = self.plane.as_ref().map_or(Time::MAX, |plane| plane.lease_of(self.now, node));
        if self.now >= lease {
            guard.violate("within_lease", format!("node {node} runs a call past its lease"));
        }
    }

    fn check_places(&self, guard: &mut Guard, member: usize, shard: &Shard) {
        let everywhere = |id: &EntityId| id.class() == ClassId::STATELESS;
        let mut active = shard.entities();
        active.retain(|id| !everywhere(id));
        active.sort_by_key(EntityId::hash);
        let before = guard.shards.entry(member).or_default();
        let before = std::mem::replace(&mut before.active, active.clone());
        if shard.acts_until() <= self.now {
            return;
        }
        for id in active.iter().filter(|id| !has(&before, id)) {
            self.check_owner(guard, member, id);
            let others = guard.shards.iter().filter(|(other, _)| **other != member);
            let mut there =
                others.filter(|(_, seen)| has(&seen.active, id)).map(|(other, _)| *other);
            if let Some(other) = there.find(|other| self.has_now(*other, id)) {
                let [one, two] = [member, other].map(|member| self.members[member].node);
                let what = format!("{id:?} is active on node {one} and on node {two}");
                guard.violate("single_activation", what);
            }
        }
    }

    fn check_owner(&self, guard: &mut Guard, member: usize, id: &EntityId) {
        let node = self.members[member].node;
        let shard = u16::try_from(member - self.nodes[node].first).unwrap_or(0);
        let may = |plane: &dyn crate::plane::Plane| plane.may_have(node, shard, SlotId::of(id));
        if !self.plane.as_deref().is_none_or(may) {
            guard.violate("own_slot", format!("{id:?} is active on node {node}, which is not its"));
        }
    }

    /// Whether an entity is active on a shard that may act.
    fn has_now(&self, member: usize, id: &EntityId) -> bool {
        let shard = self.members[member].shard.as_ref();
        let acts = shard.filter(|shard| shard.acts_until() > self.now);
        acts.is_some_and(|shard| shard.entities().contains(id))
    }

    /// A message for a shard has come by a link.
    pub(super) fn check_answer(&mut self, member: usize, message: &Frame) {
        if self.guard.is_some()
            && let Ok(Wire { header, .. }) = Wire::parse(message.bytes(), 0)
            && matches!(header.kind, Kind::Reply | Kind::Failed)
        {
            self.answered(member, header.token);
        }
    }

    /// A shard is sent the outcome of a call.
    pub(super) fn answered(&mut self, member: usize, token: Token) {
        let Some(guard) = &mut self.guard else { return };
        if !guard.answered.insert((member, token.index(), token.generation())) {
            let node = self.members[member].node;
            guard.violate("one_outcome", format!("node {node} is answered twice by {token:?}"));
        }
    }

    /// Whether nothing will happen any more but that leases are renewed.
    pub(super) fn is_still(&self) -> bool {
        let Some(guard) = &self.guard else { return false };
        let idle = || self.members.iter().all(|member| self.due(member).is_none());
        self.plane.is_some() && self.now > guard.stirred + STILL && self.is_through() && idle()
    }

    /// Whether nothing more goes wrong, and all nodes have come to terms with what did.
    fn has_converged(&self) -> bool {
        self.weather.is_over() && self.plane.as_ref().is_none_or(|plane| plane.is_settled())
    }

    /// Whether nothing is under way between shards either.
    fn is_through(&self) -> bool {
        self.has_converged() && self.post.is_empty() && self.net.is_empty()
    }

    fn calls_waiting(&self) -> usize {
        let shards = self.members.iter().filter_map(|member| member.shard.as_ref());
        shards.map(Shard::calls_waiting).sum()
    }

    /// Runs until `until` at most, for all calls to end. What a program does of its own accord may go on.
    pub(crate) fn comes_to_rest(&mut self, until: Time) {
        let rests = |world: &Self| world.is_through() && world.calls_waiting() == 0;
        let end = self.run(until, |world| world.violation().is_some() || rests(world));
        let what = match end {
            End::Over | End::Quiet => return,
            End::Waits | End::Restless if !self.has_converged() => {
                Violation { checker: "convergence", what: self.unrest() }
            }
            End::Waits if self.is_still() => {
                let what = format!("{} calls wait for what never comes", self.calls_waiting());
                Violation { checker: "no_endless_wait", what }
            }
            // Something goes on: those calls may end yet.
            End::Waits | End::Restless => return,
        };
        if let Some(guard) = &mut self.guard {
            guard.violation.get_or_insert(what);
        }
    }
}

fn has(ids: &[EntityId], id: &EntityId) -> bool {
    let first = ids.partition_point(|other| other.hash() < id.hash());
    ids[first..].iter().take_while(|other| other.hash() == id.hash()).any(|other| other == id)
}
