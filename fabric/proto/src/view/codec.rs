//! The bytes of views and of the records in leases.
//!
//! Both begin with their version (2 bytes), and go on in fields (`crate::fields`).
//!
//! | view: tag | what |
//! | --- | --- |
//! | 1 | its number (8) |
//! | 2 | members by id, each a list of fields behind its length (4) |
//! | 3 | history, oldest first, each behind its length (4): number (8), shares |
//!
//! | member: tag | what |
//! | --- | --- |
//! | 1 | node (8) |
//! | 2 | weight (2) |
//! | 3 | classes, in order (2 each) |
//! | 4 | shards (2) |
//! | 5 | addresses, each behind its length (2) |
//! | 6 | name |
//! | 7 | 1 if it is leaving; absent otherwise |
//!
//! | record: tag | what |
//! | --- | --- |
//! | 1 | the member, a list of fields |
//! | 2 | what it wants (1) |
//! | 3 | settled (8) |
//!
//! A share: node (8), weight (2), how many classes (1), classes (2 each).
//!
//! # Not here
//! What the coordinator keeps beside them.

use epicserver_wire::{ClassId, NodeId};

use super::{
    ADDRESSES_MAX, CLASSES_MAX, HISTORY_MAX, MEMBER_BYTES_MAX, MEMBERS_MAX, Member, NAME_BYTES_MAX,
    Past, Record, Share, Unread, View, Wants,
};
use crate::coordinator::{RECORD_BYTES_MAX, VIEW_BYTES_MAX};
use crate::fields::{Bytes, Fields, put, put_part};

const VERSION: u16 = 1;

const NUMBER: u16 = 1;
const MEMBERS: u16 = 2;
const HISTORY: u16 = 3;

const NODE: u16 = 1;
const WEIGHT: u16 = 2;
const CLASSES: u16 = 3;
const SHARDS: u16 = 4;
const ADDRESSES: u16 = 5;
const NAME: u16 = 6;
const LEAVING: u16 = 7;

const MEMBER: u16 = 1;
const WANTS: u16 = 2;
const SETTLED: u16 = 3;

const _: () = assert!(MEMBER_BYTES_MAX + 64 <= RECORD_BYTES_MAX, "a member fits its record");
const _: () = assert!(
    MEMBERS_MAX * (MEMBER_BYTES_MAX + 4) <= VIEW_BYTES_MAX,
    "all members fit a view; whoever makes one looks whether its history does"
);

impl View {
    /// Its bytes.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        put(&mut out, NUMBER, &self.number.to_le_bytes());
        put(&mut out, MEMBERS, &write_members(&self.members));
        let mut history = Vec::new();
        for past in &self.history {
            let mut bytes = past.number.to_le_bytes().to_vec();
            past.shares.iter().for_each(|share| write_share(share, &mut bytes));
            put_part(&mut history, &bytes);
        }
        put(&mut out, HISTORY, &history);
        out
    }

    /// The view whose bytes these are (**VI3**).
    ///
    /// # Errors
    /// [`Unread`] if they are none that this version can read.
    pub fn read(bytes: &[u8]) -> Result<Self, Unread> {
        let mut fields = versioned(bytes, VIEW_BYTES_MAX)?;
        let (mut number, mut members, mut history) = (None, Vec::new(), Vec::new());
        while let Some(field) = fields.take()? {
            let mut value = field.value;
            match field.tag {
                NUMBER => number = Some(value.u64()?),
                MEMBERS => members = read_members(value)?,
                HISTORY => history = read_history(value)?,
                _ => field.unknown()?,
            }
        }
        let number = number.filter(|number| *number > 0).ok_or(Unread::Malformed)?;
        let view = Self { number, members, history };
        if view.is_sound() { Ok(view) } else { Err(Unread::Malformed) }
    }

    /// Whether it keeps **VI1** and **VI2**.
    pub(super) fn is_sound(&self) -> bool {
        let before = self.history.last().is_none_or(|past| past.number < self.number);
        let members = self.members.len() <= MEMBERS_MAX && rise(&self.members, Member::node);
        before
            && members
            && self.history.len() <= HISTORY_MAX
            && rise(&self.history, |past| past.number)
    }
}

