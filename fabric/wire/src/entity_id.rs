//! Entity ids: who is called, and where that puts it.
//!
//! The pinned form of an id, as references are stored and sent, little-endian:
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..4 | type id |
//! | 4..6 | placement class |
//! | 6 | bit 0: a group is present; the rest zero |
//! | 7 | form of the key |
//! | 8..16 | placement group, zero where there is none |
//! | 16.. | payload of the key |
//!
//! # Invariants
//! - **W4** The pinned form and the three hashes of an id never change: stored references rely on
//!   them. They are the XXH3-64 of the pinned form, and SplitMix64 finalisers of it.
//! - **W5** Two ids are equal exactly if their pinned forms are.
//!
//! # Not here
//! Which node owns a slot, or how many shards it has.

use std::fmt;
use xxhash_rust::xxh3::xxh3_64;

use crate::limits::KEY_BYTES_MAX;
use crate::{ClassId, Key, ShardId, TypeId};

const HEAD: usize = 16;

/// The address of an entity: type, placement class, optional placement group, and key.
///
/// 48 bytes; cheap to clone, and free of allocation for keys of up to 22 bytes.
#[derive(Clone)]
pub struct EntityId {
    hash: u64,
    group: Option<u64>,
    key: Key,
    type_id: TypeId,
    class: ClassId,
}

/// What stands before the key in a pinned form.
struct Head {
    type_id: TypeId,
    class: ClassId,
    group: Option<u64>,
    form: u8,
}

impl Head {
    /// The head, and the payload of the key behind it.
    fn parse(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (head, payload) = bytes.split_first_chunk::<HEAD>()?;
        let &[t0, t1, t2, t3, c0, c1, flags, form, group @ ..] = head;
        let group = u64::from_le_bytes(group);
        let group = match flags {
            0 if group == 0 => None,
            1 => Some(group),
            _ => return None,
        };
        let type_id = TypeId(u32::from_le_bytes([t0, t1, t2, t3]));
        let class = ClassId(u16::from_le_bytes([c0, c1]));
        Some((Self { type_id, class, group, form }, payload))
    }
}

/// SplitMix64's finaliser (Steele, Lea, Flood 2014): each output bit depends on each input bit.
const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

impl EntityId {
    /// The id of the entity of `type_id` with `key`, placed by its class and group.
    #[must_use]
    pub fn new(type_id: TypeId, class: ClassId, group: Option<u64>, key: Key) -> Self {
        let mut id = Self { hash: 0, group, key, type_id, class };
        id.hash = id.with_pinned(xxh3_64);
        id
    }

    /// What `look` makes of the pinned form.
    fn with_pinned<R>(&self, look: impl FnOnce(&[u8]) -> R) -> R {
        const SHORT: usize = 64;
        if self.pinned_len() <= SHORT {
            let mut short = [0; SHORT];
            let len = self.write_into(&mut short).unwrap_or(0);
            return look(&short[..len]);
        }
        let mut long = [0; HEAD + KEY_BYTES_MAX];
        let len = self.write_into(&mut long).unwrap_or(0);
        look(&long[..len])
    }

    /// Placement groups are keys too; this is the number that stands for one in an id.
    #[must_use]
    pub fn group_of(key: &Key) -> u64 {
        let mut bytes = Vec::with_capacity(1 + key.payload().len());
        bytes.push(key.form_byte());
        bytes.extend_from_slice(key.payload());
        xxh3_64(&bytes)
    }

    fn head(&self) -> [u8; HEAD] {
        let mut head = [0; HEAD];
        head[0..4].copy_from_slice(&self.type_id.0.to_le_bytes());
        head[4..6].copy_from_slice(&self.class.0.to_le_bytes());
        head[6] = u8::from(self.group.is_some());
        head[7] = self.key.form_byte();
        head[8..16].copy_from_slice(&self.group.unwrap_or(0).to_le_bytes());
        head
    }

