//! Exclusive sections and locks: who is kept out, and that no wait is one that only a deadline ends
//! (**I6**).

mod common;

use std::time::Duration;

use common::{Gate, on_nodes};
use epicserver::Builder;
use epicserver::prelude::*;
use futures_util::future::join_all;
use futures_util::join;

const MINUTE: Duration = Duration::from_secs(60);

#[entity(key = u64)]
#[derive(Default)]
struct Trader {
    gold: i64,
    done: u32,
    log: Vec<String>,
}

#[entity]
impl Trader {
    pub fn gold(&self) -> i64 {
        self.gold
    }

    pub fn log(&self) -> Vec<String> {
        self.log.clone()
    }

    pub fn write(&mut self, line: String) {
        self.log.push(line);
    }

    #[exclusive]
    pub async fn write_alone(&mut self, line: String) {
        self.log.push(line);
    }

    /// Is parked here while `via` calls back.
    pub async fn parked_while(cx: Cx<Self>, via: Ref<Self>) -> Result<()> {
        via.writes(cx.this()).await
    }

    /// Three calls that leave together.
    pub async fn writes(_cx: Cx<Self>, to: Ref<Self>) -> Result<()> {
        to.write_alone("told".into()).tell();
        let (first, second) = (to.write("first".into()), to.write_alone("second".into()));
        let (first, second) = join!(first, second);
        first.and(second)
    }

    #[exclusive]
    pub async fn trade(&mut self, with: Ref<Self>, amount: i64) -> Result<()> {
        self.gold -= amount;
        let received = with.receive(amount).await;
        if received.is_err() {
            self.gold += amount;
        }
        received
    }

    #[exclusive]
    pub async fn receive(&mut self, at: At<Self>, amount: i64) -> Result<()> {
        at.sleep(Duration::from_micros(10)).await?;
        self.gold += amount;
        Ok(())
    }

    /// Two calls at a time that meet at one entity.
    pub async fn top(_cx: Cx<Self>, mid: (Ref<Self>, Ref<Self>), low: Ref<Self>) -> Result<u32> {
        let (one, other) = (mid.0.mid(low.clone()), mid.1.mid(low));
        let (one, other) = join!(one, other);
        Ok(u32::from(one?) + u32::from(other?))
    }

    #[exclusive]
    pub async fn top_alone(&mut self, mid: (Ref<Self>, Ref<Self>), low: Ref<Self>) -> Result<u32> {
        let (one, other) = (mid.0.mid_alone(low.clone()), mid.1.mid_alone(low));
        Ok(u32::from(one.await?) + u32::from(other.await?))
    }

    pub async fn mid(_cx: Cx<Self>, low: Ref<Self>) -> Result<bool> {
        low.receive(1).await.map(|()| true)
    }

    #[exclusive]
    pub async fn mid_alone(&mut self, low: Ref<Self>) -> Result<bool> {
        low.receive(1).await.map(|()| true)
    }

    #[exclusive]
    pub async fn cycle(&mut self, at: At<Self>, via: Ref<Self>, alone: bool) -> Result<i64> {
        if alone { via.back_alone(at.this()).await } else { via.back(at.this()).await }
    }

    pub async fn back(_cx: Cx<Self>, to: Ref<Self>) -> Result<i64> {
        to.gold().await
    }

    #[exclusive]
    pub async fn back_alone(&mut self, to: Ref<Self>) -> Result<i64> {
        to.gold().await
    }

    pub async fn cycle_in_a_section(mut cx: Cx<Self>, via: Ref<Self>) -> Result<i64> {
        let this = cx.this();
        cx.exclusive(async |_| via.back(this).await).await?
    }

    pub async fn parked(cx: Cx<Self>, gate: Ref<Gate>) -> Result<()> {
        cx.with(|trader| trader.log.push("parked begins".into()));
        gate.pass().await?;
        cx.with(|trader| trader.log.push("parked ends".into()));
        Ok(())
    }

