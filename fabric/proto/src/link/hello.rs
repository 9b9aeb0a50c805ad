//! Hello: what a node says of itself before it is believed.
//!
//! Little-endian: magic (4), lowest and highest version spoken (2 each), then fields up to the end. A
//! field is its tag (2), the bytes of its value (2), and the value. Tags rise, so none comes twice.
//!
//! | tag | bytes | what |
//! | --- | --- | --- |
//! | 1 | 8 | node |
//! | 2 | 1 to 64 | the fabric's name |
//! | 3 | 32 | nonce |
//! | 4 | 2 | shards |
//! | 5 | 4 | window: messages, units |
//! | 6 | 4 | bytes of a slot |
//! | 7 | 8 | features |
//! | 8 | 16 | host |
//! | 9 | 32 + 12 n | digest of the schemas, then for each method that is listed its id (4) and hash (8) |
//!
//! The first five are always there. A field that the reader does not know is passed over, unless the
//! highest bit of its tag says that it must be known: then the two have no version in common. A known
//! field may grow at its end, but for the name and the schemas.
//!
//! # Invariants
//! - **L4** A hello that is written can be read, and is no longer than [`HELLO_BYTES_MAX`].
//!
//! # Not here
//! Whether any of it is true.

use epicserver_wire::{MethodId, NodeId};

use super::Config;
use super::offer::{HostId, Offer, SCHEMAS_MAX, SLOT_BYTES_MIN, Schema, Schemas, digest};
use crate::session::Window;

/// Longest name of a fabric, in bytes.
pub const FABRIC_BYTES_MAX: usize = 64;
/// Longest hello that is read, in bytes: with its header it fits a slot of 64 KiB.
pub const HELLO_BYTES_MAX: usize = 60 << 10;
/// The version of the handshake, and of all that follows it.
pub const VERSION: u16 = 1;

const MAGIC: [u8; 4] = *b"EPIC";
const NODE: u16 = 1;
const FABRIC: u16 = 2;
const NONCE: u16 = 3;
const SHARDS: u16 = 4;
const WINDOW: u16 = 5;
const SLOT: u16 = 6;
const FEATURES: u16 = 7;
const HOST: u16 = 8;
const SCHEMAS: u16 = 9;
/// The bit of a tag that whoever does not know the field must not pass over.
const MUST_KNOW: u16 = 1 << 15;
const SCHEMA_BYTES: usize = 12;
/// Bytes of a hello beside the name and the list of schemas.
const REST_BYTES: usize = 256;

const _: () = assert!(
    REST_BYTES + FABRIC_BYTES_MAX + SCHEMAS_MAX * SCHEMA_BYTES <= HELLO_BYTES_MAX,
    "L4: the longest hello fits"
);

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Hello {
    pub(super) node: NodeId,
    pub(super) fabric: String,
    pub(super) nonce: [u8; 32],
    pub(super) shards: u16,
    pub(super) window: Window,
    pub(super) offer: Offer,
}

/// Why a hello was not read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unread {
    Version,
    Malformed,
}

impl Hello {
    /// What `config` says.
    pub(super) fn of(config: &Config, nonce: [u8; 32]) -> Self {
        Self {
            node: config.node,
            fabric: config.fabric.clone(),
            nonce,
            shards: config.shards,
            window: config.window,
            offer: config.offer.clone(),
        }
    }

    pub(super) fn write(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(VERSION.to_le_bytes());
        out.extend(VERSION.to_le_bytes());
        put(&mut out, NODE, &self.node.as_u64().to_le_bytes());
        put(&mut out, FABRIC, self.fabric.as_bytes());
        put(&mut out, NONCE, &self.nonce);
        put(&mut out, SHARDS, &self.shards.to_le_bytes());
        let Window { messages, units } = self.window;
        put(&mut out, WINDOW, &[messages.to_le_bytes(), units.to_le_bytes()].concat());
        let Offer { slot_bytes, features, host, schemas } = &self.offer;
        put(&mut out, SLOT, &slot_bytes.to_le_bytes());
        put(&mut out, FEATURES, &features.to_le_bytes());
        if let Some(host) = host {
            put(&mut out, HOST, &host.0);
        }
        let mut listed = schemas.digest.to_vec();
        for schema in schemas.listed.iter() {
            listed.extend(schema.method.as_u32().to_le_bytes());
            listed.extend(schema.hash.to_le_bytes());
        }
        put(&mut out, SCHEMAS, &listed);
        out
    }

