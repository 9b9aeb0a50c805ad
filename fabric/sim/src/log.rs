//! The log of a run: what its entities did, looked at as it happens.
//!
//! # Invariants
//! - **S5** The first violation of a run stays; what follows from it is not reported.
//!
//! Checkers: `one_outcome` (each call ends once, with its own reply, and ran at most once),
//! `honest_ran` (I5: an error that says "it did not run" is true), `exclusive_alone` (A1),
//! `pair_order` (I4), `no_endless_wait` (I6: no wait that only a deadline ends), `within_lease` (I1: no turn past a
//! node's lease), `own_slot` (a turn where its node serves or empties the slot, and nowhere else), and
//! `single_activation` (no turn of an activation once a later one, on another node, has had one).
//!
//! # Not here
//! `same_trace`: it takes two runs. What is true of entities that are saved (`book`).

use std::cell::RefCell;
use std::collections::BTreeMap;

use epicserver_wire::{CallError, ChainId, ErrorKind, Ran, Time};

use crate::book::Book;
use crate::mutant::Mutant;
use crate::post::is_expected;
use crate::rng::mix;
use crate::world::Watch;

/// What a checker found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which checker.
    pub checker: &'static str,
    /// What it saw.
    pub what: String,
}

/// What happened in one run or several.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Runs.
    pub runs: u64,
    /// Time that passed in them.
    pub virtual_nanos: u64,
    /// Calls made by tasks and methods.
    pub calls: u64,
    /// How they ended, by name.
    pub outcomes: BTreeMap<String, u64>,
    /// What else was met, by name.
    pub coverage: BTreeMap<&'static str, u64>,
    /// What was drawn to go wrong, in order; of one run.
    pub drawn: Vec<String>,
    /// Which fault met a node in which state, how often.
    pub met: BTreeMap<String, u64>,
}

impl Stats {
    /// Adds what another one counted.
    pub fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.virtual_nanos += other.virtual_nanos;
        self.calls += other.calls;
        self.drawn.clone_from(&other.drawn);
        for (into, from) in [(&mut self.outcomes, &other.outcomes), (&mut self.met, &other.met)] {
            for (name, count) in from {
                *into.entry(name.clone()).or_default() += count;
            }
        }
        for (name, count) in &other.coverage {
            *self.coverage.entry(name).or_default() += count;
        }
    }

    pub(crate) fn cover(&mut self, name: &'static str, count: u64) {
        *self.coverage.entry(name).or_default() += count;
    }
}

/// What the entities of a run have to know of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Scene {
    /// Entities of a type.
    pub(crate) keys: u64,
    /// Whether calls may have short timeouts.
    pub(crate) hasty: bool,
    /// Whether nodes may be lost, and calls with them.
    pub(crate) lossy: bool,
    /// Whether slots move.
    pub(crate) moves: bool,
    /// Whether callers do something else between numbered calls, while slots move.
    pub(crate) gaps: bool,
    /// The longest nap, in microseconds.
    pub(crate) nap_us: u64,
    /// Whether there is a store.
    pub(crate) saves: bool,
    /// Whether that may fail.
    pub(crate) store_fails: bool,
    pub(crate) mutant: Option<Mutant>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Stage {
    #[default]
    Open,
    Ended,
    /// Its caller went on without it.
    Dropped,
    Told,
}

#[derive(Clone, Copy, Debug, Default)]
struct Called {
    stage: Stage,
    runs: u32,
    panicked: bool,
    /// Its method returned an error of its own accord.
    passed: bool,
    said_no: bool,
}

