//! What ops and answers have in common, as bytes.
//!
//! # Invariants
//! - **CO1** What was put is taken as it was.
//! - **CO2** A record that is taken is whole: its checksum was looked at again.
//!
//! # Not here
//! Whether an op keeps its bounds: `epicserver_store::check`.

mod answer;
mod op;

use epicserver_store::{Corrupt, Envelope, Flaw, Name, Owner, Record, Slot};
use epicserver_wire::{ClassId, EntityId, NodeId, TypeId};

use crate::bytes::{Coded, Malformed, Parser, put_bytes};

impl Coded for EntityId {
    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(&self.to_bytes(), out);
    }

    fn take(from: &mut Parser<'_>) -> Result<Self, Malformed> {
        Self::from_bytes(from.bytes()?).ok_or(Malformed("an entity's id"))
    }
}

impl Coded for TypeId {
    fn put(&self, out: &mut Vec<u8>) {
        self.as_u32().put(out);
    }

    fn take(from: &mut Parser<'_>) -> Result<Self, Malformed> {
        from.take().map(Self::from_u32)
    }
}

impl Coded for Name {
    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(self.as_bytes(), out);
    }

    /// It need not be a name: a cursor, or what is found in place of one.
    fn take(from: &mut Parser<'_>) -> Result<Self, Malformed> {
        from.bytes().map(Self::at)
    }
}

impl Coded for Slot {
    fn put(&self, out: &mut Vec<u8>) {
        self.class.as_u16().put(out);
        self.index.put(out);
    }

    fn take(from: &mut Parser<'_>) -> Result<Self, Malformed> {
        Ok(Self { class: ClassId::from_u16(from.take()?), index: from.take()? })
    }
}

impl Coded for Owner {
    fn put(&self, out: &mut Vec<u8>) {
        self.node.as_u64().put(out);
        self.epoch.put(out);
    }

    fn take(from: &mut Parser<'_>) -> Result<Self, Malformed> {
        Ok(Self { node: NodeId::new(from.take()?), epoch: from.take()? })
    }
}

impl Coded for Record {
    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(self.as_bytes(), out);
    }

    fn take(from: &mut Parser<'_>) -> Result<Self, Malformed> {
        let opened = Self::open_any(from.bytes()?);
        opened.map(|(_, record)| record).map_err(|_flaw| Malformed("a record"))
    }
}

impl Coded for Envelope {
    fn put(&self, out: &mut Vec<u8>) {
        self.codec.put(out);
        self.layout.put(out);
        self.schema.put(out);
        self.owner.put(out);
        self.version.put(out);
        self.written_ms.put(out);
        self.tombstone.put(out);
    }

    fn take(from: &mut Parser<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            codec: from.take()?,
            layout: from.take()?,
            schema: from.take()?,
            owner: from.take()?,
            version: from.take()?,
            written_ms: from.take()?,
            tombstone: from.take()?,
        })
    }
}

impl Coded for Flaw {
    fn put(&self, out: &mut Vec<u8>) {
        let (number, format) = match self {
            Self::Short => (0, 0),
            Self::Checksum => (1, 0),
            Self::Format(format) => (2, *format),
            Self::Parts => (3, 0),
            Self::Misplaced => (4, 0),
            Self::Beside => (5, 0),
            Self::Order => (6, 0),
        };
        out.extend_from_slice(&[number, format]);
    }

    fn take(from: &mut Parser<'_>) -> Result<Self, Malformed> {
        let (number, format) = from.take::<(u8, u8)>()?;
        Ok(match number {
            0 => Self::Short,
            1 => Self::Checksum,
            2 => Self::Format(format),
            3 => Self::Parts,
            4 => Self::Misplaced,
            5 => Self::Beside,
            6 => Self::Order,
            _ => return Err(Malformed("a flaw")),
        })
    }
}

impl Coded for Corrupt {
    fn put(&self, out: &mut Vec<u8>) {
        self.name.put(out);
        self.flaw.put(out);
    }

    fn take(from: &mut Parser<'_>) -> Result<Self, Malformed> {
        Ok(Self { name: from.take()?, flaw: from.take()? })
    }
}
