//! The built-in entities: they call each other in every way there is, as their arguments say.
//!
//! A plan (one number) says what a method does, so that the same plan does the same anywhere.
//!
//! # Not here
//! Whether what happened was right (`log`).

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use epicserver_entity::{At, Cx, Entity, EntityType as _, Mode, Pool, Ref};
use epicserver_macros::{activate, deactivate, entity, exclusive};
use epicserver_proto::SlotId;
use epicserver_wire::{CallError, ChainId, Time, TypeId};

use crate::log::{Order, WHOLE, log};
use crate::mutant::Mutant;
use crate::rng::Rng;

type Result<T> = std::result::Result<T, CallError>;

/// A timeout that no run comes near to.
const LONG: Duration = Duration::from_secs(3_600_000);
const LOCKS: [&str; 2] = ["a", "b"];

/// One method under way, as the log knows it.
struct Visit {
    activation: u64,
    /// The number of the entity, if it is one.
    entity: Option<u64>,
    who: u64,
    call: Option<u64>,
    chain: ChainId,
}

impl Visit {
    /// A method of an entity, as part of its chain.
    fn of<T: Entity<Key = u64>>(at: &At<T>, activation: u64, call: Option<u64>) -> Self {
        let entity = number_of(T::TYPE_ID, at.key());
        Self::new(activation, Some(entity), call, at.chain())
    }

    /// A task that is no method of an entity.
    fn alone() -> Self {
        Self::new(log(|log| log.fresh()), None, None, ChainId::NONE)
    }

    fn new(activation: u64, entity: Option<u64>, call: Option<u64>, chain: ChainId) -> Self {
        let who = log(|log| {
            if let Some(call) = call {
                log.started(call);
            }
            log.enters(activation, chain);
            log.fresh()
        });
        let visit = Self { activation, entity, who, call, chain };
        visit.turn();
        visit
    }

    /// It is the call numbered `number` of `sequence`, to the entity with `key`.
    fn numbered(&self, key: u64, sequence: u64, number: u32, mode: Mode) {
        log(|log| {
            let told = self.call.is_some_and(|call| log.is_told(call));
            let returns = log.visits(self.activation, self.chain) > 1;
            let order = match mode {
                Mode::Turn | Mode::Shared if returns => Order::Passes,
                // Where a slot is given up, tells go elsewhere before those that are waited for there.
                Mode::Exclusive if returns && log.scene.moves => Order::PassesAndIsPassed,
                Mode::Turn | Mode::Shared if !told => Order::Keeps,
                Mode::Turn | Mode::Shared | Mode::Exclusive => Order::IsPassed,
            };
            log.numbered((sequence, key), number, order);
        });
    }

    /// A turn of it runs.
    fn turn(&self) {
        log(|log| log.turn(self.activation, self.entity, self.who));
    }

    /// It holds its activation, or a lock, until the guard is dropped.
    fn hold(&self, name: &'static str) -> Held {
        log(|log| log.holds(self.activation, name, self.who));
        Held { activation: self.activation, who: self.who, name }
    }

    /// Panics without a word on the console.
    fn panic(&self) -> ! {
        log(|log| log.panics(self.call));
        std::panic::resume_unwind(Box::new("deliberate"))
    }

