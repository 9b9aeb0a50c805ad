//! What is saved, and who calls it.
//!
//! # Not here
//! How they are set up and timed: `store`.

use std::time::{Duration, Instant};

use epicserver::prelude::*;

/// The state of all that is saved.
type Kibibyte = [[u8; 32]; 32];

const _: () = assert!(size_of::<Kibibyte>() == 1024);

/// Other bytes everywhere.
fn change(bytes: &mut Kibibyte) {
    let next = bytes[0][0].wrapping_add(1);
    bytes.iter_mut().for_each(|row| row.fill(next));
}

/// Saved some time after it has changed: half of this is left to the store.
#[entity(key = u64, lag = "2ms")]
#[derive(Default)]
pub(crate) struct Page {
    bytes: Kibibyte,
}

#[entity]
impl Page {
    pub fn write(&mut self) {
        change(&mut self.bytes);
    }

    pub fn read(&self) -> u8 {
        self.bytes[0][0]
    }

    /// Returns when it is durable.
    pub async fn saved(cx: Cx<Self>) -> Result<()> {
        cx.save().await
    }

    /// Leaves memory.
    pub fn leave(&self, at: At<Self>) {
        at.deactivate();
    }
}

/// Saved before each reply.
#[entity(key = u64, saved = "every_turn")]
#[derive(Default)]
pub(crate) struct Account {
    bytes: Kibibyte,
}

#[entity]
impl Account {
    pub fn write(&mut self) {
        change(&mut self.bytes);
    }
}

/// Callers, each of an account of its own.
#[entity(key = u64, saved = "never")]
#[derive(Default)]
pub(crate) struct Crowd {
    /// Calls that were answered.
    answered: u64,
    /// How many are waited for.
    wanted: u64,
    ends: bool,
    left: u32,
    failed: Option<CallError>,
}

#[entity]
impl Crowd {
    /// Each account is called once.
    pub async fn once(cx: Cx<Self>, accounts: u32) -> Result<()> {
        let calls = (0..u64::from(accounts)).map(|key| cx.pool().get::<Account>(key).write());
        for call in calls.collect::<Vec<_>>() {
            call.await?;
        }
        Ok(())
    }

    /// From now on each account has a caller that calls it again and again.
    pub async fn begin(cx: Cx<Self>, accounts: u32) {
        cx.with(|crowd| (crowd.ends, crowd.left) = (false, accounts));
        for key in 0..u64::from(accounts) {
            cx.spawn(async move |cx: Cx<Self>| {
                let account = cx.pool().get::<Account>(key);
                while !cx.with(|crowd| crowd.ends) {
                    let done = account.write().await;
                    note(&cx, done);
                }
                cx.with(|crowd| crowd.left -= 1);
                cx.event("answered").set();
            });
        }
    }

    /// Returns when so many more calls were answered.
    pub async fn more(cx: Cx<Self>, calls: u32) -> Result<()> {
        cx.with(|crowd| crowd.wanted = crowd.answered + u64::from(calls));
        wait(&cx, |crowd| crowd.answered >= crowd.wanted).await
    }

    /// Returns when nobody calls any more.
    pub async fn end(cx: Cx<Self>) -> Result<()> {
        cx.with(|crowd| crowd.ends = true);
        wait(&cx, |crowd| crowd.left == 0).await
    }
}

/// A call has ended, well or not.
fn note(cx: &Cx<Crowd>, done: Result<()>) {
    let enough = cx.with(|crowd| {
        crowd.answered += 1;
        crowd.ends |= done.is_err();
        crowd.failed = done.err().or_else(|| crowd.failed.take());
        crowd.ends || crowd.answered == crowd.wanted
    });
    if enough {
        cx.event("answered").set();
    }
}

async fn wait(cx: &Cx<Crowd>, is_over: impl Fn(&Crowd) -> bool) -> Result<()> {
    loop {
        cx.event("answered").clear();
        if let Some(error) = cx.with(|crowd| crowd.failed.take()) {
            return Err(error);
        }
        if cx.with(|crowd| is_over(crowd)) {
            return Ok(());
        }
        cx.event("answered").wait().await?;
    }
}

/// What a page is, but for being saved.
#[entity(key = u64, saved = "never")]
#[derive(Default)]
pub(crate) struct Plain {
    bytes: Kibibyte,
}

