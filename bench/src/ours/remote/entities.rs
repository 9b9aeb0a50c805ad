//! What is called from the other process, and who calls it.
//!
//! # Not here
//! How they are set up and timed: `remote`.

use std::sync::Arc;

use epicserver::__private::rkyv;
use epicserver::Message;
use epicserver::prelude::*;

/// Bytes that exist already: what is measured is how they travel, not how a vector is copied.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
#[rkyv(crate = rkyv)]
pub(crate) struct Bytes(Arc<[u8]>);

impl Message for Bytes {}

impl Bytes {
    fn new(size: u64) -> Self {
        Self(vec![1; usize::try_from(size).unwrap_or(0)].into())
    }

    /// An argument that holds a share of them.
    fn shared(&self) -> View<Self> {
        View::new(Self(Arc::clone(&self.0)))
    }
}

/// What is called from afar.
#[entity(key = u64)]
#[derive(Default)]
pub(crate) struct Echo {
    calls: u64,
}

#[entity]
impl Echo {
    /// In which process it is.
    pub fn process(&self) -> u32 {
        std::process::id()
    }

    pub fn small(&mut self, bytes: [u8; 64]) -> [u8; 64] {
        self.calls += 1;
        bytes
    }

    pub fn echo(&mut self, bytes: Vec<u8>) -> Vec<u8> {
        self.calls += 1;
        bytes
    }

    /// Takes bytes that exist, and looks at them where they came.
    pub fn put(&mut self, bytes: View<Bytes>) -> u64 {
        self.calls += 1;
        bytes.0.len() as u64
    }
}

/// Tasks of one shard that call one entity.
#[entity(key = u64)]
#[derive(Default)]
pub(crate) struct Callers {
    left: u32,
    failed: Option<CallError>,
    flooding: bool,
}

#[entity]
impl Callers {
    /// In which process it is.
    pub fn process(&self) -> u32 {
        std::process::id()
    }

    /// `tasks` tasks that each make `calls` small calls, one after the other.
    pub async fn small(cx: Cx<Self>, echo: Ref<Echo>, tasks: u32, calls: u32) -> Result<()> {
        begin(&cx, tasks);
        for _ in 0..tasks {
            let echo = echo.clone();
            cx.spawn(async move |cx: Cx<Self>| {
                let mut done = Ok(());
                for _ in 0..calls {
                    done = echo.small([1; 64]).await.map(drop);
                    if done.is_err() {
                        break;
                    }
                }
                end(&cx, done);
            });
        }
        all_done(&cx).await
    }

    /// The same with arguments of `size` bytes: the same ones each time, as the floors send them.
    pub async fn put(
        cx: Cx<Self>,
        echo: Ref<Echo>,
        tasks: u32,
        (calls, size): (u32, u64),
    ) -> Result<()> {
        begin(&cx, tasks);
        for _ in 0..tasks {
            let echo = echo.clone();
            cx.spawn(async move |cx: Cx<Self>| {
                let bytes = Bytes::new(size);
                let mut done = Ok(());
                for _ in 0..calls {
                    done = echo.put(bytes.shared()).await.map(drop);
                    if done.is_err() {
                        break;
                    }
                }
                end(&cx, done);
            });
        }
        all_done(&cx).await
    }

    /// One task that gives `echo` arguments of `size` bytes, one after the other, until `end_flood`.
    pub async fn flood(cx: Cx<Self>, echo: Ref<Echo>, size: u64) {
        begin(&cx, 1);
        cx.with(|callers| callers.flooding = true);
        // Made before anybody is timed: it takes long.
        let bytes = Bytes::new(size);
        cx.spawn(async move |cx: Cx<Self>| {
            let mut done = Ok(());
            while done.is_ok() && cx.with(|callers| callers.flooding) {
                done = echo.put(bytes.shared()).await.map(drop);
            }
            end(&cx, done);
        });
    }

    /// Returns when the last argument has arrived; fails if one did not.
    pub async fn end_flood(cx: Cx<Self>) -> Result<()> {
        cx.with(|callers| callers.flooding = false);
        all_done(&cx).await
    }
}

fn begin(cx: &Cx<Callers>, tasks: u32) {
    cx.with(|callers| callers.left = tasks);
    cx.event("done").clear();
}

/// A task is done, well or not.
fn end(cx: &Cx<Callers>, done: Result<()>) {
    let left = cx.with(|callers| {
        callers.failed = done.err().or_else(|| callers.failed.take());
        callers.left -= 1;
        callers.left
    });
    if left == 0 {
        cx.event("done").set();
    }
}

async fn all_done(cx: &Cx<Callers>) -> Result<()> {
    cx.event("done").wait().await?;
    cx.with(|callers| callers.failed.take()).map_or(Ok(()), Err)
}
