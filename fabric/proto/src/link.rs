//! The machine of one link: who is there, whether it knows the fabric's key, and whether it still lives.
//!
//! Both ends say hello at once, with a nonce each; then each proves, by a MAC over both hellos and its
//! own role, that it knows the key. Nothing else is listened to before. An end that does not want the
//! other says why.
//!
//! The payload of a handshake message is a byte that says which it is, and then: 1, a hello; 2, a proof
//! (32 bytes); 3, a refusal (1 byte). The proof is the HMAC-SHA-256, under the fabric's key, of the text
//! `epicserver link proof 1`, a byte that is 1 if the prover has accepted the link and else 0, and the
//! hellos of the dialling end and of the accepting one, each behind its length (8 bytes, little-endian).
//!
//! In:  [`Event`]   Out: [`Effect`]
//!
//! # Invariants
//! - **L1** A link is established only after the peer's proof was verified, and only once.
//! - **L2** A proof is worth nothing for another link (both nonces are in it) nor for the other role.
//! - **L3** A peer that says nothing for [`Config::silent`] is gone; one that is heard is not, nor is one
//!   that was not asked long enough ago to answer, however late this end looks.
//!
//! # Not here
//! Bytes on their way, and which of two links to one node is kept: [`keeps`] says which, the host does it.

use std::time::Duration;

use epicserver_wire::header::{Kind, Violation};
use epicserver_wire::{NodeId, Time};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::session::Window;

mod hello;
mod offer;
#[cfg(test)]
mod tests;

use hello::Hello;
pub use hello::{FABRIC_BYTES_MAX, HELLO_BYTES_MAX, VERSION};
pub use offer::{HostId, Offer, SCHEMAS_MAX, SLOT_BYTES_MIN, Schema, Schemas};

/// How long a handshake may take, unless something else is asked for.
pub const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long a link may be still before its peer is asked for a sign of life.
pub const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// How long a peer may say nothing.
pub const SILENT: Duration = Duration::from_secs(5);

/// The key that all nodes of a fabric share.
#[derive(Clone, PartialEq, Eq)]
pub struct FabricKey(pub [u8; 32]);

impl std::fmt::Debug for FabricKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FabricKey")
    }
}

/// Who this node is, and how patient.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The fabric's name, of 1 to [`FABRIC_BYTES_MAX`] bytes.
    pub fabric: String,
    /// Its key.
    pub key: FabricKey,
    /// This node.
    pub node: NodeId,
    /// How many shards it has.
    pub shards: u16,
    /// What each of them takes of each of the peer's.
    pub window: Window,
    /// What else peers are told.
    pub offer: Offer,
    /// How long the handshake may take.
    pub handshake: Duration,
    /// How long a link may be still before the peer is asked for a sign of life.
    pub keep_alive: Duration,
    /// How long a peer may say nothing.
    pub silent: Duration,
}

/// A peer that has proved to be of the fabric.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Which node it is.
    pub node: NodeId,
    /// How many shards it has.
    pub shards: u16,
    /// What each of them takes.
    pub window: Window,
    /// What else it says.
    pub offer: Offer,
}

/// What happens to a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event<'a> {
    /// Bytes can be sent and come.
    Up,
    /// A message of the link itself came.
    Message {
        /// Its kind.
        kind: Kind,
        /// What it says.
        payload: &'a [u8],
    },
    /// The deadline has passed.
    Time,
    /// This node does not want the link after all.
    Refuse(Refusal),
    /// This node is leaving.
    Close,
}

/// What a link asks of its host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Send a message of the link itself.
    Send {
        /// Its kind.
        kind: Kind,
        /// What it says.
        payload: Vec<u8>,
    },
    /// The peer is of the fabric: messages between shards may pass.
    Established(Peer),
    /// The peer's control thread says this.
    Control(Vec<u8>),
    /// End the link, once what was sent has left.
    Close(Closed),
}

/// Why a link is closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Closed {
    /// This node is leaving.
    #[error("this node is leaving")]
    Here,
    /// The peer is leaving.
    #[error("the peer is leaving")]
    There,
    /// The peer says nothing any more, or did not finish its handshake.
    #[error("the peer said nothing for {0:?}")]
    Silent(Duration),
    /// The peer sent what no sound peer sends.
    #[error("the peer broke the protocol: {0}")]
    Violation(Violation),
    /// This end does not want the peer.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// The peer does not want this end.
    #[error("refused by the peer: {0}")]
    RefusedThere(Refusal),
    /// The peer does not want this end, for a reason that only later versions know.
    #[error("refused by the peer for reason {0}, which this version does not know")]
    RefusedFor(u8),
}

/// Why one end does not want the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[repr(u8)]
#[non_exhaustive]
pub enum Refusal {
    /// They have no version of the protocol in common.
    #[error("the two nodes speak no common version of the protocol")]
    Version = 1,
    /// They are of different fabrics.
    #[error("the two nodes are of different fabrics")]
    Fabric = 2,
    /// The proof does not fit: the keys differ.
    #[error("the two nodes have different fabric keys")]
    Key = 3,
    /// A node has reached itself.
    #[error("the node has reached itself")]
    Itself = 4,
    /// Another link between the same nodes is kept (see [`keeps`]).
    #[error("the two nodes have another link")]
    Duplicate = 5,
    /// The node that was reached is known to be over: it has to begin again as another one.
    #[error("the node's lease has ended")]
    Ended = 6,
}

