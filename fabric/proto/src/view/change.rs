//! Deltas: what a view has that an earlier one has not, so that a small change of a large fabric is a small message.
//!
//! Version (2 bytes), then fields (`crate::fields`): 1, the earlier view's number (8); 2, the later one's (8);
//! 3, a hash of the later one's bytes (8); 4, members that came or changed, as in a view; 5, nodes that are members no
//! more (8 each); 6, numbers of the history (8 each), each of which the earlier view has in its own or is itself.
//!
//! # Invariants
//! - **VI4** A delta makes the very view that it was made from, or none: the bytes of both are compared by their hash.
//!
//! # Not here
//! Who sends one to whom.

use epicserver_wire::{NodeId, bytes_hash};

use super::codec::{read_members, write_members};
use super::{HISTORY_MAX, MEMBERS_MAX, Member, Past, Unread, View};
use crate::fields::{Bytes, Fields, put};

const VERSION: u16 = 1;
const FROM: u16 = 1;
const TO: u16 = 2;
const HASH: u16 = 3;
const CAME: u16 = 4;
const WENT: u16 = 5;
const HISTORY: u16 = 6;

/// What leads from one view to a later one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delta {
    /// The earlier view's number.
    pub from: u64,
    /// The later one's.
    pub to: u64,
    hash: u64,
    came: Vec<Member>,
    went: Vec<NodeId>,
    history: Vec<u64>,
}

impl Delta {
    /// What leads from `before` to `after`; `None` if the history of `after` is not to be had from `before`.
    #[must_use]
    pub fn between(before: &View, after: &View) -> Option<Self> {
        let came =
            after.members.iter().filter(|member| before.member(member.node()) != Some(*member));
        let went = before.members.iter().map(Member::node).filter(|node| !after.has(*node));
        let delta = Self {
            from: before.number,
            to: after.number,
            hash: bytes_hash(&after.write()),
            came: came.cloned().collect(),
            went: went.collect(),
            history: after.history.iter().map(|past| past.number).collect(),
        };
        (delta.history_from(before).as_ref() == Some(&after.history)).then_some(delta)
    }

    fn history_from(&self, before: &View) -> Option<Vec<Past>> {
        let find = |number: &u64| {
            if *number == before.number {
                return Some(before.as_past());
            }
            before.history.iter().find(|past| past.number == *number).cloned()
        };
        self.history.iter().map(find).collect()
    }

    /// The later view, if `before` is the earlier one (**VI4**).
    #[must_use]
    pub fn apply(&self, before: &View) -> Option<View> {
        let gone = |node: NodeId| {
            self.went.binary_search(&node).is_ok()
                || self.came.binary_search_by_key(&node, Member::node).is_ok()
        };
        let stayed = before.members.iter().filter(|member| !gone(member.node())).cloned();
        let mut members: Vec<Member> = stayed.chain(self.came.iter().cloned()).collect();
        members.sort_unstable_by_key(Member::node);
        let view = View { number: self.to, members, history: self.history_from(before)? };
        let same = before.number == self.from && view.is_sound();
        (same && bytes_hash(&view.write()) == self.hash).then_some(view)
    }

    /// Its bytes.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        put(&mut out, FROM, &self.from.to_le_bytes());
        put(&mut out, TO, &self.to.to_le_bytes());
        put(&mut out, HASH, &self.hash.to_le_bytes());
        put(&mut out, CAME, &write_members(&self.came));
        let went = self.went.iter().flat_map(|node| node.as_u64().to_le_bytes());
        put(&mut out, WENT, &went.collect::<Vec<u8>>());
        let history = self.history.iter().flat_map(|number| number.to_le_bytes());
        put(&mut out, HISTORY, &history.collect::<Vec<u8>>());
        out
    }

    /// The delta whose bytes these are.
    ///
    /// # Errors
    /// [`Unread`] if they are none that this version can read.
    pub fn read(bytes: &[u8]) -> Result<Self, Unread> {
        let mut bytes = Bytes(bytes);
        if bytes.u16()? != VERSION {
            return Err(Unread::Version);
        }
        let mut fields = Fields::of(bytes.0);
        let (mut from, mut to, mut hash) = (None, None, None);
        let (mut came, mut went, mut history) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(field) = fields.take()? {
            let mut value = field.value;
            match field.tag {
                FROM => from = Some(value.u64()?),
                TO => to = Some(value.u64()?),
                HASH => hash = Some(value.u64()?),
                CAME => came = read_members(value)?,
                WENT => went = numbers(value, MEMBERS_MAX)?.into_iter().map(NodeId::new).collect(),
                HISTORY => history = numbers(value, HISTORY_MAX)?,
                _ => field.unknown()?,
            }
        }
        match (from, to, hash) {
            (Some(from), Some(to), Some(hash)) if from < to => {
                Ok(Self { from, to, hash, came, went, history })
            }
            _ => Err(Unread::Malformed),
        }
    }
}

fn numbers(mut bytes: Bytes<'_>, max: usize) -> Result<Vec<u64>, Unread> {
    let count = bytes.0.len() / 8;
    if count > max {
        return Err(Unread::Malformed);
    }
    (0..count).map(|_| bytes.u64()).collect()
}
