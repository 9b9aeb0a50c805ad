//! The greeting: how two ends come to know each other's queue pairs, over a TCP connection.
//!
//! | from | message | bytes after the first, which says which it is |
//! | --- | --- | --- |
//! | the end that dials | 1, hello | its [`Card`] |
//! | the end that accepts | 2, challenge | 32 random bytes |
//! | the end that dials | 3, proof | HMAC over `epicserver verbs proof 1`, a 0, the challenge, its card |
//! | the end that accepts | 4, welcome | its card; HMAC over the same text, a 1, the challenge, both cards |
//! | the end that dials | 5, ready | nothing |
//! | the end that accepts | 6, refusal | a byte that says why |
//!
//! The connection stays: its end is the end of the link. Nothing more is said over it.
//!
//! # Invariants
//! - **GR1** Nothing is made for a peer that dialled, and no card is used, before its sender has proved that it knows
//!   the key. A proof is worth nothing with another card, challenge or role.
//! - **GR2** No more bytes are kept than the longest message has.
//!
//! # Not here
//! Sockets; how long a peer may take. Who the peer is: the fabric's own handshake, over the link, finds out.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::device::{Local, Remote};

/// The key that both ends must know: one that is made of the fabric's for this purpose.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(pub [u8; 32]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

/// The version of all that two ends have to agree about: greeting, words, announcements.
const VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"EPICRDMA";
const CONTEXT: &[u8] = b"epicserver verbs proof 1";
/// Bytes of a card.
pub(crate) const CARD_BYTES: usize = 96;
const PROOF_BYTES: usize = 32;
/// Bytes of the longest message.
const MESSAGE_BYTES_MAX: usize = 1 + CARD_BYTES + PROOF_BYTES;

const HELLO: u8 = 1;
const CHALLENGE: u8 = 2;
const PROOF: u8 = 3;
const WELCOME: u8 = 4;
const READY_KIND: u8 = 5;
const REFUSAL: u8 = 6;

/// The message of an end that is ready.
pub(crate) const READY: &[u8] = &[READY_KIND];

/// One end of a link, as the other one has to know it. All numbers are little-endian.
///
/// | bytes | what |
/// | --- | --- |
/// | 0..8 | `EPICRDMA` |
/// | 8..12 | version |
/// | 12..16 | number of the queue pair |
/// | 16..20 | number of its first packet |
/// | 20..22 | LID |
/// | 22 | MTU, as in `enum ibv_mtu` |
/// | 23 | 1 over InfiniBand, 2 over Ethernet |
/// | 24..40 | GID, in network order |
/// | 40..44 | bytes of its slots |
/// | 44..46 | messages that it takes |
/// | 46 | pieces of bodies that it may be announced |
/// | 47 | reads that it answers at a time |
/// | 48..56 | its incarnation: random |
/// | 56..88 | random bytes |
/// | 88..96 | zeroes |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Card {
    pub(crate) number: u32,
    pub(crate) psn: u32,
    pub(crate) lid: u16,
    pub(crate) mtu: u8,
    pub(crate) ethernet: bool,
    pub(crate) gid: [u8; 16],
    pub(crate) slot_bytes: u32,
    pub(crate) window: u16,
    pub(crate) pieces: u8,
    pub(crate) reads: u8,
    pub(crate) incarnation: u64,
    pub(crate) nonce: [u8; 32],
}

impl Card {
    /// The card of a pair at `local`.
    pub(crate) fn of(local: &Local, (number, psn): (u32, u32), random: [u8; 40]) -> Self {
        let (incarnation, nonce) = random.split_first_chunk().unwrap_or((&[0; 8], &[]));
        let mut card = Self {
            number,
            psn,
            lid: local.lid,
            mtu: u8::try_from(local.mtu).unwrap_or(1),
            ethernet: local.ethernet,
            gid: local.gid,
            slot_bytes: 0,
            window: 0,
            pieces: crate::window::PIECES,
            reads: 0,
            incarnation: u64::from_le_bytes(*incarnation),
            nonce: [0; 32],
        };
        card.nonce.iter_mut().zip(nonce).for_each(|(to, byte)| *to = *byte);
        card
    }

    /// What this end's device needs to know of it.
    pub(crate) fn remote(&self) -> Remote {
        Remote {
            number: self.number,
            psn: self.psn,
            gid: self.gid,
            lid: self.lid,
            mtu: u32::from(self.mtu),
            reads: self.reads,
        }
    }