impl Refusal {
    /// All of them, for those who count.
    pub const ALL: [Self; 6] =
        [Self::Version, Self::Fabric, Self::Key, Self::Itself, Self::Duplicate, Self::Ended];

    fn of(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|refusal| *refusal as u8 == byte)
    }
}

/// What the first byte of a handshake message says.
const HELLO: u8 = 1;
const PROOF: u8 = 2;
const REFUSE: u8 = 3;

/// Of two links between the same nodes, whether this end keeps the newer one, which the peer dialled if
/// it was `accepted`: of two that were dialled from both ends, the one that the node with the smaller id
/// has dialled is kept at both. Of two that one node has dialled each end keeps the one that was
/// established last there if that node has the smaller id, and else the one that was first.
#[must_use]
pub fn keeps(this: NodeId, peer: NodeId, accepted: bool) -> bool {
    (this < peer) != accepted
}

/// What a peer has to send to be believed.
type Expected = Box<Hmac<Sha256>>;

#[derive(Debug)]
enum State {
    /// Not up yet.
    New,
    /// Hello is said.
    Greeting,
    /// The peer's hello has come, and our proof is sent.
    Proving(Box<Peer>, Expected),
    /// Messages may pass.
    Established,
    Closed,
}

/// The machine of one link.
#[derive(Debug)]
pub struct Link {
    config: Config,
    accepted: bool,
    nonce: [u8; 32],
    hello: Vec<u8>,
    /// The nodes to which no other link is wanted.
    linked: Vec<NodeId>,
    state: State,
    /// When the handshake began, or the peer was heard last.
    heard: Time,
    /// When it was asked for a sign of life, if it has not given one since.
    asked: Option<Time>,
}

impl Link {
    /// A link that the peer dialled if it was `accepted`; `nonce` is random.
    ///
    /// # Panics
    /// If the configuration is not within its bounds.
    #[must_use]
    pub fn new(config: Config, accepted: bool, nonce: [u8; 32], now: Time) -> Self {
        let named = (1..=FABRIC_BYTES_MAX).contains(&config.fabric.len());
        assert!(named, "L4: the fabric's name is out of bounds");
        assert!(config.offer.slot_bytes >= SLOT_BYTES_MIN, "L4: the slots are too short");
        let hello = Hello::of(&config, nonce).write();
        let (linked, state) = (Vec::new(), State::New);
        Self { config, accepted, nonce, hello, linked, state, heard: now, asked: None }
    }

    /// Refuses a peer that says it is one of `linked`, before anything is proved to it: so that peer does not
    /// take this link for a better one. For a link that this end dialled; of two that both ends have dialled
    /// at once [`keeps`] says which stays.
    pub fn refuse_linked(&mut self, linked: Vec<NodeId>) {
        self.linked = linked;
    }

    /// Whether the peer dialled it.
    #[must_use]
    pub fn accepted(&self) -> bool {
        self.accepted
    }

