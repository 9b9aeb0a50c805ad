//! What `faults(…)` of a user's test has happen to its nodes.
//!
//! # Not here
//! How a fault is carried out (`world`).

use std::time::Duration;

use crate::rng::Rng;
use crate::storm::{Fault, Storm, Weather};
use crate::world::NODES_MAX as EVER_MAX;

/// Nodes that a test may have at the beginning.
pub const NODES_MAX: u32 = 16;
/// Shards of each.
pub const SHARDS_MAX: u16 = 16;
/// After so long nothing goes wrong any more.
pub(crate) const CALM_AFTER: Duration = Duration::from_mins(1);

/// How often a kind happens in a run at most.
const TIMES_MAX: u64 = 3;
/// Kinds there are.
const KINDS: u64 = 6;
/// Kinds after which a node begins.
const KINDS_THAT_JOIN: u64 = 2;
/// The longest pause between two faults.
const GAP_MAX: Duration = Duration::from_secs(2);
/// How long it takes at most until a node begins for one that was lost.
const AWAY_MAX: Duration = Duration::from_secs(3);
/// How long a fault lasts at most.
const LASTS_MAX: Duration = Duration::from_secs(10);

const _: () = assert!(
    NODES_MAX as u64 + KINDS_THAT_JOIN * TIMES_MAX <= EVER_MAX as u64,
    "each node that is lost comes back"
);
const _: () = assert!(
    KINDS * TIMES_MAX * GAP_MAX.as_secs() + LASTS_MAX.as_secs() < CALM_AFTER.as_secs(),
    "all is over by then"
);

/// A kind of fault that may happen to the nodes of a test, but for the one on which the test itself runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum TestFault {
    /// A node is gone at once, with all that it had in memory, and begins again as another one.
    Crash,
    /// A node hands over what it owns, leaves, and comes back.
    Leave,
    /// Nodes cannot reach each other, nor perhaps the coordinator, or a link is lost.
    Partition,
    /// A node does nothing for longer than its lease lasts.
    Pause,
    /// The network takes long.
    Delay,
    /// The store carries nothing out, or does not say whether it did.
    Store,
}

/// What happens in a run from when its nodes have met, drawn from the kinds that are named.
pub(crate) fn draw(kinds: &[TestFault], nodes: u32, rng: &mut Rng) -> Storm {
    // Some tests are over after microseconds, others last for seconds.
    let gap = Duration::from_micros(1 << (6 + rng.below(16))).min(GAP_MAX);
    let mut drawn = Vec::new();
    for kind in kinds {
        // Runs without some kinds go elsewhere than runs with all.
        let none = kinds.len() > 1 && rng.one_in(4);
        let times = if none { 0 } else { 1 + rng.below(TIMES_MAX) };
        drawn.extend((0..times).map(|_| *kind));
    }
    let mut at = Duration::ZERO;
    let mut all = Vec::new();
    while !drawn.is_empty() {
        at += rng.up_to(gap);
        let kind = drawn.swap_remove(rng.index(drawn.len()));
        all.push((at, fault(kind, nodes, rng)));
        if matches!(kind, TestFault::Crash | TestFault::Leave) {
            let away = if rng.one_in(2) { gap } else { AWAY_MAX };
            all.push((at + rng.up_to(away), Fault::Join));
        }
    }
    all.sort_by_key(|(at, _)| *at);
    let pace = Duration::from_micros(1 << (4 + rng.below(14)));
    Storm::of_times(Weather::Foul, pace, all)
}

fn fault(kind: TestFault, nodes: u32, rng: &mut Rng) -> Fault {
    let short = Duration::from_millis(1 << rng.below(13));
    match kind {
        TestFault::Crash => Fault::Crash,
        TestFault::Leave => Fault::Leave,
        TestFault::Partition if rng.one_in(4) => Fault::Cut,
        TestFault::Partition => {
            // The test's own node is on the side of the coordinator; another one is not.
            let other = 1 + rng.below(u64::from(nodes.max(2)) - 1);
            let side = (rng.next() | 1 << other) & !1;
            let lasts = short + rng.up_to(Duration::from_secs(4));
            Fault::Part { side, one_way: false, coordinator: rng.one_in(2), lasts }
        }
        TestFault::Pause => Fault::Pause(Duration::from_millis(3_500 + rng.below(5_000))),
        TestFault::Delay => {
            let most = Duration::from_millis(2 << rng.below(11));
            Fault::Slow { most, lasts: short + rng.up_to(Duration::from_secs(4)) }
        }
        TestFault::Store => {
            let lasts = short + rng.up_to(Duration::from_secs(4));
            if rng.one_in(2) { Fault::StoreAway(lasts) } else { Fault::StoreMuddle(lasts) }
        }
    }
}
