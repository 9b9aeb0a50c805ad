//! Ids: new types, so that no signature takes a bare integer.
//!
//! # Invariants
//! - **W1** Type, class and method ids are functions of names alone, by a frozen hash, and never change.

use std::fmt;
use xxhash_rust::const_xxh3::xxh3_64;

use crate::Time;

/// Names the hash inputs apart, so that a type and a method of one name differ.
const fn name_hash(domain: u8, first: &str, second: &str) -> u64 {
    // Hash each part alone, then the pair: no separator can be forged by a name.
    let a = xxh3_64(first.as_bytes());
    let b = xxh3_64(second.as_bytes());
    let mut bytes = [0_u8; 17];
    bytes[0] = domain;
    let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
    let mut i = 0;
    while i < 8 {
        bytes[1 + i] = a[i];
        bytes[9 + i] = b[i];
        i += 1;
    }
    xxh3_64(&bytes)
}

/// The hash of what a method takes and gives, written as a text.
#[must_use]
pub fn form_hash(text: &str) -> u64 {
    xxh3_64(text.as_bytes())
}

/// The hash of what was written, to be compared with that of what is read.
#[must_use]
pub fn bytes_hash(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

#[expect(clippy::cast_possible_truncation, reason = "the low bits of a hash are its short form")]
const fn low32(hash: u64) -> u32 {
    hash as u32
}

/// An entity type, known by its name alone (**W1**).
///
/// Two registered types of one id are refused when a node starts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TypeId(pub(crate) u32);

impl TypeId {
    /// The id of the type called `name`.
    #[must_use]
    pub const fn of(name: &str) -> Self {
        Self(low32(name_hash(b'T', name, "")))
    }

    /// The id as the wire and stores carry it.
    #[must_use]
    pub const fn as_u32(self) -> u32 {
        self.0
    }

    /// The id that the wire or a store carries as `id`.
    #[must_use]
    pub const fn from_u32(id: u32) -> Self {
        Self(id)
    }
}

impl fmt::Debug for TypeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "type:{:08x}", self.0)
    }
}

/// A placement class: which nodes may own an entity. The default class is every node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ClassId(pub(crate) u16);

impl ClassId {
    /// The class of types that name none.
    pub const DEFAULT: Self = Self(0);
    /// Of entities without a state: every node has its own of them, and none owns one.
    pub const STATELESS: Self = Self(u16::MAX);

    /// The id of the class called `name`; the empty name is the default class (**W1**).
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the low bits of a hash")]
    pub const fn of(name: &str) -> Self {
        if name.is_empty() {
            return Self::DEFAULT;
        }
        match name_hash(b'C', name, "") as u16 {
            0 => Self(1),
            u16::MAX => Self(u16::MAX - 1),
            id => Self(id),
        }
    }

    /// The id as the wire and stores carry it.
    #[must_use]
    pub const fn as_u16(self) -> u16 {
        self.0
    }

    /// The id that was carried as `id`.
    #[must_use]
    pub const fn from_u16(id: u16) -> Self {
        Self(id)
    }
}

/// A method of an entity type, known by both names alone (**W1**).
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    rkyv::Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
pub struct MethodId(u32);

impl MethodId {
    /// The id of `method` of the entity type called `entity`.
    #[must_use]
    pub const fn of(entity: &str, method: &str) -> Self {
        Self(low32(name_hash(b'M', entity, method)))
    }

    /// The id as the wire carries it.
    #[must_use]
    pub const fn as_u32(self) -> u32 {
        self.0
    }

    /// The id that the wire carried as `id`.
    #[must_use]
    pub const fn from_u32(id: u32) -> Self {
        Self(id)
    }
}

impl fmt::Debug for MethodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "method:{:08x}", self.0)
    }
}

/// A shard of one node, counted from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ShardId(u16);

impl ShardId {
    /// The shard numbered `index`.
    #[must_use]
    pub const fn new(index: u16) -> Self {
        Self(index)
    }

    /// Its number.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Its number, as the wire carries it.
    #[must_use]
    pub const fn as_u16(self) -> u16 {
        self.0
    }
}

/// One run of one node's process, unique in its fabric: a node that starts again is another one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u64);

impl NodeId {
    /// The node that drew `number`.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node:{:016x}", self.0)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The number of the view under which a chain's first turn began; none if none has begun.
///
/// A turn that begins under an earlier view than its chain passes that one on instead, so that whatever it
/// calls is known to be at least as old as the turn.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Born(u32);

impl Born {
    /// No turn has begun.
    pub const NONE: Self = Self(0);

    /// Under the view numbered `view`; the highest numbers are one.
    #[must_use]
    pub fn under(view: u64) -> Self {
        Self(u32::try_from(view).unwrap_or(u32::MAX))
    }

