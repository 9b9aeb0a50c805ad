//! Two nodes, one of which (`run`) calls entities of the other (`serve`) and keeps account, while somebody kills machines
//! or pulls wires. Every call carries the caller's next number; the entity says how many it has counted and whether
//! one came twice or out of order. So a call that was lost or done twice shows, whatever happened meanwhile.
//!
//! `TALLY=count` calls until a file `finish` lies in the working folder, then until the other node has answered some more,
//! and fails if the accounts do not agree. `TALLY=hold` has a call under way that never returns, until it is lost, and says how long that took.
//!
//! # Not here
//! Who does what to the machines and when: the areas of `hw-tests`.

#![expect(clippy::print_stdout, reason = "its output is what is judged")]

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use epicserver::prelude::*;
use futures_util::future::join_all;

type Failure = Box<dyn std::error::Error>;

/// Callers at a time, each of an entity of its own. One of them has long arguments.
const CALLERS: usize = 8;
/// Keys tried until enough are owned by the other node.
const KEYS: u64 = 512;
/// Bytes of a long argument: several packets, and beside the small ones.
const LONG: usize = 200_000;
/// Calls that the other node has still to answer once a caller is told to finish.
const LAST_CALLS: u32 = 50;
/// How long that may take.
const LAST: Duration = Duration::from_secs(60);
/// Small calls that are timed.
const TIMED_CALLS: usize = 2_000;
/// How often a caller looks whether it is told to.
const LOOK: Duration = Duration::from_millis(100);
/// Failures in a row after which a caller gives up.
const FAILURES_MAX: u32 = 1_000;
/// How long a caller that was refused leaves the fabric alone.
const REST: Duration = Duration::from_millis(20);

/// This process among all.
fn home() -> u64 {
    static HOME: OnceLock<u64> = OnceLock::new();
    *HOME.get_or_init(|| std::hash::RandomState::new().build_hasher().finish())
}

#[message]
#[derive(Clone, Copy, Debug)]
struct Counted {
    /// In which process.
    home: u64,
    calls: u64,
    /// Calls whose number was not above the one before.
    wrong: u64,
    /// Of the bytes that came.
    sum: u64,
}

#[entity(key = u64)]
#[derive(Default)]
struct Tally {
    last: u64,
    calls: u64,
    wrong: u64,
}

#[entity]
impl Tally {
    /// In which process it is.
    pub fn home(&self) -> u64 {
        home()
    }

    pub fn count(&mut self, number: u64, bytes: Vec<u8>) -> Counted {
        self.calls += 1;
        self.wrong += u64::from(number <= self.last);
        self.last = number;
        let sum = bytes.iter().map(|byte| u64::from(*byte)).sum();
        Counted { home: home(), calls: self.calls, wrong: self.wrong, sum }
    }

    pub fn echo(&self, bytes: [u8; 64]) -> [u8; 64] {
        bytes
    }

    /// Never returns.
    pub async fn hold(cx: Cx<Self>) -> Result<()> {
        cx.sleep(Duration::from_secs(24 * 3600)).await
    }

    pub async fn rest(cx: Cx<Self>) -> Result<()> {
        cx.sleep(REST).await
    }
}

#[epicserver::main(entities(Tally))]
async fn setup(pool: Pool) -> std::result::Result<(), Failure> {
    let there = elsewhere(&pool).await?;
    let here = owned_here(&pool).await?;
    match std::env::var("TALLY").as_deref() {
        Ok("count") => count(&there, &here).await,
        Ok("hold") => hold(&there[0], &there[1]).await,
        Ok("time") => time(&there[0]).await,
        Ok(_) | Err(_) => Err("TALLY is count, hold or time".into()),
    }
}

/// Entities of the other node.
async fn elsewhere(pool: &Pool) -> std::result::Result<Vec<Ref<Tally>>, Failure> {
    let mut found = Vec::new();
    for key in 0..KEYS {
        let tally = pool.get::<Tally>(key);
        if tally.home().await? != home() {
            found.push(tally);
        }
        if found.len() == CALLERS {
            return Ok(found);
        }
    }
    Err("the other node owns too few entities".into())
}

async fn owned_here(pool: &Pool) -> std::result::Result<Ref<Tally>, Failure> {
    for key in 0..KEYS {
        let tally = pool.get::<Tally>(key);
        if tally.home().await? == home() {
            return Ok(tally);
        }
    }
    Err("this node owns no entity".into())
}

