//! The life of activations: hooks, timers, collection, the end of a node.

mod common;

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use common::{Gate, node, on_nodes, within};
use epicserver::Builder;
use epicserver::prelude::*;

const MILLISECOND: Duration = Duration::from_millis(1);

/// Hears of what others did, and lets others wait for it.
#[entity(key = u64)]
#[derive(Default)]
struct Log {
    lines: Vec<String>,
}

#[entity]
impl Log {
    pub fn add(&mut self, at: At<Self>, line: String) {
        self.lines.push(line);
        at.event("added").set();
    }

    pub async fn lines(cx: Cx<Self>, count: u32) -> Result<Vec<String>> {
        while cx.with(|log| log.lines.len() < count as usize) {
            cx.event("added").clear();
            cx.event("added").wait().await?;
        }
        Ok(cx.with(|log| log.lines.clone()))
    }
}

/// Says in a log when it comes and goes.
#[entity(key = u64)]
struct Guest {
    calls: u32,
}

#[entity]
impl Guest {
    #[activate]
    fn arrive(at: At<Self>) -> Self {
        at.pool().get::<Log>(1).add(format!("came {}", at.key())).tell();
        Self { calls: 0 }
    }

    #[deactivate]
    fn leave(&mut self, at: At<Self>) {
        at.pool().get::<Log>(1).add(format!("left {} after {}", at.key(), self.calls)).tell();
    }

    #[memory]
    fn heap(&self) -> usize {
        1000
    }

    pub fn call(&mut self) -> u32 {
        self.calls += 1;
        self.calls
    }

    pub fn go(&mut self, at: At<Self>) {
        self.calls += 1;
        at.deactivate();
        at.deactivate();
    }

    pub async fn go_after(cx: Cx<Self>, gate: Ref<Gate>) -> Result<()> {
        cx.deactivate();
        gate.pass().await
    }

    pub fn tick(&mut self, at: At<Self>) {
        at.every(MILLISECOND, async |cx: Cx<Self>| cx.with(|guest| guest.calls += 1));
    }

    pub async fn nap(cx: Cx<Self>) -> Result<()> {
        cx.sleep(MILLISECOND).await
    }

    pub async fn three_ticks(cx: Cx<Self>) -> Result<u32> {
        let mut clock = cx.interval(Duration::from_millis(30));
        for _ in 0..3 {
            clock.tick().await?;
        }
        Ok(3)
    }
}

/// Is made by an asynchronous hook.
#[entity(key = u64)]
struct Loaded {
    value: u32,
}

#[entity]
impl Loaded {
    #[activate]
    async fn load(at: At<Self>) -> Result<Self> {
        at.sleep(MILLISECOND).await?;
        Ok(Self { value: at.pool().get::<Guest>(at.key()).call().await? })
    }

    pub fn value(&self) -> u32 {
        self.value
    }
}

/// Fails to be made as often as its key says.
#[entity(key = u64)]
struct Fails;

static FAILED_AT_ONCE: AtomicU32 = AtomicU32::new(0);

#[entity]
impl Fails {
    #[activate]
    fn make(at: At<Self>) -> Result<Self, u64> {
        let tries = FAILED_AT_ONCE.fetch_add(1, SeqCst);
        if u64::from(tries) < at.key() { Err(at.key()) } else { Ok(Self) }
    }

    pub fn is_here(&self) -> bool {
        true
    }
}

#[entity(key = u64)]
struct FailsLater;

static FAILED_LATER: AtomicU32 = AtomicU32::new(0);

#[entity]
impl FailsLater {
    #[activate]
    async fn make(at: At<Self>) -> Result<Self> {
        at.sleep(MILLISECOND).await?;
        let tries = FAILED_LATER.fetch_add(1, SeqCst);
        match u64::from(tries) < at.key() {
            true => at.pool().get::<Missing>(1).nothing().await.map(|()| Self),
            false => Ok(Self),
        }
    }

    pub fn is_here(&self) -> bool {
        true
    }
}

/// Its hook panics.
#[entity(key = u64)]
struct Refuses;

