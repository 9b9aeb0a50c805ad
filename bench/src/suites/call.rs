//! Calls within one node: on one shard, across shards, by the thousand, and what entities take.
//!
//! # Not here
//! Anything that crosses a process: suite `remote`.

use std::hint::black_box;

use crate::case::{Better, Case, Failure, Round, Sample};
use crate::floors::boxed_async_fn::BoxedCallee;
use crate::floors::{cache_line, tokio_ask};
use crate::ours;
use crate::probe;

const SUITE: &str = "call";
const BOXED_OPS: u32 = 20_000;
/// Idle actors whose memory is taken together.
const IDLE: u64 = 100_000;

#[expect(clippy::too_many_lines, reason = "a table, one entry a case")]
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case {
            suite: SUITE,
            case: "same_shard_seq",
            unit: "ns",
            better: Better::Lower,
            cpus: 1,
            ours: Some(Box::new(ours::seq)),
            floors: vec![
                ("boxed_async_fn", Box::new(boxed_async_fn)),
                ("tokio_ask", Box::new(tokio_ask::seq)),
            ],
        },
        Case {
            suite: SUITE,
            case: "same_shard_queued",
            unit: "ns",
            better: Better::Lower,
            cpus: 1,
            ours: Some(Box::new(ours::queued)),
            floors: vec![("tokio_ask", Box::new(tokio_ask::seq))],
        },
        Case {
            suite: SUITE,
            case: "cross_shard_seq",
            unit: "ns",
            better: Better::Lower,
            cpus: 2,
            ours: Some(Box::new(ours::cross)),
            floors: vec![("cache_line", Box::new(cache_line::round_trip))],
        },
        Case {
            suite: SUITE,
            case: "same_shard_1000_rate",
            unit: "calls/s",
            better: Better::Higher,
            cpus: 1,
            ours: Some(Box::new(ours::rate_of_1000)),
            floors: vec![("tokio_ask", Box::new(tokio_ask::rate_of_1000))],
        },
        Case {
            suite: SUITE,
            case: "idle_bytes",
            unit: "B",
            better: Better::Lower,
            cpus: 1,
            ours: Some(Box::new(idle_bytes)),
            floors: vec![("tokio_actor", Box::new(tokio_idle_bytes))],
        },
        Case {
            suite: SUITE,
            case: "activation_rate",
            unit: "act/s",
            better: Better::Higher,
            cpus: 1,
            ours: Some(Box::new(ours::activation_rate)),
            floors: vec![],
        },
        Case {
            suite: SUITE,
            case: "same_shard_seq_async",
            unit: "ns",
            better: Better::Lower,
            cpus: 1,
            ours: Some(Box::new(ours::seq_async)),
            floors: vec![
                ("boxed_async_fn", Box::new(boxed_async_fn)),
                ("tokio_ask", Box::new(tokio_ask::seq)),
            ],
        },
        Case {
            suite: SUITE,
            case: "same_shard_1000_queued_rate",
            unit: "calls/s",
            better: Better::Higher,
            cpus: 1,
            ours: Some(Box::new(ours::queued_rate_of_1000)),
            floors: vec![("tokio_ask", Box::new(tokio_ask::rate_of_1000))],
        },
    ]
}

fn boxed_async_fn(round: &Round) -> Result<Sample, Failure> {
    let mut callee = BoxedCallee::new();
    let mut laps = round.laps();
    while laps.begin() {
        black_box(callee.call(BOXED_OPS));
        laps.end(BOXED_OPS);
    }
    laps.time()
}

fn idle_bytes(_: &Round) -> Result<Sample, Failure> {
    probe::in_fresh_process("idle_bytes", IDLE).map(Sample::from)
}

fn tokio_idle_bytes(_: &Round) -> Result<Sample, Failure> {
    probe::in_fresh_process("tokio_idle_bytes", IDLE).map(Sample::from)
}
