//! Calls through a node: results, order, deadlines, errors, recursion, fairness.

mod common;

use std::time::Duration;

use common::{Gate, node, on_nodes, within};
use epicserver::prelude::*;
use epicserver::{Builder, Progress};
use futures_util::StreamExt;
use futures_util::join;
use futures_util::stream::FuturesUnordered;

const HOUR: Duration = Duration::from_secs(3600);
const SOON: Duration = Duration::from_millis(20);

#[entity(key = u64)]
#[derive(Default)]
struct Counter {
    sum: u32,
    notes: Vec<u32>,
    friend: Option<Ref<Self>>,
    stop: bool,
}

#[entity]
impl Counter {
    pub fn add(&mut self, by: u32) -> u32 {
        self.sum += by;
        self.sum
    }

    pub fn sum(&self) -> u32 {
        self.sum
    }

    pub fn note(&mut self, number: u32) {
        self.notes.push(number);
    }

    pub fn notes(&self) -> Vec<u32> {
        self.notes.clone()
    }

    pub fn befriend(&mut self, friend: Ref<Self>) -> Option<Ref<Self>> {
        self.friend.replace(friend)
    }

    pub fn stop(&mut self) {
        self.stop = true;
    }

    pub async fn add_to_friend(cx: Cx<Self>, by: u32) -> Result<u32> {
        match cx.with(|counter| counter.friend.clone()) {
            Some(friend) => friend.add(by).await,
            None => Ok(0),
        }
    }

    pub async fn pass_and_add(cx: Cx<Self>, gate: Ref<Gate>) -> Result<u32> {
        gate.pass().await?;
        Ok(cx.with(|counter| counter.add(1)))
    }

    pub async fn late_in_its_chain(cx: Cx<Self>, gate: Ref<Gate>) -> Result<bool> {
        let late = gate.pass().timeout(SOON).await.err();
        Ok(late
            .is_some_and(|late| late.kind() == ErrorKind::Deadline && late.chain() == cx.chain()))
    }

    pub async fn descend(cx: Cx<Self>, depth: u32) -> Result<u32> {
        cx.with(|counter| counter.sum += 1);
        if depth == 0 {
            return Ok(0);
        }
        Ok(1 + cx.pool().get::<Self>(cx.key() + 1).descend(depth - 1).await?)
    }

    pub async fn add_to_itself(cx: Cx<Self>) -> Result<u32> {
        cx.with(|counter| counter.sum += 10);
        cx.this().add(1).await
    }

    pub async fn ping(cx: Cx<Self>, via: Ref<Self>) -> Result<u32> {
        cx.with(|counter| counter.sum += 10);
        via.pong(cx.this()).await
    }

    pub async fn pong(cx: Cx<Self>, back: Ref<Self>) -> Result<u32> {
        cx.with(|counter| counter.sum += 100);
        back.add(1).await
    }

    pub async fn deadline(cx: Cx<Self>) -> u64 {
        cx.deadline().as_nanos()
    }

    /// Its own deadline, and those of two calls with a later and an earlier one.
    pub async fn deadlines(cx: Cx<Self>, other: Ref<Self>) -> Result<(u64, u64, u64)> {
        let later = other.deadline().timeout(HOUR).await?;
        let earlier = other.deadline().timeout(Duration::from_secs(1)).await?;
        Ok((cx.deadline().as_nanos(), later, earlier))
    }

