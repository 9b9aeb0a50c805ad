//! Entities that are saved: what they find in their states, and what callers are told, goes into the book.
//!
//! # Not here
//! Whether that was right (`book`).

use std::time::Duration;

use epicserver_entity::{At, Cx, Pool, Ref, Reminder};
use epicserver_macros::{activate, entity, exclusive, loaded, reminded};
use epicserver_wire::{ErrorKind, Ran};
use uuid::Uuid;

use super::{Made, Result, Task, Visit, key, timeout};
use crate::book::Book;
use crate::log::{Violation, log};
use crate::rng::Rng;

/// Set in what a method adds in its second turn.
const SECOND: u64 = 1 << 62;
/// Set in the number of a request.
const REQUEST: u64 = 1 << 63;
/// Labels of reminders.
const LABELS: u64 = 4;
/// The longest time until one is due.
const DUE_MS_MAX: u64 = 3_000;

/// Makes some call of some entity that is saved; `None` if it was told.
pub(super) fn make(id: u64, plan: u64, rng: &mut Rng, tell: bool) -> Option<Made> {
    let pool = Pool::new();
    let ledger: Ref<Ledger> = pool.get(key(rng));
    match rng.below(10) {
        0..3 => make!(ledger.put(id), id, rng, tell),
        3 => make!(ledger.look(id), id, rng, tell),
        4 => make!(ledger.put_twice(id, plan), id, rng, tell),
        5 => make!(ledger.put_alone(id, plan), id, rng, tell),
        6 => make!(ledger.keep(id), id, rng, tell),
        7 if rng.one_in(3) => make!(ledger.close(id), id, rng, tell),
        7 | 8 => make!(ledger.remind(id, rng.below(DUE_MS_MAX)), id, rng, tell),
        _ => {
            let tally: Ref<Tally> = pool.get(key(rng));
            make!(tally.raise(id), id, rng, tell)
        }
    }
}

/// Sends a request until it has a reply, and sometimes once more.
pub(super) async fn request(rng: &mut Rng) {
    let (key, request) = (key(rng), log(|log| log.fresh()) | REQUEST);
    let ledger: Ref<Ledger> = Pool::new().get(key);
    let mut maybe = false;
    for _ in 0..=rng.below(4) {
        log(|log| log.book.requests(request, key));
        let call = ledger.pay(request).request_id(Uuid::from_u128(u128::from(request)));
        let outcome = call.timeout(timeout(rng)).await;
        log(|log| {
            log.stats.cover("requests", 1);
            match outcome {
                Ok(echo) if echo == request => log.book.requested(request, key, true),
                Ok(echo) => {
                    log.violate("one_outcome", format!("{request} has the reply of {echo}"))
                }
                Err(error) if error.ran() == Ran::No && !maybe => {
                    log.book.requested(request, key, false);
                }
                Err(_) => {}
            }
        });
        maybe = true;
    }
}

/// What all of them have become: nothing fails any more, but for calls that meet the end of something that did.
pub(crate) async fn look_at_all(mut task: Task) {
    const TRIES: u32 = 3;
    for key in 0..log(|log| log.scene.keys) {
        for tried in 1..=TRIES {
            let Err(error) = look_at(key).await else { break };
            // Where memory is short that is no fault.
            if tried == TRIES && error.kind() != ErrorKind::OutOfBudget {
                let what = format!("ledger {key} cannot be looked at in the end: {error:?}");
                log(|log| log.violate("convergence", what));
            }
        }
    }
    task.ended = true;
}

async fn look_at(key: u64) -> Result<u64> {
    let id = log(|log| log.made());
    let ledger: Ref<Ledger> = Pool::new().get(key);
    let call = Box::pin(ledger.look(id).timeout(super::LONG));
    (Made { call: id, outcome: call }).ends().await
}

/// Looks into the book, and says if something is wrong.
fn book(look: impl FnOnce(&mut Book) -> std::result::Result<(), Violation>) {
    log(|log| {
        if let Err(Violation { checker, what }) = look(&mut log.book) {
            log.violate(checker, what);
        }
    });
}

/// Saved before each reply.
#[entity(key = u64, saved = "every_turn", crate = crate::__private)]
pub(crate) struct Ledger {
    entries: Vec<u64>,
    /// Which calls asked for the reminders that there are, by label.
    asked: Vec<u64>,
    /// It is deleted once nothing of it runs any more.
    #[unsaved]
    leaves: bool,
    #[unsaved]
    activation: u64,
}

#[entity(crate = crate::__private)]
impl Ledger {
    #[activate]
    fn begin(at: At<Self>) -> Self {
        book(|book| book.finds(at.key(), &[]));
        let asked = vec![0; usize::try_from(LABELS).unwrap_or(0)];
        Self { entries: Vec::new(), asked, leaves: false, activation: log(|log| log.fresh()) }
    }

    #[loaded]
    fn loaded(&mut self, at: At<Self>) {
        self.activation = log(|log| log.fresh());
        log(|log| log.stats.cover("ledgers loaded", 1));
        book(|book| book.finds(at.key(), &self.entries));
    }

