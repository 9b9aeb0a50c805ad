//! A program's own entities in the simulator: many orders of events, one seed each.

use std::time::Duration;

use epicserver::__private::{TestFault, TestOptions, test};
use epicserver::prelude::*;

#[entity(key = u64)]
#[derive(Default)]
struct Account {
    cents: i64,
}

#[entity]
impl Account {
    pub fn add(&mut self, cents: i64) -> i64 {
        self.cents += cents;
        self.cents
    }

    /// Takes from this account and gives to `to`, or does neither.
    #[exclusive]
    pub async fn pay(&mut self, to: Ref<Account>, cents: i64) -> Result<bool> {
        if self.cents < cents {
            return Ok(false);
        }
        to.add(cents).await?;
        self.cents -= cents;
        Ok(true)
    }
}

#[epicserver::test(entities(Account), shards = 3, seeds = 50)]
async fn money_is_neither_made_nor_lost_whatever_the_order(pool: Pool) -> Result<()> {
    let accounts: Vec<Ref<Account>> = (0..4).map(|key| pool.get(key)).collect();
    for account in &accounts {
        account.add(100).await?;
    }
    let payments: Vec<_> = (0..40)
        .map(|n| {
            let (from, to) = (&accounts[n % 4], &accounts[(n * 7 + 1) % 4]);
            from.pay(to.clone(), 30)
        })
        .collect();
    for payment in payments {
        // Payments in opposite directions may be refused; then nothing has moved.
        if let Err(error) = payment.await {
            assert_eq!(error.kind(), ErrorKind::WouldDeadlock);
        }
    }
    let mut sum = 0;
    for account in &accounts {
        sum += account.add(0).await?;
    }
    assert_eq!(sum, 400);
    Ok(())
}

#[epicserver::test(entities(Account))]
async fn the_simulator_runs_with_its_defaults(pool: Pool) {
    assert_eq!(pool.get::<Account>(1).add(5).await, Ok(5));
}

#[entity(key = u64)]
#[derive(Default)]
struct Visits {
    count: u64,
}

#[entity]
impl Visits {
    pub fn add(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    pub async fn nap(cx: Cx<Self>, micros: u64) -> Result<()> {
        cx.sleep(Duration::from_micros(micros)).await
    }
}

/// Waits until nothing goes wrong any more: a nap that ends well has lasted.
async fn calm(pool: Pool) {
    let nap = || pool.get::<Visits>(0).nap(60_000_000).timeout(Duration::from_secs(90));
    while nap().await.is_err() {}
}

/// Calls that are lost end as they do anywhere.
fn is_of_a_lost_node(error: CallError) -> bool {
    matches!(error.kind(), ErrorKind::NodeLost | ErrorKind::Moved | ErrorKind::Nowhere)
        && error.ran() != Ran::Yes
}

#[epicserver::test(entities(Visits), nodes = 4, shards = 2, seeds = 8, faults(crash, leave))]
async fn a_count_is_never_more_than_the_calls_made_whatever_nodes_are_lost(pool: Pool) {
    const KEYS: u64 = 6;
    let mut made = 0;
    for round in 0..20 {
        made += 1;
        for key in 0..KEYS {
            match pool.get::<Visits>(key).add().await {
                Ok(count) => assert!(count <= made, "{count} of {made}"),
                Err(error) => assert!(is_of_a_lost_node(error), "{error:?}"),
            }
        }
        let nap = pool.get::<Visits>(round).nap(1 << round).await;
        assert!(nap.is_ok() || nap.is_err_and(is_of_a_lost_node));
    }
    calm(pool).await;
    for key in 0..KEYS {
        let count = pool.get::<Visits>(key).count().await;
        assert!(count.is_ok_and(|count| count <= made), "{count:?} of {made}");
        assert!(pool.get::<Visits>(key).add().await.is_ok());
    }
}

#[epicserver::test(entities(Visits), nodes = 3, seeds = 3, faults(partition, pause, delay))]
async fn calls_succeed_again_after_nodes_could_not_be_reached(pool: Pool) {
    for round in 0..20 {
        let _may_be_lost = pool.get::<Visits>(round).add().timeout(Duration::from_secs(1)).await;
        let _may_be_lost = pool.get::<Visits>(round).nap(1 << round).await;
    }
    calm(pool).await;
    for key in 0..20 {
        assert!(pool.get::<Visits>(key).add().await.is_ok());
    }
}

/// Saved before each reply.
#[entity(key = u64, saved = "every_turn")]
#[derive(Default)]
struct Balance {
    cents: u64,
}

#[entity]
impl Balance {
    pub fn put(&mut self) -> u64 {
        self.cents += 1;
        self.cents
    }

    pub fn cents(&self) -> u64 {
        self.cents
    }
}

#[epicserver::test(
    entities(Visits, Balance),
    nodes = 4,
    store,
    seeds = 6,
    faults(crash, leave, store)
)]
async fn what_a_caller_was_told_is_there_whatever_nodes_and_their_store_do(pool: Pool) {
    let mut told = [0; 4];
    for round in 0..20 {
        for (told, key) in told.iter_mut().zip(0..) {
            if let Ok(cents) = pool.get::<Balance>(key).put().await {
                assert!(cents > *told, "{cents} after {told}");
                *told = cents;
            }
        }
        let _may_be_lost = pool.get::<Visits>(round).nap(1 << round).await;
    }
    calm(pool).await;
    for (told, key) in told.into_iter().zip(0..) {
        let cents = pool.get::<Balance>(key).cents().await;
        assert!(cents.is_ok_and(|cents| cents >= told), "{cents:?} after {told}");
    }
}

/// Wrong: what is in memory goes with its node.
async fn state_survives(pool: Pool) {
    let mut counted = [0; 8];
    for round in 0..12 {
        for (key, counted) in (0..).zip(&mut counted) {
            *counted += u64::from(pool.get::<Visits>(key).add().await.is_ok());
        }
        let _may_be_lost = pool.get::<Visits>(0).nap(1 << (2 * round)).await;
    }
    calm(pool).await;
    for (key, counted) in (0..).zip(counted) {
        assert_eq!(pool.get::<Visits>(key).count().await, Ok(counted), "of {key}");
    }
}

#[epicserver::test(entities(Visits), nodes = 3, seeds = 20, faults(crash))]
#[should_panic(expected = "repeat it with `#[epicserver::test(seed = ")]
async fn a_program_that_relies_on_lost_state_fails_with_its_seed(pool: Pool) {
    state_survives(pool).await;
}

/// Runs it as the attribute would, and gives what its failure says.
fn failure(seed: Option<u64>, seeds: u64) -> String {
    let faults = &[TestFault::Crash];
    let options = TestOptions { nodes: 3, shards: 1, seed, seeds, store: false, faults };
    let run = || test(options, |registry| registry.add::<Visits>(), state_survives);
    let panic = std::panic::catch_unwind(run).expect_err("state does not survive");
    panic.downcast_ref::<String>().expect("it is a sentence").clone()
}

#[test]
fn the_seed_of_a_failure_repeats_it() {
    let said = failure(None, 20);
    let (_, after) = said.split_once("seed = ").expect("the seed is named");
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    let again = failure(Some(digits.parse().expect("a number")), 1);
    let what = |said: &str| said.split("\nrepeat it").next().map(str::to_owned);
    assert_eq!(what(&said), what(&again));
}
