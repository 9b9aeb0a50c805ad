//! Views: numbered memberships of a fabric.
//!
//! # Invariants
//! - **VI1** Members are listed by id, each once, and at most [`MEMBERS_MAX`].
//! - **VI2** `history` holds the views before this one that are not settled, oldest first, with rising numbers below
//!   this one's; at most [`HISTORY_MAX`].
//!
//! # Not here
//! Who decides on a view. Which member owns what: that is the directory's.

use epicserver_wire::{ClassId, NodeId};

/// Members of a view.
pub const MEMBERS_MAX: usize = 8192;
/// Views that may be unsettled at a time.
pub const HISTORY_MAX: usize = 16;
/// Placement classes that a node may offer.
pub const CLASSES_MAX: usize = 32;
/// Weight of a node that says nothing.
pub const WEIGHT_DEFAULT: u16 = 100;

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
}

/// An earlier view, as far as it says who owned what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Past {
    /// Its number.
    pub number: u64,
    /// Its members' shares.
    pub shares: Vec<Share>,
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