/// A call is under way while others come and go, until it is lost.
async fn hold(held: &Ref<Tally>, beside: &Ref<Tally>) -> std::result::Result<(), Failure> {
    let call = held.hold().timeout(Duration::from_secs(600));
    let beats = async {
        let mut last = Instant::now();
        for number in 1.. {
            if beside.count(number, Vec::new()).timeout(Duration::from_secs(600)).await.is_err() {
                break;
            }
            last = Instant::now();
            if number == 1 {
                println!("held");
            }
        }
        last
    };
    let (ended, last) = futures_util::join!(async { (call.await, Instant::now()) }, beats);
    let (Err(error), at) = ended else {
        return Err("a call that never returns has returned".into());
    };
    let ms = at.saturating_duration_since(last).as_millis();
    println!("lost kind={:?} ran={:?} ms={ms}", error.kind(), error.ran());
    Ok(())
}

/// The median of small calls, one after the other.
async fn time(tally: &Ref<Tally>) -> std::result::Result<(), Failure> {
    let mut took = Vec::new();
    for number in 1..=TIMED_CALLS {
        let began = Instant::now();
        tally.echo([1; 64]).await?;
        // The first ones find nothing in any cache.
        took.extend((number > TIMED_CALLS / 10).then(|| began.elapsed().as_nanos()));
    }
    took.sort_unstable();
    println!("{} ns, median of {}", took[took.len() / 2], took.len());
    Ok(())
}

/// What one caller knows.
#[derive(Default)]
struct Account {
    /// Calls that were answered, by the process that did.
    answered: BTreeMap<u64, u64>,
    /// Calls of which nobody knows whether they ran.
    unknown: u64,
    /// Calls that did not run.
    refused: u64,
    longest: Duration,
    failures: BTreeMap<String, u64>,
}

async fn count(there: &[Ref<Tally>], here: &Ref<Tally>) -> std::result::Result<(), Failure> {
    let callers = there.iter().enumerate().map(|(at, tally)| {
        let long = if at == 0 { LONG } else { 64 };
        caller(tally, here, long)
    });
    println!("under way");
    let accounts =
        join_all(callers).await.into_iter().collect::<std::result::Result<Vec<_>, _>>()?;
    let sum = |of: fn(&Account) -> u64| accounts.iter().map(of).sum::<u64>();
    let answered = sum(|account| account.answered.values().sum());
    let (unknown, refused) = (sum(|account| account.unknown), sum(|account| account.refused));
    let longest = accounts.iter().map(|account| account.longest.as_millis()).max();
    let failures: Vec<_> = accounts.iter().flat_map(|account| &account.failures).collect();
    println!(
        "answered={answered} unknown={unknown} refused={refused} longest_ms={} {failures:?}",
        longest.unwrap_or(0)
    );
    Ok(())
}

/// Calls one entity, call by call.
async fn caller(
    tally: &Ref<Tally>,
    here: &Ref<Tally>,
    long: usize,
) -> std::result::Result<Account, Failure> {
    let mut account = Account::default();
    let (mut left, mut looked, mut in_a_row) = (None, Instant::now(), 0);
    for number in 1.. {
        if left.is_none() && looked.elapsed() >= LOOK {
            looked = Instant::now();
            left = Path::new("finish").exists().then_some((LAST_CALLS, looked));
        }
        if left.is_some_and(|(_, since)| since.elapsed() > LAST) {
            return Err(
                format!("the other node did not answer in time: {:?}", account.failures).into()
            );
        }
        let began = Instant::now();
        let byte = u8::try_from(number % 251)?;
        match tally.count(number, vec![byte; long]).timeout(Duration::from_secs(60)).await {
            Ok(counted) => {
                account.check(counted, u64::from(byte) * u64::try_from(long)?)?;
                in_a_row = 0;
                let there = u32::from(counted.home != home());
                match &mut left {
                    Some((0, _)) => break,
                    Some((calls, _)) => *calls -= there,
                    None => {}
                }
            }
            Err(error) => {
                account.note(error);
                in_a_row += 1;
                if in_a_row > FAILURES_MAX {
                    return Err(format!("nothing but failures: {error}").into());
                }
                here.rest().await?;
            }
        }
        account.longest = account.longest.max(began.elapsed());
    }
    Ok(account)
}

impl Account {
    /// What was answered agrees with what is known: nothing was lost, nothing done twice.
    fn check(&mut self, counted: Counted, sum: u64) -> std::result::Result<(), Failure> {
        let answered = self.answered.entry(counted.home).or_default();
        *answered += 1;
        let least = *answered;
        let most = least + self.unknown;
        let agrees = counted.wrong == 0 && (least..=most).contains(&counted.calls);
        if agrees && counted.sum == sum {
            return Ok(());
        }
        Err(format!("{least} to {most} calls can have run with bytes of {sum}, and: {counted:?}")
            .into())
    }

    fn note(&mut self, error: CallError) {
        match error.ran() {
            Ran::No => self.refused += 1,
            Ran::Yes | Ran::Unknown => self.unknown += 1,
        }
        *self.failures.entry(format!("{:?}", error.kind())).or_default() += 1;
    }
}
