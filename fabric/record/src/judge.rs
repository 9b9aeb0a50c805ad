//! What stores decide alike: whether a claim or a save may be done, from what is stored.
//!
//! # Invariants
//! - **JU1** A slot's owner is replaced only by one of a greater epoch, so of two nodes that claim one epoch the first has it.
//! - **JU2** A save is done only for the very owner that has claimed its slot, and on the very version that it expects.
//!
//! # Not here
//! Reading and writing. That what is decided on does not change meanwhile: the store sees to that.

use crate::{Corrupt, Envelope, Name, Outcome, Owner, Record, Save, envelope};

/// What comes of a claim.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Claim {
    /// It is to be written.
    Take,
    /// It was written before.
    Held,
    /// This one has it.
    Refused(Owner),
}

/// Whether `owner` may claim a slot that `stored` owns (**JU1**).
#[must_use]
pub fn claim(owner: Owner, stored: Option<Owner>) -> Claim {
    match stored {
        Some(stored) if stored == owner => Claim::Held,
        Some(stored) if stored.epoch >= owner.epoch => Claim::Refused(stored),
        Some(_) | None => Claim::Take,
    }
}

/// Whether `save` may be done (**JU2**), where `stored` owns its slot and `look` reads the state's envelope; gives that.
///
/// # Errors
/// The outcome, if it may not.
pub fn save<E>(
    save: &Save,
    stored: Option<Owner>,
    look: impl FnOnce(&Name) -> Result<Option<Envelope>, E>,
) -> Result<Option<Envelope>, Outcome>
where
    Outcome: From<E>,
{
    if stored != Some(save.owner) {
        return Err(Outcome::Fenced(stored));
    }
    let found = look(&Name::state(&save.entity))?;
    let version = found.map_or(0, |found| found.version);
    if version != save.expected {
        return Err(Outcome::Conflict { found: version, by: found.map(|found| found.owner) });
    }
    Ok(found)
}

impl From<Corrupt> for Outcome {
    fn from(corrupt: Corrupt) -> Self {
        Self::Corrupt(corrupt)
    }
}

/// Whether what lies under `name` as `bytes` is a tombstone from before `before_ms`; what cannot be read is none.
#[must_use]
pub fn is_old_tombstone(name: &Name, bytes: &[u8], before_ms: u64) -> bool {
    Record::look(name, bytes).is_ok_and(|found| found.tombstone && found.written_ms < before_ms)
}

/// A slot's owner, as stores that have no checksums of their own keep it: epoch, node, and CRC-64/XZ of both and of `slot`.
#[must_use]
pub fn owner_bytes(slot: u32, owner: Owner) -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(&owner.epoch.to_le_bytes());
    bytes[8..16].copy_from_slice(&owner.node.as_u64().to_le_bytes());
    let sum = owner_sum(slot, &bytes[..16]);
    bytes[16..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// The owner that is kept as `bytes`; `None` if they are not what was written for `slot`.
#[must_use]
pub fn owner_in(slot: u32, bytes: &[u8]) -> Option<Owner> {
    let bytes: &[u8; 24] = bytes.try_into().ok()?;
    let words = bytes.as_chunks::<8>().0;
    let [epoch, node, sum] = words else { return None };
    (u64::from_le_bytes(*sum) == owner_sum(slot, &bytes[..16])).then(|| Owner {
        node: epicserver_wire::NodeId::new(u64::from_le_bytes(*node)),
        epoch: u64::from_le_bytes(*epoch),
    })
}

fn owner_sum(slot: u32, bytes: &[u8]) -> u64 {
    envelope::checksum(&[&slot.to_le_bytes(), bytes].concat())
}

#[cfg(test)]
mod tests {
    use epicserver_wire::NodeId;

    use super::*;

    fn owner(node: u64, epoch: u64) -> Owner {
        Owner { node: NodeId::new(node), epoch }
    }

    #[test]
    fn ju1_only_a_greater_epoch_replaces_an_owner() {
        assert_eq!(claim(owner(1, 5), None), Claim::Take);
        assert_eq!(claim(owner(1, 5), Some(owner(1, 5))), Claim::Held);
        assert_eq!(claim(owner(2, 5), Some(owner(1, 5))), Claim::Refused(owner(1, 5)));
        assert_eq!(claim(owner(2, 4), Some(owner(1, 5))), Claim::Refused(owner(1, 5)));
        assert_eq!(claim(owner(2, 6), Some(owner(1, 5))), Claim::Take);
    }

    #[test]
    fn an_owner_is_kept_and_each_flipped_bit_is_found() {
        let bytes = owner_bytes(9, owner(0x1234, 77));
        assert_eq!(owner_in(9, &bytes), Some(owner(0x1234, 77)));
        assert_eq!(owner_in(8, &bytes), None, "it is another slot's");
        assert_eq!(owner_in(9, &bytes[..23]), None);
        for bit in 0..8 * bytes.len() {
            let mut spoiled = bytes;
            spoiled[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(owner_in(9, &spoiled), None, "bit {bit}");
        }
    }
}