    #[exclusive]
    pub async fn alone(&mut self, gate: Ref<Gate>) -> Result<()> {
        self.log.push("alone begins".into());
        gate.pass().await?;
        self.log.push("alone ends".into());
        Ok(())
    }

    pub async fn section(mut cx: Cx<Self>, gate: Ref<Gate>) -> Result<()> {
        cx.exclusive(async |trader| {
            trader.log.push("alone begins".into());
            gate.pass().await?;
            trader.log.push("alone ends".into());
            Ok(())
        })
        .await?
    }

    /// A section that is asked for while a call of this method is under way.
    pub async fn section_after_a_call(
        mut cx: Cx<Self>,
        gate: Ref<Gate>,
        other: Ref<Self>,
    ) -> Result<Vec<String>> {
        let parked = other.parked(gate);
        let held = cx.exclusive(async |trader| {
            trader.done += 1;
            other.log().await
        });
        let (log, parked) = join!(held, parked);
        parked?;
        log?
    }

    /// Gives up on a section that it does not get, and goes on without it.
    pub async fn impatient(mut cx: Cx<Self>, asks: Ref<Gate>, stays: Ref<Gate>) -> Result<bool> {
        asks.open().tell();
        let sleep = cx.sleep(Duration::from_millis(5));
        let gave_up = {
            let section = std::pin::pin!(cx.exclusive(async |trader| trader.done += 1));
            let first = futures_util::future::select(section, sleep).await;
            matches!(first, futures_util::future::Either::Right(_))
        };
        stays.pass().await.map(|()| gave_up)
    }

    pub async fn locked(cx: Cx<Self>, name: u8, with: Option<Ref<Self>>) -> Result<()> {
        let lock = cx.lock(if name == 0 { "a" } else { "b" });
        let held = lock.acquire().await?;
        let told = match with {
            Some(other) => other.locked(1 - name, None).await,
            None => cx.sleep(Duration::from_micros(10)).await,
        };
        cx.with(|trader| trader.done += 1);
        drop(held);
        told
    }

    pub async fn locked_twice(cx: Cx<Self>) -> Result<()> {
        let held = cx.lock("a").acquire().await?;
        let again = cx.this().locked(0, None).await;
        drop(held);
        again
    }

    pub async fn holds_a_lock(cx: Cx<Self>, gate: Ref<Gate>) -> Result<()> {
        let held = cx.lock("a").acquire().await?;
        let passed = gate.pass().await;
        drop(held);
        passed
    }

    pub async fn waits_for_a_lock(cx: Cx<Self>, late: bool) -> Result<bool> {
        let wait = cx.lock("a").acquire();
        let wait = if late { wait.timeout(Duration::from_millis(5)) } else { wait };
        wait.await.map(|_held| true)
    }

    /// The hook's own kind of cycle.
    pub async fn name_of(_cx: Cx<Self>, of: Ref<Looped>) -> Result<u64> {
        of.name().await
    }
}

/// Its hook calls somebody who calls it back.
#[entity(key = u64)]
struct Looped {
    name: u64,
}

#[entity]
impl Looped {
    #[activate]
    async fn make(at: At<Self>) -> Result<Self> {
        let asked = at.pool().get::<Trader>(at.key()).name_of(at.this()).await;
        let refused = asked.is_err_and(|error| error.kind() == ErrorKind::WouldDeadlock);
        Ok(Self { name: u64::from(refused) })
    }

    pub fn name(&self) -> u64 {
        self.name
    }
}

fn all(builder: Builder) -> Builder {
    builder.entity::<Trader>().entity::<Looped>()
}

/// Repeats what is refused, as the error says to; nothing else may go wrong.
async fn insist(call: impl AsyncFn() -> Result<()>) {
    while let Err(error) = call().await {
        assert_eq!(error.kind(), ErrorKind::WouldDeadlock, "{error:?}");
    }
}

