//! A shard, and a store that answers when the test says so.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use epicserver_entity::{Entity, Pool, Ref, Registry, Stored, TurnId};
use epicserver_node::{Config, Counters, Effect, Event, Notice, RootTask, Saves, Shard, WakeSink};
use epicserver_record::{Answer, Done, Found, Name, Op, OpId, Owner, Slot, Trouble, World};
use epicserver_wire::{EntityId, IntoKey, NodeId, ShardId, Time};

pub(crate) mod __paths {
    pub(crate) use epicserver_entity::*;
    pub(crate) use epicserver_wire::{self as wire, rkyv};
}

struct NoWakes;

impl WakeSink for NoWakes {
    fn wake(&self, _: TurnId) {}
}

/// Bytes that may be unsaved.
pub(crate) const UNSAVED_MAX: u64 = 100_000;

/// What a task will give.
pub(crate) struct Later<R>(Receiver<R>, std::cell::OnceCell<R>);

impl<R> Later<R> {
    /// Whether the task is not done.
    pub(crate) fn is_empty(&self) -> bool {
        if self.1.get().is_none()
            && let Ok(result) = self.0.try_recv()
        {
            let _first = self.1.set(result);
        }
        self.1.get().is_none()
    }

    pub(crate) fn get(self) -> R {
        assert!(!self.is_empty(), "the task is done");
        self.1.into_inner().expect("it was looked at")
    }
}

/// A shard and its store.
pub(crate) struct Bench {
    shard: Shard,
    world: World,
    now: Time,
    epoch: u64,
    registry: Arc<Registry>,
    ops: VecDeque<(OpId, Op)>,
    /// Ops are not carried out.
    held: bool,
    trouble: Option<Trouble>,
    /// The next commit ends as unknown, and is done or not.
    lost: Option<bool>,
    began: u32,
    over: u32,
}

fn shard(registry: &Arc<Registry>, epoch: Option<u64>) -> Shard {
    Shard::new(Config {
        shard: ShardId::new(0),
        shards: 1,
        fabric: false,
        origin: 1,
        registry: Arc::clone(registry),
        memory_bytes_max: u64::MAX,
        idle: None,
        direct: true,
        seed: 1,
        wakes: Arc::new(NoWakes),
        saves: epoch.map(|epoch| {
            let node = NodeId::new(epoch);
            Saves { node, epoch, began_ms: 1_000_000, unsaved_bytes_max: UNSAVED_MAX }
        }),
        clock: None,
        fault: None,
    })
}

impl Bench {
    pub(crate) fn new(register: impl FnOnce(&mut Registry)) -> Self {
        Self::over(World::default(), 1, register)
    }

    fn over(world: World, epoch: u64, register: impl FnOnce(&mut Registry)) -> Self {
        let mut registry = Registry::default();
        register(&mut registry);
        let registry = Arc::new(registry);
        Self {
            shard: shard(&registry, Some(epoch)),
            world,
            now: Time::from_nanos(1_000),
            epoch,
            registry,
            ops: VecDeque::new(),
            held: false,
            trouble: None,
            lost: None,
            began: 0,
            over: 0,
        }
    }

    /// The shard is killed, and another one is there with the same store.
    pub(crate) fn restarted(self) -> Self {
        let (world, registry) = (self.world, (*self.registry).clone());
        Self::over(world, self.epoch + 1, move |new| *new = registry)
    }

    pub(crate) fn restarted_with(self, register: impl FnOnce(&mut Registry)) -> Self {
        Self::over(self.world, self.epoch + 1, register)
    }

    pub(crate) fn without_a_store(self) -> Self {
        Self { shard: shard(&self.registry, None), ..self }
    }