impl Record {
    /// Its bytes.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        let mut member = Vec::new();
        write_member(&self.member, &mut member);
        put(&mut out, MEMBER, &member);
        put(&mut out, WANTS, &[self.wants as u8]);
        put(&mut out, SETTLED, &self.settled.to_le_bytes());
        out
    }

    /// The record whose bytes these are (**VI3**).
    ///
    /// # Errors
    /// [`Unread`] if they are none that this version can read.
    pub fn read(bytes: &[u8]) -> Result<Self, Unread> {
        let mut fields = versioned(bytes, RECORD_BYTES_MAX)?;
        let (mut member, mut wants, mut settled) = (None, None, 0);
        while let Some(field) = fields.take()? {
            let mut value = field.value;
            match field.tag {
                MEMBER => member = Some(read_member(value.0)?),
                WANTS => wants = Some(read_wants(value.u8()?)?),
                SETTLED => settled = value.u64()?,
                _ => field.unknown()?,
            }
        }
        let member = member.ok_or(Unread::Malformed)?;
        Ok(Self { member, wants: wants.ok_or(Unread::Malformed)?, settled })
    }
}

fn versioned(bytes: &[u8], max: usize) -> Result<Fields<'_>, Unread> {
    if bytes.len() > max {
        return Err(Unread::Malformed);
    }
    let mut bytes = Bytes(bytes);
    if bytes.u16()? == VERSION { Ok(Fields::of(bytes.0)) } else { Err(Unread::Version) }
}

/// Whether keys rise, so that none comes twice.
fn rise<T, K: Ord>(items: &[T], key: impl Fn(&T) -> K) -> bool {
    items.windows(2).all(|pair| key(&pair[0]) < key(&pair[1]))
}

pub(super) fn write_members(members: &[Member]) -> Vec<u8> {
    let (mut out, mut one) = (Vec::new(), Vec::new());
    for member in members {
        one.clear();
        write_member(member, &mut one);
        put_part(&mut out, &one);
    }
    out
}

pub(super) fn read_members(mut bytes: Bytes<'_>) -> Result<Vec<Member>, Unread> {
    let mut members = Vec::new();
    while !bytes.is_empty() {
        if members.len() == MEMBERS_MAX {
            return Err(Unread::Malformed);
        }
        members.push(read_member(bytes.part()?)?);
    }
    Ok(members)
}

fn write_member(member: &Member, out: &mut Vec<u8>) {
    let began = out.len();
    let Member { share, shards, addresses, name, leaving, later } = member;
    put(out, NODE, &share.node.as_u64().to_le_bytes());
    put(out, WEIGHT, &share.weight.to_le_bytes());
    let classes = share.classes.iter().flat_map(|class| class.as_u16().to_le_bytes());
    put(out, CLASSES, &classes.collect::<Vec<u8>>());
    put(out, SHARDS, &shards.to_le_bytes());
    let mut listed = Vec::new();
    for address in addresses {
        let len = u16::try_from(address.len());
        assert!(len.is_ok(), "VI3: an address is too long");
        listed.extend(len.unwrap_or(0).to_le_bytes());
        listed.extend(address.as_bytes());
    }
    put(out, ADDRESSES, &listed);
    put(out, NAME, name.as_bytes());
    if *leaving {
        put(out, LEAVING, &[1]);
    }
    out.extend(later);
    assert!(out.len() - began <= MEMBER_BYTES_MAX, "VI3: a member says too much of itself");
}

/// Why a member is none.
pub(super) fn flaw_of(member: &Member) -> Option<&'static str> {
    let Member { share, shards, addresses, name, later, .. } = member;
    let fields = 7 * 6 + 8 + 2 + 2 + 1;
    let lists = 2 * share.classes.len() + addresses.iter().map(|at| 2 + at.len()).sum::<usize>();
    if *shards == 0 {
        Some("it has no shards")
    } else if share.classes.len() > CLASSES_MAX || !rise(&share.classes, |class| *class) {
        Some("its classes are too many, or not in order")
    } else if addresses.len() > ADDRESSES_MAX || name.len() > NAME_BYTES_MAX {
        Some("its addresses are too many, or its name is too long")
    } else if fields + lists + name.len() + later.len() > MEMBER_BYTES_MAX {
        Some("its addresses are too long")
    } else {
        None
    }
}