    /// Reads what a peer has sent.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Unread> {
        if bytes.len() > HELLO_BYTES_MAX {
            return Err(Unread::Malformed);
        }
        let mut rest = Bytes(bytes);
        if rest.take::<4>()? != MAGIC {
            return Err(Unread::Malformed);
        }
        let (lowest, highest) = (rest.u16()?, rest.u16()?);
        if lowest > highest {
            return Err(Unread::Malformed);
        }
        if !(lowest..=highest).contains(&VERSION) {
            return Err(Unread::Version);
        }
        let mut found = Found::default();
        let mut last = None;
        while !rest.0.is_empty() {
            let tag = rest.u16()?;
            let len = usize::from(rest.u16()?);
            let value = rest.slice(len)?;
            // Whether it must be known plays no part in the order.
            if last.replace(tag & !MUST_KNOW) >= Some(tag & !MUST_KNOW) {
                return Err(Unread::Malformed);
            }
            found.field(tag, Bytes(value))?;
        }
        found.whole().ok_or(Unread::Malformed)
    }
}

fn put(out: &mut Vec<u8>, tag: u16, value: &[u8]) {
    let len = u16::try_from(value.len());
    assert!(len.is_ok(), "L4: a field of a hello is too long");
    out.extend(tag.to_le_bytes());
    out.extend(len.unwrap_or(0).to_le_bytes());
    out.extend_from_slice(value);
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Unread> {
        let (first, rest) = self.0.split_first_chunk::<N>().ok_or(Unread::Malformed)?;
        self.0 = rest;
        Ok(*first)
    }

    fn slice(&mut self, len: usize) -> Result<&'a [u8], Unread> {
        let (first, rest) = self.0.split_at_checked(len).ok_or(Unread::Malformed)?;
        self.0 = rest;
        Ok(first)
    }

    fn u16(&mut self) -> Result<u16, Unread> {
        self.take().map(u16::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Unread> {
        self.take().map(u64::from_le_bytes)
    }
}

/// The fields that have been read so far.
#[derive(Default)]
struct Found {
    node: Option<NodeId>,
    fabric: Option<String>,
    nonce: Option<[u8; 32]>,
    shards: Option<u16>,
    window: Option<Window>,
    offer: Offer,
}

impl Found {
    fn field(&mut self, tag: u16, mut value: Bytes<'_>) -> Result<(), Unread> {
        match tag {
            NODE => self.node = Some(NodeId::new(value.u64()?)),
            FABRIC => self.fabric = Some(name(value.0)?),
            NONCE => self.nonce = Some(value.take()?),
            SHARDS => self.shards = Some(value.u16()?),
            WINDOW => {
                self.window = Some(Window { messages: value.u16()?, units: value.u16()? });
            }
            SLOT => self.offer.slot_bytes = u32::from_le_bytes(value.take()?),
            FEATURES => self.offer.features = value.u64()?,
            HOST => self.offer.host = Some(HostId(value.take()?)),
            SCHEMAS => self.offer.schemas = schemas(value)?,
            unknown if unknown & MUST_KNOW != 0 => return Err(Unread::Version),
            _ => {}
        }
        Ok(())
    }

    fn whole(self) -> Option<Hello> {
        let sound = |window: &Window| window.messages > 0 && window.units > 0;
        if self.offer.slot_bytes < SLOT_BYTES_MIN {
            return None;
        }
        Some(Hello {
            node: self.node?,
            fabric: self.fabric?,
            nonce: self.nonce?,
            shards: self.shards.filter(|shards| *shards > 0)?,
            window: self.window.filter(sound)?,
            offer: self.offer,
        })
    }
}

fn name(bytes: &[u8]) -> Result<String, Unread> {
    let name = std::str::from_utf8(bytes).map_err(|_| Unread::Malformed)?;
    if (1..=FABRIC_BYTES_MAX).contains(&name.len()) {
        Ok(name.to_owned())
    } else {
        Err(Unread::Malformed)
    }
}

/// The list is sorted, and the digest is its own, unless nothing is listed.
fn schemas(mut value: Bytes<'_>) -> Result<Schemas, Unread> {
    let said = value.take()?;
    if value.0.len() > SCHEMAS_MAX * SCHEMA_BYTES {
        return Err(Unread::Malformed);
    }
    let mut listed: Vec<Schema> = Vec::with_capacity(value.0.len() / SCHEMA_BYTES);
    while !value.0.is_empty() {
        let method = MethodId::from_u32(u32::from_le_bytes(value.take()?));
        let schema = Schema { method, hash: value.u64()? };
        if listed.last().is_some_and(|last| last.method >= schema.method) {
            return Err(Unread::Malformed);
        }
        listed.push(schema);
    }
    if !listed.is_empty() && digest(&listed) != said {
        return Err(Unread::Malformed);
    }
    Ok(Schemas { digest: said, listed: listed.into() })
}