    #[reminded]
    fn due(&mut self, at: At<Self>, reminder: Reminder) {
        let visit = Visit::of(&at, self.activation, None);
        if at.random().is_multiple_of(8) {
            visit.panic();
        }
        let label = reminder.label.parse::<usize>();
        let asked = label.ok().and_then(|label| self.asked.get(label)).copied();
        log(|log| {
            log.stats.cover("reminders", 1);
            log.book.reminded(asked.unwrap_or(0), at.key());
        });
    }

    /// Adds `call`.
    pub fn put(&mut self, at: At<Self>, call: u64) -> Result<u64> {
        let visit = self.visit(&at, Some(call));
        self.entries.push(call);
        if at.random().is_multiple_of(24) {
            visit.panic();
        }
        self.replies(&at, call)
    }

    pub fn look(&self, at: At<Self>, call: u64) -> Result<u64> {
        let _visit = self.visit(&at, Some(call));
        self.replies(&at, call)
    }

    /// Adds something in each of two turns.
    pub async fn put_twice(cx: Cx<Self>, call: u64, plan: u64) -> Result<u64> {
        let visit = cx.with(|ledger| {
            let visit = ledger.visit(&cx, Some(call));
            ledger.entries.push(call);
            visit
        });
        let mut rng = Rng::new(plan);
        let slept = cx.sleep(Duration::from_micros(rng.below(5_000))).await;
        visit.mind(&mut rng, slept)?;
        cx.with(|ledger| {
            ledger.entries.push(call | SECOND);
            ledger.replies(&cx, call)
        })
    }

    /// The same, and nothing comes between, neither another turn nor a save.
    #[exclusive]
    pub async fn put_alone(&mut self, at: At<Self>, call: u64, plan: u64) -> Result<u64> {
        let visit = self.visit(&at, Some(call));
        self.entries.push(call);
        let mut rng = Rng::new(plan);
        let slept = at.sleep(Duration::from_micros(rng.below(5_000))).await;
        visit.mind(&mut rng, slept)?;
        if rng.one_in(16) {
            visit.panic();
        }
        self.entries.push(call | SECOND);
        self.replies(&at, call)
    }

    /// Adds `call`, and waits itself until that is saved.
    pub async fn keep(cx: Cx<Self>, call: u64) -> Result<u64> {
        let visit = cx.with(|ledger| {
            let visit = ledger.visit(&cx, Some(call));
            ledger.entries.push(call);
            let _ = ledger.replies(&cx, call);
            visit
        });
        if cx.save().await.is_ok() {
            log(|log| log.book.replied(call));
        }
        visit.turn();
        cx.with(|ledger| ledger.replies(&cx, call))
    }

    /// Adds a request.
    pub fn pay(&mut self, at: At<Self>, request: u64) -> Result<u64> {
        let visit = self.visit(&at, None);
        self.entries.push(request);
        if at.random().is_multiple_of(16) {
            visit.panic();
        }
        self.may_leave(&at);
        Ok(request)
    }

    /// Deletes the entity.
    pub fn close(&mut self, at: At<Self>, call: u64) -> Result<u64> {
        let _visit = self.visit(&at, Some(call));
        at.delete();
        self.leaves = true;
        log(|log| log.book.deletes(call, at.key(), &self.entries));
        Ok(call)
    }

    /// Asks for a reminder.
    pub fn remind(&mut self, at: At<Self>, call: u64, in_ms: u64) -> Result<u64> {
        let _visit = self.visit(&at, Some(call));
        let label = call % LABELS;
        if let Some(asked) = usize::try_from(label).ok().and_then(|at| self.asked.get_mut(at)) {
            *asked = call;
        }
        drop(at.remind_in(label.to_string(), Duration::from_millis(in_ms)));
        if !self.leaves {
            log(|log| log.book.reminds(call, at.key(), label));
        }
        Ok(call)
    }
}

impl Ledger {
    /// A method begins, called by `call` if that has a number.
    fn visit(&self, at: &At<Self>, call: Option<u64>) -> Visit {
        let visit = Visit::of(at, self.activation, call);
        book(|book| book.finds(at.key(), &self.entries));
        visit
    }

    /// The reply of `call` is made.
    fn replies(&self, at: &At<Self>, call: u64) -> Result<u64> {
        self.may_leave(at);
        log(|log| log.book.saw(call, at.key(), &self.entries));
        Ok(call)
    }

    /// What is added to an entity that is to be deleted goes with it.
    fn may_leave(&self, at: &At<Self>) {
        if self.leaves {
            log(|log| log.book.leaves(at.key(), &self.entries));
        }
    }
}

/// Saved now and then.
#[entity(key = u64, saved = "write_behind", lag = "200ms", crate = crate::__private)]
#[derive(Default)]
pub(crate) struct Tally {
    count: u64,
    #[unsaved]
    activation: u64,
}

#[entity(crate = crate::__private)]
impl Tally {
    pub fn raise(&mut self, at: At<Self>, call: u64) -> Result<u64> {
        if self.activation == 0 {
            self.activation = log(|log| log.fresh());
        }
        let _visit = Visit::of(&at, self.activation, Some(call));
        let exactly = log(|log| !log.scene.lossy && !log.scene.store_fails);
        // The keys of the others are below.
        book(|book| book.raises(at.key() | REQUEST, self.count, exactly));
        self.count += 1;
        Ok(call)
    }
}
