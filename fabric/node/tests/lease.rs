//! A shard whose process stands still in the middle of a round.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use epicserver_entity::{Registry, TurnId};
use epicserver_node::{Config, Event, RootTask, Shard, WakeSink};
use epicserver_wire::{ShardId, Time};

const LEASE: Time = Time::from_nanos(1_000);

thread_local! {
    static NOW: Cell<Time> = const { Cell::new(Time::from_nanos(10)) };
}

struct NoWakes;

impl WakeSink for NoWakes {
    fn wake(&self, _: TurnId) {}
}

fn shard() -> Shard {
    Shard::new(Config {
        shard: ShardId::new(0),
        shards: 1,
        fabric: false,
        origin: 1,
        registry: Arc::new(Registry::default()),
        memory_bytes_max: u64::MAX,
        idle: None,
        direct: true,
        seed: 1,
        wakes: Arc::new(NoWakes),
        saves: None,
        clock: Some(|| NOW.get()),
        fault: None,
    })
}

/// A task that says its name, after which it is as late as `then`.
fn task(name: u32, then: Time, said: &Sender<u32>) -> Event {
    let said = said.clone();
    Event::Root(RootTask::new(move || async move {
        NOW.set(then);
        said.send(name).expect("the test listens");
    }))
}

#[test]
fn n23_a_process_that_stood_still_between_two_turns_begins_the_second_only_under_a_lease() {
    let (mut shard, mut out) = (shard(), Vec::new());
    let (say, said) = channel();
    let begun = NOW.get();
    shard.lease(0, LEASE);
    shard.handle(begun, task(1, Time::from_nanos(2_000), &say), &mut out);
    shard.handle(begun, task(2, Time::from_nanos(2_000), &say), &mut out);
    shard.run(begun, 64, &mut out);
    assert_eq!(said.try_iter().collect::<Vec<_>>(), [1]);
    shard.lease(0, Time::from_nanos(3_000));
    shard.run(NOW.get(), 64, &mut out);
    assert_eq!(said.try_iter().collect::<Vec<_>>(), [2]);
}
