//! Views: read, and changed.
//!
//! # Not here
//! Leases, but those that a change ends.

use std::collections::BTreeSet;

use epicserver_coordinator::Answer;
use epicserver_wire::NodeId;

use super::head::Head;
use super::{Keeper, OPERATIONS_MAX, PART_BYTES_MAX, TRIES_MAX};
use crate::VIEW_BYTES_MAX;
use crate::gateway::fresh;
use crate::keys::{behind, node_of};
use crate::txn::{Txn, get_all, get_names, none_made_after, put, remove, remove_between};

/// A view that was read, so that it need not be read again.
pub(super) struct Cached {
    number: u64,
    nonce: u64,
    view: Vec<u8>,
}

/// A change that is asked for.
struct Change<'a> {
    from: u64,
    nonce: u64,
    view: &'a [u8],
    ends: BTreeSet<NodeId>,
    /// Whether the parts of the view are there.
    written: bool,
}

impl Keeper {
    /// The bytes of the view that `head` names; `None` if it was replaced since.
    pub(super) async fn view(&mut self, head: &Head) -> Result<Option<Vec<u8>>, String> {
        if head.number == 0 {
            return Ok(Some(Vec::new()));
        }
        let is_it = |cached: &&Cached| (cached.number, cached.nonce) == (head.number, head.nonce);
        if let Some(cached) = self.cached.as_ref().filter(is_it) {
            return Ok(Some(cached.view.clone()));
        }
        let parts = self.keys.view(head.number, head.nonce);
        let (now, done) = Head::read(self, vec![get_all(&parts)]).await?;
        if now.number != head.number {
            return Ok(None);
        }
        let view = done.range(Head::OPERATIONS)?;
        let view: Vec<u8> = view.into_iter().flat_map(|part| part.value).collect();
        if view.len() != head.length {
            return Err(format!("the view below the key {parts} is not whole"));
        }
        let cached = Cached { number: head.number, nonce: head.nonce, view: view.clone() };
        self.cached = Some(cached);
        Ok(Some(view))
    }

    pub(super) async fn change(
        &mut self,
        from: u64,
        view: &[u8],
        ends: &[NodeId],
    ) -> Result<Answer, String> {
        if view.len() > VIEW_BYTES_MAX {
            let length = view.len();
            return Err(format!(
                "a view of {length} bytes is more than the {VIEW_BYTES_MAX} that are kept in etcd"
            ));
        }
        let ends: BTreeSet<NodeId> = ends.iter().copied().collect();
        let mut change = Change { from, nonce: fresh(), view, ends, written: false };
        let answer = self.change_to(&mut change).await?;
        if !matches!(answer, Answer::Changed { .. }) && change.written {
            // Its parts mean nothing. If they stay, the change after the next removes them.
            let _removed = self.remove_view(from + 1, change.nonce).await;
        }
        Ok(answer)
    }

    async fn change_to(&mut self, change: &mut Change<'_>) -> Result<Answer, String> {
        let number = change.from.saturating_add(1);
        let alive = self.keys.all_alive();
        for _ in 0..TRIES_MAX {
            let names = (!change.ends.is_empty()).then(|| get_names(&alive));
            let (head, done) = Head::read(self, names.into_iter().collect()).await?;
            if head.number != change.from {
                return Ok(Answer::Overtaken { number: head.number });
            }
            let mut compare = vec![head.unchanged(self)];
            if !change.ends.is_empty() {
                let names = done.range(Head::OPERATIONS)?;
                let living = names.iter().filter_map(|pair| node_of(&alive, &pair.key));
                if let Some(node) = living.filter(|node| change.ends.contains(node)).min() {
                    return Ok(Answer::Alive { node });
                }
                compare.push(none_made_after(&alive, done.header.revision));
            }
            if !change.written {
                self.write_view(number, change.nonce, change.view).await?;
                change.written = true;
            }
            let length = change.view.len();
            let mut next = Head { number, nonce: change.nonce, length, ..head };
            let mut then = vec![put(&self.keys.number(), next.text())];
            if !change.ends.is_empty() {
                next.ended.extend(change.ends.iter().copied());
                then.push(put(&self.keys.ended(), next.ended.to_bytes()));
            }
            if self.send(Txn { compare, then, ..Txn::default() }).await?.held {
                self.untidy = Some(number);
                return Ok(Answer::Changed { number });
            }
        }
        Err("others are always faster".to_owned())
    }

    async fn write_view(&mut self, number: u64, nonce: u64, view: &[u8]) -> Result<(), String> {
        let parts = self.keys.view(number, nonce);
        for (at, part) in view.chunks(PART_BYTES_MAX).enumerate() {
            let then = vec![put(&format!("{parts}{at:08x}"), part)];
            self.send(Txn { then, ..Txn::default() }).await?;
        }
        Ok(())
    }

    async fn remove_view(&mut self, number: u64, nonce: u64) -> Result<(), String> {
        let parts = self.keys.view(number, nonce);
        let then = vec![remove_between(&parts, behind(&parts))];
        self.send(Txn { then, ..Txn::default() }).await?;
        Ok(())
    }

    /// Removes the bytes of views before `number`, whoever wrote them, and the records of those that have ended.
    pub(super) async fn remove_old(&mut self, number: u64) -> Result<(), String> {
        let records = self.keys.all_records();
        let (head, done) = Head::read(self, vec![get_names(&records)]).await?;
        let names = done.range(Head::OPERATIONS)?;
        let gone = names.iter().filter_map(|pair| node_of(&records, &pair.key));
        let gone: Vec<NodeId> = gone.filter(|node| head.ended.contains(*node)).collect();
        let views = remove_between(&self.keys.all_views(), self.keys.views(number));
        self.send(Txn { then: vec![views], ..Txn::default() }).await?;
        for some in gone.chunks(OPERATIONS_MAX) {
            let then = some.iter().map(|node| remove(&self.keys.record(*node))).collect();
            self.send(Txn { then, ..Txn::default() }).await?;
        }
        Ok(())
    }
}
