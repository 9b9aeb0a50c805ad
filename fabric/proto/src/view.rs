//! Views: numbered memberships of a fabric; and what a node writes into its lease.
//!
//! A member stays one until its lease has ended, so a node of an earlier view that is no member has let go of all that
//! it held. One that leaves stays a member that owns nothing until it has handed everything over and ends its lease.
//!
//! # Invariants
//! - **VI1** Members are listed by id, each once, and at most [`MEMBERS_MAX`].
//! - **VI2** `history` holds the views before this one that are not settled, oldest first, with rising numbers below
//!   this one's; at most [`HISTORY_MAX`].
//! - **VI3** What is written here is read as it was; whatever else is read keeps the bounds and orders above.
//!
//! # Not here
//! Who decides on a view. Which member owns what: that is the directory's.

use epicserver_wire::{ClassId, NodeId};

mod change;
mod codec;
#[cfg(test)]
mod tests;

pub use crate::fields::Unread;
pub use change::Delta;

/// Members of a view.
pub const MEMBERS_MAX: usize = 8192;
/// Views that may be unsettled at a time.
pub const HISTORY_MAX: usize = 16;
/// Placement classes that a node may offer.
pub const CLASSES_MAX: usize = 32;
/// Weight of a node that says nothing.
pub const WEIGHT_DEFAULT: u16 = 100;
/// Addresses of a member.
pub const ADDRESSES_MAX: usize = 16;
/// Longest name of a member, in bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// Longest form of a member, in bytes, with all that later versions may say of it.
pub const MEMBER_BYTES_MAX: usize = 1024;

/// What a node takes a share of the fabric's slots by.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Share {
    /// The node.
    pub node: NodeId,
    /// How large its share is beside others'; 0: it owns nothing.
    pub weight: u16,
    /// The placement classes that it offers, in order, each once.
    pub classes: Vec<ClassId>,
}

impl Share {
    /// That of a node which offers the default class, with the weight of one that says nothing.
    #[must_use]
    pub fn of(node: NodeId) -> Self {
        Self { node, weight: WEIGHT_DEFAULT, classes: vec![ClassId::DEFAULT] }
    }
}

/// A member of a view.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// What it takes its share by.
    pub share: Share,
    /// How many shards it has.
    pub shards: u16,
    /// Where it can be reached, its best way first, each as `scheme://rest`.
    pub addresses: Vec<String>,
    /// What people call it; may be empty.
    pub name: String,
    /// Whether it is handing over what it has, and owns nothing any more.
    pub leaving: bool,
    /// Fields that only later versions know, as they came, so that a node of this version passes them on.
    pub later: Vec<u8>,
}

impl Member {
    /// One with a usual share that says nothing else of itself.
    #[must_use]
    pub fn of(node: NodeId, shards: u16) -> Self {
        Self {
            share: Share::of(node),
            shards,
            addresses: Vec::new(),
            name: String::new(),
            leaving: false,
            later: Vec::new(),
        }
    }

    /// What is wrong with it, if something is: more than it may say, or what cannot be.
    #[must_use]
    pub fn flaw(&self) -> Option<&'static str> {
        codec::flaw_of(self)
    }

    /// Which node it is.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.share.node
    }
}

/// An earlier view, as far as it says who owned what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Past {
    /// Its number.
    pub number: u64,
    /// Its members' shares, by id.
    pub shares: Vec<Share>,
}

impl Past {
    /// Whether `node` was a member.
    #[must_use]
    pub fn has(&self, node: NodeId) -> bool {
        self.shares.binary_search_by_key(&node, |share| share.node).is_ok()
    }

    /// Whether `node` was a member that owns something.
    #[must_use]
    pub fn gives(&self, node: NodeId) -> bool {
        let at = self.shares.binary_search_by_key(&node, |share| share.node);
        at.is_ok_and(|at| self.shares[at].weight > 0)
    }
}

/// A view.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct View {
    /// Its number, from 1 on.
    pub number: u64,
    /// The members (**VI1**).
    pub members: Vec<Member>,
    /// The earlier views that are not settled (**VI2**).
    pub history: Vec<Past>,
}

impl View {
    /// The member that is `node`.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        let at = self.members.binary_search_by_key(&node, Member::node).ok()?;
        self.members.get(at)
    }

    /// Whether `node` is a member.
    #[must_use]
    pub fn has(&self, node: NodeId) -> bool {
        self.member(node).is_some()
    }

    /// The members' shares, by id.
    #[must_use]
    pub fn shares(&self) -> Vec<Share> {
        self.members.iter().map(|member| member.share.clone()).collect()
    }

    /// The same, as later views remember this one.
    #[must_use]
    pub fn as_past(&self) -> Past {
        Past { number: self.number, shares: self.shares() }
    }
}

/// What a node wants of its fabric.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Wants {
    /// To become a member.
    Join = 1,
    /// To be the member that it is.
    Stay = 2,
    /// To hand everything over and go.
    Leave = 3,
}

/// What a node writes into its lease, for all others to read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// What it is as a member.
    pub member: Member,
    /// What it wants.
    pub wants: Wants,
    /// The number of a view such that the node holds nothing which that view does not give it; 0 at first. It never
    /// falls.
    pub settled: u64,
}
