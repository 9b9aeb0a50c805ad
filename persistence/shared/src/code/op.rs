//! Ops as bytes.
//!
//! # Not here
//! What becomes of them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use epicserver_store::{Op, Range, Row, Save, Slot};
use epicserver_wire::ClassId;

use crate::bytes::{Coded, Malformed, Parser, put_bytes};

impl Coded for Op {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Claim { owner, slots } => {
                0_u8.put(out);
                owner.put(out);
                slots.put(out);
            }
            Self::Load { entity, claim } => {
                1_u8.put(out);
                entity.put(out);
                claim.put(out);
            }
            Self::Commit(saves) => {
                2_u8.put(out);
                saves.put(out);
            }
            Self::Scan { range, after, limit } => {
                3_u8.put(out);
                range.put(out);
                after.put(out);
                limit.put(out);
            }
            Self::Purge { before_ms } => {
                4_u8.put(out);
                before_ms.put(out);
            }
            Self::Verify { after, limit } => {
                5_u8.put(out);
                after.put(out);
                limit.put(out);
            }
            Self::Backup { to } => {
                6_u8.put(out);
                to.put(out);
            }
            Self::Restore { from } => {
                7_u8.put(out);
                from.put(out);
            }
        }
    }

    fn take(from: &mut Parser<'_>) -> Result<Self, Malformed> {
        Ok(match from.take::<u8>()? {
            0 => Self::Claim { owner: from.take()?, slots: from.take()? },
            1 => Self::Load { entity: from.take()?, claim: from.take()? },
            2 => Self::Commit(from.take()?),
            3 => Self::Scan { range: from.take()?, after: from.take()?, limit: from.take()? },
            4 => Self::Purge { before_ms: from.take()? },
            5 => Self::Verify { after: from.take()?, limit: from.take()? },
            6 => Self::Backup { to: from.take()? },
            7 => Self::Restore { from: from.take()? },
            _ => return Err(Malformed("an op")),
        })
    }
}

impl Coded for Save {
    fn put(&self, out: &mut Vec<u8>) {
        self.entity.put(out);
        self.owner.put(out);
        self.expected.put(out);
        self.state.put(out);
        self.rows.put(out);
    }

    fn take(from: &mut Parser<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            entity: from.take()?,
            owner: from.take()?,
            expected: from.take()?,
            state: from.take()?,
            rows: from.take()?,
        })
    }
}

impl Coded for Row {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Put(record) => {
                0_u8.put(out);
                record.put(out);
            }
            Self::Remove(name) => {
                1_u8.put(out);
                name.put(out);
            }
        }
    }

    fn take(from: &mut Parser<'_>) -> Result<Self, Malformed> {
        Ok(match from.take::<u8>()? {
            0 => Self::Put(from.take()?),
            1 => Self::Remove(from.take()?),
            _ => return Err(Malformed("a row")),
        })
    }
}

impl Coded for Range {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::All => 0_u8.put(out),
            Self::Type(of) => {
                1_u8.put(out);
                of.put(out);
            }
            Self::Due { slot, until_ms } => {
                2_u8.put(out);
                slot.put(out);
                until_ms.put(out);
            }
            Self::Answers(entity) => {
                3_u8.put(out);
                entity.put(out);
            }
            Self::Next(class) => {
                4_u8.put(out);
                class.as_u16().put(out);
            }
        }
    }

    fn take(from: &mut Parser<'_>) -> Result<Self, Malformed> {
        Ok(match from.take::<u8>()? {
            0 => Self::All,
            1 => Self::Type(from.take()?),
            2 => Self::Due { slot: from.take::<Slot>()?, until_ms: from.take()? },
            3 => Self::Answers(from.take()?),
            4 => Self::Next(ClassId::from_u16(from.take()?)),
            _ => return Err(Malformed("a range")),
        })
    }
}

impl Coded for PathBuf {
    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(self.as_os_str().as_bytes(), out);
    }

    fn take(from: &mut Parser<'_>) -> Result<Self, Malformed> {
        Ok(Self::from(OsStr::from_bytes(from.bytes()?)))
    }
}
