//! Suspicion: which members look dead, by gossip (SWIM: Das, Gupta, Motivala 2002), through the crate `foca`.
//!
//! In: time, the view's members, messages of others   Out: messages to others
//!
//! # Invariants
//! - **SU1** A node that is heard from directly does not look dead until it has been silent again.
//! - **SU2** No more is remembered than [`KNOWN_MAX`] nodes and a timer or two for each; beyond that the view's members
//!   alone are known again.
//!
//! # Not here
//! What follows from it: whether a node's lease has ended is the coordinator's to say.

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use epicserver_wire::{NodeId, Time};
use foca::{Foca, NoCustomBroadcast, Notification, PeriodicParams, Runtime, Timer};

mod codec;
#[cfg(test)]
mod tests;

use codec::{Codec, Name};

use crate::draw::Draw;

/// How often a member is asked for a sign of life.
const PROBE: Duration = Duration::from_millis(250);
/// How long its answer may take before others are asked to ask it.
const ROUND_TRIP: Duration = Duration::from_millis(80);
/// How long a member that does not answer is suspected before it looks dead.
const SUSPECT: Duration = Duration::from_secs(1);
/// How often news are passed on.
const GOSSIP: Duration = Duration::from_millis(100);
/// How often a member that looks dead is asked whether it is: so two halves of a fabric find each other again.
const ANNOUNCE: Duration = Duration::from_secs(2);
/// How long a node that is no member is remembered, lest old news bring it back.
const REMEMBER: Duration = Duration::from_secs(10);
/// How long a member that looks dead is remembered as such by those who gossip.
const DOWN: Duration = Duration::from_mins(1);
/// Longest message, in bytes.
pub(crate) const BYTES_MAX: usize = 1200;
/// Nodes that are remembered.
const KNOWN_MAX: usize = 2 * crate::view::MEMBERS_MAX;
/// Timers for each of them.
const TIMERS_MAX: usize = 4 * KNOWN_MAX;

/// What it wants done.
#[derive(Default)]
struct Out {
    sends: Vec<(NodeId, Vec<u8>)>,
    timers: Vec<(Timer<Name>, Duration)>,
    ups: Vec<(NodeId, bool)>,
}

impl Runtime<Name> for &mut Out {
    fn notify(&mut self, notification: Notification<'_, Name>) {
        match notification {
            Notification::MemberUp(name) => self.ups.push((name.node, true)),
            Notification::MemberDown(name) => self.ups.push((name.node, false)),
            Notification::Rename(..)
            | Notification::Active
            | Notification::Idle
            | Notification::Defunct
            | Notification::Rejoin(_) => {}
        }
    }

    fn send_to(&mut self, to: Name, data: &[u8]) {
        self.sends.push((to.node, data.to_vec()));
    }

    fn submit_after(&mut self, event: Timer<Name>, after: Duration) {
        self.timers.push((event, after));
    }
}

/// Who looks dead, as seen by one node.
pub(crate) struct Suspicion {
    me: NodeId,
    draw: Draw,
    foca: Foca<Name, Codec, Draw, NoCustomBroadcast>,
    members: BTreeSet<NodeId>,
    dead: BTreeSet<NodeId>,
    /// Whether somebody has come to look dead of whom nobody took notice yet.
    fallen: bool,
    timers: BTreeMap<(Time, u64), Timer<Name>>,
    serial: u64,
    out: Out,
}

impl std::fmt::Debug for Suspicion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Suspicion")
            .field("me", &self.me)
            .field("dead", &self.dead)
            .finish_non_exhaustive()
    }
}

fn config(members: usize) -> foca::Config {
    // About four times the decimal logarithm, as others do: then news reach everyone.
    let spread = u8::try_from(2 + (members + 1).ilog2() * 6 / 5).unwrap_or(u8::MAX);
    let one = NonZeroUsize::MIN;
    foca::Config {
        probe_period: PROBE,
        probe_rtt: ROUND_TRIP,
        num_indirect_probes: one.saturating_add(2),
        max_transmissions: NonZeroU8::MIN.saturating_add(spread),
        suspect_to_down_after: SUSPECT,
        remove_down_after: Some(DOWN),
        max_packet_size: one.saturating_add(BYTES_MAX - 1),
        notify_down_members: true,
        periodic_announce: None,
        periodic_announce_to_down_members: Some(PeriodicParams {
            frequency: ANNOUNCE,
            num_members: one,
        }),
        periodic_gossip: Some(PeriodicParams {
            frequency: GOSSIP,
            num_members: one.saturating_add(1),
        }),
    }
}

impl Suspicion {
    /// That of `me`, which knows nobody yet.
    pub(crate) fn new(me: NodeId, mut draw: Draw) -> Self {
        let name = Name { node: me, turn: 0 };
        let foca = Foca::new(name, config(1), draw.fork(), Codec);
        Self {
            me,
            draw,
            foca,
            members: BTreeSet::new(),
            dead: BTreeSet::new(),
            fallen: false,
            timers: BTreeMap::new(),
            serial: 0,
            out: Out::default(),
        }
    }

