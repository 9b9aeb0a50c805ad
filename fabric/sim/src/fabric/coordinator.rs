//! A coordinator: exactly what `epicserver_proto::coordinator` says one does, by a clock of its own.
//!
//! # Not here
//! Questions and answers that get lost on the way: `fleet`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use epicserver_proto::coordinator::{Answer, Ask, Lease};
use epicserver_proto::view::View;
use epicserver_wire::{NodeId, Time};

use super::clock::Clock;
use crate::mutant::Mutant;

/// How much too early `take_over_without_waiting` holds leases for over.
const TOO_EARLY: Duration = Duration::from_millis(2_200);

struct Held {
    record: Vec<u8>,
    expires: Time,
}

pub(crate) struct Coordinator {
    clock: Clock,
    number: u64,
    bytes: Vec<u8>,
    /// The same, read.
    view: Option<Arc<View>>,
    leases: BTreeMap<NodeId, Held>,
    ended: BTreeSet<NodeId>,
    mutant: Option<Mutant>,
    /// Whether one view was put in place of another of its number.
    pub(crate) replaced: Option<u64>,
}

impl Coordinator {
    pub(crate) fn new(clock: Clock, mutant: Option<Mutant>) -> Self {
        Self {
            clock,
            number: 0,
            bytes: Vec::new(),
            view: None,
            leases: BTreeMap::new(),
            ended: BTreeSet::new(),
            mutant,
            replaced: None,
        }
    }