#[entity]
impl Refuses {
    #[activate]
    async fn make(at: At<Self>) -> Self {
        let _slept = at.sleep(MILLISECOND).await;
        panic!("it does not want to be made")
    }

    pub fn is_here(&self) -> bool {
        true
    }
}

/// Whoever leaves sends for the next.
#[entity(key = u64)]
#[derive(Default)]
struct Chained;

#[entity]
impl Chained {
    #[deactivate]
    fn leave(&mut self, at: At<Self>) {
        if at.key() < 5000 {
            at.pool().get::<Self>(at.key() + 1000).call().tell();
        }
    }

    pub fn call(&self) {}
}

/// Served by no node.
#[entity(key = u64)]
#[derive(Default)]
struct Missing;

#[entity]
impl Missing {
    pub fn nothing(&self) {}
}

fn all(builder: Builder) -> Builder {
    let builder = builder.entity::<Log>().entity::<Guest>().entity::<Loaded>();
    let builder = builder.entity::<Chained>();
    builder.entity::<Fails>().entity::<FailsLater>().entity::<Refuses>()
}

#[test]
fn hooks_run_at_the_first_call_and_when_the_entity_asks_to_leave() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        let (guest, log) = (pool.get::<Guest>(7), pool.get::<Log>(1));
        assert_eq!(guest.call().await, Ok(1));
        guest.go().await.unwrap();
        assert_eq!(log.lines(2).await.unwrap(), ["came 7", "left 7 after 2"]);
        assert_eq!(guest.call().await, Ok(1), "what was collected is forgotten");
    });
}

#[test]
fn an_entity_that_asks_to_leave_does_so_once_its_methods_have_ended() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        let (guest, log, gate) = (pool.get::<Guest>(7), pool.get::<Log>(1), pool.get::<Gate>(1));
        let leaves = guest.go_after(gate.clone());
        gate.came(1).await.unwrap();
        assert_eq!(guest.call().await, Ok(1));
        gate.open().await.unwrap();
        leaves.await.unwrap();
        assert_eq!(log.lines(2).await.unwrap()[1], "left 7 after 1");
    });
}

#[test]
fn an_entity_leaves_although_calls_of_one_turn_were_the_last_to_run() {
    on_nodes(&[1], all, async |pool: Pool| {
        let (guest, log) = (pool.get::<Guest>(7), pool.get::<Log>(1));
        guest.go().tell();
        for _ in 0..40 {
            guest.call().tell();
        }
        assert!(log.lines(2).await.unwrap()[1].starts_with("left 7 after"));
    });
}

#[test]
fn who_asks_twice_to_leave_takes_no_other_with_it() {
    on_nodes(&[1], all, async |pool: Pool| {
        let keeps: Vec<Ref<Guest>> = (100..200).map(|key| pool.get(key)).collect();
        for (key, keeps) in (0..).zip(&keeps) {
            pool.get::<Guest>(key).go().tell();
            pool.get::<Guest>(key).go().tell();
            keeps.call().tell();
        }
        for keeps in &keeps {
            assert_eq!(keeps.call().await, Ok(2));
        }
    });
}

#[test]
fn an_asynchronous_hook_is_over_before_the_first_method_runs() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        for key in 0..4 {
            let loaded = pool.get::<Loaded>(key);
            let (first, second) = (loaded.value(), loaded.value());
            assert_eq!((first.await, second.await), (Ok(1), Ok(1)));
        }
    });
}

#[test]
fn a_hook_that_fails_fails_the_call_and_the_next_call_tries_again() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        FAILED_AT_ONCE.store(0, SeqCst);
        for _ in 0..3 {
            let error = pool.get::<Fails>(3).is_here().await.unwrap_err();
            assert_eq!((error.kind(), error.ran()), (ErrorKind::ActivationFailed, Ran::No));
        }
        assert_eq!(pool.get::<Fails>(3).is_here().await, Ok(true));
        assert_eq!(FAILED_AT_ONCE.load(SeqCst), 4, "one try a call");
    });
}

