//! What is saved, and who calls it.
//!
//! # Not here
//! How they are set up and timed: `store`.

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