    /// What the view is by now.
    pub(crate) fn view(&self) -> Option<&Arc<View>> {
        self.view.as_ref()
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Whether the lease of `node` lasts, in truth.
    pub(crate) fn lasts(&self, truth: Time, node: NodeId) -> bool {
        let lasts = |lease: &Held| lease.expires > self.clock.shows(truth);
        !self.ended.contains(&node) && self.leases.get(&node).is_some_and(lasts)
    }

    fn left(&self, now: Time, held: &Held) -> Duration {
        let early = self.mutant == Some(Mutant::TakeOverWithoutWaiting);
        let early = if early { TOO_EARLY } else { Duration::ZERO };
        held.expires.since(now).saturating_sub(early)
    }

    /// Does what it is asked.
    pub(crate) fn ask(&mut self, truth: Time, ask: Ask) -> Answer {
        let now = self.clock.shows(truth);
        match ask {
            Ask::Read => {
                let lease = |(node, held): (&NodeId, &Held)| Lease {
                    node: *node,
                    record: held.record.clone(),
                    left: self.left(now, held),
                };
                let view = (self.number > 0).then(|| (self.number, self.bytes.clone()));
                Answer::State { view, leases: self.leases.iter().map(lease).collect() }
            }
            Ask::Renew { node, record, ttl } => {
                if self.ended.contains(&node) && self.mutant != Some(Mutant::EndedRenews) {
                    return Answer::Evicted;
                }
                self.ended.remove(&node);
                self.leases.insert(node, Held { record, expires: now + ttl });
                Answer::Renewed { number: self.number }
            }
            Ask::Change { from, view, ends } => self.change(now, from, view, &ends),
            Ask::Release { node } => {
                self.leases.remove(&node);
                self.ended.insert(node);
                Answer::Released
            }
        }
    }

    fn change(&mut self, now: Time, from: u64, view: Vec<u8>, ends: &[NodeId]) -> Answer {
        if from != self.number {
            if self.mutant != Some(Mutant::ChangeWithoutCas) || from + 1 != self.number {
                return Answer::Overtaken { number: self.number };
            }
            self.replaced = Some(self.number);
        }
        let lasts = |node: &&NodeId| {
            self.leases.get(node).is_some_and(|held| !self.left(now, held).is_zero())
        };
        if let Some(node) = ends.iter().find(lasts) {
            return Answer::Alive { node: *node };
        }
        for node in ends {
            self.leases.remove(node);
            self.ended.insert(*node);
        }
        self.number = from + 1;
        let view = match (self.mutant, View::read(&view)) {
            (Some(Mutant::HistoryForgotten), Ok(read)) => {
                View { history: Vec::new(), ..read }.write()
            }
            _ => view,
        };
        self.view = View::read(&view).ok().map(Arc::new);
        self.bytes = view;
        Answer::Changed { number: self.number }
    }
}

/// About how many bytes a question and its answer take.
pub(crate) fn bytes_of(ask: &Ask) -> usize {
    match ask {
        Ask::Read => 1,
        Ask::Renew { record, .. } => 16 + record.len(),
        Ask::Change { view, ends, .. } => 8 + view.len() + 8 * ends.len(),
        Ask::Release { .. } => 8,
    }
}

/// The same of an answer.
pub(crate) fn bytes_of_answer(answer: &Answer) -> usize {
    match answer {
        Answer::State { view, leases } => {
            let leases: usize = leases.iter().map(|lease| 16 + lease.record.len()).sum();
            view.as_ref().map_or(0, |(_, bytes)| 8 + bytes.len()) + leases
        }
        Answer::Renewed { .. }
        | Answer::Changed { .. }
        | Answer::Overtaken { .. }
        | Answer::Alive { .. } => 8,
        Answer::Evicted | Answer::Released | Answer::Failed { .. } => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric::scenario::Clocks;
    use crate::rng::Rng;

    const TTL: Duration = Duration::from_secs(3);

    fn coordinator() -> Coordinator {
        let clocks = Clocks { skew_s: 0, drift_ppm: 0, of_shards: false };
        Coordinator::new(Clock::draw(&clocks, &mut Rng::new(1)), None)
    }

    fn at(ms: u64) -> Time {
        Time::from_nanos(ms * 1_000_000)
    }

    fn renew(node: u64) -> Ask {
        Ask::Renew { node: NodeId::new(node), record: vec![1], ttl: TTL }
    }

    fn change(from: u64, ends: &[u64]) -> Ask {
        Ask::Change {
            from,
            view: vec![9],
            ends: ends.iter().map(|node| NodeId::new(*node)).collect(),
        }
    }

    #[test]
    fn a_view_is_changed_from_the_one_there_is_and_from_no_other() {
        let mut coordinator = coordinator();
        assert_eq!(coordinator.ask(at(0), change(0, &[])), Answer::Changed { number: 1 });
        assert_eq!(coordinator.ask(at(0), change(0, &[])), Answer::Overtaken { number: 1 });
        assert_eq!(coordinator.ask(at(0), change(1, &[])), Answer::Changed { number: 2 });
    }

    #[test]
    fn a_lease_ends_when_it_has_expired_and_never_lasts_again() {
        let mut coordinator = coordinator();
        assert_eq!(coordinator.ask(at(0), renew(1)), Answer::Renewed { number: 0 });
        assert_eq!(
            coordinator.ask(at(2_999), change(0, &[1])),
            Answer::Alive { node: NodeId::new(1) }
        );
        assert_eq!(coordinator.ask(at(3_000), renew(1)), Answer::Renewed { number: 0 });
        assert_eq!(coordinator.ask(at(6_000), change(0, &[1])), Answer::Changed { number: 1 });
        assert_eq!(coordinator.ask(at(6_000), renew(1)), Answer::Evicted);
        assert!(!coordinator.lasts(at(6_000), NodeId::new(1)));
    }

    #[test]
    fn a_lease_that_was_released_has_ended() {
        let mut coordinator = coordinator();
        coordinator.ask(at(0), renew(1));
        assert_eq!(coordinator.ask(at(0), Ask::Release { node: NodeId::new(1) }), Answer::Released);
        assert_eq!(coordinator.ask(at(0), renew(1)), Answer::Evicted);
        assert_eq!(coordinator.ask(at(0), change(0, &[1])), Answer::Changed { number: 1 });
    }
}
