//! Leases: renewed, begun, released.
//!
//! # Not here
//! How they are ended: `view`.

use std::time::Duration;

use epicserver_coordinator::{Answer, LEASES_MAX};
use epicserver_wire::NodeId;
use serde_json::json;

use super::head::Head;
use super::{Keeper, TRIES_MAX};
use crate::txn::{From, Txn, get, hangs_on, header, integer, put, put_on, remove, unchanged};

/// How long what a node leaves that has released its lease stays there.
const RELEASED_S: i64 = 24 * 60 * 60;

/// A lease that this handle renews.
#[derive(Debug)]
pub(super) struct Mine {
    /// The lease of etcd that it hangs on.
    lease: i64,
    /// For how long that is granted.
    granted_s: i64,
    record: Vec<u8>,
    /// Who answered the last transaction (**ET2**).
    seen: From,
}

impl Keeper {
    pub(super) async fn renew(
        &mut self,
        node: NodeId,
        record: Vec<u8>,
        ttl: Duration,
    ) -> Result<Answer, String> {
        // Etcd counts in seconds, and a lease must not end early.
        let whole = i64::try_from(ttl.as_secs()).map_err(|error| error.to_string())?;
        let ttl_s = whole + i64::from(ttl.subsec_nanos() > 0);
        if let Some(mut mine) = self.mine.remove(&node) {
            if mine.granted_s >= ttl_s {
                // If this is left amid, the lease is begun anew next time.
                if let Some(number) = self.go_on(node, &mut mine, &record).await? {
                    self.mine.insert(node, mine);
                    return Ok(Answer::Renewed { number });
                }
            } else {
                let answer = self.begin(node, &record, ttl_s).await?;
                self.revoke(mine.lease).await;
                return Ok(answer);
            }
        }
        self.begin(node, &record, ttl_s).await
    }

    /// Renews the lease; gives the number of the view, or nothing if the lease is gone.
    async fn go_on(
        &mut self,
        node: NodeId,
        mine: &mut Mine,
        record: &[u8],
    ) -> Result<Option<u64>, String> {
        for _ in 0..TRIES_MAX {
            let id = json!({ "ID": mine.lease.to_string() });
            let renewed = &self.gateway.call("/v3/lease/keepalive", &id).await?["result"];
            if integer(&renewed["TTL"])? <= 0 {
                return Ok(None);
            }
            let mut then = vec![get(&self.keys.number())];
            if mine.record != record {
                then.push(put(&self.keys.record(node), record));
            }
            let compare = vec![hangs_on(&self.keys.alive(node), mine.lease)];
            let otherwise = vec![get(&self.keys.number())];
            let done = self.send(Txn { compare, then, otherwise }).await?;
            if !done.held {
                return Ok(None);
            }
            record.clone_into(&mut mine.record);
            let before = std::mem::replace(&mut mine.seen, done.header.from);
            if [before, header(renewed)?.from] == [mine.seen; 2] {
                return Ok(Some(Head::number_in(&done)?));
            }
            // ET2: who renewed it may have been no leader any more. What was seen now comes before the next try.
        }
        Err("the cluster has another leader all the time".to_owned())
    }

    /// Makes a lease, or goes on with one that has run out or that another handle made.
    async fn begin(&mut self, node: NodeId, record: &[u8], ttl_s: i64) -> Result<Answer, String> {
        let (key, released) = (self.keys.record(node), self.keys.released(node));
        let mut granted = None;
        for _ in 0..TRIES_MAX {
            let (head, done) = Head::read(self, vec![get(&key), get(&released)]).await?;
            let before = done.one(Head::OPERATIONS)?;
            let lost = before.is_none() && self.known.contains(node);
            if lost || done.one(Head::OPERATIONS + 1)?.is_some() || head.ended.contains(node) {
                if let Some((lease, _)) = granted {
                    self.revoke(lease).await;
                }
                return Ok(Answer::Evicted);
            }
            if before.is_none() && head.records >= LEASES_MAX {
                return Err(format!("there are {LEASES_MAX} leases already"));
            }
            let (lease, granted_s) = match granted {
                Some(granted) => granted,
                None => *granted.insert(self.grant(ttl_s).await?),
            };
            let modified = before.map_or(0, |pair| pair.modified);
            let compare =
                vec![head.unchanged(self), unchanged(&key, modified), unchanged(&released, 0)];
            let mut then = vec![
                put_on(&self.keys.alive(node), granted_s.to_string(), lease),
                put(&key, record),
            ];
            then.extend(head.begin(self));
            let done = self.send(Txn { compare, then, ..Txn::default() }).await?;
            if done.held {
                let (record, seen) = (record.to_owned(), done.header.from);
                self.mine.insert(node, Mine { lease, granted_s, record, seen });
                self.known.insert(node);
                return Ok(Answer::Renewed { number: head.number });
            }
        }
        Err("others are always faster".to_owned())
    }

    pub(super) async fn release(&mut self, node: NodeId) -> Result<Answer, String> {
        let released = self.keys.released(node);
        let (head, done) = Head::read(self, vec![get(&released)]).await?;
        if done.one(Head::OPERATIONS)?.is_none() && !head.ended.contains(node) {
            let (lease, _) = self.grant(RELEASED_S).await?;
            let then = vec![
                put_on(&released, "", lease),
                remove(&self.keys.alive(node)),
                remove(&self.keys.record(node)),
            ];
            self.send(Txn { then, ..Txn::default() }).await?;
        }
        if let Some(mine) = self.mine.remove(&node) {
            self.revoke(mine.lease).await;
        }
        Ok(Answer::Released)
    }

    /// A lease of etcd, and for how many seconds it is granted: as many as are asked for, or more.
    async fn grant(&mut self, ttl_s: i64) -> Result<(i64, i64), String> {
        let ttl = json!({ "TTL": ttl_s.to_string() });
        let answer = self.gateway.call("/v3/lease/grant", &ttl).await?;
        let granted_s = integer(&answer["TTL"])?;
        if granted_s < ttl_s {
            return Err(format!("etcd grants {granted_s} s where {ttl_s} s are asked for"));
        }
        Ok((integer(&answer["ID"])?, granted_s))
    }

    /// Gives up a lease of etcd. One that stays runs out.
    async fn revoke(&mut self, lease: i64) {
        let id = json!({ "ID": lease.to_string() });
        let _revoked = self.gateway.call("/v3/lease/revoke", &id).await;
    }
}