#[entity]
impl Plain {
    pub fn write(&mut self) {
        change(&mut self.bytes);
    }
}

/// Has nothing to do with what is saved.
#[entity(key = u64, saved = "never")]
#[derive(Default)]
pub(crate) struct Bystander {
    calls: u64,
}

#[entity]
impl Bystander {
    pub fn bump(&mut self) -> u64 {
        self.calls += 1;
        self.calls
    }

    /// Calls another one `calls` times, one call a `period_us`; says how late each was answered, in nanoseconds after it was
    /// to be made.
    pub async fn watch(
        cx: Cx<Self>,
        other: Ref<Self>,
        calls: u32,
        period_us: u64,
    ) -> Result<Vec<u64>> {
        let period = Duration::from_micros(period_us);
        let mut late = Vec::with_capacity(usize::try_from(calls).unwrap_or(0));
        let mut due = Instant::now();
        for _ in 0..calls {
            due += period;
            cx.sleep(due.saturating_duration_since(Instant::now())).await?;
            other.bump().await?;
            late.push(u64::try_from(due.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
        Ok(late)
    }
}

/// What changes meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Meanwhile {
    /// So many pages, and again after each pause.
    Pages(u32, Duration),
    /// So many of what is not saved, and again after each pause.
    Plain(u32, Duration),
    /// Groups of so many pages, each once that before the last is durable.
    Groups(u32),
}

/// Changes entities until it is told to end.
#[entity(key = u64, saved = "never")]
#[derive(Default)]
pub(crate) struct Busy {
    ends: bool,
    rounds: u64,
    failed: Option<CallError>,
}

#[entity]
impl Busy {
    /// `kind` and the others are a [`Meanwhile`].
    pub async fn begin(cx: Cx<Self>, kind: u8, count: u32, pause_us: u64) {
        cx.spawn(async move |cx: Cx<Self>| {
            let meanwhile = Meanwhile::of_parts(kind, count, pause_us);
            let mut done = Ok(());
            while done.is_ok() && !cx.with(|busy| busy.ends) {
                let round = cx.with(|busy| busy.rounds);
                done = change_all(&cx, meanwhile, round).await;
                cx.with(|busy| busy.rounds += 1);
            }
            cx.with(|busy| busy.failed = done.err());
            cx.event("ended").set();
        });
    }

    /// Ends it; says how often all were changed.
    pub async fn end(cx: Cx<Self>) -> Result<u64> {
        cx.with(|busy| busy.ends = true);
        cx.event("ended").wait().await?;
        cx.with(|busy| busy.failed.take().map_or(Ok(busy.rounds), Err))
    }
}

async fn change_all(cx: &Cx<Busy>, meanwhile: Meanwhile, round: u64) -> Result<()> {
    match meanwhile {
        Meanwhile::Pages(count, pause) => {
            for key in 0..u64::from(count) {
                cx.pool().get::<Page>(key).write().await?;
            }
            cx.sleep(pause).await
        }
        Meanwhile::Plain(count, pause) => {
            for key in 0..u64::from(count) {
                cx.pool().get::<Plain>(key).write().await?;
            }
            cx.sleep(pause).await
        }
        Meanwhile::Groups(count) => {
            let count = u64::from(count);
            let first = round % 2 * count;
            for key in first..first + count {
                cx.pool().get::<Page>(key).write().await?;
            }
            let last_of_other = (round + 1) % 2 * count + count - 1;
            cx.pool().get::<Page>(last_of_other).saved().await
        }
    }
}

impl Meanwhile {
    pub(crate) fn parts(self) -> (u8, u32, u64) {
        let us = |pause: Duration| u64::try_from(pause.as_micros()).unwrap_or(u64::MAX);
        match self {
            Self::Pages(count, pause) => (0, count, us(pause)),
            Self::Plain(count, pause) => (1, count, us(pause)),
            Self::Groups(count) => (2, count, 0),
        }
    }

    fn of_parts(kind: u8, count: u32, pause_us: u64) -> Self {
        let pause = Duration::from_micros(pause_us);
        match kind {
            0 => Self::Pages(count, pause),
            1 => Self::Plain(count, pause),
            _ => Self::Groups(count),
        }
    }
}
