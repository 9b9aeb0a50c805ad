//! Entities that are saved, and loaded again.
//!
//! # Not here
//! What a process finds when its machine comes back: tests of stores.

use crate::case::{Better, Case};
use crate::floors::raw_pg::Served;
use crate::floors::{raw_log, raw_pg, raw_redb};
use crate::ours::store::{self, Batch, CALLERS, COLD, GROUP, Pace, SMALL_GROUP};

const SUITE: &str = "store";

pub(crate) fn cases() -> Vec<Case> {
    vec![
        write_behind_rate(),
        every_turn_rate(),
        cold_call(),
        pg_write_behind_rate(),
        beside_saving("unrelated_call_p99", &Pace::Modest),
        beside_saving("unrelated_call_full_p99", &Pace::full()),
    ]
}

fn write_behind_rate() -> Case {
    let batch = Batch::new(GROUP);
    Case {
        suite: SUITE,
        case: "write_behind_rate",
        unit: "ent/s",
        better: Better::Higher,
        cpus: 2,
        ours: Some(Box::new(store::write_behind(&batch))),
        floors: vec![
            ("raw_redb", Box::new(raw_redb::rate(2 * GROUP, &batch))),
            ("raw_log", Box::new(raw_log::rate(&batch))),
        ],
    }
}

fn every_turn_rate() -> Case {
    let batch = Batch::new(CALLERS);
    Case {
        suite: SUITE,
        case: "every_turn_rate",
        unit: "calls/s",
        better: Better::Higher,
        cpus: 2,
        ours: Some(Box::new(store::every_turn(&batch))),
        floors: vec![
            ("raw_redb", Box::new(raw_redb::rate(CALLERS, &batch))),
            ("raw_log", Box::new(raw_log::rate(&batch))),
        ],
    }
}

fn cold_call() -> Case {
    Case {
        suite: SUITE,
        case: "cold_call",
        unit: "ns",
        better: Better::Lower,
        cpus: 2,
        ours: Some(Box::new(store::cold_call())),
        floors: vec![("raw_get", Box::new(raw_redb::get(COLD)))],
    }
}

fn pg_write_behind_rate() -> Case {
    let (server, batch) = (Served::default(), Batch::new(SMALL_GROUP));
    Case {
        suite: SUITE,
        case: "pg_write_behind_rate",
        unit: "ent/s",
        better: Better::Higher,
        cpus: 2,
        ours: Some(Box::new(store::pg_write_behind(&server, &batch))),
        floors: vec![("raw_pg", Box::new(raw_pg::rate(&server, 2 * SMALL_GROUP, &batch)))],
    }
}

fn beside_saving(case: &'static str, pace: &Pace) -> Case {
    Case {
        suite: SUITE,
        case,
        unit: "ns",
        better: Better::Lower,
        cpus: 2,
        ours: Some(Box::new(store::call_beside_saving(pace))),
        floors: vec![("without_saving", Box::new(store::call_without_saving(pace)))],
    }
}
