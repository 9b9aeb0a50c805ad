//! What the tests of nodes share: a watchdog, every setup of a node, and a gate to wait at.

use std::num::NonZeroUsize;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use epicserver::Builder;
use epicserver::prelude::*;

/// Runs `test` on a thread of its own, and fails if it has not finished after a minute.
pub(crate) fn within(test: impl FnOnce() + Send + 'static) {
    let (give, take) = channel();
    let thread = thread::spawn(move || {
        test();
        let _gone = give.send(());
    });
    match take.recv_timeout(Duration::from_secs(60)) {
        Ok(()) => {}
        Err(RecvTimeoutError::Timeout) => panic!("the test hangs"),
        Err(RecvTimeoutError::Disconnected) => match thread.join() {
            Ok(()) => unreachable!("a test that ends says so"),
            Err(cause) => std::panic::resume_unwind(cause),
        },
    }
}

/// A node of `shards` that leaves the CPUs to others.
pub(crate) fn node(shards: usize, direct: bool) -> Builder {
    let shards = NonZeroUsize::new(shards).unwrap_or(NonZeroUsize::MIN);
    Node::builder().shards(shards).direct_calls(direct).pin(false).entity::<Gate>()
}

/// Runs `test` on a node of each number of shards, with direct calls and without, and has each node
/// drain after that.
pub(crate) fn on_nodes(
    shards: &'static [usize],
    register: fn(Builder) -> Builder,
    test: impl AsyncFnOnce(Pool) + Copy + Send + 'static,
) {
    within(move || {
        for (shards, direct) in shards.iter().flat_map(|n| [(*n, true), (*n, false)]) {
            let setup = format!("{shards} shards, direct calls: {direct}");
            let started = register(node(shards, direct)).start();
            let node = started.unwrap_or_else(|error| panic!("{setup}: {error}"));
            if let Err(error) = node.run(test) {
                panic!("{setup}: {error}");
            }
            assert!(node.stop(), "{setup}: everything is done, so the node drains");
        }
    });
}

/// Holds back whoever passes until it is opened.
#[entity(key = u64)]
#[derive(Default)]
pub(crate) struct Gate {
    came: u32,
    passed: u32,
}

#[entity]
impl Gate {
    /// Waits until the gate is open.
    pub async fn pass(cx: Cx<Self>) -> Result<()> {
        cx.with(|gate| gate.came += 1);
        cx.event("came").set();
        cx.event("open").wait().await?;
        cx.with(|gate| gate.passed += 1);
        Ok(())
    }

    /// How many have passed.
    pub fn passed(&self) -> u32 {
        self.passed
    }

    /// Waits until `count` have come to the gate.
    pub async fn came(cx: Cx<Self>, count: u32) -> Result<()> {
        while cx.with(|gate| gate.came) < count {
            cx.event("came").clear();
            cx.event("came").wait().await?;
        }
        Ok(())
    }

    /// Lets everybody through from now on.
    pub fn open(&mut self, at: At<Self>) {
        at.event("open").set();
    }
}