    pub async fn wait_for_a_thread(_cx: Cx<Self>, number: u32) -> u32 {
        let (give, take) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || give.send(number));
        take.await.unwrap_or(0)
    }

    pub async fn call_until_stopped(cx: Cx<Self>, other: Ref<Self>) -> Result<u32> {
        while !cx.with(|counter| counter.stop) {
            other.add(1).await?;
        }
        other.sum().await
    }

    pub async fn nap(cx: Cx<Self>) -> Result<()> {
        cx.sleep(Duration::from_millis(1)).await
    }

    #[exclusive]
    pub async fn pass_alone(&mut self, gate: Ref<Gate>) -> Result<()> {
        gate.pass().await
    }

    pub async fn tell_in_order(_cx: Cx<Self>, to: Ref<Self>) -> Result<Vec<u32>> {
        for number in 0..1000 {
            match number % 4 {
                0 => to.note(number).tell(),
                1 => drop(to.note(number)),
                2 => to.note(number).await?,
                _ => to.note(number).timeout(HOUR).tell(),
            }
        }
        to.notes().await
    }

    pub fn tell_in_a_turn(&mut self, to: Ref<Self>) {
        for number in 0..100 {
            to.note(number).tell();
        }
    }

    pub fn kind_of(&self, error: CallError) -> String {
        format!("{:?}", error.kind())
    }
}

/// Served by no node.
#[entity(key = u64)]
#[derive(Default)]
struct Ghost;

#[entity]
impl Ghost {
    pub fn price(&self) -> u32 {
        1
    }
}

#[message]
#[derive(Clone, Debug, PartialEq)]
enum ShopError {
    SoldOut,
    Call(CallError),
    Many { errors: Vec<Option<CallError>>, first: Box<Self> },
}

impl From<CallError> for ShopError {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

#[entity(key = u64)]
#[derive(Default)]
struct Shop {
    seen: Vec<bool>,
}

#[entity]
impl Shop {
    /// Passes on what it is told of a call that did not run.
    pub async fn pass_on(cx: Cx<Self>, ghost: Ref<Ghost>) -> Result<u32> {
        let price = ghost.price().await;
        cx.with(|shop| shop.seen.push(price.is_err_and(|error| error.ran() == Ran::No)));
        price
    }

    pub async fn buy(cx: Cx<Self>, ghost: Ref<Ghost>) -> Result<u32, ShopError> {
        let price = ghost.price().await;
        cx.with(|shop| shop.seen.push(price.is_err_and(|error| error.ran() == Ran::No)));
        Ok(price?)
    }

    pub async fn buy_many(_cx: Cx<Self>, ghost: Ref<Ghost>) -> Result<(), ShopError> {
        let Err(error) = ghost.price().await else { return Err(ShopError::SoldOut) };
        let first = Box::new(ShopError::Call(error));
        Err(ShopError::Many { errors: vec![None, Some(error)], first })
    }

    pub fn sold_out(&self) -> Result<u32, ShopError> {
        Err(ShopError::SoldOut)
    }

    pub fn saw_only_refusals(&self) -> bool {
        !self.seen.is_empty() && self.seen.iter().all(|refused| *refused)
    }
}

macro_rules! keyed {
    ($($name:ident: $key:ty),* $(,)?) => {$(
        #[entity(key = $key)]
        #[derive(Default)]
        struct $name;

        #[entity]
        impl $name {
            pub fn key(&self, at: At<Self>) -> String {
                format!("{:?}", at.key())
            }
        }
    )*};
}

keyed!(
    ByU8: u8, ByU16: u16, ByU32: u32, ByU64: u64, ByU128: u128,
    ByI8: i8, ByI16: i16, ByI32: i32, ByI64: i64, ByI128: i128,
    ByText: String, ByUuid: Uuid, ByPair: (u32, String), ByNested: (u64, (i8, Uuid), String),
);

fn all(builder: Builder) -> Builder {
    builder.entity::<Counter>().entity::<Shop>()
}

#[test]
fn a_call_gives_what_the_method_returns() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        for key in 0..8 {
            let counter = pool.get::<Counter>(key);
            assert_eq!(counter.add(2).await, Ok(2));
            assert_eq!(counter.add(3).await, Ok(5));
            assert_eq!(counter.sum().await, Ok(5));
        }
    });
}

#[test]
fn two_calls_made_before_either_is_awaited_run_side_by_side() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        for key in 0..4 {
            let (gate, counter) = (pool.get::<Gate>(key), pool.get::<Counter>(key));
            let (held, opens) = (counter.pass_and_add(gate.clone()), gate.open());
            assert_eq!(held.await, Ok(1), "the second call opens the gate for the first");
            assert_eq!(opens.await, Ok(()));
        }
    });
}