#[test]
fn i6_trades_that_cross_end_without_a_deadline() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        for key in 0..2 {
            let (alice, bob) = (pool.get::<Trader>(key * 2), pool.get::<Trader>(key * 2 + 1));
            for _ in 0..10 {
                let (alice, bob) = (&alice, &bob);
                let trades = (0..10).flat_map(|_| [(alice, bob, 1), (bob, alice, 2)]);
                let trades = trades.map(async |(from, to, gold)| {
                    insist(async || from.trade(to.clone(), gold).timeout(MINUTE).await).await;
                });
                join_all(trades).await;
            }
            assert_eq!(alice.gold().await, Ok(100));
            assert_eq!(bob.gold().await, Ok(-100));
        }
    });
}

#[test]
fn i6_the_arms_of_a_diamond_meet_and_end_without_a_deadline() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        for key in 0..50 {
            let [top, one, other, low] = [0, 1, 2, 3].map(|n| pool.get::<Trader>(key * 4 + n));
            let mid = (one, other);
            let sum = top.top(mid.clone(), low.clone()).timeout(MINUTE).await;
            assert_eq!(sum, Ok(2), "arms that hold nothing wait for each other");
            match top.top_alone(mid, low).timeout(MINUTE).await {
                Ok(sum) => assert_eq!(sum, 2),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldDeadlock),
            }
        }
    });
}

#[test]
fn i6_a_method_that_comes_back_to_its_own_section_is_refused_at_once() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        for key in 0..4 {
            let (one, via) = (pool.get::<Trader>(key), pool.get::<Trader>(key + 10));
            for alone in [false, true] {
                let error = one.cycle(via.clone(), alone).timeout(MINUTE).await.unwrap_err();
                assert_eq!((error.kind(), error.ran()), (ErrorKind::WouldDeadlock, Ran::Yes));
                let error = one.cycle(one.clone(), alone).timeout(MINUTE).await.unwrap_err();
                assert_eq!((error.kind(), error.ran()), (ErrorKind::WouldDeadlock, Ran::Yes));
            }
            let error = one.cycle_in_a_section(via).timeout(MINUTE).await.unwrap_err();
            assert_eq!((error.kind(), error.ran()), (ErrorKind::WouldDeadlock, Ran::Yes));
            assert_eq!(one.gold().await, Ok(0), "the sections have ended");
        }
    });
}

#[test]
fn i6_a_hook_that_is_called_by_whom_it_calls_refuses_at_once() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        for key in 0..8 {
            let name = pool.get::<Looped>(key).name().timeout(MINUTE).await;
            assert_eq!(name, Ok(1));
        }
    });
}

#[test]
fn a1_a_parked_method_goes_on_only_when_the_exclusive_one_has_ended() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        for key in 0..8 {
            let trader = pool.get::<Trader>(key);
            let (first, second) = (pool.get::<Gate>(key * 2), pool.get::<Gate>(key * 2 + 1));
            let parked = trader.parked(first.clone());
            first.came(1).await.unwrap();
            let alone = match key % 2 {
                0 => Ok(trader.alone(second.clone())),
                _ => Err(trader.section(second.clone())),
            };
            second.came(1).await.unwrap();
            let last = trader.write("written".to_owned());
            first.open().await.unwrap();
            while first.passed().await != Ok(1) {}
            for _ in 0..10 {
                first.passed().await.unwrap();
            }
            second.open().await.unwrap();
            match alone {
                Ok(method) => method.await.unwrap(),
                Err(section) => section.await.unwrap(),
            }
            parked.await.unwrap();
            last.await.unwrap();
            let log = trader.log().await.unwrap();
            assert_eq!(log[..3], ["parked begins", "alone begins", "alone ends"]);
            let mut rest = log[3..].to_vec();
            rest.sort_unstable();
            assert_eq!(rest, ["parked ends", "written"]);
        }
    });
}

