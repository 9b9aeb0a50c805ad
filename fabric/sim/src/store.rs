//! The store that all nodes of a world reach: what is kept, and when whoever asked is told.
//!
//! # Invariants
//! - **S14** Commits of one shard take effect in the order in which they were asked, unless nobody is told what became of them.
//! - **S15** An op that is said to have changed nothing has changed nothing, and never will.
//!
//! # Not here
//! Files, and what a crash of the store itself leaves of them: the suites of the stores.

use std::collections::BTreeMap;
use std::time::Duration;

use epicserver_record::{Answer, Done, Op, OpId, Trouble, World as Kept};
use epicserver_wire::Time;

use crate::fabric::scenario::{Answers, millis};
use crate::rng::Rng;

/// How much longer a slow op takes at most, and how long somebody waits for one that has no answer.
const SLOW: Duration = Duration::from_secs(2);

/// What happens to an op.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// It is done, and whoever asked is told.
    Done,
    /// It is done, and nobody is told.
    Unheard,
}

enum Step {
    Asked(usize, OpId, Op, Fate),
    Answered(usize, Done),
}

/// A store.
pub(crate) struct Store {
    kept: Kept,
    rng: Rng,
    answers: Answers,
    queue: BTreeMap<(Time, u64), Step>,
    serial: u64,
    /// When the last commit of each shard arrives (**S14**).
    last: BTreeMap<usize, Time>,
    away: Time,
    muddled: Time,
    calm: bool,
    counts: BTreeMap<&'static str, u64>,
}

impl Store {
    pub(crate) fn new(answers: Answers, rng: Rng) -> Self {
        Self {
            kept: Kept::default(),
            rng,
            answers,
            queue: BTreeMap::new(),
            serial: 0,
            last: BTreeMap::new(),
            away: Time::ZERO,
            muddled: Time::ZERO,
            calm: false,
            counts: BTreeMap::new(),
        }
    }

    /// It carries nothing out until then.
    pub(crate) fn go_away(&mut self, until: Time) {
        self.away = until;
    }

    /// It carries ops out or does not, and says nothing, until then.
    pub(crate) fn muddle(&mut self, until: Time) {
        self.muddled = until;
    }

    /// Nothing goes wrong any more.
    pub(crate) fn calm_down(&mut self) {
        (self.calm, self.away, self.muddled) = (true, Time::ZERO, Time::ZERO);
    }

    /// What happened there, by name.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.counts.iter().map(|(name, count)| (*name, *count))
    }

    /// When something is to be done.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.queue.first_key_value().map(|((at, _), _)| *at)
    }

    /// Whether nobody waits for anything. Something may be done yet of which nobody hears.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    fn count(&mut self, name: &'static str) {
        *self.counts.entry(name).or_default() += 1;
    }

    fn put(&mut self, at: Time, step: Step) {
        self.serial += 1;
        self.queue.insert((at, self.serial), step);
    }

    fn delay(&mut self) -> Duration {
        let slow = if self.calm { 0.0 } else { self.answers.slow };
        let delay = self.rng.up_to(millis(self.answers.delay_ms));
        if self.rng.chance(slow) { delay + self.rng.up_to(SLOW) } else { delay }
    }

    /// Shard number `from` of the world asks for something.
    pub(crate) fn ask(&mut self, now: Time, from: usize, (id, op): (OpId, Op)) {
        if self.away > now {
            self.count("store away");
            let trouble = Trouble::Unavailable("it is away".to_owned());
            return self.answer(now, from, id, Err(trouble));
        }
        let unknown = if self.muddled > now { 0.5 } else { self.answers.unknown };
        if !self.calm && self.rng.chance(unknown) {
            return self.keep_silent(now, from, (id, op));
        }
        let mut at = now + self.delay();
        if matches!(op, Op::Commit(_) | Op::Claim { .. }) {
            let last = self.last.entry(from).or_insert(at);
            at = at.max(*last);
            *last = at;
        }
        self.put(at, Step::Asked(from, id, op, Fate::Done));
    }

    /// Nobody is told what becomes of `op`; it may be done long after that was said.
    fn keep_silent(&mut self, now: Time, from: usize, (id, op): (OpId, Op)) {
        let trouble = Trouble::Unknown("it did not say".to_owned());
        let gives_up = now + self.rng.up_to(SLOW);
        self.put(gives_up, Step::Answered(from, Done { id, result: Err(trouble) }));
        if self.rng.one_in(2) {
            self.count("store did what nobody was told");
            let at = now + self.rng.up_to(2 * SLOW);
            self.put(at, Step::Asked(from, id, op, Fate::Unheard));
        } else {
            self.count("store did nothing and nobody was told");
        }
    }

    fn answer(&mut self, now: Time, to: usize, id: OpId, result: Result<Answer, Trouble>) {
        let at = now + self.delay();
        self.put(at, Step::Answered(to, Done { id, result }));
    }

    /// Does the next thing that is due; says whom it tells what.
    pub(crate) fn step(&mut self, now: Time) -> Option<(usize, Done)> {
        let entry = self.queue.first_entry().filter(|entry| entry.key().0 <= now)?;
        match entry.remove() {
            Step::Asked(from, id, op, fate) => {
                let result = self.kept.carry_out(op);
                if fate == Fate::Done {
                    self.answer(now, from, id, result);
                }
                None
            }
            Step::Answered(to, done) => Some((to, done)),
        }
    }
}

