//! Callers: what they call, and what they were told.
//!
//! # Not here
//! Whether that is right: `journal`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use epicserver::{CallError, Client};

use crate::Failure;
use crate::account::{Account, Hit};

/// Callers at a time.
const CALLERS: usize = 16;
/// One call of so many goes through another entity.
const RELAYED: u64 = 4;
/// When a call is given up: later than whatever a fabric takes to mend itself.
const GIVEN_UP: Duration = Duration::from_secs(15);
/// How long a caller that was refused leaves the fabric alone.
const REST: Duration = Duration::from_millis(5);

/// The numbers of calls.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// A call that has ended.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    pub(crate) call: u64,
    pub(crate) key: u64,
    pub(crate) relayed: bool,
    pub(crate) began: Instant,
    pub(crate) took: Duration,
    pub(crate) outcome: Result<Hit, CallError>,
}

/// Calls entity `key`, by way of another one if that is given.
pub(crate) fn call(client: &Client, key: u64, by: Option<u64>) -> Done {
    let (call, began) = (NEXT.fetch_add(1, Ordering::Relaxed), Instant::now());
    let account = client.get::<Account>(key);
    let outcome = match by {
        None => client.block_on(account.hit(call).timeout(GIVEN_UP)),
        Some(by) => {
            client.block_on(client.get::<Account>(by).relay(call, account).timeout(GIVEN_UP))
        }
    };
    Done { call, key, relayed: by.is_some(), began, took: began.elapsed(), outcome }
}

/// Calls each of `keys` once, and says who has it.
pub(crate) fn call_each(client: &Client, keys: impl Iterator<Item = u64>) -> Vec<Done> {
    let keys: Vec<u64> = keys.collect();
    let each = keys.len().div_ceil(CALLERS).max(1);
    std::thread::scope(|scope| {
        let callers: Vec<_> = keys
            .chunks(each)
            .map(|keys| {
                scope.spawn(|| {
                    keys.iter().map(|key| call(client, *key, None)).collect::<Vec<Done>>()
                })
            })
            .collect();
        callers.into_iter().flat_map(|caller| caller.join().unwrap_or_default()).collect()
    })
}

/// Knuth's MMIX generator: any fixed sequence serves.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Calls one of the entities below `entities`, and rests after a failure.
fn call_any(client: &Client, draw: &mut Draw, entities: u64) -> Done {
    let key = draw.below(entities);
    let by = (draw.below(RELAYED) == 0).then(|| draw.below(entities));
    // One that waited for its own call would wait for ever.
    let done = call(client, key, by.filter(|by| *by != key));
    if done.outcome.is_err() {
        std::thread::sleep(REST);
    }
    done
}

/// Steady calls to entities drawn at random.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    callers: Vec<JoinHandle<Vec<Done>>>,
}

impl Load {
    /// Begins to call the entities below `entities`.
    pub(crate) fn start(client: &Client, entities: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let caller = |number: u64| {
            let (client, stop) = (client.clone(), Arc::clone(&stop));
            std::thread::spawn(move || {
                let mut draw = Draw(number);
                let mut done = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    done.push(call_any(&client, &mut draw, entities));
                }
                done
            })
        };
        Self { callers: (0..CALLERS as u64).map(caller).collect(), stop }
    }

    /// Ends it, and says what was called in the order of its beginning.
    pub(crate) fn end(self) -> Result<Vec<Done>, Failure> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for caller in self.callers {
            all.extend(caller.join().map_err(|_| "a caller has panicked")?);
        }
        all.sort_by_key(|done| done.began);
        Ok(all)
    }
}

/// How those calls went: how many, how many a second, how long the answered ones took, and how many failed of what.
pub(crate) fn describe<'a, I: Iterator<Item = &'a Done>>(calls: I) -> String {
    let calls: Vec<&Done> = calls.collect();
    let (Some(first), Some(last)) = (calls.first(), calls.last()) else {
        return "no calls".to_owned();
    };
    let mut took: Vec<Duration> =
        calls.iter().filter(|done| done.outcome.is_ok()).map(|done| done.took).collect();
    took.sort_unstable();
    let part = |of: usize| took.get((took.len() * of / 1000).min(took.len().saturating_sub(1)));
    let ms = |took: Option<&Duration>| took.map_or(f64::NAN, |took| took.as_secs_f64() * 1e3);
    let seconds = (last.began + last.took).duration_since(first.began).as_secs_f64();
    let mut failed: BTreeMap<String, u32> = BTreeMap::new();
    for error in calls.iter().filter_map(|done| done.outcome.as_ref().err()) {
        *failed.entry(format!("{:?} (ran: {:?})", error.kind(), error.ran())).or_default() += 1;
    }
    let mut said = format!(
        "{} calls, {:.0}/s; p50 {:.2} ms, p99 {:.2} ms, longest {:.1} ms; failed: {}",
        calls.len(),
        calls.len() as f64 / seconds.max(1e-9),
        ms(part(500)),
        ms(part(990)),
        ms(took.last()),
        failed.values().sum::<u32>(),
    );
    for (what, count) in failed {
        said += &format!(", {count} {what}");
    }
    said
}
