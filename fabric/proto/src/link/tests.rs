//! The link machine, as lists of events and effects.

use super::*;

type Said = Vec<(Kind, Vec<u8>)>;

fn config(node: u64, key: u8) -> Config {
    Config {
        fabric: "test".to_owned(),
        key: FabricKey([key; 32]),
        node: NodeId::new(node),
        shards: 2,
        window: Window::DEFAULT,
        handshake: HANDSHAKE,
        keep_alive: KEEP_ALIVE,
        silent: SILENT,
    }
}

fn at(ms: u64) -> Time {
    Time::ZERO + Duration::from_millis(ms)
}

fn handle(link: &mut Link, now: Time, event: Event<'_>) -> Vec<Effect> {
    let mut out = Vec::new();
    link.handle(now, event, &mut out);
    out
}

fn said(effects: &[Effect]) -> Vec<(Kind, Vec<u8>)> {
    let said = effects.iter().filter_map(|effect| match effect {
        Effect::Send { kind, payload } => Some((*kind, payload.clone())),
        Effect::Established(_) | Effect::Close(_) => None,
    });
    said.collect()
}

fn hear(link: &mut Link, said: &[(Kind, Vec<u8>)]) -> Vec<Effect> {
    let heard = said
        .iter()
        .map(|(kind, payload)| handle(link, at(0), Event::Message { kind: *kind, payload }));
    heard.collect::<Vec<_>>().concat()
}

/// The dialling end and the accepting one, up, with what each has said.
fn greet(dialler: Config, acceptor: Config) -> [(Link, Said); 2] {
    [(dialler, false), (acceptor, true)].map(|(config, accepted)| {
        let nonce = [config.node.as_u64().to_le_bytes()[0]; 32];
        let mut link = Link::new(config, accepted, nonce, at(0));
        let hello = said(&handle(&mut link, at(0), Event::Up));
        (link, hello)
    })
}

fn closed(effects: &[Effect]) -> Option<Closed> {
    effects.iter().find_map(|effect| match effect {
        Effect::Close(why) => Some(*why),
        Effect::Send { .. } | Effect::Established(_) => None,
    })
}

fn established() -> [Link; 2] {
    let [(mut a, hello_a), (mut b, hello_b)] = greet(config(1, 7), config(2, 7));
    let proof_a = said(&hear(&mut a, &hello_b));
    let proof_b = said(&hear(&mut b, &hello_a));
    let peer = |node| Peer { node: NodeId::new(node), shards: 2, window: Window::DEFAULT };
    assert_eq!(hear(&mut a, &proof_b), [Effect::Established(peer(2))]);
    assert_eq!(hear(&mut b, &proof_a), [Effect::Established(peer(1))]);
    [a, b]
}

#[test]
fn l1_two_nodes_with_one_key_establish_a_link() {
    let [a, b] = established();
    assert!(a.is_established() && b.is_established());
}

#[test]
fn l1_nodes_with_different_keys_refuse_each_other_and_say_so() {
    let [(mut a, hello_a), (mut b, hello_b)] = greet(config(1, 7), config(2, 8));
    let proof_a = said(&hear(&mut a, &hello_b));
    hear(&mut b, &hello_a);
    let refused = hear(&mut b, &proof_a);
    assert_eq!(closed(&refused), Some(Closed::Refused(Refusal::Key)));
    let told = hear(&mut a, &said(&refused));
    assert_eq!(closed(&told), Some(Closed::RefusedThere(Refusal::Key)));
}

#[test]
fn nodes_of_different_fabrics_refuse_each_other() {
    let other = Config { fabric: "other".to_owned(), ..config(2, 7) };
    let [(mut a, _), (_, hello_b)] = greet(config(1, 7), other);
    assert_eq!(closed(&hear(&mut a, &hello_b)), Some(Closed::Refused(Refusal::Fabric)));
}

#[test]
fn a_node_that_reaches_itself_lets_go() {
    let [(mut a, _), (_, hello_b)] = greet(config(1, 7), config(1, 7));
    assert_eq!(closed(&hear(&mut a, &hello_b)), Some(Closed::Refused(Refusal::Itself)));
}

#[test]
fn a_node_of_a_later_protocol_alone_is_refused() {
    let [(mut a, _), (_, mut hello_b)] = greet(config(1, 7), config(2, 7));
    hello_b[0].1[5] = 9;
    hello_b[0].1[7] = 9;
    assert_eq!(closed(&hear(&mut a, &hello_b)), Some(Closed::Refused(Refusal::Version)));
}