    /// The members are these, by a new view.
    pub(crate) fn set_members(&mut self, now: Time, members: impl Iterator<Item = NodeId>) {
        let members: BTreeSet<NodeId> = members.filter(|node| *node != self.me).collect();
        let came: Vec<NodeId> = members.difference(&self.members).copied().collect();
        let went: Vec<NodeId> = self.members.difference(&members).copied().collect();
        self.members = members;
        self.dead.retain(|node| self.members.contains(node));
        let done = self.foca.set_config(config(self.members.len()));
        self.expect(done.is_ok());
        for node in &went {
            self.later(now + REMEMBER, Timer::RemoveDown(Name { node: *node, turn: u16::MAX }));
        }
        let came = came.into_iter().map(|node| foca::Member::alive(Name { node, turn: 0 }));
        // Of the last of its names, so that nothing that is said of it brings it back.
        let went = went.into_iter().map(|node| foca::Member::down(Name { node, turn: u16::MAX }));
        let done = self.foca.apply_many(came.chain(went), false, &mut self.out);
        self.expect(done.is_ok());
        self.after(now);
    }

    fn later(&mut self, at: Time, timer: Timer<Name>) {
        self.serial += 1;
        self.timers.insert((at, self.serial), timer);
    }

    /// What foca says of what it was given by us is no news: a peer's bytes are another matter.
    fn expect(&self, fine: bool) {
        debug_assert!(fine, "SU2: suspicion was given what it cannot use");
    }

    /// `from` has said something of another kind: it lives (**SU1**).
    pub(crate) fn lives(&mut self, from: NodeId) {
        self.dead.remove(&from);
    }

    /// Whoever runs this node has seen the process of `node` go.
    pub(crate) fn died(&mut self, node: NodeId) {
        if self.members.contains(&node) {
            self.fallen |= self.dead.insert(node);
        }
    }

    /// Whether somebody has come to look dead since this was asked.
    pub(crate) fn take_fallen(&mut self) -> bool {
        std::mem::take(&mut self.fallen)
    }

    /// `from` has sent `bytes`. Says whether they could be read.
    pub(crate) fn heard(&mut self, now: Time, from: NodeId, bytes: &[u8]) -> bool {
        if !self.members.contains(&from) {
            return true;
        }
        self.lives(from);
        let heard = match self.foca.handle_data(bytes, &mut self.out) {
            Ok(()) => true,
            Err(
                foca::Error::Decode(_) | foca::Error::MalformedPacket | foca::Error::DataTooBig,
            ) => false,
            // What two nodes may say to each other in the course of things.
            Err(_) => true,
        };
        self.after(now);
        heard
    }

    /// The deadline has passed.
    pub(crate) fn time(&mut self, now: Time) {
        while let Some(entry) = self.timers.first_entry().filter(|entry| entry.key().0 <= now) {
            let timer = entry.remove();
            // Late timers of a node that was held up are in another order than it planned; it mends that itself.
            drop(self.foca.handle_timer(timer, &mut self.out));
            self.after(now);
        }
    }

    /// Files what foca wants.
    fn after(&mut self, now: Time) {
        for (timer, after) in std::mem::take(&mut self.out.timers) {
            self.later(now + after, timer);
        }
        for (node, up) in std::mem::take(&mut self.out.ups) {
            if up || !self.members.contains(&node) {
                self.dead.remove(&node);
            } else {
                self.fallen |= self.dead.insert(node);
            }
        }
        let known = self.foca.iter_membership_state().len();
        if known > KNOWN_MAX || self.timers.len() > TIMERS_MAX {
            self.begin_again(now);
        }
    }

    /// Forgets all but the members (**SU2**).
    fn begin_again(&mut self, now: Time) {
        let turn = self.foca.identity().turn;
        let name = Name { node: self.me, turn };
        self.foca = Foca::new(name, config(self.members.len()), self.draw.fork(), Codec);
        self.timers.clear();
        let members = std::mem::take(&mut self.members);
        self.set_members(now, members.into_iter());
    }

    /// When [`time`](Self::time) is due.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.timers.first_key_value().map(|((at, _), _)| *at)
    }

    /// The messages that are to be sent.
    pub(crate) fn take_sends(&mut self) -> impl Iterator<Item = (NodeId, Vec<u8>)> + '_ {
        self.out.sends.drain(..)
    }

    /// Whether `node` looks dead.
    pub(crate) fn is_dead(&self, node: NodeId) -> bool {
        self.dead.contains(&node)
    }

    /// The members that look dead.
    pub(crate) fn dead(&self) -> &BTreeSet<NodeId> {
        &self.dead
    }
}