    /// Returns an error of something that it called, or thinks nothing of it.
    fn mind<T>(&self, rng: &mut Rng, result: Result<T>) -> Result<()> {
        self.turn();
        match result {
            Err(error) if rng.one_in(2) => {
                if let Some(call) = self.call {
                    log(|log| log.passes_on(call));
                }
                Err(error)
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        log(|log| log.leaves(self.activation, self.chain));
    }
}

struct Held {
    activation: u64,
    who: u64,
    name: &'static str,
}

impl Drop for Held {
    fn drop(&mut self) {
        log(|log| log.lets_go(self.activation, self.name, self.who));
    }
}

/// The number of an entity: those of one type come behind those of another.
fn number_of(of: TypeId, key: u64) -> u64 {
    let keys = log(|log| log.scene.keys);
    let types = [Knot::TYPE_ID, Late::TYPE_ID, Ledger::TYPE_ID, Tally::TYPE_ID];
    let index = types.iter().position(|known| *known == of);
    index.map_or(0, |index| index as u64) * keys + key
}

/// The slots of all entities with keys below `keys`, by their numbers.
pub(crate) fn slots(keys: u64, saves: bool) -> Vec<SlotId> {
    let mut slots = slots_of::<Knot>(keys);
    slots.extend(slots_of::<Late>(keys));
    if saves {
        slots.extend(slots_of::<Ledger>(keys));
        slots.extend(slots_of::<Tally>(keys));
    }
    slots
}

fn slots_of<T: Entity<Key = u64>>(keys: u64) -> Vec<SlotId> {
    (0..keys).map(|key| SlotId::of(Ref::id(&Ref::<T>::of(key)))).collect()
}

type Outcome = Pin<Box<dyn Future<Output = Result<u64>>>>;

/// A call that was made. It has left if the turn has yielded since.
struct Made {
    call: u64,
    outcome: Outcome,
}

impl Made {
    async fn ends(mut self) -> Result<u64> {
        let outcome = self.outcome.as_mut().await;
        log(|log| log.ended(self.call, &outcome));
        outcome
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        log(|log| log.dropped(self.call));
    }
}

/// Makes a call: `(made, told, id)` of each kind in one place.
macro_rules! make {
    ($on:ident.$method:ident($($arg:expr),*), $id:expr, $rng:expr, $tell:expr) => {{
        let (call, rng): (_, &mut Rng) = ($on.$method($($arg),*), $rng);
        if $tell {
            log(|log| log.told($id));
            // Dropped before it leaves is told too.
            if rng.one_in(2) { call.tell() } else { drop(call) }
            None
        } else {
            let call = call.timeout(timeout(rng));
            Some(Made { call: $id, outcome: Box::pin(call) })
        }
    }};
}

mod ledger;

pub(crate) use ledger::{Ledger, Tally, look_at_all};

fn timeout(rng: &mut Rng) -> Duration {
    let hasty = log(|log| log.scene.hasty);
    if hasty && rng.one_in(3) { Duration::from_micros(rng.below(3000)) } else { LONG }
}

fn key(rng: &mut Rng) -> u64 {
    rng.below(log(|log| log.scene.keys))
}

/// Makes some call of some entity; `None` if it was told.
fn make(rng: &mut Rng, depth: u8, tell: bool) -> Option<Made> {
    let pool = Pool::new();
    let (id, plan, depth) = (log(|log| log.made()), rng.next(), depth.saturating_sub(1));
    if log(|log| log.scene.saves) && rng.one_in(3) {
        return ledger::make(id, plan, rng, tell);
    }
    let knot: Ref<Knot> = pool.get(key(rng));
    let careless = log(|log| log.scene.mutant) == Some(Mutant::ExclusiveOverlap);
    match rng.below(8) {
        0 => make!(knot.quick(id, plan), id, rng, tell),
        1 => {
            let to = pool.get(key(rng));
            make!(knot.count(id, plan, to), id, rng, tell)
        }
        2 => make!(knot.nap(id, plan), id, rng, tell),
        3 => {
            let late: Ref<Late> = pool.get(key(rng));
            make!(late.visit(id, plan, depth), id, rng, tell)
        }
        4 | 5 if careless => make!(knot.careless(id, plan, depth), id, rng, tell),
        4 | 5 => make!(knot.alone(id, plan, depth), id, rng, tell),
        _ => make!(knot.wander(id, plan, depth), id, rng, tell),
    }
}

/// Calls somebody, in one of several ways, and waits for what it made.
async fn call(visit: &Visit, rng: &mut Rng, depth: u8) -> Result<()> {
    if depth == 0 {
        return Ok(());
    }
    match rng.below(6) {
        0 => {
            make(rng, depth, true);
            Ok(())
        }
        1 | 2 => {
            // Both leave before either is awaited: a diamond, if they meet again.
            let made = [make(rng, depth, false), make(rng, depth, false)];
            for made in made.into_iter().flatten() {
                let outcome = made.ends().await;
                visit.mind(rng, outcome)?;
            }
            Ok(())
        }
        _ => {
            let Some(made) = make(rng, depth, false) else { return Ok(()) };
            let outcome = made.ends().await;
            visit.mind(rng, outcome)
        }
    }
}

/// One to three calls in a section that `visit` holds.
async fn hold(visit: &Visit, rng: &mut Rng, depth: u8) -> Result<()> {
    let _held = visit.hold(WHOLE);
    for _ in 0..=rng.below(2) {
        call(visit, rng, depth).await?;
    }
    visit.turn();
    Ok(())
}

/// What a task of the world does: numbered and other calls of anybody.
pub(crate) async fn root(plan: u64, mut task: Task) {
    let mut rng = Rng::new(plan);
    let visit = Visit::alone();
    for _ in 0..=rng.below(6) {
        if log(|log| log.scene.saves) && rng.one_in(4) {
            ledger::request(&mut rng).await;
        } else if rng.one_in(3) {
            let to = Pool::new().get(key(&mut rng));
            let _its_own_matter = number(&visit, &mut rng, &to).await;
        } else if rng.one_in(3) {
            let _its_own_matter = counted(&visit, &mut rng).await;
        } else {
            let _its_own_matter = call(&visit, &mut rng, 4).await;
        }
    }
    drop(visit);
    task.ended = true;
}

/// A task of the world. One that goes with its node has ended too.
#[derive(Default)]
pub(crate) struct Task {
    ended: bool,
}

impl Drop for Task {
    fn drop(&mut self) {
        log(|log| {
            log.roots += 1;
            log.stats.cover("tasks lost", u64::from(!self.ended));
        });
    }
}

/// Has somebody make numbered calls of somebody else.
async fn counted(visit: &Visit, rng: &mut Rng) -> Result<()> {
    let (from, keys) = (key(rng), log(|log| log.scene.keys));
    let to = Pool::new().get((from + 1 + rng.below(keys - 1)) % keys);
    let (id, plan, from) = (log(|log| log.made()), rng.next(), Pool::new().get::<Knot>(from));
    let Some(made) = make!(from.count(id, plan, to), id, rng, false) else { return Ok(()) };
    let outcome = made.ends().await;
    visit.mind(rng, outcome)
}

/// Makes numbered calls of `to`, some of which are awaited at once, some later, some never.
///
/// Where the chain has a turn parked at `to`, its calls pass what waits there for others (A3).
async fn number(visit: &Visit, rng: &mut Rng, to: &Ref<Knot>) -> Result<()> {
    let sequence = log(|log| log.fresh());
    let mut later = Vec::new();
    for number in 0..u32::try_from(rng.below(10)).unwrap_or(0) {
        if log(|log| log.scene.gaps) && rng.one_in(2) {
            let _its_own_matter = call(visit, rng, 1).await;
        }
        let id = log(|log| log.made());
        let tell = rng.one_in(3);
        let made = match rng.below(4) {
            0 => make!(to.note(id, sequence, number), id, rng, tell),
            1 => {
                let padding = vec![0; rng.index(3_000)];
                make!(to.note_long(id, (sequence, number), padding), id, rng, tell)
            }
            2 => make!(to.note_shared(id, sequence, number), id, rng, tell),
            _ => make!(to.note_alone(id, sequence, number), id, rng, tell),
        };
        let Some(made) = made else { continue };
        if rng.one_in(2) {
            later.push(made);
            continue;
        }
        let outcome = made.ends().await;
        visit.mind(rng, outcome)?;
    }
    for made in later {
        let outcome = made.ends().await;
        visit.mind(rng, outcome)?;
    }
    Ok(())
}

#[entity(key = u64, saved = "never", crate = crate::__private)]
pub(crate) struct Knot {
    /// Which activation this is.
    activation: u64,
    ticks: u32,
}

#[entity(crate = crate::__private)]
impl Knot {
    #[activate]
    fn appear(at: At<Self>) -> Self {
        if at.random().is_multiple_of(16) {
            make(&mut Rng::new(at.random()), 1, true);
        }
        Self { activation: log(|log| log.fresh()), ticks: 0 }
    }

    #[deactivate]
    fn leave(&mut self, at: At<Self>) {
        let visit = Visit::of(&at, self.activation, None);
        if at.random().is_multiple_of(16) {
            make(&mut Rng::new(at.random()), 1, true);
        }
        visit.turn();
    }

    /// One turn.
    pub fn quick(&mut self, at: At<Self>, call: u64, plan: u64) -> Result<u64> {
        let mut rng = Rng::new(plan ^ (at.random() & 1));
        let visit = Visit::of(&at, self.activation, Some(call));
        match rng.below(24) {
            0 => visit.panic(),
            1 => at.deactivate(),
            2 => every(&at, &mut rng),
            3..6 => drop(make(&mut rng, 1, true)),
            6 => visit.mind(&mut rng, Err::<(), _>(refusal(&at)))?,
            _ => {}
        }
        Ok(call)
    }

    /// Others come between.
    pub async fn wander(mut cx: Cx<Self>, call: u64, plan: u64, depth: u8) -> Result<u64> {
        let activation = cx.with(|knot| knot.activation);
        let mut rng = Rng::new(plan);
        let visit = Visit::of(&cx, activation, Some(call));
        for _ in 0..=rng.below(3) {
            step(&mut cx, &visit, &mut rng, depth).await?;
            visit.turn();
        }
        Ok(call)
    }

    /// Nothing comes between.
    #[exclusive]
    pub async fn alone(&mut self, at: At<Self>, call: u64, plan: u64, depth: u8) -> Result<u64> {
        let visit = Visit::of(&at, self.activation, Some(call));
        hold_and_sleep(&at, &visit, plan, depth).await?;
        Ok(call)
    }

    /// What `alone` is to the mutant `exclusive_overlap`.
    pub async fn careless(cx: Cx<Self>, call: u64, plan: u64, depth: u8) -> Result<u64> {
        let visit = Visit::of(&cx, cx.with(|knot| knot.activation), Some(call));
        hold_and_sleep(&cx, &visit, plan, depth).await?;
        Ok(call)
    }

    pub async fn nap(cx: Cx<Self>, call: u64, plan: u64) -> Result<u64> {
        let visit = Visit::of(&cx, cx.with(|knot| knot.activation), Some(call));
        let mut rng = Rng::new(plan);
        let longest = log(|log| log.scene.nap_us);
        let slept = cx.sleep(Duration::from_micros(rng.below(longest))).await;
        visit.mind(&mut rng, slept)?;
        Ok(call)
    }

    /// Numbered calls of another one.
    pub async fn count(cx: Cx<Self>, call: u64, plan: u64, to: Ref<Self>) -> Result<u64> {
        let visit = Visit::of(&cx, cx.with(|knot| knot.activation), Some(call));
        let mut rng = Rng::new(plan);
        number(&visit, &mut rng, &to).await?;
        Ok(call)
    }

    pub fn note(&mut self, at: At<Self>, call: u64, sequence: u64, number: u32) -> Result<u64> {
        let visit = Visit::of(&at, self.activation, Some(call));
        visit.numbered(at.key(), sequence, number, Mode::Turn);
        if at.random().is_multiple_of(64) {
            visit.panic();
        }
        Ok(call)
    }

    /// The same with an argument that may have to leave in chunks.
    pub fn note_long(
        &mut self,
        at: At<Self>,
        call: u64,
        (sequence, number): (u64, u32),
        padding: Vec<u8>,
    ) -> Result<u64> {
        drop(padding);
        self.note(at, call, sequence, number)
    }

    pub async fn note_shared(cx: Cx<Self>, call: u64, sequence: u64, number: u32) -> Result<u64> {
        let visit = Visit::of(&cx, cx.with(|knot| knot.activation), Some(call));
        visit.numbered(cx.key(), sequence, number, Mode::Shared);
        if cx.random().is_multiple_of(64) {
            visit.panic();
        }
        Ok(call)
    }

    #[exclusive]
    pub async fn note_alone(
        &mut self,
        at: At<Self>,
        call: u64,
        sequence: u64,
        number: u32,
    ) -> Result<u64> {
        let visit = Visit::of(&at, self.activation, Some(call));
        let _held = visit.hold(WHOLE);
        visit.numbered(at.key(), sequence, number, Mode::Exclusive);
        Ok(call)
    }
}

/// An error as if from something that was called.
fn refusal(at: &At<Knot>) -> CallError {
    CallError::refused(epicserver_wire::ErrorKind::Overloaded, at.chain())
}

/// Starts a timer that calls somebody a few times.
fn every(at: &At<Knot>, rng: &mut Rng) {
    let period = Duration::from_micros(500 + rng.below(20_000));
    let plan = rng.next();
    // What a tick has begun may go on when it is over; until the next one its turn belongs to the chain.
    let last = RefCell::new(None);
    at.every(period, async move |cx: Cx<Knot>| {
        let (activation, ticks) = cx.with(|knot| {
            knot.ticks += 1;
            (knot.activation, knot.ticks)
        });
        let visit = Rc::new(Visit::of(&cx, activation, None));
        last.replace(Some(Rc::clone(&visit)));
        if ticks <= 4 {
            log(|log| log.stats.cover("ticks", 1));
            let _its_own_matter = call(&visit, &mut Rng::new(plan ^ u64::from(ticks)), 2).await;
        }
        visit.turn();
    });
}

async fn hold_and_sleep(at: &At<Knot>, visit: &Visit, plan: u64, depth: u8) -> Result<()> {
    let mut rng = Rng::new(plan);
    {
        let _held = visit.hold(WHOLE);
        if rng.one_in(3) {
            let slept = at.sleep(Duration::from_micros(rng.below(500))).await;
            visit.mind(&mut rng, slept)?;
        }
        if rng.one_in(32) {
            visit.panic();
        }
    }
    hold(visit, &mut rng, depth).await
}

/// One thing that a method may do while others come between.
async fn step(cx: &mut Cx<Knot>, visit: &Visit, rng: &mut Rng, depth: u8) -> Result<()> {
    match rng.below(14) {
        0 => {
            let slept = cx.sleep(Duration::from_micros(rng.below(1000))).await;
            visit.mind(rng, slept)
        }
        1 | 2 => {
            let mut inner = rng.fork();
            let held = cx.exclusive(async |_| hold(visit, &mut inner, depth).await).await;
            visit.mind(rng, held)
        }
        3 | 4 => lock(cx, visit, rng, depth).await,
        5 => {
            let made = make(rng, depth, depth == 0);
            let Some(made) = made else { return Ok(()) };
            let within = Duration::from_micros(rng.below(200));
            // Giving up is no deadline of a call, and is not passed on as one.
            match cx.within(within, made.ends()).await {
                Ok(outcome) => visit.mind(rng, outcome),
                Err(_) => visit.mind(rng, Ok(())),
            }
        }
        6 => {
            let bytes = cx.random_bytes(8).await;
            visit.mind(rng, bytes)?;
            let wall = cx.wall_clock().await;
            visit.mind(rng, wall)
        }
        7 if rng.one_in(8) => visit.panic(),
        8 => {
            let plan = rng.next();
            cx.spawn(async move |cx| {
                let visit = Visit::of(&cx, cx.with(|knot| knot.activation), None);
                let _its_own_matter = call(&visit, &mut Rng::new(plan), depth).await;
            });
            Ok(())
        }
        9 if rng.one_in(4) => {
            cx.deactivate();
            Ok(())
        }
        _ => call(visit, rng, depth).await,
    }
}

/// Takes a lock, or both, and calls somebody.
async fn lock(cx: &Cx<Knot>, visit: &Visit, rng: &mut Rng, depth: u8) -> Result<()> {
    let name = LOCKS[rng.index(LOCKS.len())];
    let guard = match cx.lock(name).acquire().await {
        Ok(guard) => guard,
        Err(error) => return visit.mind(rng, Err::<(), _>(error)),
    };
    let held = visit.hold(name);
    let result = call(visit, rng, depth).await;
    drop(held);
    drop(guard);
    result
}

/// An entity that takes its time to appear, and does not always.
#[entity(key = u64, saved = "never", crate = crate::__private)]
pub(crate) struct Late {
    activation: u64,
    since: u64,
}

#[entity(crate = crate::__private)]
impl Late {
    #[activate]
    async fn appear(at: At<Self>) -> Result<Self> {
        let mut rng = Rng::new(at.random());
        at.sleep(Duration::from_micros(rng.below(300))).await?;
        if rng.one_in(3) {
            let visit = Visit::alone();
            let _its_own_matter = call(&visit, &mut rng, 2).await;
        }
        if rng.one_in(8) {
            return Err(CallError::refused(epicserver_wire::ErrorKind::Overloaded, at.chain()));
        }
        Ok(Self { activation: log(|log| log.fresh()), since: at.now().as_nanos() })
    }

    pub async fn visit(cx: Cx<Self>, call: u64, plan: u64, depth: u8) -> Result<u64> {
        let (activation, since) = cx.with(|late| (late.activation, late.since));
        let visit = Visit::of(&cx, activation, Some(call));
        let mut rng = Rng::new(plan);
        if Time::from_nanos(since) > cx.now() {
            log(|log| log.violate("one_outcome", "time went back".to_owned()));
        }
        self::call(&visit, &mut rng, depth).await?;
        Ok(call)
    }
}