#[derive(Default)]
pub(crate) struct Log {
    pub(crate) scene: Scene,
    pub(crate) stats: Stats,
    pub(crate) violation: Option<Violation>,
    pub(crate) trace: u64,
    pub(crate) panics: u64,
    pub(crate) roots: u64,
    pub(crate) book: Book,
    /// A call that its slot's change of owners ended, where no node was lost.
    moved: Option<String>,
    calls: Vec<Called>,
    serial: u64,
    holders: BTreeMap<(u64, &'static str), u64>,
    last: BTreeMap<(u64, u64), Last>,
    visits: BTreeMap<(u64, ChainId), u32>,
    /// Who acts now, if that is looked at.
    act: Option<Act>,
    /// The last activation of each entity, and the run of a node that it is on.
    activations: BTreeMap<u64, (u64, u64)>,
}

/// A shard that acts.
struct Act {
    now: Time,
    /// Until when its node may act.
    lease: Time,
    /// Which run of which node.
    node: u64,
    /// Of which entities it may have turns.
    may_have: Vec<bool>,
}

/// The log as the one who looks on.
pub(crate) struct Onlooker;

impl Watch for Onlooker {
    fn acts(&mut self, (now, lease): (Time, Time), node: u64, may_have: &[bool]) {
        let may_have = may_have.to_vec();
        log(|log| log.act = Some(Act { now, lease, node, may_have }));
    }

    fn awaits(&self) -> bool {
        log(|log| log.violation.is_none() && log.book.awaits())
    }
}

thread_local! {
    static LOG: RefCell<Log> = RefCell::default();
}

/// Looks at the log of this thread's run.
pub(crate) fn log<R>(look: impl FnOnce(&mut Log) -> R) -> R {
    LOG.with(|log| look(&mut log.borrow_mut()))
}

/// A run begins; gives the log of the one before.
pub(crate) fn begin(scene: Scene) -> Log {
    LOG.with(|log| log.replace(Log { scene, ..Log::default() }))
}

/// What a numbered call may do to the order of its sequence (A3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Order {
    /// Nothing may come before it that was made after it.
    Keeps,
    /// It is exclusive or was told: a call that returns into its chain may come before it.
    IsPassed,
    /// It returns into its chain.
    Passes,
    /// It is exclusive, and returns into its chain where slots are given up.
    PassesAndIsPassed,
}

/// The last number that started in a sequence: of calls that pass, and of the others.
#[derive(Clone, Copy, Default)]
struct Last {
    passed: Option<u32>,
    other: Option<u32>,
}

/// The name under which the whole activation is held, where locks have theirs.
pub(crate) const WHOLE: &str = "";

impl Log {
    pub(crate) fn violate(&mut self, checker: &'static str, what: String) {
        self.violation.get_or_insert(Violation { checker, what });
    }

    fn note(&mut self, what: u64, which: u64) {
        self.trace = mix(self.trace ^ mix((what << 56) ^ which));
    }

