//! The handshake: hello, proof and refusals, as a real link says them.

use std::time::Duration;

use epicserver_proto::link::{
    Config, Effect, Event, FabricKey, HostId, Link, Offer, Refusal, Schema, Schemas, VERSION,
};
use epicserver_proto::session::Window;
use epicserver_wire::header::Kind;
use epicserver_wire::{MethodId, NodeId, Time};

use crate::page::{Page, hex};

pub(crate) fn render(page: &mut Page) {
    page.section("the handshake: messages of the kind Handshake");
    page.line("version of the protocol", VERSION);
    let (mut dialler, mut acceptor) = (end(1, full(), false), end(2, Offer::default(), true));
    let (first, second) = (said(&mut dialler, Event::Up), said(&mut acceptor, Event::Up));
    hello(page, "hello that says all", &first);
    hello(page, "hello that says what it must", &second);
    page.text(
        "proof of the dialling end of these two, and of the accepting one, under the key 07 × 32",
    );
    for (link, heard) in [(&mut dialler, &second), (&mut acceptor, &first)] {
        let proof = said(link, Event::Message { kind: Kind::Handshake, payload: heard });
        page.text(&format!("    {} {}", hex(&proof[..1]), hex(&proof[1..])));
    }
    page.text("refusals");
    for refusal in Refusal::ALL {
        let mut link = end(1, Offer::default(), false);
        said(&mut link, Event::Up);
        let refused = said(&mut link, Event::Refuse(refusal));
        page.line(&format!("    {}", hex(&refused)), format!("{refusal:?}"));
    }
}

fn full() -> Offer {
    let schema = |method, hash| Schema { method: MethodId::from_u32(method), hash };
    let listed = [schema(0x0403_0201, 0x1817_1615_1413_1211), schema(0x0504_0302, 1)];
    Offer {
        slot_bytes: 0x0001_0000,
        features: 0x0807_0605_0403_0201,
        host: Some(HostId([0xcc; 16])),
        schemas: Schemas::of(listed),
    }
}

fn end(node: u8, offer: Offer, accepted: bool) -> Link {
    let config = Config {
        fabric: "test".to_owned(),
        key: FabricKey([7; 32]),
        node: NodeId::new(0x1112_1314_1516_1700 + u64::from(node)),
        shards: 0x0201,
        window: Window { messages: 0x0403, units: 0x0605 },
        offer,
        handshake: Duration::from_secs(5),
        keep_alive: Duration::from_secs(1),
        silent: Duration::from_secs(5),
    };
    Link::new(config, accepted, [0x20 + node; 32], Time::ZERO)
}

/// The first thing that the link says.
fn said(link: &mut Link, event: Event<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    link.handle(Time::ZERO, event, &mut out);
    let said = out.into_iter().find_map(|effect| match effect {
        Effect::Send { kind, payload } => {
            assert_eq!(kind, Kind::Handshake, "the handshake is one kind");
            Some(payload)
        }
        Effect::Established(_) | Effect::Control(_) | Effect::Close(_) => None,
    });
    said.unwrap_or_default()
}

/// What it is, magic, lowest and highest version; then tag, bytes and value of each field.
fn hello(page: &mut Page, name: &str, bytes: &[u8]) {
    page.line(name, format!("{} bytes", bytes.len()));
    let (head, mut rest) = bytes.split_at(9);
    let parts = [&head[..1], &head[1..5], &head[5..7], &head[7..]].map(hex);
    page.text(&format!("    {}", parts.join(" ")));
    while let Some((head, tail)) = rest.split_first_chunk::<4>() {
        let len = usize::from(u16::from_le_bytes([head[2], head[3]]));
        let (value, tail) = tail.split_at(len);
        page.text(&format!("    {} {} {}", hex(&head[..2]), hex(&head[2..]), hex(value)));
        rest = tail;
    }
    assert!(rest.is_empty(), "fields fill the hello");
}
