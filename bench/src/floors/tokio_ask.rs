//! A hand-written tokio actor: a task that owns its state, a bounded channel, a `oneshot` an answer.
//!
//! The current-thread runtime without timers and I/O, so that nothing but the tasks is polled. What
//! was tried and found faster is in: askers that are tasks (the future of `block_on` is polled
//! dearer), `try_send` before `send`, `recv_many` for many, a task each rather than `join!`.
//!
//! # Not here
//! The multi-thread runtime, whose hops between threads only make this slower.

use std::hint::black_box;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::case::{Failure, Round, Sample};
use crate::probe;

const MAILBOX: usize = 1024;
/// How many asks are in flight at a time in `rate_of_1000`.
const IN_FLIGHT: u32 = 1000;
const _: () = assert!(IN_FLIGHT as usize <= MAILBOX);
const SEQ_OPS: u32 = 5_000;
/// Asks that one of the in-flight callers makes in a batch.
const RATE_OPS: u32 = 50;

struct Hit {
    force: u32,
    reply: oneshot::Sender<bool>,
}

struct Barrel {
    hits: u32,
}

impl Barrel {
    /// Takes its mail one by one: the fastest where there is one at a time.
    async fn run(mut self, mut mailbox: mpsc::Receiver<Hit>) {
        while let Some(hit) = mailbox.recv().await {
            self.on_hit(hit);
        }
    }

    /// Takes all the mail there is: the fastest where there is much.
    async fn run_in_batches(mut self, mut mailbox: mpsc::Receiver<Hit>) {
        let mut mail = Vec::with_capacity(MAILBOX);
        while mailbox.recv_many(&mut mail, MAILBOX).await > 0 {
            mail.drain(..).for_each(|hit| self.on_hit(hit));
        }
    }

    fn on_hit(&mut self, Hit { force, reply }: Hit) {
        self.hits = self.hits.wrapping_add(force);
        // The asker may have given up; that is no concern of the actor.
        reply.send(self.hits == 1).ok();
    }
}

/// An actor's address.
#[derive(Clone)]
struct BarrelRef(mpsc::Sender<Hit>);

impl BarrelRef {
    fn spawn() -> Self {
        let (address, mailbox) = mpsc::channel(MAILBOX);
        tokio::spawn(Barrel { hits: 0 }.run(mailbox));
        Self(address)
    }

    fn spawn_batching() -> Self {
        let (address, mailbox) = mpsc::channel(MAILBOX);
        tokio::spawn(Barrel { hits: 0 }.run_in_batches(mailbox));
        Self(address)
    }

    /// `None` if the actor is gone.
    async fn on_hit(&self, force: u32) -> Option<bool> {
        let (reply, answer) = oneshot::channel();
        match self.0.try_send(Hit { force, reply }) {
            Ok(()) => {}
            Err(TrySendError::Full(hit)) => self.0.send(hit).await.ok()?,
            Err(TrySendError::Closed(_)) => return None,
        }
        answer.await.ok()
    }
}

fn runtime() -> Result<Runtime, Failure> {
    Ok(Builder::new_current_thread().build()?)
}

/// Nanoseconds an ask, one at a time.
pub(crate) fn seq(round: &Round) -> Result<Sample, Failure> {
    let laps = round.laps();
    runtime()?.block_on(async {
        let barrel = BarrelRef::spawn();
        let asker = async move {
            let mut laps = laps;
            while laps.begin() {
                for _ in 0..SEQ_OPS {
                    black_box(barrel.on_hit(black_box(1)).await.ok_or("the actor is gone")?);
                }
                laps.end(SEQ_OPS);
            }
            laps.time()
        };
        tokio::spawn(asker).await?
    })
}

/// Asks a second with 1,000 in flight, in the fastest of three ways.
pub(crate) fn rate_of_1000(round: &Round) -> Result<Sample, Failure> {
    let ways =
        [rate_of_1000_tasks(round)?, rate_of_1000_joined(round)?, rate_of_1000_unordered(round)?];
    let faster = |a: Sample, b: Sample| if a.value > b.value { a } else { b };
    ways.into_iter().reduce(faster).ok_or_else(|| "no way".into())
}

/// A task for each of them. Nearly always the fastest: the other ways pay a waker an ask.
fn rate_of_1000_tasks(round: &Round) -> Result<Sample, Failure> {
    let mut laps = round.laps();
    runtime()?.block_on(async {
        let barrel = BarrelRef::spawn_batching();
        while laps.begin() {
            let mut askers = JoinSet::new();
            for _ in 0..IN_FLIGHT {
                askers.spawn(ask_in_turn(barrel.clone()));
            }
            while let Some(asker) = askers.join_next().await {
                asker?;
            }
            laps.end(IN_FLIGHT * RATE_OPS);
        }
        laps.rate()
    })
}

async fn ask_in_turn(barrel: BarrelRef) {
    for _ in 0..RATE_OPS {
        black_box(barrel.on_hit(black_box(1)).await);
    }
}

/// One task that asks them all and then awaits them all.
fn rate_of_1000_joined(round: &Round) -> Result<Sample, Failure> {
    let mut laps = round.laps();
    runtime()?.block_on(async {
        let barrel = BarrelRef::spawn_batching();
        while laps.begin() {
            for _ in 0..RATE_OPS {
                let asks = (0..IN_FLIGHT).map(|_| barrel.on_hit(black_box(1)));
                black_box(futures_util::future::join_all(asks).await);
            }
            laps.end(IN_FLIGHT * RATE_OPS);
        }
        laps.rate()
    })
}

/// One task that puts a new ask in the place of each answer.
fn rate_of_1000_unordered(round: &Round) -> Result<Sample, Failure> {
    let mut laps = round.laps();
    runtime()?.block_on(async {
        let barrel = BarrelRef::spawn_batching();
        let mut asks: FuturesUnordered<_> =
            (0..IN_FLIGHT).map(|_| barrel.on_hit(black_box(1))).collect();
        while laps.begin() {
            for _ in 0..IN_FLIGHT * RATE_OPS {
                black_box(asks.next().await);
                asks.push(barrel.on_hit(black_box(1)));
            }
            laps.end(IN_FLIGHT * RATE_OPS);
        }
        laps.rate()
    })
}

/// Probe: bytes that an idle actor takes, its mailbox and one address of it included.
pub(crate) fn idle_bytes(count: u64) -> Result<f64, Failure> {
    runtime()?.block_on(async {
        let mut barrels = Vec::with_capacity(usize::try_from(count)?);
        let before = probe::resident_bytes()?;
        for _ in 0..count {
            let barrel = BarrelRef::spawn();
            barrel.on_hit(1).await.ok_or("the actor is gone")?;
            barrels.push(barrel);
        }
        let after = probe::resident_bytes()?;
        black_box(&barrels);
        Ok((after - before) / count as f64)
    })
}