fn read_member(bytes: &[u8]) -> Result<Member, Unread> {
    if bytes.len() > MEMBER_BYTES_MAX {
        return Err(Unread::Malformed);
    }
    let mut fields = Fields::of(bytes);
    let mut node = None;
    let mut member = Member::of(NodeId::new(0), 0);
    while let Some(field) = fields.take()? {
        let mut value = field.value;
        match field.tag {
            NODE => node = Some(NodeId::new(value.u64()?)),
            WEIGHT => member.share.weight = value.u16()?,
            CLASSES => member.share.classes = read_classes(value.0.len() / 2, &mut value)?,
            SHARDS => member.shards = value.u16()?,
            ADDRESSES => member.addresses = read_addresses(value)?,
            NAME => member.name = value.text(value.0.len(), NAME_BYTES_MAX)?,
            LEAVING => member.leaving = value.u8()? != 0,
            _ => {
                field.unknown()?;
                member.later.extend_from_slice(field.whole);
            }
        }
    }
    member.share.node = node.ok_or(Unread::Malformed)?;
    if member.shards == 0 { Err(Unread::Malformed) } else { Ok(member) }
}

fn read_classes(count: usize, bytes: &mut Bytes<'_>) -> Result<Vec<ClassId>, Unread> {
    if count > CLASSES_MAX {
        return Err(Unread::Malformed);
    }
    let classes: Result<Vec<ClassId>, Unread> =
        (0..count).map(|_| bytes.u16().map(ClassId::from_u16)).collect();
    classes.and_then(|classes| {
        if rise(&classes, |class| *class) { Ok(classes) } else { Err(Unread::Malformed) }
    })
}

fn read_addresses(mut bytes: Bytes<'_>) -> Result<Vec<String>, Unread> {
    let mut addresses = Vec::new();
    while !bytes.is_empty() {
        if addresses.len() == ADDRESSES_MAX {
            return Err(Unread::Malformed);
        }
        let len = usize::from(bytes.u16()?);
        addresses.push(bytes.text(len, MEMBER_BYTES_MAX)?);
    }
    Ok(addresses)
}

fn write_share(share: &Share, out: &mut Vec<u8>) {
    out.extend(share.node.as_u64().to_le_bytes());
    out.extend(share.weight.to_le_bytes());
    let count = u8::try_from(share.classes.len());
    assert!(count.is_ok(), "VI3: a node offers too many classes");
    out.push(count.unwrap_or(0));
    share.classes.iter().for_each(|class| out.extend(class.as_u16().to_le_bytes()));
}

fn read_history(mut bytes: Bytes<'_>) -> Result<Vec<Past>, Unread> {
    let mut history = Vec::new();
    while !bytes.is_empty() {
        if history.len() == HISTORY_MAX {
            return Err(Unread::Malformed);
        }
        history.push(read_past(Bytes(bytes.part()?))?);
    }
    Ok(history)
}

fn read_past(mut bytes: Bytes<'_>) -> Result<Past, Unread> {
    let number = bytes.u64()?;
    let mut shares = Vec::new();
    while !bytes.is_empty() {
        if shares.len() == MEMBERS_MAX {
            return Err(Unread::Malformed);
        }
        let (node, weight) = (NodeId::new(bytes.u64()?), bytes.u16()?);
        let count = usize::from(bytes.u8()?);
        shares.push(Share { node, weight, classes: read_classes(count, &mut bytes)? });
    }
    if number > 0 && rise(&shares, |share| share.node) {
        Ok(Past { number, shares })
    } else {
        Err(Unread::Malformed)
    }
}

fn read_wants(byte: u8) -> Result<Wants, Unread> {
    let all = [Wants::Join, Wants::Stay, Wants::Leave];
    all.into_iter().find(|wants| *wants as u8 == byte).ok_or(Unread::Version)
}
