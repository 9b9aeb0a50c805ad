//! One link and whoever is at its other end: it is established by a right proof, and by nothing else.

use std::time::Duration;

use epicserver_proto::link::{
    Config, Effect, Event, FABRIC_BYTES_MAX, FabricKey, Link, Offer, Refusal, SLOT_BYTES_MIN,
};
use epicserver_proto::session::Window;
use epicserver_wire::header::Kind;
use epicserver_wire::{NodeId, Time};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::input::Input;

const KEY: [u8; 32] = [7; 32];
const HELLO: u8 = 1;
const PROOF: u8 = 2;

/// What happens to a link, as a list of choices. Says whether it was established.
///
/// # Panics
/// If something is wrong.
pub fn handshake(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let (accepted, patience) = (input.byte() & 1 == 1, input.byte());
    let mut world = World::new(accepted, patience);
    while !input.is_empty() {
        world.step(&mut input);
    }
    world.established
}

fn config(node: u64, patience: u8) -> Config {
    Config {
        fabric: "test".to_owned(),
        key: FabricKey(KEY),
        node: NodeId::new(node),
        shards: 2,
        window: Window::DEFAULT,
        offer: Offer::default(),
        handshake: Duration::from_millis(1 + u64::from(patience % 8)),
        keep_alive: Duration::from_millis(1 + u64::from(patience / 8 % 4)),
        silent: Duration::from_millis(1 + u64::from(patience / 32)),
    }
}

struct World {
    link: Link,
    patience: Duration,
    accepted: bool,
    now: Time,
    up: bool,
    /// What a sound peer says first.
    sound: Vec<u8>,
    /// What this end has said of itself, and what it has heard and answered by a proof.
    ours: Vec<u8>,
    theirs: Option<Vec<u8>>,
    said: Vec<Vec<u8>>,
    established: bool,
    closed: bool,
}