#[test]
fn an_asynchronous_hook_that_fails_fails_whoever_waits_for_it() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        FAILED_LATER.store(0, SeqCst);
        for _ in 0..2 {
            let later = pool.get::<FailsLater>(2);
            let (one, other) = (later.is_here(), later.is_here());
            for error in [one.await.unwrap_err(), other.await.unwrap_err()] {
                assert_eq!((error.kind(), error.ran()), (ErrorKind::ActivationFailed, Ran::No));
            }
        }
        assert_eq!(pool.get::<FailsLater>(2).is_here().await, Ok(true));
    });
}

#[test]
fn an_asynchronous_hook_that_panics_fails_whoever_waits_for_it() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        let error = pool.get::<Refuses>(1).is_here().await.unwrap_err();
        assert_eq!((error.kind(), error.ran()), (ErrorKind::ActivationFailed, Ran::No));
    });
}

#[test]
fn an_entity_that_is_idle_for_long_enough_leaves_and_its_clock_does_not_keep_it() {
    fn idle(builder: Builder) -> Builder {
        all(builder).idle_after(Duration::from_millis(20))
    }
    on_nodes(&[1, 2], idle, async |pool: Pool| {
        let log = pool.get::<Log>(1);
        let lines = log.lines(4);
        pool.get::<Guest>(1).call().await.unwrap();
        pool.get::<Guest>(2).tick().await.unwrap();
        let lines = lines.await.unwrap();
        assert_eq!(lines.iter().filter(|line| line.starts_with("left")).count(), 2, "{lines:?}");
    });
}

#[test]
fn a_method_that_waits_for_a_clock_is_not_idle() {
    fn idle(builder: Builder) -> Builder {
        all(builder).idle_after(Duration::from_millis(5))
    }
    on_nodes(&[1, 2], idle, async |pool: Pool| {
        assert_eq!(
            pool.get::<Guest>(1).three_ticks().timeout(Duration::from_secs(20)).await,
            Ok(3)
        );
    });
}

#[test]
fn a_node_that_stops_waits_for_methods_that_wait_for_a_clock() {
    within(|| {
        let node = all(node(1, true)).start().unwrap();
        let client = node.client();
        let guest = client.get::<Guest>(1);
        let mut ticks = Box::pin(guest.three_ticks());
        assert!(client.block_on(async { futures_util::poll!(ticks.as_mut()).is_pending() }));
        assert_eq!(client.block_on(guest.call()), Ok(1));
        assert!(node.stop());
        assert_eq!(client.block_on(ticks), Ok(3));
    });
}

#[test]
fn a_clock_ticks_again_and_again() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        let guest = pool.get::<Guest>(3);
        guest.tick().await.unwrap();
        while guest.call().await.unwrap() < 1000 {
            let ticks = guest.three_ticks().await;
            assert_eq!(ticks, Ok(3));
            if guest.call().await.unwrap() > 20 {
                return;
            }
        }
    });
}

#[test]
fn a_full_budget_makes_those_leave_that_were_used_longest_ago() {
    fn small(builder: Builder) -> Builder {
        all(builder).memory_bytes_max(6000)
    }
    on_nodes(&[1], small, async |pool: Pool| {
        let lines = pool.get::<Log>(1).lines(76);
        for (key, calls) in (0..40).zip(1..) {
            assert_eq!(pool.get::<Guest>(1000).call().await, Ok(calls), "it is used all the time");
            assert_eq!(pool.get::<Guest>(key).call().await, Ok(1));
            // Time passes, so that no two are used at one time.
            pool.get::<Guest>(key).nap().await.unwrap();
        }
        let lines = lines.await.unwrap();
        let left: Vec<&String> = lines.iter().filter(|line| line.starts_with("left")).collect();
        assert!(left.len() > 30, "{lines:?}");
        assert!(left.is_sorted_by_key(|line| {
            line.split(' ').nth(1).and_then(|key| key.parse::<u64>().ok())
        }));
    });
}

