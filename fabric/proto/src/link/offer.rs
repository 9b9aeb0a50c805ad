//! Offers: what a node tells its peers that it has, beside who it is.
//!
//! # Invariants
//! - **L5** Two nodes with one digest serve the same methods in the same form, listed or not.
//!
//! # Not here
//! What follows from it: a difference between two nodes ends no link, since fabrics are upgraded node
//! by node.

use std::sync::Arc;

use epicserver_wire::MethodId;
use sha2::{Digest as _, Sha256};

/// Methods that a hello lists; a node with more says nothing but their digest.
pub const SCHEMAS_MAX: usize = 4096;
/// The shortest slot that a peer may have, in bytes.
pub const SLOT_BYTES_MIN: u32 = 4096;

/// The form of a method's arguments and result, as a hash that the host makes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Schema {
    /// Which method.
    pub method: MethodId,
    /// The hash of the form.
    pub hash: u64,
}

/// The methods that a node serves, and their forms.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Schemas {
    pub(super) digest: [u8; 32],
    pub(super) listed: Arc<[Schema]>,
}

impl Schemas {
    /// These methods, in any order; of a method that is given twice the lesser hash counts.
    #[must_use]
    pub fn of(schemas: impl IntoIterator<Item = Schema>) -> Self {
        let mut all: Vec<Schema> = schemas.into_iter().collect();
        all.sort_unstable();
        all.dedup_by_key(|schema| schema.method);
        let digest = digest(&all);
        if all.len() > SCHEMAS_MAX {
            all.clear();
        }
        Self { digest, listed: all.into() }
    }

    /// Whether `other` serves `method` in the same form; `None` if that cannot be told, since one of the
    /// two does not serve it or does not list what it serves.
    #[must_use]
    pub fn agree(&self, other: &Self, method: MethodId) -> Option<bool> {
        let (ours, theirs) = (self.hash_of(method), other.hash_of(method));
        // L5.
        let same = (self.digest == other.digest).then_some(true);
        ours.zip(theirs).map(|(ours, theirs)| ours == theirs).or(same)
    }

    /// The methods that both list and have in different forms, in order.
    #[must_use]
    pub fn differing(&self, other: &Self) -> Vec<MethodId> {
        let ours = self.listed.iter().map(|schema| schema.method);
        ours.filter(|method| self.agree(other, *method) == Some(false)).collect()
    }

    fn hash_of(&self, method: MethodId) -> Option<u64> {
        let at = self.listed.binary_search_by_key(&method, |schema| schema.method).ok()?;
        self.listed.get(at).map(|schema| schema.hash)
    }
}

impl Default for Schemas {
    fn default() -> Self {
        Self::of([])
    }
}

pub(super) fn digest(schemas: &[Schema]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"epicserver schemas 1");
    for schema in schemas {
        hash.update(schema.method.as_u32().to_le_bytes());
        hash.update(schema.hash.to_le_bytes());
    }
    hash.finalize().into()
}

/// What tells one running host from all others: a hash of its boot, made by whoever can read that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostId(pub [u8; 16]);

/// What a node has to offer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    /// Bytes of the slots in which it receives; at least [`SLOT_BYTES_MIN`].
    pub slot_bytes: u32,
    /// One bit for each thing that it can do and a peer may make use of; none is given out yet.
    pub features: u64,
    /// The host that it runs on, if it knows.
    pub host: Option<HostId>,
    /// What it serves.
    pub schemas: Schemas,
}

impl Offer {
    /// Whether both run on one host, as far as they say.
    #[must_use]
    pub fn shares_host(&self, other: &Self) -> bool {
        self.host.is_some() && self.host == other.host
    }

    /// What both can do.
    #[must_use]
    pub fn common_features(&self, other: &Self) -> u64 {
        self.features & other.features
    }
}

impl Default for Offer {
    fn default() -> Self {
        Self { slot_bytes: 64 << 10, features: 0, host: None, schemas: Schemas::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(method: u32, hash: u64) -> Schema {
        Schema { method: MethodId::from_u32(method), hash }
    }

    #[test]
    fn l5_the_order_in_which_methods_are_given_does_not_matter() {
        let (a, b) = (schema(1, 10), schema(2, 20));
        assert_eq!(Schemas::of([a, b]), Schemas::of([b, a, b]));
        assert_ne!(Schemas::of([a, b]).digest, Schemas::of([a]).digest);
    }

    #[test]
    fn two_nodes_agree_on_a_method_whose_form_is_the_same() {
        let ours = Schemas::of([schema(1, 10), schema(2, 20)]);
        let theirs = Schemas::of([schema(1, 10), schema(2, 21)]);
        assert_eq!(ours.agree(&theirs, MethodId::from_u32(1)), Some(true));
        assert_eq!(ours.agree(&theirs, MethodId::from_u32(2)), Some(false));
        assert_eq!(ours.agree(&theirs, MethodId::from_u32(3)), None);
        assert_eq!(ours.differing(&theirs), [MethodId::from_u32(2)]);
    }

    #[test]
    fn l5_too_many_methods_to_list_are_compared_by_their_digest() {
        let many = |salt| {
            let count = u32::try_from(SCHEMAS_MAX).unwrap() + 1;
            Schemas::of((0..count).map(|method| schema(method, u64::from(method) ^ salt)))
        };
        let (ours, theirs) = (many(0), many(0));
        assert!(ours.listed.is_empty());
        assert_eq!(ours.agree(&theirs, MethodId::from_u32(7)), Some(true));
        assert_eq!(ours.agree(&many(1), MethodId::from_u32(7)), None);
    }

    #[test]
    fn nodes_that_do_not_know_their_host_share_none() {
        let on = |host| Offer { host, ..Offer::default() };
        let (a, b) = (Some(HostId([1; 16])), Some(HostId([2; 16])));
        assert!(on(a).shares_host(&on(a)));
        assert!(!on(a).shares_host(&on(b)));
        assert!(!on(None).shares_host(&on(None)));
    }
}
