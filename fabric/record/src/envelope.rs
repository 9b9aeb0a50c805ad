//! Records: what is kept of a row, in an envelope that tells whether it is still what was written.
//!
//! The stored form, little-endian:
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..8 | CRC-64/XZ of all that follows |
//! | 8 | format of the envelope, 1 |
//! | 9 | codec of the payload |
//! | 10 | 0: a value, 1: a tombstone |
//! | 11 | zero |
//! | 12..14 | length of the name |
//! | 14..16 | length of the agenda |
//! | 16..20 | length of the payload |
//! | 20..24 | schema version |
//! | 24..32 | layout hash of the type |
//! | 32..40 | epoch of the slot when it was written |
//! | 40..48 | node that wrote it |
//! | 48..56 | version of the entity |
//! | 56..64 | when it was written, in ms |
//! | 64.. | the name, zeros up to a multiple of 16, the payload, the agenda |
//!
//! # Invariants
//! - **EN1** A [`Record`] is whole: it was sealed here, or all of it was checked.
//! - **EN2** One flipped bit anywhere, or a burst of up to 64, is found; so is a record that lies under another name.
//! - **EN3** The payload begins at a multiple of 16 in memory that does so too, and may be read in place.
//!
//! # Not here
//! What the payload says; whether it is a valid value of its type. What the agenda says (`agenda`). Where records lie.

use std::fmt;

use crc64fast::Digest;
use epicserver_wire::NodeId;
use epicserver_wire::rkyv::util::AlignedVec;

use crate::limits::{AGENDA_BYTES_MAX, NAME_BYTES_MAX, PAYLOAD_BYTES_MAX};
use crate::{Agenda, Name, Owner};

/// Bytes before the name.
pub(crate) const HEAD: usize = 64;
/// The format that is written.
const FORMAT: u8 = 1;
const ALIGN: usize = 16;

/// The checksum of records.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u64 {
    let mut digest = Digest::new();
    digest.write(bytes);
    digest.sum64()
}

/// What is said of a payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Envelope {
    /// By which codec it was written: `epicserver_wire::Codec::ID`.
    pub codec: u8,
    /// The hash of the type's layout.
    pub layout: u64,
    /// The schema version of the type.
    pub schema: u32,
    /// Who wrote it.
    pub owner: Owner,
    /// The version of the entity, from 1; each that is saved is greater than the one before.
    pub version: u64,
    /// When it was written, in milliseconds of a clock that all nodes share.
    pub written_ms: u64,
    /// Whether this is what a deleted entity has left.
    pub tombstone: bool,
}

/// What is wrong with stored bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Flaw {
    /// There are too few of them.
    #[error("it is cut off")]
    Short,
    /// They are not what was written.
    #[error("its checksum does not fit")]
    Checksum,
    /// They are of a format that this program does not know.
    #[error("its envelope has the format {0}, which this program does not know")]
    Format(u8),
    /// Its parts do not fit each other, though the checksum does.
    #[error("its parts do not fit each other")]
    Parts,
    /// They are those of another row.
    #[error("it is that of another row")]
    Misplaced,
    /// What the store keeps beside the record says otherwise.
    #[error("what is kept beside it does not fit")]
    Beside,
    /// Rows do not lie in their order, or a row lies under what is no name.
    #[error("what leads to it does not fit")]
    Order,
}

/// A row that cannot be served.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{name:?} is corrupt: {flaw}")]
pub struct Corrupt {
    /// Which row.
    pub name: Name,
    /// What is wrong with it.
    pub flaw: Flaw,
}

/// A payload that is too long to be kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a payload of {0} bytes, and {PAYLOAD_BYTES_MAX} are the most")]
pub struct TooLong(pub usize);

/// A payload and its envelope (**EN1**).
#[derive(Clone)]
pub struct Record {
    bytes: AlignedVec<ALIGN>,
    name: usize,
    agenda: usize,
}

/// Where the payload begins.
fn payload_at(name: usize) -> usize {
    (HEAD + name).next_multiple_of(ALIGN)
}

impl Record {
    /// A record of `payload`.
    ///
    /// # Errors
    /// [`TooLong`].
    pub fn seal(name: &Name, envelope: &Envelope, payload: &[u8]) -> Result<Self, TooLong> {
        Self::write(name, envelope, |out| out.extend_from_slice(payload))
    }

