//! Calls between two processes over verbs. Few machines have a device: `hw-tests/run verbs` runs this suite where one is.
//!
//! # Not here
//! Other transports: `remote`.

use epicserver::IdleMode;

use crate::case::{Better, Case};
use crate::floors::perftest;
use crate::ours::remote::{self, Link, Setting};

/// Large arguments under way at a time.
const STREAMS: u32 = 16;

/// As `perftest` waits.
const SPIN: Setting = Setting { link: Link::Verbs, idle: IdleMode::Latency };

pub(crate) fn cases() -> Vec<Case> {
    let time = Case {
        suite: "verbs",
        case: "verbs_64",
        unit: "ns",
        better: Better::Lower,
        cpus: 2,
        ours: Some(Box::new(|round| remote::small(round, SPIN))),
        floors: vec![
            ("ib_send_lat", Box::new(|round| perftest::ping_pong(round, "ib_send_lat", 64))),
            ("ib_write_lat", Box::new(|round| perftest::ping_pong(round, "ib_write_lat", 64))),
        ],
    };
    vec![time, bandwidth("verbs_64k_bw", 64 << 10), bandwidth("verbs_1m_bw", 1 << 20)]
}

fn bandwidth(case: &'static str, size: usize) -> Case {
    Case {
        suite: "verbs",
        case,
        unit: "MiB/s",
        better: Better::Higher,
        cpus: 2,
        ours: Some(Box::new(move |round| remote::stream(round, SPIN, (size, STREAMS)))),
        floors: vec![
            ("ib_send_bw", Box::new(move |round| perftest::stream(round, "ib_send_bw", size))),
            ("ib_read_bw", Box::new(move |round| perftest::stream(round, "ib_read_bw", size))),
        ],
    }
}
