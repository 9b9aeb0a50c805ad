//! Calls between two processes of this machine, each on a CPU of its own, over each transport.
//!
//! # Not here
//! Other machines: their network would be what is measured.

use epicserver::IdleMode;

use crate::case::{Better, Case, Failure, Round, Sample, Subject};
use crate::floors::raw_tcp::Waiting;
use crate::floors::{raw_ring, raw_tcp, tokio_rpc, ucx};
use crate::ours::remote::{self, Link, Setting};

const SUITE: &str = "remote";
/// Large arguments under way at a time.
const STREAMS: u32 = 16;
const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

const SPIN: IdleMode = IdleMode::Latency;
/// What is measured with much under way runs as it would be deployed.
const USUAL: IdleMode = IdleMode::Balanced;
const PARK: IdleMode = IdleMode::Power;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = latencies();
    cases.extend(rates());
    cases.extend(bandwidths());
    cases.push(
        case("tcp_64_under_bulk_p99", TIME, |round| remote::p99(round, TCP_SPIN, true))
            .floor("without_bulk", |round| remote::p99(round, TCP_SPIN, false)),
    );
    cases
}

const TCP_SPIN: Setting = Setting { link: Link::Tcp, idle: SPIN };
const SHM_SPIN: Setting = Setting { link: Link::Shm, idle: SPIN };
const TCP_PARK: Setting = Setting { link: Link::Tcp, idle: PARK };
const TCP: Setting = Setting { link: Link::Tcp, idle: USUAL };
const SHM: Setting = Setting { link: Link::Shm, idle: USUAL };

fn latencies() -> Vec<Case> {
    vec![
        case("tcp_64_spin", TIME, |round| remote::small(round, TCP_SPIN))
            .floor("raw_tcp", |round| raw_tcp::ping_pong(round, 64, Waiting::Spin))
            .floor("ucx", |round| ucx::ping_pong(round, ucx::TCP)),
        case("tcp_64_park", TIME, |round| remote::small(round, TCP_PARK))
            .floor("raw_tcp", |round| raw_tcp::ping_pong(round, 64, Waiting::Block))
            .floor("raw_tcp_yielding", |round| raw_tcp::ping_pong(round, 64, Waiting::Yield)),
        case("tcp_1k_spin", TIME, |round| remote::sized(round, TCP_SPIN, KIB))
            .floor("raw_tcp", |round| raw_tcp::ping_pong(round, KIB, Waiting::Spin)),
        case("shm_64_spin", TIME, |round| remote::small_in_batches(round, SHM_SPIN))
            .floor("raw_ring", raw_ring::ping_pong)
            .floor("ucx", |round| ucx::ping_pong(round, ucx::POSIX)),
    ]
}

fn rates() -> Vec<Case> {
    let rate = |name, setting, in_flight| {
        case(name, RATE, move |round| remote::rate(round, setting, in_flight))
            .floor("tokio_rpc", move |round| tokio_rpc::rate(round, in_flight))
    };
    vec![
        rate("tcp_64_1024_rate", TCP, 1024),
        rate("tcp_64_64_rate", TCP, 64),
        rate("shm_64_1024_rate", SHM, 1024),
        rate("shm_64_64_rate", SHM, 64),
    ]
}

fn bandwidths() -> Vec<Case> {
    let tcp = |name, size| {
        case(name, BANDWIDTH, move |round| remote::stream(round, TCP, (size, STREAMS)))
            .floor("raw_tcp", move |round| raw_tcp::stream(round, size, STREAMS as usize))
    };
    let shm = |name, size| {
        case(name, BANDWIDTH, move |round| remote::stream(round, SHM, (size, STREAMS)))
            .floor("raw_ring", move |round| raw_ring::stream(round, size, STREAMS as usize))
    };
    vec![
        tcp("tcp_64k_bw", 64 * KIB),
        tcp("tcp_1m_bw", MIB),
        shm("shm_64k_bw", 64 * KIB),
        shm("shm_1m_bw", MIB),
    ]
}

/// A unit, and which direction of it is the good one.
type Measure = (&'static str, Better);

const TIME: Measure = ("ns", Better::Lower);
const RATE: Measure = ("calls/s", Better::Higher);
const BANDWIDTH: Measure = ("MiB/s", Better::Higher);

fn case(
    case: &'static str,
    (unit, better): Measure,
    ours: impl FnMut(&Round) -> Result<Sample, Failure> + Send + 'static,
) -> Case {
    let ours: Subject = Box::new(ours);
    Case { suite: SUITE, case, unit, better, cpus: 2, ours: Some(ours), floors: Vec::new() }
}

impl Case {
    fn floor(
        mut self,
        name: &'static str,
        floor: impl FnMut(&Round) -> Result<Sample, Failure> + Send + 'static,
    ) -> Self {
        self.floors.push((name, Box::new(floor)));
        self
    }
}
