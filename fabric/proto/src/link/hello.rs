//! Hello: what a node says of itself before it is believed.
//!
//! Little-endian: magic (4), lowest and highest version (2 each), node (8), shards (2), window: messages
//! and units (2 each), nonce (32), length of the fabric's name (1), the name; whatever follows is of newer
//! versions and passed over.
//!
//! # Not here
//! Whether any of it is true.

use epicserver_wire::NodeId;

use super::Config;
use crate::session::Window;

/// Longest name of a fabric, in bytes.
pub const FABRIC_BYTES_MAX: usize = 64;
/// Longest hello that is read, in bytes.
pub const HELLO_BYTES_MAX: usize = 4096;
/// The version of the handshake, and of all that follows it.
const VERSION: u16 = 1;
const MAGIC: [u8; 4] = *b"EPIC";

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Hello {
    pub(super) node: NodeId,
    pub(super) shards: u16,
    pub(super) window: Window,
    nonce: [u8; 32],
    pub(super) fabric: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unread {
    Version,
    Malformed,
}

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Unread> {
        let (first, rest) = self.0.split_first_chunk::<N>().ok_or(Unread::Malformed)?;
        self.0 = rest;
        Ok(*first)
    }

    fn u16(&mut self) -> Result<u16, Unread> {
        self.take().map(u16::from_le_bytes)
    }
}

impl Hello {
    pub(super) fn of(config: &Config, nonce: [u8; 32]) -> Self {
        let mut fabric = config.fabric.clone();
        while fabric.len() > FABRIC_BYTES_MAX {
            fabric.pop();
        }
        Self { node: config.node, shards: config.shards, window: config.window, nonce, fabric }
    }

    pub(super) fn write(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(VERSION.to_le_bytes());
        out.extend(VERSION.to_le_bytes());
        out.extend(self.node.as_u64().to_le_bytes());
        for number in [self.shards, self.window.messages, self.window.units] {
            out.extend(number.to_le_bytes());
        }
        out.extend(self.nonce);
        out.push(u8::try_from(self.fabric.len()).unwrap_or(u8::MAX));
        out.extend(self.fabric.as_bytes());
        out
    }

    pub(super) fn read(bytes: &[u8]) -> Result<Self, Unread> {
        if bytes.len() > HELLO_BYTES_MAX {
            return Err(Unread::Malformed);
        }
        let mut bytes = Bytes(bytes);
        if bytes.take::<4>()? != MAGIC {
            return Err(Unread::Malformed);
        }
        let (lowest, highest) = (bytes.u16()?, bytes.u16()?);
        if !(lowest..=highest).contains(&VERSION) {
            return Err(Unread::Version);
        }
        let node = NodeId::new(u64::from_le_bytes(bytes.take()?));
        let shards = bytes.u16()?;
        let window = Window { messages: bytes.u16()?, units: bytes.u16()? };
        let nonce = bytes.take()?;
        let [len] = bytes.take()?;
        let name = bytes.0.get(..usize::from(len)).ok_or(Unread::Malformed)?;
        let fabric = std::str::from_utf8(name).map_err(|_| Unread::Malformed)?;
        let sound = shards > 0 && window.messages > 0 && window.units > 0;
        if !sound || fabric.len() > FABRIC_BYTES_MAX {
            return Err(Unread::Malformed);
        }
        Ok(Self { node, shards, window, nonce, fabric: fabric.to_owned() })
    }
}