    pub(crate) fn to_bytes(self) -> [u8; CARD_BYTES] {
        let mut bytes = [0; CARD_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.number.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.psn.to_le_bytes());
        bytes[20..22].copy_from_slice(&self.lid.to_le_bytes());
        bytes[22] = self.mtu;
        bytes[23] = if self.ethernet { 2 } else { 1 };
        bytes[24..40].copy_from_slice(&self.gid);
        bytes[40..44].copy_from_slice(&self.slot_bytes.to_le_bytes());
        bytes[44..46].copy_from_slice(&self.window.to_le_bytes());
        bytes[46] = self.pieces;
        bytes[47] = self.reads;
        bytes[48..56].copy_from_slice(&self.incarnation.to_le_bytes());
        bytes[56..88].copy_from_slice(&self.nonce);
        bytes
    }

    fn parse(bytes: &[u8; CARD_BYTES]) -> Result<Self, Wrong> {
        fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
            bytes.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; N])
        }
        if bytes[..8] != MAGIC {
            return Err(Wrong::Malformed("a greeting that is none"));
        }
        if u32::from_le_bytes(part(bytes, 8)) != VERSION {
            return Err(Wrong::Refused(Refusal::Version));
        }
        let card = Self {
            number: u32::from_le_bytes(part(bytes, 12)),
            psn: u32::from_le_bytes(part(bytes, 16)),
            lid: u16::from_le_bytes(part(bytes, 20)),
            mtu: bytes[22],
            ethernet: bytes[23] == 2,
            gid: part(bytes, 24),
            slot_bytes: u32::from_le_bytes(part(bytes, 40)),
            window: u16::from_le_bytes(part(bytes, 44)),
            pieces: bytes[46],
            reads: bytes[47],
            incarnation: u64::from_le_bytes(part(bytes, 48)),
            nonce: part(bytes, 56),
        };
        let sound = (1..=5).contains(&card.mtu)
            && card.number < 1 << 24
            && card.psn < 1 << 24
            && (crate::SLOT_BYTES_MIN..=crate::SLOT_BYTES_MAX)
                .contains(&(card.slot_bytes as usize))
            && (1..=crate::WINDOW_MAX).contains(&card.window)
            && card.pieces == crate::window::PIECES
            && card.reads > 0
            && card.to_bytes() == *bytes;
        if sound {
            Ok(card)
        } else {
            Err(Wrong::Malformed("a greeting with numbers that cannot be"))
        }
    }
}

/// Why the end that accepts does not want the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[repr(u8)]
pub(crate) enum Refusal {
    /// It speaks another version.
    #[error("the peer speaks another version of the greeting")]
    Version = 1,
    /// It does not know the key.
    #[error("the two nodes have different fabric keys")]
    Key = 2,
    /// There are as many links as there may be.
    #[error("the peer has as many links as its device carries")]
    Full = 3,
    /// One is on InfiniBand and the other on Ethernet.
    #[error("one of the two ports is InfiniBand's and the other Ethernet's")]
    Fabric = 4,
    /// The device refused, or there is none any more.
    #[error("the peer's device refuses; its log says why")]
    Device = 5,
}

impl Refusal {
    const ALL: [Self; 5] = [Self::Version, Self::Key, Self::Full, Self::Fabric, Self::Device];

    /// The message that says so.
    pub(crate) fn message(self) -> Vec<u8> {
        vec![REFUSAL, self as u8]
    }
}

/// Why a greeting failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Wrong {
    /// Bytes came that no sound peer sends.
    #[error("{0}")]
    Malformed(&'static str),
    /// This end does not want the peer.
    #[error("{0}")]
    Refused(Refusal),
    /// The peer does not want this end.
    #[error("refused by the peer: {0}")]
    RefusedThere(Refusal),
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// Send these bytes.
    Send(Vec<u8>),
    /// Make a pair for the peer whose card this is, and [welcome](Greeting::welcome) it.
    Make(Card),
    /// The pair can be connected to the peer whose card this is, and the peer is to be told so by these bytes.
    Connect(Card, Vec<u8>),
    /// The peer is ready.
    Ready,
}

#[derive(Debug)]
enum State {
    /// A hello was sent, and a challenge is to come.
    Said(Card),
    /// A proof was sent, and a welcome is to come.
    Proved(Card, [u8; 32]),
    /// A challenge was sent, and a hello is to come.
    Challenged([u8; 32]),
    /// A hello has come, and a proof is to.
    Heard(Card, [u8; 32]),
    /// The proof has come, and a pair is to be made.
    Making(Card, [u8; 32]),
    /// The peer was welcomed, and is to be ready.
    Welcomed,
    /// It is over: nothing may come.
    Over,
}

/// One end's side of a greeting.
pub(crate) struct Greeting {
    key: Key,
    state: State,
    bytes: Vec<u8>,
}