    /// A record whose payload `fill` appends, straight to where it lies (**EN3**).
    ///
    /// # Errors
    /// [`TooLong`].
    pub fn write(
        name: &Name,
        envelope: &Envelope,
        fill: impl FnOnce(&mut AlignedVec<ALIGN>),
    ) -> Result<Self, TooLong> {
        Self::write_with(name, envelope, &Agenda::default(), fill)
    }

    /// The same for a state of an entity that has reminders.
    ///
    /// # Errors
    /// [`TooLong`].
    pub fn write_with(
        name: &Name,
        envelope: &Envelope,
        agenda: &Agenda,
        fill: impl FnOnce(&mut AlignedVec<ALIGN>),
    ) -> Result<Self, TooLong> {
        let named = name.as_bytes();
        let at = payload_at(named.len());
        let mut bytes = AlignedVec::with_capacity(at + 256);
        bytes.resize(HEAD, 0);
        bytes.extend_from_slice(named);
        bytes.resize(at, 0);
        fill(&mut bytes);
        let payload = bytes.len() - at;
        let (Ok(payload_len), true) = (u32::try_from(payload), payload <= PAYLOAD_BYTES_MAX) else {
            return Err(TooLong(payload));
        };
        bytes.extend_from_slice(&agenda.to_bytes());
        let agenda = bytes.len() - at - payload;
        let short = |len: usize| u16::try_from(len).unwrap_or(u16::MAX);
        let head = envelope.head(short(named.len()), payload_len, short(agenda));
        bytes[8..HEAD].copy_from_slice(&head);
        let sum = checksum(&bytes[8..]);
        bytes[..8].copy_from_slice(&sum.to_le_bytes());
        Ok(Self { bytes, name: named.len(), agenda })
    }

    /// The record that lies under `name` as `bytes`.
    ///
    /// # Errors
    /// [`Corrupt`] if it is not what was written there.
    pub fn open(name: &Name, bytes: &[u8]) -> Result<Self, Corrupt> {
        let corrupt = |flaw| Corrupt { name: name.clone(), flaw };
        let agenda = Self::checked(name.as_bytes(), bytes).map_err(corrupt)?.agenda_len;
        let mut copy = AlignedVec::with_capacity(bytes.len());
        copy.extend_from_slice(bytes);
        Ok(Self { bytes: copy, name: name.as_bytes().len(), agenda })
    }

    /// The envelope of what lies under `name` as `bytes`, without a copy of them.
    ///
    /// # Errors
    /// [`Corrupt`], as [`open`](Self::open).
    pub fn look(name: &Name, bytes: &[u8]) -> Result<Envelope, Corrupt> {
        let checked = Self::checked(name.as_bytes(), bytes).map(|parsed| parsed.envelope);
        checked.map_err(|flaw| Corrupt { name: name.clone(), flaw })
    }

    /// Whether `bytes` are a whole record of `name`, wherever they lie.
    #[must_use]
    pub fn is_of(name: &Name, bytes: &[u8]) -> bool {
        Self::checked(name.as_bytes(), bytes).is_ok()
    }

    /// Whether nothing says that what lies under `name` as `bytes` belongs elsewhere: it has this name, or is no whole record.
    #[must_use]
    pub fn may_lie_under(name: &[u8], bytes: &[u8]) -> bool {
        let named = bytes.get(HEAD..).is_some_and(|rest| rest.starts_with(name));
        named || Self::open_any(bytes).is_err()
    }

    /// A record that nobody has said the name of, as in a back-up.
    ///
    /// # Errors
    /// [`Flaw`].
    pub fn open_any(bytes: &[u8]) -> Result<(Name, Self), Flaw> {
        let head = bytes.first_chunk::<HEAD>().ok_or(Flaw::Short)?;
        let len = usize::from(u16::from_le_bytes([head[12], head[13]]));
        let named = bytes.get(HEAD..HEAD + len).ok_or(Flaw::Short)?;
        Self::checked(named, bytes)?;
        let name = Name::parse(named).ok_or(Flaw::Parts)?;
        let record = Self::open(&name, bytes).map_err(|corrupt| corrupt.flaw)?;
        Ok((name, record))
    }