    /// What it is once a turn begins under the view `now`.
    #[inline]
    #[must_use]
    pub fn or_earlier(self, now: Self) -> Self {
        if self == Self::NONE || now < self { now } else { self }
    }

    /// Whether a turn has begun, and under an earlier view than `view`.
    #[must_use]
    pub fn is_before(self, view: u64) -> bool {
        self != Self::NONE && u64::from(self.0) < view
    }

    /// The number, 0 for none, as the wire carries it.
    #[must_use]
    pub const fn as_u32(self) -> u32 {
        self.0
    }

    /// What the wire carried as `number`.
    #[must_use]
    pub const fn from_u32(number: u32) -> Self {
        Self(number)
    }
}

/// A link of this node to another one; never used twice by one process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(u32);

impl LinkId {
    /// The link numbered `serial`.
    #[must_use]
    pub const fn new(serial: u32) -> Self {
        Self(serial)
    }

    /// Its number.
    #[must_use]
    pub const fn serial(self) -> u32 {
        self.0
    }
}

impl fmt::Debug for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "link:{}", self.0)
    }
}

/// The ticket of one syscall: valid on the shard that gave it, answered exactly once.
///
/// A token that was answered is never valid again: its place is reused under a new generation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(u64);

impl Token {
    /// A token of place `index` in its `generation`-th use.
    #[must_use]
    pub const fn new(index: u32, generation: u32) -> Self {
        // One word: written as two halves, it could not be read as a whole before both had left the store buffer.
        Self((generation as u64) << 32 | index as u64)
    }

    /// Its place in the shard's table.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the low half")]
    pub const fn index(self) -> u32 {
        self.0 as u32
    }

    /// Which use of that place it is.
    #[must_use]
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}.{}", self.index(), self.generation())
    }
}

/// A chain: a call from outside any entity, and every call made on its behalf.
///
/// Ordered by birth; an earlier one is *older*. Unique in a fabric.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    rkyv::Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
pub struct ChainId {
    birth: u64,
    origin: u64,
}

impl ChainId {
    /// No chain: what an error carries that arose outside any.
    pub const NONE: Self = Self { birth: 0, origin: 0 };

    /// The chain born at `birth`; `origin` tells apart chains of one birth.
    #[must_use]
    pub const fn new(birth: Time, origin: u64) -> Self {
        Self { birth: birth.as_nanos(), origin }
    }

    /// The chain as the wire carries it.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.birth.to_le_bytes());
        bytes[8..].copy_from_slice(&self.origin.to_le_bytes());
        bytes
    }

    /// The chain that the wire carried as `bytes`.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let [b0, b1, b2, b3, b4, b5, b6, b7, origin @ ..] = bytes;
        let birth = u64::from_le_bytes([b0, b1, b2, b3, b4, b5, b6, b7]);
        Self { birth, origin: u64::from_le_bytes(origin) }
    }

    /// Whether this is a chain at all.
    #[must_use]
    pub fn is_some(self) -> bool {
        self != Self::NONE
    }
}

impl fmt::Debug for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chain:{:x}.{:x}", self.birth, self.origin)
    }
}

/// One acquisition of an exclusive section or a lock. Unique in a fabric, ordered by acquisition
/// on one shard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SectionId(u64);

impl SectionId {
    /// The `serial`-th section taken on the shard whose number in the fabric is `origin`, of which 24
    /// bits count.
    #[must_use]
    pub const fn new(origin: u32, serial: u64) -> Self {
        Self((serial << 24) | (origin as u64 & 0xff_ffff))
    }

    /// The section as the wire carries it.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The section that the wire carried as `id`.
    #[must_use]
    pub const fn from_u64(id: u64) -> Self {
        Self(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w1_ids_are_frozen() {
        assert_eq!(TypeId::of("Player").as_u32(), 0xff97_f125);
        assert_eq!(MethodId::of("Player", "score").as_u32(), 0x3d13_a52e);
        assert_eq!(ClassId::of("gpu").as_u16(), 0x2e74);
        assert_eq!(ClassId::of(""), ClassId::DEFAULT);
    }

    #[test]
    fn names_cannot_be_shifted_between_entity_and_method() {
        assert_ne!(MethodId::of("ab", "c"), MethodId::of("a", "bc"));
    }

    #[test]
    fn a_chain_is_as_old_as_the_earliest_view_that_a_turn_of_it_began_under() {
        let (third, fifth) = (Born::under(3), Born::under(5));
        assert_eq!(Born::NONE.or_earlier(fifth), fifth);
        assert_eq!(fifth.or_earlier(third), third);
        assert_eq!(third.or_earlier(fifth), third);
        assert!(third.is_before(4) && !third.is_before(3) && !Born::NONE.is_before(3));
    }

    #[test]
    fn an_earlier_chain_is_older() {
        let older = ChainId::new(Time::from_nanos(1), 9);
        assert!(older < ChainId::new(Time::from_nanos(2), 0));
    }
}