    /// The pinned form (**W4**).
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        [&self.head()[..], self.key.payload()].concat()
    }

    /// Writes the pinned form to the beginning of `out`, and says how long it is; `None` if `out` is
    /// too short.
    #[must_use]
    pub fn write_into(&self, out: &mut [u8]) -> Option<usize> {
        let payload = self.key.payload();
        let (head, rest) = out.split_first_chunk_mut::<HEAD>()?;
        *head = self.head();
        rest.get_mut(..payload.len())?.copy_from_slice(payload);
        Some(HEAD + payload.len())
    }

    /// The id whose pinned form is `bytes`; `None` if there is none.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (head, payload) = Head::parse(bytes)?;
        let key = Key::parse(head.form, payload)?;
        let Head { type_id, class, group, .. } = head;
        // W5: these bytes are the id's pinned form.
        Some(Self { hash: xxh3_64(bytes), group, key, type_id, class })
    }

    /// The type of the id whose pinned form is `bytes`; `None` if there is none. Takes less than
    /// [`from_bytes`](Self::from_bytes).
    #[must_use]
    pub fn type_of(bytes: &[u8]) -> Option<TypeId> {
        let (head, payload) = Head::parse(bytes)?;
        Key::is_one(head.form, payload).then_some(head.type_id)
    }

    /// Bytes of the pinned form.
    #[must_use]
    pub fn pinned_len(&self) -> usize {
        HEAD + self.key.payload().len()
    }

    /// Its type.
    #[must_use]
    pub fn type_id(&self) -> TypeId {
        self.type_id
    }

    /// Its placement class.
    #[must_use]
    pub fn class(&self) -> ClassId {
        self.class
    }

    /// Its placement group, if it has one.
    #[must_use]
    pub fn group(&self) -> Option<u64> {
        self.group
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The hash of the whole id (**W4**).
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// What places the entity: its class and group, or the whole id where it has no group.
    fn place(&self) -> u64 {
        match self.group {
            Some(group) => mix(group ^ (u64::from(self.class.0) << 48)),
            None => mix(self.hash),
        }
    }

    /// Its slot: the unit of ownership, fixed for ever (**W4**).
    #[must_use]
    pub fn slot(&self) -> u16 {
        (self.place() >> 48) as u16
    }

    /// Its shard on a node of `shards` shards. Entities of one group share a shard, so that calls
    /// among them stay direct.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "a product shifted below 2^16")]
    pub fn shard(&self, shards: u16) -> ShardId {
        // A second finaliser: the shard must not follow from the slot.
        let second = mix(self.place() ^ 0x9e37_79b9_7f4a_7c15) >> 32;
        ShardId::new(((second * u64::from(shards)) >> 32) as u16)
    }
}

impl PartialEq for EntityId {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
            && self.type_id == other.type_id
            && self.class == other.class
            && self.group == other.group
            && self.key == other.key
    }
}

impl Eq for EntityId {}

impl std::hash::Hash for EntityId {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl fmt::Debug for EntityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{:?}", self.type_id, self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EntityKey;
    use proptest::prelude::*;

    fn player(key: &Key) -> EntityId {
        EntityId::new(TypeId::of("Player"), ClassId::DEFAULT, None, key.clone())
    }

    #[test]
    fn w4_the_pinned_form_and_the_hashes_are_frozen() {
        let id = player(&7_u64.to_key());
        let expected =
            [37, 241, 151, 255, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(id.to_bytes(), expected);
        assert_eq!(
            (id.hash(), id.slot(), id.shard(64).index()),
            (8_583_370_035_873_942_875, 322, 56)
        );
    }

    #[test]
    fn entities_of_one_group_share_slot_and_shard() {
        let at = |key: u64| {
            EntityId::new(TypeId::of("Piece"), ClassId::of("game"), Some(5), key.to_key())
        };
        assert_eq!((at(1).slot(), at(1).shard(16)), (at(2).slot(), at(2).shard(16)));
        assert_ne!(at(1), at(2));
    }

    #[test]
    fn shards_are_filled_evenly() {
        let mut counts = [0_u32; 7];
        for key in 0..7000_u64 {
            counts[player(&key.to_key()).shard(7).index()] += 1;
        }
        assert!(counts.iter().all(|&n| (850..1150).contains(&n)), "{counts:?}");
    }

    proptest! {
        #[test]
        fn w5_ids_return_from_their_pinned_form(key in "\\PC{0,60}", group: Option<u64>) {
            let id = EntityId::new(TypeId::of("T"), ClassId::of("c"), group, key.to_key());
            prop_assert_eq!(EntityId::from_bytes(&id.to_bytes()), Some(id));
        }

        #[test]
        fn w5_hostile_bytes_are_an_id_in_pinned_form_or_nothing(bytes: Vec<u8>) {
            let of = EntityId::type_of(&bytes);
            let id = EntityId::from_bytes(&bytes);
            prop_assert_eq!(of, id.as_ref().map(EntityId::type_id));
            if let Some(id) = id {
                prop_assert_eq!(id.pinned_len(), bytes.len());
                prop_assert_eq!(id.to_bytes(), bytes);
            }
        }
    }
}
