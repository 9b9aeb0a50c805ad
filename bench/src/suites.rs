//! Suites: which cases there are, and which floors each is judged by.
//!
//! # Not here
//! How a case is run: `case`.

mod call;
mod remote;
mod store;
mod tipc;
mod verbs;

use crate::case::{Case, Failure};
use crate::floors;
use crate::ours;
use crate::peer::Serve;
use crate::probe::Probe;

/// Every suite that the program knows.
pub(crate) const NAMES: [&str; 5] = ["call", "remote", "store", "tipc", "verbs"];

/// Every probe that a case may run in a process of its own.
pub(crate) const PROBES: [(&str, Probe); 2] =
    [("tokio_idle_bytes", floors::tokio_ask::idle_bytes), ("idle_bytes", ours::idle_bytes)];

/// Every peer that a case may start on the other CPU.
pub(crate) const PEERS: [(&str, Serve); 7] = [
    (ours::remote::PEER, ours::remote::serve),
    (floors::perftest::PEER, floors::perftest::serve),
    (floors::raw_ring::PEER, floors::raw_ring::serve),
    (floors::raw_tcp::PEER, floors::raw_tcp::serve),
    (floors::raw_tipc::PEER, floors::raw_tipc::serve),
    (floors::tokio_rpc::PEER, floors::tokio_rpc::serve),
    (floors::ucx::PEER, floors::ucx::serve),
];

/// The cases of a suite, in the order in which they are run; of `SUITE/CASE`, that one alone.
pub(crate) fn cases(wanted: &str) -> Result<Vec<Case>, Failure> {
    let (suite, only) = wanted.split_once('/').map_or((wanted, None), |(s, c)| (s, Some(c)));
    let mut cases = match suite {
        "call" => call::cases(),
        "remote" => remote::cases(),
        "store" => store::cases(),
        "tipc" => tipc::cases(),
        "verbs" => verbs::cases(),
        _ => return Err(format!("there is no suite {suite}").into()),
    };
    cases.retain(|case| only.is_none_or(|only| case.case == only));
    if cases.is_empty() {
        return Err(format!("there is no case {wanted}").into());
    }
    Ok(cases)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_case_can_be_asked_for_alone_and_an_unknown_one_is_refused() {
        let cases = cases("call/same_shard_seq").unwrap();
        assert_eq!(cases.iter().map(|case| case.case).collect::<Vec<_>>(), ["same_shard_seq"]);
        assert!(super::cases("call/other").is_err());
        assert!(super::cases("other").is_err());
    }

    #[test]
    fn each_named_suite_has_cases_of_its_own_name() {
        for name in NAMES {
            let cases = cases(name).unwrap();
            assert!(!cases.is_empty());
            assert!(cases.iter().all(|case| case.suite == name));
            let names: BTreeSet<_> = cases.iter().map(|case| case.case).collect();
            assert_eq!(names.len(), cases.len(), "two cases of one name in {name}");
        }
    }
}