#[test]
fn i4_a_call_that_passes_who_waits_is_not_passed_by_the_next_of_its_caller() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        for key in 0..8 {
            let (trader, via) = (pool.get::<Trader>(key), pool.get::<Trader>(key + 10));
            trader.parked_while(via).timeout(MINUTE).await.unwrap();
            let log = trader.log().await.unwrap();
            let order: Vec<&String> = log.iter().filter(|line| *line != "told").collect();
            assert_eq!(order, ["first", "second"]);
        }
    });
}

#[test]
fn n7_a_section_begins_when_the_calls_under_way_are_answered() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        for key in 0..4 {
            let (one, other) = (pool.get::<Trader>(key), pool.get::<Trader>(key + 10));
            let gate = pool.get::<Gate>(key);
            let log = one.section_after_a_call(gate.clone(), other);
            gate.came(1).await.unwrap();
            assert_eq!(one.gold().await, Ok(0), "nobody is kept out before the section");
            gate.open().await.unwrap();
            assert_eq!(log.await.unwrap(), ["parked begins", "parked ends"]);
        }
    });
}

#[test]
fn who_gives_up_a_section_keeps_nobody_out() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        for key in 0..4 {
            let (trader, gate) = (pool.get::<Trader>(key), pool.get::<Gate>(key));
            let holds = trader.holds_a_lock(gate.clone());
            gate.came(1).await.unwrap();
            // The section cannot begin while another chain's lock would be frozen by it.
            let asks = pool.get::<Gate>(key + 100);
            let impatient = trader.impatient(asks.clone(), gate.clone());
            asks.pass().await.unwrap();
            let behind = trader.gold();
            assert_eq!(behind.timeout(MINUTE).await, Ok(0));
            gate.open().await.unwrap();
            assert_eq!(impatient.await, Ok(true));
            holds.await.unwrap();
        }
    });
}

#[test]
fn who_is_late_for_an_exclusive_method_keeps_nobody_out() {
    on_nodes(&[1], all, async |pool: Pool| {
        let (trader, gate) = (pool.get::<Trader>(1), pool.get::<Gate>(1));
        let holds = trader.holds_a_lock(gate.clone());
        gate.came(1).await.unwrap();
        let late = trader.receive(1).timeout(Duration::from_millis(5));
        let behind = trader.gold();
        let (late, behind) = (late.await, behind.timeout(MINUTE).await);
        assert_eq!(late.unwrap_err().kind(), ErrorKind::Deadline);
        assert_eq!(behind, Ok(0));
        gate.open().await.unwrap();
        holds.await.unwrap();
    });
}

#[test]
fn i6_locks_that_are_taken_crosswise_end_without_a_deadline() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        let (one, other) = (pool.get::<Trader>(1), pool.get::<Trader>(2));
        let (one, other) = (&one, &other);
        let crossings = (0..20).flat_map(|_| [(one, other, 0), (other, one, 1)]);
        let crossings = crossings.map(async |(from, to, name)| {
            let with = Some(to.clone());
            insist(async || from.locked(name, with.clone()).timeout(MINUTE).await).await;
        });
        join_all(crossings).await;
    });
}

#[test]
fn i6_a_chain_that_asks_for_its_own_lock_is_refused_at_once() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        let error = pool.get::<Trader>(1).locked_twice().timeout(MINUTE).await.unwrap_err();
        assert_eq!((error.kind(), error.ran()), (ErrorKind::WouldDeadlock, Ran::Yes));
        assert_eq!(pool.get::<Trader>(1).locked(0, None).await, Ok(()), "it is free again");
    });
}

#[test]
fn a_lock_passes_to_the_next_who_still_waits_for_it() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        let (trader, gate) = (pool.get::<Trader>(1), pool.get::<Gate>(1));
        let holds = trader.holds_a_lock(gate.clone());
        gate.came(1).await.unwrap();
        let (late, waits) = (trader.waits_for_a_lock(true), trader.waits_for_a_lock(false));
        assert_eq!(late.await.unwrap_err().kind(), ErrorKind::Deadline);
        gate.open().await.unwrap();
        holds.await.unwrap();
        assert_eq!(waits.timeout(MINUTE).await, Ok(true));
    });
}