impl Greeting {
    /// The end that dials, with its card, and what it says first.
    pub(crate) fn dial(key: Key, card: Card) -> (Self, Vec<u8>) {
        let hello = [&[HELLO][..], &card.to_bytes()].concat();
        (Self { key, state: State::Said(card), bytes: Vec::new() }, hello)
    }

    /// The end that accepts, and what it says first: a challenge of these random bytes.
    pub(crate) fn accept(key: Key, challenge: [u8; 32]) -> (Self, Vec<u8>) {
        let said = [&[CHALLENGE][..], &challenge].concat();
        (Self { key, state: State::Challenged(challenge), bytes: Vec::new() }, said)
    }

    /// Bytes came. Says what is to be done, step by step, as far as they go.
    pub(crate) fn take(&mut self, came: &[u8]) -> Result<Vec<Step>, Wrong> {
        let mut steps = Vec::new();
        for byte in came {
            self.bytes.push(*byte);
            if self.bytes.len() > MESSAGE_BYTES_MAX {
                // GR2.
                return Err(Wrong::Malformed("more than a greeting has"));
            }
            let Some(wanted) = length(self.bytes.first().copied().unwrap_or(0)) else {
                return Err(Wrong::Malformed("something else than a greeting"));
            };
            if self.bytes.len() == wanted {
                let message = std::mem::take(&mut self.bytes);
                steps.extend(self.message(&message)?);
            }
        }
        Ok(steps)
    }

    fn message(&mut self, message: &[u8]) -> Result<Option<Step>, Wrong> {
        let (kind, said) = message.split_first().unwrap_or((&0, &[]));
        match (*kind, std::mem::replace(&mut self.state, State::Over)) {
            (CHALLENGE, State::Said(card)) => {
                let challenge = said.first_chunk().copied().unwrap_or_default();
                let proof = proof(&self.key, 0, &challenge, &[&card]);
                self.state = State::Proved(card, challenge);
                Ok(Some(Step::Send([&[PROOF][..], &proof.finalize().into_bytes()].concat())))
            }
            (WELCOME, State::Proved(card, challenge)) => {
                let (theirs, proved) = said.split_at(said.len().min(CARD_BYTES));
                let theirs = parse(theirs)?;
                let wanted = proof(&self.key, 1, &challenge, &[&card, &theirs]);
                wanted.verify_slice(proved).map_err(|_| Wrong::Refused(Refusal::Key))?;
                Ok(Some(Step::Connect(theirs, READY.to_vec())))
            }
            (REFUSAL, State::Said(_) | State::Proved(..)) => {
                let known = Refusal::ALL.into_iter().find(|why| said == [*why as u8]);
                let unknown = Wrong::Malformed("a refusal for a reason that is not known");
                Err(known.map_or(unknown, Wrong::RefusedThere))
            }
            (HELLO, State::Challenged(challenge)) => {
                self.state = State::Heard(parse(said)?, challenge);
                Ok(None)
            }
            (PROOF, State::Heard(card, challenge)) => {
                // GR1; in constant time.
                let wanted = proof(&self.key, 0, &challenge, &[&card]);
                wanted.verify_slice(said).map_err(|_| Wrong::Refused(Refusal::Key))?;
                self.state = State::Making(card, challenge);
                Ok(Some(Step::Make(card)))
            }
            (READY_KIND, State::Welcomed) => Ok(Some(Step::Ready)),
            _ => Err(Wrong::Malformed("a greeting out of order")),
        }
    }

    /// What welcomes the peer for which a pair was made, whose card this is.
    pub(crate) fn welcome(&mut self, card: &Card) -> Vec<u8> {
        let State::Making(theirs, challenge) = &self.state else { return Vec::new() };
        let proof = proof(&self.key, 1, challenge, &[theirs, card]).finalize().into_bytes();
        self.state = State::Welcomed;
        [&[WELCOME][..], &card.to_bytes(), &proof].concat()
    }
}

impl std::fmt::Debug for Greeting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Greeting").field("state", &self.state).finish_non_exhaustive()
    }
}

/// Bytes of a message of this kind.
fn length(kind: u8) -> Option<usize> {
    let len = match kind {
        HELLO => CARD_BYTES,
        CHALLENGE | PROOF => PROOF_BYTES,
        WELCOME => CARD_BYTES + PROOF_BYTES,
        READY_KIND => 0,
        REFUSAL => 1,
        _ => return None,
    };
    Some(1 + len)
}

fn parse(bytes: &[u8]) -> Result<Card, Wrong> {
    Card::parse(bytes.first_chunk().ok_or(Wrong::Malformed("half a greeting"))?)
}