#[test]
fn calls_are_joined_by_combinators_that_bring_their_own_wakers() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        let (gate, counter) = (pool.get::<Gate>(1), pool.get::<Counter>(1));
        let (passed, opened, sum) = join!(gate.pass(), gate.open(), counter.add(7));
        assert_eq!((passed, opened, sum), (Ok(()), Ok(()), Ok(7)));
        let calls: FuturesUnordered<_> = (0..100).map(|k| pool.get::<Counter>(k).add(1)).collect();
        let sums: Vec<_> = calls.collect().await;
        assert_eq!(sums.iter().filter(|sum| **sum == Ok(1)).count(), 99);
        assert_eq!(sums.iter().filter(|sum| **sum == Ok(8)).count(), 1);
    });
}

#[test]
fn i4_calls_and_tells_of_one_caller_reach_one_callee_in_the_order_of_making() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        let in_order: Vec<u32> = (0..1000).collect();
        for key in 0..4 {
            let (from, to) = (pool.get::<Counter>(100), pool.get::<Counter>(key));
            assert_eq!(from.tell_in_order(to).await, Ok(in_order.clone()));
        }
        let to = pool.get::<Counter>(7);
        pool.get::<Counter>(8).tell_in_a_turn(to.clone()).await.unwrap();
        while to.notes().await.unwrap().len() < 100 {}
        assert_eq!(to.notes().await, Ok((0..100).collect()));
    });
}

#[test]
fn a_call_that_is_late_fails_with_how_far_it_came() {
    on_nodes(&[1], all, async |pool: Pool| {
        let (gate, counter) = (pool.get::<Gate>(1), pool.get::<Counter>(1));
        let late = counter.pass_and_add(gate.clone()).timeout(SOON).await.unwrap_err();
        assert_eq!((late.kind(), late.ran()), (ErrorKind::Deadline, Ran::Yes));
        assert!(matches!(late.progress(), Progress::RunningForMs(_)), "{late:?}");

        let holds = counter.pass_alone(gate.clone());
        gate.came(2).await.unwrap();
        let late = counter.add(1).timeout(SOON).await.unwrap_err();
        assert_eq!((late.kind(), late.ran()), (ErrorKind::Deadline, Ran::No));
        assert!(matches!(late.progress(), Progress::QueuedBehind(_)), "{late:?}");
        assert!(late.chain().is_some(), "{late:?}");
        gate.open().await.unwrap();
        holds.await.unwrap();
        assert_eq!(counter.sum().await, Ok(0), "neither went on after its deadline");
    });
}

#[test]
fn a_call_to_any_shard_ends_by_its_deadline_and_its_work_goes_on() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        for key in 0..4 {
            let gate = pool.get::<Gate>(key);
            let late = gate.pass().timeout(SOON).await.unwrap_err();
            assert_eq!(late.kind(), ErrorKind::Deadline);
            assert_ne!(late.ran(), Ran::No);
            gate.came(1).await.unwrap();
            assert_eq!(gate.passed().await, Ok(0));
            gate.open().await.unwrap();
            while gate.passed().await != Ok(1) {}
        }
    });
}

#[test]
fn a_call_that_is_late_names_the_chain_of_its_caller() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        for key in 0..8 {
            let (gate, counter) = (pool.get::<Gate>(key), pool.get::<Counter>(key + 10));
            assert_eq!(counter.late_in_its_chain(gate.clone()).await, Ok(true));
            gate.open().await.unwrap();
        }
    });
}

#[test]
fn a_call_that_is_dropped_still_runs() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        for key in 0..4 {
            let (gate, counter) = (pool.get::<Gate>(key), pool.get::<Counter>(key));
            drop(counter.pass_and_add(gate.clone()));
            let mut asked = Box::pin(counter.pass_and_add(gate.clone()));
            assert!(futures_util::poll!(asked.as_mut()).is_pending());
            drop(asked);
            gate.came(2).await.unwrap();
            gate.open().await.unwrap();
            while counter.sum().await != Ok(2) {}
        }
    });
}