    /// Starts `task`.
    pub(crate) fn start<R: Send + 'static>(
        &mut self,
        task: impl AsyncFnOnce(Pool) -> R + Send + 'static,
    ) -> Later<R> {
        let (give, take) = channel();
        let root = RootTask::new(move || async move {
            drop(give.send(task(Pool::new()).await));
        });
        self.handle(Event::Root(root));
        self.work();
        Later(take, std::cell::OnceCell::new())
    }

    pub(crate) fn run<R: Send + 'static>(
        &mut self,
        task: impl AsyncFnOnce(Pool) -> R + Send + 'static,
    ) -> R {
        let later = self.start(task);
        self.settle();
        later.get()
    }

    fn handle(&mut self, event: Event) {
        let mut out = Vec::new();
        self.shard.handle(self.now, event, &mut out);
        self.take(out);
    }

    fn work(&mut self) {
        let mut out = Vec::new();
        while self.shard.run(self.now, 64, &mut out) {}
        self.take(out);
    }

    fn take(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Store { id, op } => self.ops.push_back((id, op)),
                Effect::Notice(Notice::StoreTrouble(_)) => self.began += 1,
                Effect::Notice(Notice::StoreBack) => self.over += 1,
                Effect::Notice(_) => {}
                Effect::Send { .. }
                | Effect::Transmit { .. }
                | Effect::Close { .. }
                | Effect::Drained { .. }
                | Effect::Behind { .. }
                | Effect::Wall { .. }
                | Effect::Random { .. } => panic!("a shard alone says {effect:?}"),
            }
        }
    }

    /// Carries out what was asked until now, and tells the shard. Says how many ops that were.
    pub(crate) fn step(&mut self) -> usize {
        let ops: Vec<(OpId, Op)> = self.ops.drain(..).collect();
        let count = ops.len();
        for (id, op) in ops {
            let result = self.carry_out(op);
            self.handle(Event::Stored(Done { id, result }));
        }
        self.work();
        count
    }

    fn carry_out(&mut self, op: Op) -> Result<Answer, Trouble> {
        epicserver_record::check(&op).expect("shards ask what can be asked");
        if let Some(trouble) = &self.trouble {
            return Err(trouble.clone());
        }
        if let Op::Commit(_) = op
            && let Some(done) = self.lost.take()
        {
            if done {
                self.world.carry_out(op)?;
            }
            return Err(Trouble::Unknown("its answer was lost".to_owned()));
        }
        self.world.carry_out(op)
    }

    /// Until nothing is left to do at this time.
    pub(crate) fn settle(&mut self) {
        self.work();
        while !self.held && self.step() > 0 {}
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        // Step by step, since what is due comes of what was done.
        let end = self.now + time;
        while let Some(due) = self.shard.deadline().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.settle();
            if self.shard.deadline().is_some_and(|next| next <= self.now) {
                break;
            }
        }
        self.now = end;
        self.settle();
    }

    pub(crate) fn hold(&mut self) {
        self.held = true;
    }

    pub(crate) fn release(&mut self) {
        self.held = false;
        self.settle();
    }

    pub(crate) fn fail(&mut self, trouble: Trouble) {
        self.trouble = Some(trouble);
    }

    pub(crate) fn heal(&mut self) {
        self.trouble = None;
    }

    pub(crate) fn lose_next_answer(&mut self, done: bool) {
        self.lost = Some(done);
    }

    /// How often it was said that the store is in trouble, and that it is not any more.
    pub(crate) fn troubles(&self) -> (u32, u32) {
        (self.began, self.over)
    }

    pub(crate) fn close(&mut self) {
        self.handle(Event::Close);
        self.settle();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.shard.is_closed()
    }

    pub(crate) fn counters(&self) -> Counters {
        self.shard.counters()
    }

    pub(crate) fn activations(&self) -> u32 {
        self.shard.activations().0
    }

    /// Rows in the store.
    pub(crate) fn rows(&self) -> usize {
        self.world.rows.len()
    }

    /// What is stored of an entity.
    pub(crate) fn saved<T: Entity>(&mut self, key: impl IntoKey<T::Key>) -> Option<T> {
        let op = Op::Load { entity: id::<T>(key), claim: None };
        let Ok(Answer::Loaded(found)) = self.world.carry_out(op) else { panic!("it is a load") };
        let Found::State(record) = found else { return None };
        let (schema, layout) = (record.envelope().schema, record.envelope().layout);
        let stored = Stored { schema, layout, known: layout, payload: record.payload() };
        Some(T::read(stored).expect("it was written as one"))
    }

    /// Another node claims the entity's slot.
    pub(crate) fn usurp<T: Entity>(&mut self, key: impl IntoKey<T::Key>) {
        let owner = Owner { node: NodeId::new(99), epoch: u64::MAX };
        let slots = vec![Slot::of(&id::<T>(key))];
        self.world.carry_out(Op::Claim { owner, slots }).expect("it is greater");
    }

    /// Flips a bit of what is stored.
    pub(crate) fn flip_a_bit<T: Entity>(&mut self, key: impl IntoKey<T::Key>) {
        let row = self.world.rows.get_mut(&Name::state(&id::<T>(key))).expect("it is stored");
        let last = row.len() - 1;
        row[last] ^= 1;
    }
}

fn id<T: Entity>(key: impl IntoKey<T::Key>) -> EntityId {
    Ref::id(&Ref::<T>::of(key)).clone()
}