    fn checked(name: &[u8], bytes: &[u8]) -> Result<Parsed, Flaw> {
        let head = bytes.first_chunk::<HEAD>().ok_or(Flaw::Short)?;
        let (sum, rest) = bytes.split_first_chunk::<8>().ok_or(Flaw::Short)?;
        if u64::from_le_bytes(*sum) != checksum(rest) {
            return Err(Flaw::Checksum);
        }
        let parsed = Envelope::parse(head)?;
        let Parsed { name_len, payload_len, agenda_len, .. } = parsed;
        let at = payload_at(name_len);
        let whole = at.checked_add(payload_len + agenda_len) == Some(bytes.len());
        let named = bytes.get(HEAD..HEAD + name_len).ok_or(Flaw::Parts)?;
        let gap = bytes.get(HEAD + name_len..at).ok_or(Flaw::Parts)?;
        if !whole || gap.iter().any(|byte| *byte != 0) {
            return Err(Flaw::Parts);
        }
        if named != name {
            return Err(Flaw::Misplaced);
        }
        Ok(parsed)
    }

    /// What is said of the payload.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn envelope(&self) -> Envelope {
        let head = self.bytes.first_chunk::<HEAD>();
        let parsed = head.and_then(|head| Envelope::parse(head).ok());
        parsed.expect("EN1: a record is whole").envelope
    }

    /// The stored form of its row's name.
    #[must_use]
    pub fn name_bytes(&self) -> &[u8] {
        &self.bytes[HEAD..HEAD + self.name]
    }

    /// Its row's name.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn name(&self) -> Name {
        Name::raw(self.name_bytes())
    }

    /// The payload (**EN3**).
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.bytes[payload_at(self.name)..self.bytes.len() - self.agenda]
    }

    /// The stored form of the agenda; empty where there are no reminders.
    #[must_use]
    pub fn agenda(&self) -> &[u8] {
        &self.bytes[self.bytes.len() - self.agenda..]
    }

    /// The checksum of payload and agenda: of all that an entity may change of its record.
    #[must_use]
    pub fn content_sum(&self) -> u64 {
        checksum(&self.bytes[payload_at(self.name)..])
    }

    /// The checksum, which tells whether two payloads in equal envelopes are equal.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.bytes.first_chunk::<8>().map_or(0, |sum| u64::from_le_bytes(*sum))
    }

    /// The stored form.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl PartialEq for Record {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Record {}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("name", &self.name())
            .field("envelope", &self.envelope())
            .field("payload", &self.payload().len())
            .field("agenda", &self.agenda)
            .finish()
    }
}

struct Parsed {
    envelope: Envelope,
    name_len: usize,
    payload_len: usize,
    agenda_len: usize,
}

impl Envelope {
    /// The head but for the checksum.
    fn head(&self, name_len: u16, payload_len: u32, agenda_len: u16) -> [u8; HEAD - 8] {
        let mut head = [0; HEAD - 8];
        head[0] = FORMAT;
        head[1] = self.codec;
        head[2] = u8::from(self.tombstone);
        head[4..6].copy_from_slice(&name_len.to_le_bytes());
        head[6..8].copy_from_slice(&agenda_len.to_le_bytes());
        head[8..12].copy_from_slice(&payload_len.to_le_bytes());
        head[12..16].copy_from_slice(&self.schema.to_le_bytes());
        let words = [
            self.layout,
            self.owner.epoch,
            self.owner.node.as_u64(),
            self.version,
            self.written_ms,
        ];
        for (at, word) in words.iter().enumerate() {
            head[16 + 8 * at..24 + 8 * at].copy_from_slice(&word.to_le_bytes());
        }
        head
    }

    fn parse(head: &[u8; HEAD]) -> Result<Parsed, Flaw> {
        if head[8] != FORMAT {
            return Err(Flaw::Format(head[8]));
        }
        if head[10] > 1 || head[11] != 0 {
            return Err(Flaw::Parts);
        }
        let half =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let word = |at: usize| u64::from(half(at)) | u64::from(half(at + 4)) << 32;
        let name_len = usize::from(u16::from_le_bytes([head[12], head[13]]));
        let agenda_len = usize::from(u16::from_le_bytes([head[14], head[15]]));
        let payload_len = usize::try_from(half(16)).map_err(|_| Flaw::Parts)?;
        let fits = name_len <= NAME_BYTES_MAX && payload_len <= PAYLOAD_BYTES_MAX;
        if !fits || agenda_len > AGENDA_BYTES_MAX {
            return Err(Flaw::Parts);
        }
        let envelope = Self {
            codec: head[9],
            layout: word(24),
            schema: half(20),
            owner: Owner { node: NodeId::new(word(40)), epoch: word(32) },
            version: word(48),
            written_ms: word(56),
            tombstone: head[10] == 1,
        };
        Ok(Parsed { envelope, name_len, payload_len, agenda_len })
    }
}

#[cfg(test)]
mod tests;
