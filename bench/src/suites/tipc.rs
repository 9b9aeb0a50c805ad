//! Calls between two processes over TIPC, of a machine with a single CPU too: virtual machines that are emulated wait badly
//! for each other's CPUs. Few machines have it loaded: `hw-tests/run tipc` runs this suite where it is.
//!
//! # Not here
//! Other transports: `remote`.

use epicserver::IdleMode;

use crate::case::{Better, Case};
use crate::floors::raw_tipc;
use crate::ours::remote::{self, Link, Setting};

const SPIN: Setting = Setting { link: Link::Tipc, idle: IdleMode::Latency };

pub(crate) fn cases() -> Vec<Case> {
    vec![Case {
        suite: "tipc",
        case: "tipc_64",
        unit: "ns",
        better: Better::Lower,
        cpus: 1,
        ours: Some(Box::new(|round| remote::small(round, SPIN))),
        floors: vec![("raw_tipc", Box::new(|round| raw_tipc::ping_pong(round, 64)))],
    }]
}