#[test]
fn l2_a_proof_that_is_sent_back_proves_nothing() {
    let [(mut a, hello_a), _] = greet(config(1, 7), config(2, 7));
    // An attacker without the key mirrors all that it hears, under another node's name.
    let mut mirrored = hello_a;
    mirrored[0].1[9] = 2;
    let proof = said(&hear(&mut a, &mirrored));
    assert_eq!(closed(&hear(&mut a, &proof)), Some(Closed::Refused(Refusal::Key)));
}

#[test]
fn l2_a_proof_of_another_link_proves_nothing() {
    let [(mut a, hello_a), (mut b, hello_b)] = greet(config(1, 7), config(2, 7));
    hear(&mut a, &hello_b);
    let old = said(&hear(&mut b, &hello_a));
    let mut later = Link::new(config(1, 7), false, [99; 32], at(0));
    handle(&mut later, at(0), Event::Up);
    hear(&mut later, &hello_b);
    assert_eq!(closed(&hear(&mut later, &old)), Some(Closed::Refused(Refusal::Key)));
}

#[test]
fn l1_no_flipped_bit_and_no_cut_of_a_handshake_establishes_a_link() {
    let [(_, hello_a), (mut b, hello_b)] = greet(config(1, 7), config(2, 7));
    let proof_b = said(&hear(&mut b, &hello_a));
    let try_with = |hello: &[(Kind, Vec<u8>)], proof: &[(Kind, Vec<u8>)]| {
        let [(mut a, _), _] = greet(config(1, 7), config(2, 7));
        let heard = [hear(&mut a, hello), hear(&mut a, proof)].concat();
        assert!(!a.is_established());
        assert!(!heard.iter().any(|effect| matches!(effect, Effect::Established(_))));
    };
    for bit in 0..proof_b[0].1.len() * 8 {
        let mut flipped = proof_b.clone();
        flipped[0].1[bit / 8] ^= 1 << (bit % 8);
        try_with(&hello_b, &flipped);
    }
    for bit in 0..hello_b[0].1.len() * 8 {
        let mut flipped = hello_b.clone();
        flipped[0].1[bit / 8] ^= 1 << (bit % 8);
        try_with(&flipped, &proof_b);
    }
    for len in 0..hello_b[0].1.len() {
        try_with(&[(Kind::Handshake, hello_b[0].1[..len].to_vec())], &proof_b);
    }
    for len in 0..proof_b[0].1.len() {
        try_with(&hello_b, &[(Kind::Handshake, proof_b[0].1[..len].to_vec())]);
    }
}

#[test]
fn a_second_hello_breaks_the_protocol() {
    let [(mut a, _), (_, hello_b)] = greet(config(1, 7), config(2, 7));
    hear(&mut a, &hello_b);
    assert!(matches!(closed(&hear(&mut a, &hello_b)), Some(Closed::Violation(_))));
}

#[test]
fn l3_a_still_peer_is_asked_and_then_given_up() {
    let [mut a, _] = established();
    assert_eq!(a.deadline(), Some(at(1_000)));
    let asked = handle(&mut a, at(1_000), Event::Time);
    assert_eq!(asked, [Effect::Send { kind: Kind::Ping, payload: Vec::new() }]);
    assert_eq!(a.deadline(), Some(at(5_000)));
    let given_up = handle(&mut a, at(5_000), Event::Time);
    assert_eq!(closed(&given_up), Some(Closed::Silent(SILENT)));
    assert_eq!(a.deadline(), None);
}

#[test]
fn l3_a_peer_that_answers_is_kept() {
    let [mut a, mut b] = established();
    let ping = said(&handle(&mut a, at(1_000), Event::Time));
    let pong = said(&hear(&mut b, &ping));
    let (kind, payload) = &pong[0];
    handle(&mut a, at(1_100), Event::Message { kind: *kind, payload });
    assert_eq!(a.deadline(), Some(at(2_100)));
}

#[test]
fn a_handshake_that_does_not_end_is_given_up() {
    let [(mut a, _), _] = greet(config(1, 7), config(2, 7));
    assert_eq!(a.deadline(), Some(at(5_000)));
    let given_up = handle(&mut a, at(5_000), Event::Time);
    assert_eq!(closed(&given_up), Some(Closed::Silent(HANDSHAKE)));
}

#[test]
fn of_two_links_both_ends_keep_the_same_one() {
    let (low, high) = (NodeId::new(1), NodeId::new(2));
    // The one that the lower node dialled: it has not accepted it, the higher one has.
    assert!(keeps(low, high, false) && keeps(high, low, true));
    assert!(!keeps(low, high, true) && !keeps(high, low, false));
}