#[test]
fn hooks_run_when_the_node_stops() {
    static LEFT: AtomicU32 = AtomicU32::new(0);

    #[entity(key = u64)]
    #[derive(Default)]
    struct Counted;

    #[entity]
    impl Counted {
        #[deactivate]
        fn leave(&mut self, at: At<Self>) {
            LEFT.fetch_add(1, SeqCst);
            // Whoever leaves greets the next, who is there or would have to come.
            at.pool().get::<Self>(at.key() ^ 1).call().tell();
        }

        pub fn call(&self) {}
    }

    within(|| {
        for (shards, direct) in [(1, true), (1, false), (2, true), (2, false)] {
            LEFT.store(0, SeqCst);
            let node = node(shards, direct).entity::<Counted>().start().unwrap();
            node.run(async |pool: Pool| {
                for key in 0..100 {
                    pool.get::<Counted>(key).call().await.unwrap();
                }
            })
            .unwrap();
            assert!(node.stop());
            assert_eq!(LEFT.load(SeqCst), 100);
        }
    });
}

#[test]
fn n10_those_who_leave_for_lack_of_room_may_call_others_who_need_room() {
    fn small(builder: Builder) -> Builder {
        all(builder).memory_bytes_max(100_000)
    }
    on_nodes(&[1], small, async |pool: Pool| {
        for key in 1..1000 {
            pool.get::<Chained>(key).call().await.unwrap();
        }
    });
}

#[test]
fn h7_a_node_that_stops_finishes_what_is_under_way() {
    within(|| {
        for (shards, direct) in [(1, true), (1, false), (2, true), (2, false)] {
            let node = all(node(shards, direct)).start().unwrap();
            let client = node.client();
            let calls: Vec<_> =
                (0..100).map(|key| Box::pin(client.get::<Guest>(key).three_ticks())).collect();
            let mut calls: futures_util::future::JoinAll<_> = futures_util::future::join_all(calls);
            let begun = async { futures_util::poll!(&mut calls).is_pending() };
            assert!(client.block_on(begun));
            for key in 0..100 {
                assert_eq!(client.block_on(client.get::<Guest>(key).call()), Ok(1));
            }
            assert!(node.stop());
            assert!(client.block_on(calls).iter().all(|ticks| *ticks == Ok(3)));
        }
    });
}

#[test]
fn h7_a_node_whose_time_to_stop_is_over_ends_what_it_did_not_finish() {
    within(|| {
        for (shards, direct) in [(1, true), (1, false), (2, true), (2, false)] {
            let node = all(node(shards, direct)).start().unwrap();
            let client = node.client();
            let gate = client.get::<Gate>(1);
            let mut held = Box::pin(client.get::<Guest>(1).go_after(gate.clone()));
            assert!(client.block_on(async { futures_util::poll!(held.as_mut()).is_pending() }));
            client.block_on(gate.came(1)).unwrap();
            assert!(!node.shut_down(Duration::from_millis(20)), "a call is held back");
            let error = client.block_on(held).unwrap_err();
            assert_eq!((error.kind(), error.ran()), (ErrorKind::Stopping, Ran::Unknown));
        }
    });
}

#[test]
fn h7_a_node_that_stops_refuses_what_comes() {
    within(|| {
        let node = all(node(1, true)).start().unwrap();
        let client = node.client();
        let gate = client.get::<Gate>(1);
        let mut held = Box::pin(gate.pass());
        assert!(client.block_on(async { futures_util::poll!(held.as_mut()).is_pending() }));
        client.block_on(gate.came(1)).unwrap();
        let stops = std::thread::spawn(move || node.shut_down(Duration::from_millis(500)));
        let refused = loop {
            if let Err(error) = client.block_on(client.get::<Guest>(1).call()) {
                break error;
            }
        };
        assert_eq!((refused.kind(), refused.ran()), (ErrorKind::Stopping, Ran::No));
        assert!(!stops.join().unwrap());
        assert_eq!(client.block_on(held).unwrap_err().kind(), ErrorKind::Stopping);
        let error = client.block_on(gate.open()).unwrap_err();
        assert_eq!((error.kind(), error.ran()), (ErrorKind::Stopping, Ran::No));
    });
}
