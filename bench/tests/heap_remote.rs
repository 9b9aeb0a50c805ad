//! Heap: how many allocations a call to another node makes, on both sides together.
//!
//! # Invariants
//! - **B9** One test: the counters are the process's own, and another test's thread would count too.
//!
//! # Not here
//! Calls within one node: `heap`.

use std::alloc::System;
use std::num::NonZeroUsize;
use std::os::unix::fs::PermissionsExt;

use epicserver::Config;
use epicserver::config::{DriverKind, Transport};
use epicserver::prelude::*;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const CALLS: usize = 50;
/// The control threads look round a few times a second, and allocate then: the quietest round counts.
const ROUNDS: usize = 800;

#[entity(key = u64)]
#[derive(Default)]
struct Counter {
    count: u64,
}

#[entity]
impl Counter {
    pub fn bump(&mut self, by: u64) -> u64 {
        self.count += by;
        self.count
    }

    pub async fn bump_async(cx: Cx<Self>, by: u64) -> u64 {
        cx.with(|counter| {
            counter.count += by;
            counter.count
        })
    }

    /// The thread that runs it.
    pub fn thread(&self) -> String {
        format!("{:?}", std::thread::current().id())
    }
}

fn start(config: &Config) -> std::thread::JoinHandle<Node> {
    let builder = Node::builder().entity::<Counter>().config(config).pin(false);
    std::thread::spawn(move || builder.start().unwrap_or_else(|error| panic!("{error}")))
}

/// Allocations of both nodes in `CALLS` calls of each kind, in the quietest round.
async fn allocations(pool: Pool) -> Result<usize> {
    let here = format!("{:?}", std::thread::current().id());
    let mut key = 0;
    while pool.get::<Counter>(key).thread().await? == here {
        key += 1;
    }
    let counter = pool.get::<Counter>(key);
    let mut quietest = usize::MAX;
    for _ in 0..ROUNDS {
        let heap = Region::new(HEAP);
        for _ in 0..CALLS {
            counter.bump(1).await?;
            counter.bump_async(1).await?;
        }
        let change = heap.change();
        quietest = quietest.min(change.allocations + change.reallocations);
        if quietest == 0 {
            break;
        }
    }
    Ok(quietest)
}

#[test]
fn a_call_to_another_node_allocates_nothing_in_steady_state() {
    let dir = std::env::temp_dir().join(format!("epic-heap-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).unwrap();
    let ways = [
        (Transport::Tcp, DriverKind::Epoll),
        (Transport::Tcp, DriverKind::IoUring),
        (Transport::Shm, DriverKind::Epoll),
    ];
    let forbidden = std::env::var_os("EPIC_NO_URING").is_some_and(|set| set == "1");
    for (transport, driver) in ways {
        if driver == DriverKind::IoUring && forbidden {
            eprintln!("SKIPPED: calls over io_uring: EPIC_NO_URING=1");
            continue;
        }
        let mut config = Config::default();
        config.fabric.nodes = 2;
        config.node.shards = NonZeroUsize::new(1);
        config.network.transport = transport;
        config.network.driver = Some(driver);
        config.runtime.run_dir = Some(dir.clone());
        let (first, second) = (start(&config), start(&config));
        let (first, second) = (first.join().unwrap(), second.join().unwrap());
        let allocations = first.run(allocations).unwrap().unwrap();
        assert!(first.stop() && second.stop());
        assert_eq!(allocations, 0, "{transport:?} {driver:?}");
    }
    std::fs::remove_dir_all(&dir).unwrap();
}