/// What the end of this role proves, with the cards of those that have shown theirs.
fn proof(key: &Key, role: u8, challenge: &[u8; 32], cards: &[&Card]) -> Hmac<Sha256> {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&key.0) else {
        unreachable!("GR1: a MAC takes a key of any length")
    };
    mac.update(CONTEXT);
    mac.update(&[role]);
    mac.update(challenge);
    cards.iter().for_each(|card| mac.update(&card.to_bytes()));
    mac
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn card(number: u32) -> Card {
        Card {
            number,
            psn: 77,
            lid: 3,
            mtu: 5,
            ethernet: true,
            gid: [9; 16],
            slot_bytes: 8192,
            window: 64,
            pieces: crate::window::PIECES,
            reads: 4,
            incarnation: 1 << 40,
            nonce: [6; 32],
        }
    }

    /// The steps of both ends until neither has anything to say, or the first that fails.
    fn greet(keys: [u8; 2], meddle: impl Fn(&mut Vec<u8>)) -> Result<(Card, Card), Wrong> {
        let [near, far] = keys.map(|key| Key([key; 32]));
        let (mut near, hello) = Greeting::dial(near, card(1));
        let (mut far, challenge) = Greeting::accept(far, [5; 32]);
        let (mut to_far, mut to_near) = (hello, challenge);
        let (mut made, mut connected) = (None, None);
        loop {
            meddle(&mut to_far);
            for step in far.take(&std::mem::take(&mut to_far))? {
                match step {
                    Step::Make(theirs) => {
                        made = Some(theirs);
                        to_near.extend(far.welcome(&card(2)));
                    }
                    Step::Ready => return Ok(made.zip(connected).unwrap()),
                    Step::Send(_) | Step::Connect(..) => panic!("{step:?}"),
                }
            }
            meddle(&mut to_near);
            for step in near.take(&std::mem::take(&mut to_near))? {
                match step {
                    Step::Send(bytes) => to_far.extend(bytes),
                    Step::Connect(theirs, ready) => {
                        connected = Some(theirs);
                        to_far.extend(ready);
                    }
                    Step::Make(_) | Step::Ready => panic!("{step:?}"),
                }
            }
        }
    }

    #[test]
    fn two_ends_with_one_key_come_to_know_each_others_cards() {
        assert_eq!(greet([7, 7], |_| {}), Ok((card(1), card(2))));
    }

    #[test]
    fn gr1_an_end_with_another_key_is_refused() {
        assert_eq!(greet([7, 8], |_| {}), Err(Wrong::Refused(Refusal::Key)));
    }

    #[test]
    fn gr1_a_card_that_was_changed_on_its_way_is_not_used() {
        let bend = |kind: u8| {
            move |bytes: &mut Vec<u8>| {
                if bytes.first() == Some(&kind) {
                    // The number of the queue pair.
                    bytes[13] ^= 1;
                }
            }
        };
        assert_eq!(greet([7, 7], bend(HELLO)), Err(Wrong::Refused(Refusal::Key)));
        assert_eq!(greet([7, 7], bend(WELCOME)), Err(Wrong::Refused(Refusal::Key)));
    }

    #[test]
    fn a_refusal_says_why() {
        let (mut near, _) = Greeting::dial(Key([0; 32]), card(1));
        let why = near.take(&Refusal::Full.message());
        assert_eq!(why, Err(Wrong::RefusedThere(Refusal::Full)));
        let (mut near, _) = Greeting::dial(Key([0; 32]), card(1));
        assert!(near.take(&[REFUSAL, 99]).is_err());
    }

    #[test]
    fn a_version_that_is_not_this_one_is_refused() {
        let mut bytes = card(1).to_bytes();
        bytes[8] = 2;
        assert_eq!(Card::parse(&bytes), Err(Wrong::Refused(Refusal::Version)));
    }

    proptest! {
        #[test]
        fn gr2_whatever_comes_is_cut_off_or_waited_for(bytes: Vec<u8>) {
            let (mut far, _) = Greeting::accept(Key([0; 32]), [0; 32]);
            drop(far.take(&bytes));
            prop_assert!(far.bytes.len() <= MESSAGE_BYTES_MAX);
        }

        #[test]
        fn a_card_that_can_be_read_is_the_one_that_was_written(at in 0..CARD_BYTES, to: u8) {
            let mut bytes = card(1).to_bytes();
            bytes[at] = to;
            if let Ok(card) = Card::parse(&bytes) {
                prop_assert_eq!(card.to_bytes(), bytes);
            }
        }
    }
}