#[cfg(test)]
mod tests {
    use epicserver_record::{Owner, Slot};
    use epicserver_wire::{ClassId, NodeId};

    use super::*;

    fn claim(epoch: u64) -> Op {
        let owner = Owner { node: NodeId::new(1), epoch };
        Op::Claim { owner, slots: vec![Slot { class: ClassId::DEFAULT, index: 7 }] }
    }

    fn run(store: &mut Store) -> Vec<(u64, Result<Answer, Trouble>)> {
        let mut all = Vec::new();
        while let Some(at) = store.deadline() {
            all.extend(store.step(at).map(|(_, done)| (done.id.0, done.result)));
        }
        all
    }

    fn store(answers: Answers) -> Store {
        Store::new(answers, Rng::new(7))
    }

    #[test]
    fn s14_claims_of_one_shard_take_effect_in_their_order() {
        let mut store = store(Answers { delay_ms: 50.0, ..Answers::default() });
        for epoch in 1..100 {
            store.ask(Time::from_nanos(epoch), 3, (OpId(epoch), claim(epoch)));
        }
        let refused = run(&mut store).into_iter().filter(|(_, result)| {
            result.as_ref().is_ok_and(|answer| *answer != Answer::Claimed { refused: Vec::new() })
        });
        assert_eq!(refused.count(), 0);
    }

    #[test]
    fn s15_a_store_that_is_away_changes_nothing() {
        let mut store = store(Answers::default());
        store.go_away(Time::from_nanos(10));
        store.ask(Time::ZERO, 3, (OpId(1), claim(1)));
        let answers = run(&mut store);
        assert!(matches!(answers[..], [(1, Err(Trouble::Unavailable(_)))]), "{answers:?}");
        assert!(store.kept.owners.is_empty());
    }

    #[test]
    fn of_what_has_no_answer_some_is_done_and_some_is_not() {
        let mut store = store(Answers { unknown: 1.0, ..Answers::default() });
        for slot in 0..100 {
            let owner = Owner { node: NodeId::new(1), epoch: 1 };
            let slots = vec![Slot { class: ClassId::DEFAULT, index: slot }];
            store.ask(Time::ZERO, 3, (OpId(u64::from(slot)), Op::Claim { owner, slots }));
        }
        let answers = run(&mut store);
        assert!(answers.iter().all(|(_, result)| matches!(result, Err(Trouble::Unknown(_)))));
        assert_eq!(answers.len(), 100);
        assert!((20..80).contains(&store.kept.owners.len()));
    }
}
