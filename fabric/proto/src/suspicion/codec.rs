//! The bytes of suspicion, little-endian: names, states and messages of foca, each of fixed size.
//!
//! A name: node (8), turn (2). A state of a member: its name, incarnation (2), 0 alive, 1 suspect, 2 down. A head:
//! the sender's name and incarnation (2), the receiver's name, a byte that says which message follows, and for some a
//! name, and for some the number of the probe (1). How many states follow is written by foca, big-endian (2).
//!
//! # Not here
//! What they mean: foca's documentation.

use bytes::{Buf, BufMut};
use epicserver_wire::NodeId;
use foca::{Header, Identity, Member, Message, State};

/// What suspicion calls a node: one that was held dead and is not takes another turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Name {
    pub(crate) node: NodeId,
    pub(crate) turn: u16,
}

impl Identity for Name {
    type Addr = NodeId;

    fn renew(&self) -> Option<Self> {
        let turn = self.turn.checked_add(1).filter(|turn| *turn < u16::MAX)?;
        Some(Self { node: self.node, turn })
    }

    fn addr(&self) -> NodeId {
        self.node
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.turn > adversary.turn
    }
}

/// Why bytes cannot be read or written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Flaw {
    #[error("there is no room")]
    Full,
    #[error("it is malformed")]
    Malformed,
}

pub(crate) struct Codec;

const NAME: usize = 10;
const STATE: usize = NAME + 3;

fn put_name(buf: &mut impl BufMut, name: &Name) {
    buf.put_u64_le(name.node.as_u64());
    buf.put_u16_le(name.turn);
}

fn name(buf: &mut impl Buf) -> Result<Name, Flaw> {
    let node = buf.try_get_u64_le().map_err(|_| Flaw::Malformed)?;
    let turn = buf.try_get_u16_le().map_err(|_| Flaw::Malformed)?;
    Ok(Name { node: NodeId::new(node), turn })
}

fn byte(buf: &mut impl Buf) -> Result<u8, Flaw> {
    buf.try_get_u8().map_err(|_| Flaw::Malformed)
}

/// Which message, whom it names, and the number of its probe.
fn parts(message: &Message<Name>) -> (u8, Option<Name>, Option<u8>) {
    match message {
        Message::Ping(probe) => (0, None, Some(*probe)),
        Message::Ack(probe) => (1, None, Some(*probe)),
        Message::PingReq { target, probe_number } => (2, Some(*target), Some(*probe_number)),
        Message::IndirectPing { origin, probe_number } => (3, Some(*origin), Some(*probe_number)),
        Message::IndirectAck { target, probe_number } => (4, Some(*target), Some(*probe_number)),
        Message::ForwardedAck { origin, probe_number } => (5, Some(*origin), Some(*probe_number)),
        Message::Announce => (6, None, None),
        Message::Feed => (7, None, None),
        Message::Gossip => (8, None, None),
        Message::Broadcast => (9, None, None),
        Message::TurnUndead => (10, None, None),
    }
}

fn message(buf: &mut impl Buf) -> Result<Message<Name>, Flaw> {
    let what = byte(buf)?;
    let message = match what {
        0 => Message::Ping(byte(buf)?),
        1 => Message::Ack(byte(buf)?),
        2 => Message::PingReq { target: name(buf)?, probe_number: byte(buf)? },
        3 => Message::IndirectPing { origin: name(buf)?, probe_number: byte(buf)? },
        4 => Message::IndirectAck { target: name(buf)?, probe_number: byte(buf)? },
        5 => Message::ForwardedAck { origin: name(buf)?, probe_number: byte(buf)? },
        6 => Message::Announce,
        7 => Message::Feed,
        8 => Message::Gossip,
        9 => Message::Broadcast,
        10 => Message::TurnUndead,
        _ => return Err(Flaw::Malformed),
    };
    Ok(message)
}

impl foca::Codec<Name> for Codec {
    type Error = Flaw;

    fn encode_header(&mut self, header: &Header<Name>, mut buf: impl BufMut) -> Result<(), Flaw> {
        let (what, named, probe) = parts(&header.message);
        let more = named.map_or(0, |_| NAME) + usize::from(probe.is_some());
        if buf.remaining_mut() < 2 * NAME + 3 + more {
            return Err(Flaw::Full);
        }
        put_name(&mut buf, &header.src);
        buf.put_u16_le(header.src_incarnation);
        put_name(&mut buf, &header.dst);
        buf.put_u8(what);
        if let Some(named) = named {
            put_name(&mut buf, &named);
        }
        if let Some(probe) = probe {
            buf.put_u8(probe);
        }
        Ok(())
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<Name>, Flaw> {
        let src = name(&mut buf)?;
        let src_incarnation = buf.try_get_u16_le().map_err(|_| Flaw::Malformed)?;
        let dst = name(&mut buf)?;
        Ok(Header { src, src_incarnation, dst, message: message(&mut buf)? })
    }

    fn encode_member(&mut self, member: &Member<Name>, mut buf: impl BufMut) -> Result<(), Flaw> {
        if buf.remaining_mut() < STATE {
            return Err(Flaw::Full);
        }
        put_name(&mut buf, member.id());
        buf.put_u16_le(member.incarnation());
        buf.put_u8(match member.state() {
            State::Alive => 0,
            State::Suspect => 1,
            State::Down => 2,
        });
        Ok(())
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<Member<Name>, Flaw> {
        let name = name(&mut buf)?;
        let incarnation = buf.try_get_u16_le().map_err(|_| Flaw::Malformed)?;
        let state = match byte(&mut buf)? {
            0 => State::Alive,
            1 => State::Suspect,
            2 => State::Down,
            _ => return Err(Flaw::Malformed),
        };
        Ok(Member::new(name, incarnation, state))
    }
}