    /// A number that the run has not used before.
    pub(crate) fn fresh(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    pub(crate) fn made(&mut self) -> u64 {
        self.calls.push(Called::default());
        self.stats.calls += 1;
        self.calls.len() as u64 - 1
    }

    fn call(&mut self, call: u64) -> &mut Called {
        let index = usize::try_from(call).unwrap_or(usize::MAX);
        &mut self.calls[index]
    }

    pub(crate) fn told(&mut self, call: u64) {
        self.call(call).stage = Stage::Told;
    }

    /// The caller of `call` is gone, or does not wait any more.
    pub(crate) fn dropped(&mut self, call: u64) {
        let called = self.call(call);
        if called.stage == Stage::Open {
            called.stage = Stage::Dropped;
        }
    }

    pub(crate) fn started(&mut self, call: u64) {
        self.note(1, call);
        let called = self.call(call);
        called.runs += 1;
        if called.runs > 1 {
            self.violate("one_outcome", format!("call {call} ran twice"));
        }
    }

    pub(crate) fn panics(&mut self, call: Option<u64>) {
        self.panics += 1;
        self.stats.cover("panics", 1);
        if let Some(call) = call {
            self.call(call).panicked = true;
        }
    }

    pub(crate) fn passes_on(&mut self, call: u64) {
        self.call(call).passed = true;
    }

    /// The caller of `call` was told its outcome.
    pub(crate) fn ended(&mut self, call: u64, outcome: &Result<u64, CallError>) {
        let called = std::mem::take(self.call(call));
        if called.stage != Stage::Open {
            self.violate("one_outcome", format!("call {call} has a second outcome: {outcome:?}"));
        }
        let said_no = matches!(outcome, Err(error) if error.ran() == Ran::No);
        *self.call(call) = Called { stage: Stage::Ended, said_no, ..called };
        match outcome {
            Ok(echo) => {
                self.check_reply(call, called, *echo);
                self.book.replied(call);
            }
            Err(error) => self.check_error(call, called, *error),
        }
        let name = match outcome {
            Ok(_) => "Ok".to_owned(),
            Err(error) => format!("{:?} (ran: {:?})", error.kind(), error.ran()),
        };
        let kind = outcome.as_ref().err().map_or(0, |error| 1 + error.kind() as u64);
        self.note(2 + kind, call);
        *self.stats.outcomes.entry(name).or_default() += 1;
    }

    fn check_reply(&mut self, call: u64, called: Called, echo: u64) {
        if echo != call {
            self.violate("one_outcome", format!("call {call} was given the reply of {echo}"));
        } else if called.runs != 1 {
            self.violate("one_outcome", format!("call {call} has a reply and did not run"));
        }
    }

    fn check_error(&mut self, call: u64, called: Called, error: CallError) {
        let what = format!("call {call} ended with {error:?}");
        let expected = is_expected(error.kind(), self.scene.lossy || self.scene.store_fails);
        if !expected && error.kind() == ErrorKind::Moved {
            self.moved.get_or_insert(what);
        } else if !expected {
            self.violate("one_outcome", what);
        }
        if error.ran() == Ran::No && called.runs > 0 {
            self.violate("honest_ran", format!("call {call} ran, and its caller got {error:?}"));
        }
        if error.ran() == Ran::Yes && called.runs == 0 {
            self.violate("honest_ran", format!("call {call} did not run: {error:?}"));
        }
        if error.kind() == ErrorKind::Deadline && !self.scene.hasty {
            let what = format!("call {call} ended by its deadline: {error:?}");
            self.violate("no_endless_wait", what);
        }
        if error.kind() == ErrorKind::Panicked && !called.panicked && !called.passed {
            self.violate("one_outcome", format!("call {call} panicked unexpectedly: {error:?}"));
        }
    }

    /// A turn of `who` runs on `activation`, which is of `entity` if it is of any.
    pub(crate) fn turn(&mut self, activation: u64, entity: Option<u64>, who: u64) {
        self.note(20, activation ^ (who << 20));
        if let Some(entity) = entity {
            self.check_owner(activation, entity);
        }
        let holder = self.holders.get(&(activation, WHOLE)).copied();
        if let Some(holder) = holder.filter(|holder| *holder != who) {
            let what = format!("{who} has a turn on activation {activation}, which {holder} holds");
            self.violate("exclusive_alone", what);
        }
    }

    fn check_owner(&mut self, activation: u64, entity: u64) {
        let Some(Act { now, lease, node, may_have }) = &self.act else { return };
        let (now, lease, node) = (*now, *lease, *node);
        let may = may_have.get(usize::try_from(entity).unwrap_or(usize::MAX)).copied();
        let (last, there) = *self.activations.entry(entity).or_insert((activation, node));
        if activation > last {
            self.activations.insert(entity, (activation, node));
        }
        if now >= lease {
            self.violate("within_lease", format!("node {node} has a turn past its lease"));
        }
        if activation < last && there != node {
            let what =
                format!("activation {activation} of {entity} at {node} has a turn after {last}");
            self.violate("single_activation", what);
        }
        if may != Some(true) {
            self.violate(
                "own_slot",
                format!("node {node} has a turn of {entity}, which is not its"),
            );
        }
    }

    /// `who` holds `activation` from now on, or its lock called `name`.
    pub(crate) fn holds(&mut self, activation: u64, name: &'static str, who: u64) {
        self.note(21, activation ^ (who << 20));
        if let Some(holder) = self.holders.insert((activation, name), who) {
            let what = format!("{who} takes `{name}` of {activation}, which {holder} holds");
            self.violate("exclusive_alone", what);
        }
    }

    pub(crate) fn lets_go(&mut self, activation: u64, name: &'static str, who: u64) {
        self.note(22, activation ^ (who << 20));
        let key = (activation, name);
        if self.holders.get(&key) == Some(&who) {
            self.holders.remove(&key);
        }
    }

    /// A method of `chain` runs on `activation` until it [leaves](Self::leaves).
    pub(crate) fn enters(&mut self, activation: u64, chain: ChainId) {
        *self.visits.entry((activation, chain)).or_default() += 1;
    }

    pub(crate) fn leaves(&mut self, activation: u64, chain: ChainId) {
        if let Some(visits) = self.visits.get_mut(&(activation, chain)) {
            *visits -= 1;
        }
    }

    /// How many methods of `chain` run or are parked on `activation`.
    pub(crate) fn visits(&self, activation: u64, chain: ChainId) -> u32 {
        self.visits.get(&(activation, chain)).copied().unwrap_or(0)
    }

    pub(crate) fn is_told(&mut self, call: u64) -> bool {
        self.call(call).stage == Stage::Told
    }

    /// The call numbered `number` has started; `pair` is its sequence and its callee.
    pub(crate) fn numbered(&mut self, pair: (u64, u64), number: u32, order: Order) {
        self.stats.cover("numbered calls", 1);
        let last = self.last.entry(pair).or_default();
        let (passed, other) = (last.passed, last.other);
        match order {
            Order::Passes | Order::PassesAndIsPassed => last.passed = passed.max(Some(number)),
            Order::Keeps | Order::IsPassed => last.other = other.max(Some(number)),
        }
        let later = match order {
            Order::IsPassed | Order::PassesAndIsPassed => other,
            Order::Keeps | Order::Passes => other.max(passed),
        };
        if passed > Some(number) {
            self.stats.cover("numbered calls passed", 1);
        }
        if let Some(later) = later.filter(|later| *later >= number) {
            let what = format!("call {number} of {pair:?} started after its call {later}");
            self.violate("pair_order", what);
        }
    }

    /// What only the end of a run shows. `refused` tells were refused, and `forced` activations ended with their turns.
    pub(crate) fn conclude(&mut self, roots: u64, (refused, forced): (u64, u64), panics: u64) {
        if let Some(what) = self.moved.take().filter(|_| forced == 0) {
            self.violate("one_outcome", what);
        }
        if self.roots != roots {
            self.violate("no_endless_wait", format!("{} of {roots} tasks ended", self.roots));
        }
        if let Err(violation) = self.book.conclude() {
            self.violation.get_or_insert(violation);
        }
        let calls = self.calls.clone();
        for (index, called) in calls.iter().enumerate() {
            if called.stage == Stage::Open {
                self.violate("one_outcome", format!("call {index} has no outcome"));
            }
            if called.said_no && called.runs > 0 {
                self.violate("honest_ran", format!("call {index} ran after it was refused"));
            }
        }
        let told = calls.iter().filter(|called| called.stage == Stage::Told);
        let lost = told.filter(|called| called.runs == 0).count() as u64;
        if lost > refused && !self.scene.lossy {
            self.violate("one_outcome", format!("{} tells were lost", lost - refused));
        }
        if panics != self.panics {
            let what = format!("{} deliberate panics, {panics} panics", self.panics);
            self.violate("one_outcome", what);
        }
        self.stats.cover("tells refused", refused);
        let told = calls.iter().filter(|called| called.stage == Stage::Told).count() as u64;
        let dropped = calls.iter().filter(|called| called.stage == Stage::Dropped).count() as u64;
        self.stats.cover("tells", told);
        self.stats.cover("calls given up", dropped);
    }
}
