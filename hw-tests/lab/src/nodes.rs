//! What two nodes on two machines are told so that they are one fabric: they have no coordinator that both could reach.

use std::sync::atomic::{AtomicU32, Ordering};

/// Settings for two nodes, as words of a shell's `export`: ranks 1 and 0 of a run that no other nodes have had.
#[must_use]
pub fn ranks() -> [String; 2] {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let run = RUNS.fetch_add(1, Ordering::Relaxed) + 1;
    let settings = "EPICSERVER_COORDINATOR__KIND=static EPICSERVER_FABRIC__NODES=2";
    [1, 0].map(|rank| {
        format!("{settings} EPICSERVER_COORDINATOR__RUN={run} EPICSERVER_COORDINATOR__RANK={rank}")
    })
}