    /// Whether messages between shards may pass.
    #[must_use]
    pub fn is_established(&self) -> bool {
        matches!(self.state, State::Established)
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// A message between shards has come.
    pub fn heard(&mut self, now: Time) {
        // What comes before the proof does not prolong the handshake.
        if self.is_established() {
            self.heard = now;
            self.asked = None;
        }
    }

    /// When [`Event::Time`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        match (&self.state, self.asked) {
            (State::New | State::Closed, _) => None,
            (State::Greeting | State::Proving(..), _) => Some(self.heard + self.config.handshake),
            (State::Established, None) => Some(self.heard + self.config.keep_alive),
            // L3: who was late to ask is late to give up.
            (State::Established, Some(asked)) => {
                let patience = self.config.silent.saturating_sub(self.config.keep_alive);
                Some((self.heard + self.config.silent).max(asked + patience))
            }
        }
    }

    /// Something happened.
    pub fn handle(&mut self, now: Time, event: Event<'_>, out: &mut Vec<Effect>) {
        if self.is_closed() {
            return;
        }
        match event {
            Event::Up => self.up(now, out),
            Event::Message { kind, payload } => self.message(now, kind, payload, out),
            Event::Time => self.time(now, out),
            Event::Refuse(why) => self.refuse(why, out),
            Event::Close => {
                out.push(Effect::Send { kind: Kind::Goodbye, payload: Vec::new() });
                self.close(Closed::Here, out);
            }
        }
    }

    fn up(&mut self, now: Time, out: &mut Vec<Effect>) {
        assert!(matches!(self.state, State::New), "L1: a link came up twice");
        self.state = State::Greeting;
        self.heard = now;
        say(HELLO, &self.hello, out);
    }

    fn close(&mut self, why: Closed, out: &mut Vec<Effect>) {
        self.state = State::Closed;
        out.push(Effect::Close(why));
    }

    fn violated(&mut self, what: &'static str, out: &mut Vec<Effect>) {
        self.close(Closed::Violation(Violation::Unexpected(what)), out);
    }

    fn refuse(&mut self, why: Refusal, out: &mut Vec<Effect>) {
        say(REFUSE, &[why as u8], out);
        self.close(Closed::Refused(why), out);
    }

    fn message(&mut self, now: Time, kind: Kind, payload: &[u8], out: &mut Vec<Effect>) {
        self.heard(now);
        match (kind, self.is_established()) {
            (Kind::Handshake, _) => self.handshake(now, payload, out),
            (Kind::Goodbye, _) => self.close(Closed::There, out),
            (Kind::Ping, true) => {
                out.push(Effect::Send { kind: Kind::Pong, payload: Vec::new() });
            }
            (Kind::Pong, true) => {}
            (Kind::Control, true) => out.push(Effect::Control(payload.to_vec())),
            (Kind::Ping | Kind::Pong | Kind::Control, false) => {
                self.violated("a message before the handshake", out);
            }
            (
                Kind::Call
                | Kind::Tell
                | Kind::Reply
                | Kind::Failed
                | Kind::Cancel
                | Kind::Credit
                | Kind::Chunk
                | Kind::Moved
                | Kind::Returned
                | Kind::Flush
                | Kind::Flushed,
                _,
            ) => self.violated("a message of shards for the link itself", out),
        }
    }

    fn handshake(&mut self, now: Time, payload: &[u8], out: &mut Vec<Effect>) {
        let Some((what, said)) = payload.split_first() else {
            return self.violated("an empty handshake", out);
        };
        match (*what, std::mem::replace(&mut self.state, State::Closed)) {
            (HELLO, State::Greeting) => self.greeted(said, out),
            (PROOF, State::Proving(peer, expected)) => {
                self.proved(now, (*peer, expected), said, out);
            }
            (REFUSE, State::Greeting | State::Proving(..) | State::Established) => {
                self.refused(said, out);
            }
            _ => self.violated("a handshake out of order", out),
        }
    }

    fn refused(&mut self, said: &[u8], out: &mut Vec<Effect>) {
        match said.first() {
            Some(code) => {
                let known = Refusal::of(*code).map(Closed::RefusedThere);
                self.close(known.unwrap_or(Closed::RefusedFor(*code)), out);
            }
            None => self.violated("a refusal for no reason", out),
        }
    }

    fn greeted(&mut self, said: &[u8], out: &mut Vec<Effect>) {
        let hello = match Hello::read(said) {
            Ok(hello) => hello,
            Err(hello::Unread::Version) => return self.refuse(Refusal::Version, out),
            Err(hello::Unread::Malformed) => return self.violated("a malformed hello", out),
        };
        if hello.fabric != self.config.fabric {
            return self.refuse(Refusal::Fabric, out);
        }
        if hello.node == self.config.node {
            return self.refuse(Refusal::Itself, out);
        }
        if self.linked.contains(&hello.node) {
            return self.refuse(Refusal::Duplicate, out);
        }
        if hello.nonce == self.nonce {
            return self.violated("a nonce that is not the peer's own", out);
        }
        let proof = self.mac(self.accepted, said).finalize().into_bytes();
        say(PROOF, &proof, out);
        let Hello { node, shards, window, offer, .. } = hello;
        let expected = Box::new(self.mac(!self.accepted, said));
        self.state = State::Proving(Box::new(Peer { node, shards, window, offer }), expected);
    }

    /// What the end that has `accepted` the link, or the other one, has to prove (**L2**).
    fn mac(&self, accepted: bool, theirs: &[u8]) -> Hmac<Sha256> {
        let (first, second) =
            if self.accepted { (theirs, &*self.hello) } else { (&*self.hello, theirs) };
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.config.key.0) else {
            unreachable!("L2: a MAC takes a key of any length")
        };
        mac.update(b"epicserver link proof 1");
        mac.update(&[u8::from(accepted)]);
        for hello in [first, second] {
            mac.update(&(hello.len() as u64).to_le_bytes());
            mac.update(hello);
        }
        mac
    }

    fn proved(
        &mut self,
        now: Time,
        (peer, expected): (Peer, Expected),
        proof: &[u8],
        out: &mut Vec<Effect>,
    ) {
        // In constant time.
        if expected.verify_slice(proof).is_err() {
            return self.refuse(Refusal::Key, out);
        }
        self.state = State::Established;
        self.heard(now);
        out.push(Effect::Established(peer));
    }

    fn time(&mut self, now: Time, out: &mut Vec<Effect>) {
        if self.deadline().is_none_or(|deadline| deadline > now) {
            return;
        }
        if !self.is_established() {
            return self.close(Closed::Silent(self.config.handshake), out);
        }
        if self.asked.is_some() {
            return self.close(Closed::Silent(self.config.silent), out);
        }
        self.asked = Some(now);
        out.push(Effect::Send { kind: Kind::Ping, payload: Vec::new() });
    }
}

fn say(what: u8, said: &[u8], out: &mut Vec<Effect>) {
    let payload = [&[what], said].concat();
    out.push(Effect::Send { kind: Kind::Handshake, payload });
}