#[test]
fn a_deadline_only_shrinks_on_its_way_down_a_chain() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        for key in 0..4 {
            let (one, other) = (pool.get::<Counter>(key), pool.get::<Counter>(key + 1));
            let call = one.deadlines(other).timeout(Duration::from_secs(20));
            let (own, later, earlier) = call.await.unwrap();
            assert_eq!(later, own);
            assert!(earlier < own);
        }
    });
}

#[test]
fn i5_an_error_that_a_handler_passes_on_never_says_that_nothing_ran() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        for key in 0..4 {
            let (shop, ghost) = (pool.get::<Shop>(key), pool.get::<Ghost>(1));
            let own = ghost.price().await.unwrap_err();
            assert_eq!((own.kind(), own.ran()), (ErrorKind::UnknownType, Ran::No));
            let passed = shop.pass_on(ghost.clone()).await.unwrap_err();
            assert_eq!((passed.kind(), passed.ran()), (ErrorKind::UnknownType, Ran::Yes));
            match shop.buy(ghost.clone()).await {
                Err(ShopError::Call(error)) => {
                    assert_eq!((error.kind(), error.ran()), (ErrorKind::UnknownType, Ran::Yes));
                }
                other => panic!("expected the error of a call, got {other:?}"),
            }
            match shop.buy_many(ghost.clone()).await {
                Err(ShopError::Many { errors, first }) => {
                    assert_eq!(errors[1].map(CallError::ran), Some(Ran::Yes));
                    assert!(matches!(*first, ShopError::Call(error) if error.ran() == Ran::Yes));
                }
                other => panic!("expected many errors, got {other:?}"),
            }
            assert_eq!(shop.saw_only_refusals().await, Ok(true));
        }
    });
}

#[test]
fn a_method_with_its_own_error_gives_one_result_and_takes_call_errors_too() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        assert_eq!(pool.get::<Shop>(1).sold_out().await, Err(ShopError::SoldOut));
        let long = pool.get::<ByText>("x".repeat(600)).key().await.unwrap_err();
        assert_eq!(long.kind(), ErrorKind::KeyTooLong);
    });
}

#[test]
fn an_entity_calls_itself_and_is_called_back_by_whom_it_calls() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        for key in 0..4 {
            let one = pool.get::<Counter>(key);
            assert_eq!(one.add_to_itself().await, Ok(11));
            for via in 10..14 {
                let before = one.sum().await.unwrap();
                assert_eq!(one.ping(pool.get(via)).await, Ok(before + 11));
            }
        }
    });
}

#[test]
fn calls_nest_deeper_than_the_stack_is_used_for_them() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        assert_eq!(pool.get::<Counter>(1000).descend(100).await, Ok(100));
        for depth in 0..=100 {
            assert_eq!(pool.get::<Counter>(1000 + depth).sum().await, Ok(1));
        }
    });
}

#[test]
fn references_travel_in_arguments_and_replies_and_are_kept_in_states() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        for key in 0..4 {
            let (one, friend) = (pool.get::<Counter>(key), pool.get::<Counter>(key + 50));
            assert_eq!(one.befriend(friend.clone()).await, Ok(None));
            assert_eq!(one.add_to_friend(4).await, Ok(4));
            assert_eq!(one.befriend(one.clone()).await, Ok(Some(friend.clone())));
            assert_eq!(one.add_to_friend(5).await, Ok(5));
            assert_eq!(friend.sum().await, Ok(4));
        }
    });
}

