//! Asks, as transactions.
//!
//! # Not here
//! The invariants: they are in the head of the crate.

mod head;
mod lease;
mod view;

use std::collections::BTreeMap;
use std::time::Duration;

use epicserver_coordinator::{Answer, Ask, Known, Lease, RECORD_BYTES_MAX};
use epicserver_wire::NodeId;

use crate::gateway::Gateway;
use crate::keys::{Keys, node_of};
use crate::txn::{Done, Pair, Txn, get_all};
use head::Head;
use lease::Mine;
use view::Cached;

/// How often something is tried again that others were faster at. Who asks gives up earlier, if that takes long.
const TRIES_MAX: usize = 1000;
/// How long what nobody waits for may take.
const TIDY_MAX: Duration = Duration::from_millis(500);
/// Things that one transaction does; etcd refuses more than 128 where nobody has set that otherwise.
const OPERATIONS_MAX: usize = 100;
/// Longest part of a view, in bytes; etcd refuses a request above 1.5 MiB where nobody has set that otherwise.
const PART_BYTES_MAX: usize = 1 << 20;

pub(crate) struct Keeper {
    gateway: Gateway,
    keys: Keys,
    known: Known,
    /// The leases that this handle renews.
    mine: BTreeMap<NodeId, Mine>,
    cached: Option<Cached>,
    /// The number of a view that this handle has made, until it was tidied up after.
    untidy: Option<u64>,
}

impl Keeper {
    pub(crate) fn new(gateway: Gateway, keys: Keys) -> Self {
        let (known, mine) = (Known::default(), BTreeMap::new());
        Self { gateway, keys, known, mine, cached: None, untidy: None }
    }

    pub(crate) async fn carry_out(&mut self, ask: Ask) -> Answer {
        let answer = match ask {
            Ask::Read => self.read().await,
            Ask::Renew { node, record, ttl } => self.renew(node, record, ttl).await,
            Ask::Change { from, view, ends } => self.change(from, &view, &ends).await,
            Ask::Release { node } => self.release(node).await,
        };
        answer.unwrap_or_else(|why| Answer::Failed { why })
    }

    /// What an ask that was left ends with.
    pub(crate) fn give_up(&mut self) -> String {
        self.gateway.give_up()
    }

    async fn read(&mut self) -> Result<Answer, String> {
        for _ in 0..TRIES_MAX {
            let (records, alive) = (self.keys.all_records(), self.keys.all_alive());
            let also = vec![get_all(&records), get_all(&alive)];
            let (head, done) = Head::read(self, also).await?;
            let mut left = BTreeMap::new();
            for pair in done.range(Head::OPERATIONS + 1)? {
                let node = node_of(&alive, &pair.key).ok_or_else(|| foreign(&pair.key))?;
                left.insert(node, granted(&pair.key, &pair.value)?);
            }
            let mut leases = Vec::new();
            for pair in done.range(Head::OPERATIONS)? {
                let node = node_of(&records, &pair.key).ok_or_else(|| foreign(&pair.key))?;
                let record = record_in(pair)?;
                if !head.ended.contains(node) {
                    let left = left.get(&node).copied().unwrap_or(Duration::ZERO);
                    leases.push(Lease { node, record, left });
                }
            }
            // One that was replaced since is gone by now.
            if let Some(view) = self.view(&head).await? {
                let view = (head.number > 0).then_some((head.number, view));
                return Ok(Answer::State { view, leases });
            }
        }
        Err("the view is never whole when it is read".to_owned())
    }

    /// Removes what has no meaning any more after a change of this handle's. What it cannot remove now is removed after the
    /// next change, by whoever makes it.
    pub(crate) async fn tidy(&mut self) {
        let Some(number) = self.untidy.take() else { return };
        if tokio::time::timeout(TIDY_MAX, self.remove_old(number)).await.is_err() {
            self.gateway.give_up();
        }
    }

    async fn send(&mut self, txn: Txn) -> Result<Done, String> {
        txn.send(&mut self.gateway).await
    }
}

/// The record that `pair` holds.
fn record_in(pair: Pair) -> Result<Vec<u8>, String> {
    if pair.value.len() <= RECORD_BYTES_MAX { Ok(pair.value) } else { Err(foreign(&pair.key)) }
}

/// For how long the lease of a node was granted.
fn granted(key: &[u8], value: &[u8]) -> Result<Duration, String> {
    let seconds = str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    seconds.map(Duration::from_secs).ok_or_else(|| foreign(key))
}

fn foreign(key: &[u8]) -> String {
    format!("the key {} holds nothing of a coordinator's", String::from_utf8_lossy(key))
}