impl World {
    fn new(accepted: bool, patience: u8) -> Self {
        let (here, there) = (config(1, patience), config(2, patience));
        let longest = here.handshake.max(here.keep_alive).max(here.silent);
        let mut peer = Link::new(there, !accepted, [2; 32], Time::ZERO);
        let mut out = Vec::new();
        peer.handle(Time::ZERO, Event::Up, &mut out);
        let sound = out.iter().find_map(payload).expect("a link says hello").to_vec();
        Self {
            link: Link::new(here, accepted, [1; 32], Time::ZERO),
            patience: longest,
            accepted,
            now: Time::ZERO,
            up: false,
            sound,
            ours: Vec::new(),
            theirs: None,
            said: Vec::new(),
            established: false,
            closed: false,
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 12 {
            0 if !self.up => {
                self.up = true;
                self.handle(Event::Up);
            }
            0 | 1 => self.hear(Kind::Handshake, &changed(self.sound.clone(), input)),
            2 => self.hear(Kind::Handshake, &changed(self.right_proof(), input)),
            3 => self.hear(Kind::Handshake, input.bytes()),
            4 => {
                let hello = [&[HELLO], &b"EPIC\x01\x00\x01\x00"[..], input.bytes()].concat();
                self.hear(Kind::Handshake, &hello);
            }
            5 => {
                let said = self.said.get(usize::from(input.byte()));
                let said = said.cloned().unwrap_or_default();
                self.hear(Kind::Handshake, &changed(said, input));
            }
            6 => {
                let kind = kind(input.byte());
                self.hear(kind, input.bytes());
            }
            7 => {
                self.now = self.now + Duration::from_micros(u64::from(input.u16()));
                self.handle(Event::Time);
            }
            8 => self.wait(),
            9 => self.link.heard(self.now),
            10 => {
                let refusals = Refusal::ALL;
                self.handle(Event::Refuse(refusals[usize::from(input.byte()) % refusals.len()]));
            }
            _ => self.handle(Event::Close),
        }
        self.check();
    }

    /// Until the deadline, if there is one: then the link asks, or ends, and does not ask for ever.
    fn wait(&mut self) {
        let Some(deadline) = self.link.deadline() else { return };
        self.now = self.now.max(deadline);
        self.handle(Event::Time);
        if self.link.deadline().is_some_and(|deadline| deadline <= self.now) {
            self.handle(Event::Time);
        }
        assert!(self.link.deadline().is_none_or(|deadline| deadline > self.now));
    }

    fn hear(&mut self, kind: Kind, payload: &[u8]) {
        // A transport gives no message of a link that is not up.
        if self.up {
            let proven = kind == Kind::Handshake && *payload == self.right_proof();
            let answers = self.said.len();
            self.event(Event::Message { kind, payload }, proven);
            let answered = self.said[answers..].iter().any(|said| said.first() == Some(&PROOF));
            if answered {
                assert_eq!(payload.first(), Some(&HELLO), "only a hello is answered by a proof");
                assert!(self.theirs.is_none(), "a second hello was answered");
                self.theirs = Some(payload[1..].to_vec());
            }
        }
    }

    fn handle(&mut self, event: Event<'_>) {
        self.event(event, false);
    }

    fn event(&mut self, event: Event<'_>, proven: bool) {
        let mut out = Vec::new();
        self.link.handle(self.now, event, &mut out);
        assert!(!self.closed || out.is_empty(), "a closed link says nothing");
        for effect in out {
            assert!(!self.closed, "nothing comes after the end");
            match effect {
                Effect::Send { kind, payload } => self.sent(kind, payload),
                Effect::Established(peer) => {
                    assert!(proven && !self.established, "L1: established without a proof");
                    assert!(peer.shards > 0 && peer.window.messages > 0 && peer.window.units > 0);
                    assert!(peer.offer.slot_bytes >= SLOT_BYTES_MIN);
                    assert_ne!(peer.node, NodeId::new(1));
                    self.established = true;
                }
                Effect::Control(_) => assert!(self.established, "control before the proof"),
                Effect::Close(_) => self.closed = true,
            }
        }
    }

    fn sent(&mut self, kind: Kind, payload: Vec<u8>) {
        let early = matches!(kind, Kind::Handshake | Kind::Goodbye);
        assert!(early || self.established, "{kind:?} before the proof");
        if payload.first() == Some(&HELLO) {
            assert!(self.ours.is_empty(), "hello is said once");
            self.ours = payload[1..].to_vec();
        }
        self.said.push(payload);
    }

    fn check(&self) {
        assert_eq!(self.link.is_closed(), self.closed);
        assert_eq!(self.link.is_established(), self.established && !self.closed);
        let deadline = self.link.deadline();
        assert_eq!(deadline.is_some(), self.up && !self.closed, "a link that waits has an end");
        assert!(deadline.is_none_or(|deadline| deadline <= self.now + self.patience));
    }

    /// What a peer that knows the key says now, from the text of the machine's header.
    fn right_proof(&self) -> Vec<u8> {
        let Some(theirs) = &self.theirs else { return Vec::new() };
        let dialled = if self.accepted { theirs } else { &self.ours };
        let answered = if self.accepted { &self.ours } else { theirs };
        let mut mac = Hmac::<Sha256>::new_from_slice(&KEY).expect("any length is a key");
        mac.update(b"epicserver link proof 1");
        mac.update(&[u8::from(!self.accepted)]);
        for hello in [dialled, answered] {
            mac.update(&u64::try_from(hello.len()).expect("it is short").to_le_bytes());
            mac.update(hello);
        }
        [&[PROOF], &mac.finalize().into_bytes()[..]].concat()
    }
}

fn payload(effect: &Effect) -> Option<&[u8]> {
    match effect {
        Effect::Send { payload, .. } => Some(payload),
        Effect::Established(_) | Effect::Control(_) | Effect::Close(_) => None,
    }
}

/// With some bytes changed, and perhaps more or fewer of them.
fn changed(mut bytes: Vec<u8>, input: &mut Input<'_>) -> Vec<u8> {
    let choice = input.byte();
    for _ in 0..choice % 4 {
        let (at, by) = (usize::from(input.u16()), input.byte());
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= by;
        }
    }
    if choice & 0x10 != 0 {
        bytes.extend_from_slice(input.bytes());
    }
    if choice & 0x20 != 0 {
        bytes.truncate(usize::from(input.u16()) % (FABRIC_BYTES_MAX * 4));
    }
    bytes
}

fn kind(byte: u8) -> Kind {
    Kind::ALL[usize::from(byte) % Kind::ALL.len()]
}