#[test]
fn entities_have_keys_of_every_kind_and_know_them() {
    fn keyed(builder: Builder) -> Builder {
        let builder = builder.entity::<ByU8>().entity::<ByU16>().entity::<ByU32>();
        let builder = builder.entity::<ByU64>().entity::<ByU128>().entity::<ByI8>();
        let builder = builder.entity::<ByI16>().entity::<ByI32>().entity::<ByI64>();
        let builder = builder.entity::<ByI128>().entity::<ByText>().entity::<ByUuid>();
        builder.entity::<ByPair>().entity::<ByNested>()
    }
    on_nodes(&[1, 2], keyed, async |pool: Pool| {
        macro_rules! knows_its_key {
            ($($name:ident: $key:expr),* $(,)?) => {$(
                let key = $key;
                assert_eq!(pool.get::<$name>(key.clone()).key().await, Ok(format!("{key:?}")));
            )*};
        }
        knows_its_key!(
            ByU8: u8::MAX, ByU16: u16::MAX, ByU32: u32::MAX, ByU64: u64::MAX, ByU128: u128::MAX,
            ByI8: i8::MIN, ByI16: i16::MIN, ByI32: i32::MIN, ByI64: i64::MIN, ByI128: i128::MIN,
            ByText: String::new(), ByText: "Bob: Slayer of armoured cylinders".to_owned(),
            ByText: "ü".repeat(256), ByUuid: Uuid::from_u128(77), ByPair: (7, "seven".to_owned()),
            ByNested: (1, (-1, Uuid::nil()), "x".repeat(300)),
        );
        assert_eq!(pool.get::<ByText>("bob").key().await, Ok("\"bob\"".to_owned()));
    });
}

#[test]
fn a_future_that_another_thread_wakes_goes_on_within_its_method() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        for round in 0..50 {
            let waits = pool.get::<Counter>(u64::from(round % 4)).wait_for_a_thread(round);
            assert_eq!(waits.await, Ok(round));
        }
        let many: FuturesUnordered<_> =
            (1..50).map(|n| pool.get::<Counter>(9).wait_for_a_thread(n)).collect();
        let sum: u32 =
            many.map(|number| number.unwrap_or(0)).collect::<Vec<_>>().await.iter().sum();
        assert_eq!(sum, 49 * 50 / 2);
    });
}

#[test]
fn a_thousand_calls_wait_on_one_entity_at_a_time() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        let (gate, counter) = (pool.get::<Gate>(1), pool.get::<Counter>(1));
        let calls: FuturesUnordered<_> =
            (0..1000).map(|_| counter.pass_and_add(gate.clone())).collect();
        gate.came(1000).await.unwrap();
        gate.open().await.unwrap();
        let mut sums: Vec<u32> = calls.map(|sum| sum.unwrap_or(0)).collect().await;
        sums.sort_unstable();
        assert_eq!(sums, (1..=1000).collect::<Vec<_>>());
    });
}

#[test]
fn a_task_that_calls_without_end_starves_neither_tasks_nor_timers_nor_clients() {
    within(|| {
        for direct in [true, false] {
            let node = all(node(1, direct)).start().unwrap();
            let client = node.client();
            let spinning = client.get::<Counter>(1);
            let mut spins = Box::pin(spinning.call_until_stopped(client.get(2)));
            let poll_once = async { futures_util::poll!(spins.as_mut()).is_pending() };
            assert!(client.block_on(poll_once));
            let other = client.get::<Counter>(3);
            assert_eq!(client.block_on(other.add(1)), Ok(1));
            assert_eq!(client.block_on(other.nap()), Ok(()));
            assert_eq!(client.block_on(other.ping(client.get(4))), Ok(12));
            let (gate, late) = (client.get::<Gate>(1), Duration::from_millis(5));
            let error = client.block_on(gate.pass().timeout(late)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Deadline);
            client.block_on(gate.open()).unwrap();
            client.block_on(spinning.stop()).unwrap();
            assert!(client.block_on(spins).unwrap() > 0);
            assert!(node.stop());
        }
    });
}

#[test]
fn an_error_may_be_an_argument_and_stays_as_it_is() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        let error = pool.get::<Ghost>(1).price().await.unwrap_err();
        let kind = pool.get::<Counter>(1).kind_of(error).await;
        assert_eq!(kind, Ok("UnknownType".to_owned()));
    });
}
