//! The link machine, as lists of events and effects.

use epicserver_wire::MethodId;
use proptest::prelude::*;

use super::*;

mod layout;

type Said = Vec<(Kind, Vec<u8>)>;

/// Where the number of the node begins in a hello message, and the nonce, if the fabric's name has four
/// bytes: what it is, magic, versions, and the heads of fields lie before.
const NODE_AT: usize = 1 + 4 + 4 + 4;
const NONCE_AT: usize = NODE_AT + 8 + 4 + 4 + 4;

fn config(node: u64, key: u8) -> Config {
    Config {
        fabric: "test".to_owned(),
        key: FabricKey([key; 32]),
        node: NodeId::new(node),
        shards: 2,
        window: Window::DEFAULT,
        offer: Offer::default(),
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
        Effect::Established(_) | Effect::Control(_) | Effect::Close(_) => None,
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
        Effect::Send { .. } | Effect::Established(_) | Effect::Control(_) => None,
    })
}

fn established() -> [Link; 2] {
    let [(mut a, hello_a), (mut b, hello_b)] = greet(config(1, 7), config(2, 7));
    let proof_a = said(&hear(&mut a, &hello_b));
    let proof_b = said(&hear(&mut b, &hello_a));
    let peer = |node| Peer {
        node: NodeId::new(node),
        shards: 2,
        window: Window::DEFAULT,
        offer: Offer::default(),
    };
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

/// `a` refuses `hello_b` for this reason, and says so to `b`, whose hello it is.
fn refuses((mut a, mut b): (Link, Link), hello_b: &Said, why: Refusal) {
    let refused = hear(&mut a, hello_b);
    assert_eq!(closed(&refused), Some(Closed::Refused(why)));
    assert!(a.is_closed() && a.deadline().is_none());
    let told = hear(&mut b, &said(&refused));
    assert_eq!(told, [Effect::Close(Closed::RefusedThere(why))]);
}

#[test]
fn nodes_of_different_fabrics_refuse_each_other_and_say_so() {
    let other = Config { fabric: "other".to_owned(), ..config(2, 7) };
    let [(a, _), (b, hello_b)] = greet(config(1, 7), other);
    refuses((a, b), &hello_b, Refusal::Fabric);
}

#[test]
fn a_node_that_reaches_itself_lets_go_and_says_so() {
    let [(a, _), (b, hello_b)] = greet(config(1, 7), config(1, 7));
    refuses((a, b), &hello_b, Refusal::Itself);
}

#[test]
fn a_peer_that_is_linked_already_is_refused_before_anything_is_proved_to_it() {
    let [(mut a, _), (b, hello_b)] = greet(config(1, 7), config(2, 7));
    a.refuse_linked(vec![NodeId::new(3), NodeId::new(2)]);
    refuses((a, b), &hello_b, Refusal::Duplicate);
    let [(mut a, _), (_, hello_b)] = greet(config(1, 7), config(2, 7));
    a.refuse_linked(vec![NodeId::new(3)]);
    assert_eq!(closed(&hear(&mut a, &hello_b)), None);
}

#[test]
fn a_node_of_a_later_protocol_alone_is_refused_and_told() {
    let [(a, _), (b, mut hello_b)] = greet(config(1, 7), config(2, 7));
    hello_b[0].1[5] = 9;
    hello_b[0].1[7] = 9;
    refuses((a, b), &hello_b, Refusal::Version);
}

#[test]
fn a_node_that_also_speaks_a_later_protocol_is_welcome() {
    let [(mut a, _), (_, mut hello_b)] = greet(config(1, 7), config(2, 7));
    hello_b[0].1[7] = 9;
    assert_eq!(closed(&hear(&mut a, &hello_b)), None);
}

#[test]
fn a_field_that_only_later_versions_know_is_passed_over() {
    let [(mut a, _), (_, mut hello_b)] = greet(config(1, 7), config(2, 7));
    hello_b[0].1.extend([0xff, 0x7f, 2, 0, 1, 2]);
    let heard = hear(&mut a, &hello_b);
    assert_eq!(closed(&heard), None);
    assert_eq!(heard.len(), 1);
}

#[test]
fn a_field_that_must_be_known_and_is_not_is_refused_as_another_version() {
    let [(a, _), (b, mut hello_b)] = greet(config(1, 7), config(2, 7));
    hello_b[0].1.extend([0xff, 0xff, 2, 0, 1, 2]);
    refuses((a, b), &hello_b, Refusal::Version);
}

#[test]
fn a_link_that_is_not_wanted_after_all_is_refused_and_the_peer_told() {
    let [mut a, mut b] = established();
    let refused = handle(&mut a, at(0), Event::Refuse(Refusal::Duplicate));
    assert_eq!(closed(&refused), Some(Closed::Refused(Refusal::Duplicate)));
    let told = hear(&mut b, &said(&refused));
    assert_eq!(closed(&told), Some(Closed::RefusedThere(Refusal::Duplicate)));
}

#[test]
fn a_refusal_of_a_later_version_ends_the_link_under_its_number() {
    let [(mut a, _), _] = greet(config(1, 7), config(2, 7));
    let told = hear(&mut a, &[(Kind::Handshake, vec![REFUSE, 200])]);
    assert_eq!(told, [Effect::Close(Closed::RefusedFor(200))]);
}

#[test]
fn each_refusal_has_a_number_of_its_own() {
    for refusal in Refusal::ALL {
        assert_eq!(Refusal::of(refusal as u8), Some(refusal));
    }
    assert_eq!(Refusal::of(0), None);
}

#[test]
fn what_a_peer_offers_is_told_once_it_is_believed() {
    let schema = Schema { method: MethodId::from_u32(5), hash: 6 };
    let offer = Offer {
        slot_bytes: 32 << 10,
        features: 5,
        host: Some(HostId([3; 16])),
        schemas: Schemas::of([schema]),
    };
    let [(mut a, hello_a), (mut b, hello_b)] =
        greet(config(1, 7), Config { offer: offer.clone(), ..config(2, 7) });
    hear(&mut a, &hello_b);
    let proof = said(&hear(&mut b, &hello_a));
    let heard = hear(&mut a, &proof);
    let [Effect::Established(peer)] = &heard[..] else { unreachable!("{heard:?}") };
    assert_eq!(peer.offer, offer);
}

#[test]
fn l2_a_proof_that_is_sent_back_proves_nothing() {
    let [(mut a, hello_a), _] = greet(config(1, 7), config(2, 7));
    // An attacker without the key mirrors all that it hears, under another node's name.
    let mut mirrored = hello_a;
    mirrored[0].1[NODE_AT] = 2;
    mirrored[0].1[NONCE_AT] ^= 1;
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
fn l1_the_order_in_which_both_ends_hear_each_other_does_not_matter() {
    // The accepting end hears the hello and the proof together.
    let [(mut a, mut said_a), (mut b, hello_b)] = greet(config(1, 7), config(2, 7));
    said_a.extend(said(&hear(&mut a, &hello_b)));
    let said_b = said(&hear(&mut b, &said_a));
    assert!(b.is_established());
    hear(&mut a, &said_b);
    assert!(a.is_established());
}

#[test]
fn l1_nothing_but_a_handshake_is_listened_to_before_the_proof() {
    let kinds =
        [Kind::Ping, Kind::Pong, Kind::Control, Kind::Call, Kind::Tell, Kind::Reply, Kind::Credit];
    for kind in kinds {
        for greeted in [false, true] {
            let [(mut a, _), (_, hello_b)] = greet(config(1, 7), config(2, 7));
            if greeted {
                hear(&mut a, &hello_b);
            }
            let heard = hear(&mut a, &[(kind, Vec::new())]);
            assert!(matches!(heard[..], [Effect::Close(Closed::Violation(_))]), "{kind:?}");
        }
    }
}

#[test]
fn l1_a_proof_before_the_hello_and_one_after_the_proof_break_the_protocol() {
    let [(mut a, hello_a), (mut b, _)] = greet(config(1, 7), config(2, 7));
    let proof = said(&hear(&mut b, &hello_a));
    assert!(matches!(closed(&hear(&mut a, &proof)), Some(Closed::Violation(_))));
    let [mut a, _] = established();
    assert!(matches!(closed(&hear(&mut a, &proof)), Some(Closed::Violation(_))));
}

#[test]
fn l2_a_peer_that_uses_this_ends_nonce_breaks_the_protocol() {
    let [(mut a, mut hello_a), _] = greet(config(1, 7), config(2, 7));
    hello_a[0].1[NODE_AT] = 2;
    assert!(matches!(closed(&hear(&mut a, &hello_a)), Some(Closed::Violation(_))));
}

#[test]
fn l2_two_ends_that_both_think_they_dialled_do_not_believe_each_other() {
    let [mut a, mut b] = [1, 2].map(|node| {
        let mut link = Link::new(config(node, 7), false, [u8::try_from(node).unwrap(); 32], at(0));
        let hello = said(&handle(&mut link, at(0), Event::Up));
        (link, hello)
    });
    let proof_b = said(&hear(&mut b.0, &a.1));
    hear(&mut a.0, &b.1);
    assert_eq!(closed(&hear(&mut a.0, &proof_b)), Some(Closed::Refused(Refusal::Key)));
}

#[test]
fn what_comes_after_the_end_of_a_link_is_ignored() {
    let [mut a, _] = established();
    handle(&mut a, at(0), Event::Close);
    assert_eq!(hear(&mut a, &[(Kind::Ping, Vec::new())]), []);
    assert_eq!(handle(&mut a, at(9_000), Event::Time), []);
    assert_eq!(handle(&mut a, at(9_000), Event::Close), []);
}

#[test]
fn a_peer_that_says_goodbye_is_leaving() {
    let [mut a, mut b] = established();
    let goodbye = said(&handle(&mut a, at(0), Event::Close));
    assert_eq!(hear(&mut b, &goodbye), [Effect::Close(Closed::There)]);
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
fn l3_a_peer_that_speaks_of_other_things_is_not_asked() {
    let [mut a, _] = established();
    a.heard(at(900));
    assert_eq!(handle(&mut a, at(1_000), Event::Time), []);
    assert_eq!(a.deadline(), Some(at(1_900)));
}

#[test]
fn l3_an_end_that_looks_late_still_gives_its_peer_time_to_answer() {
    let [mut a, _] = established();
    // This process was stopped for a minute: nothing was heard, but nothing was asked either.
    let asked = handle(&mut a, at(60_000), Event::Time);
    assert_eq!(asked, [Effect::Send { kind: Kind::Ping, payload: Vec::new() }]);
    assert_eq!(a.deadline(), Some(at(64_000)));
    assert_eq!(handle(&mut a, at(60_000), Event::Time), []);
}

#[test]
fn what_comes_before_the_proof_does_not_prolong_the_handshake() {
    let [(mut a, _), (_, hello_b)] = greet(config(1, 7), config(2, 7));
    let (kind, payload) = &hello_b[0];
    handle(&mut a, at(4_000), Event::Message { kind: *kind, payload });
    a.heard(at(4_000));
    assert_eq!(a.deadline(), Some(at(5_000)));
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

/// Two ends that exchange all they say, in one order or the other; gives how each ended or stands.
fn converse(ends: [(Link, Said); 2], second_first: bool) -> [Link; 2] {
    let [(mut a, mut from_a), (mut b, mut from_b)] = ends;
    while !from_a.is_empty() || !from_b.is_empty() {
        let (to_b, to_a) = (std::mem::take(&mut from_a), std::mem::take(&mut from_b));
        if second_first {
            from_b.extend(said(&hear(&mut b, &to_b)));
            from_a.extend(said(&hear(&mut a, &to_a)));
        } else {
            from_a.extend(said(&hear(&mut a, &to_a)));
            from_b.extend(said(&hear(&mut b, &to_b)));
        }
    }
    [a, b]
}

#[test]
fn of_two_simultaneous_dials_both_ends_keep_the_same_link() {
    for (one, other) in [(1, 2), (2, 1)] {
        let dials = [(one, other), (other, one)]
            .map(|(from, to)| converse(greet(config(from, 7), config(to, 7)), from < to));
        let kept = dials.map(|[dialler, acceptor]| {
            assert!(dialler.is_established() && acceptor.is_established());
            let (from, to) = (dialler.config.node, acceptor.config.node);
            let both = [keeps(from, to, dialler.accepted()), keeps(to, from, acceptor.accepted())];
            assert_eq!(both[0], both[1], "both ends decide alike");
            both[0]
        });
        assert_ne!(kept[0], kept[1], "one of the two links is kept");
    }
}

proptest! {
    #[test]
    fn l1_a_peer_without_the_key_says_what_it_likes_and_is_not_believed(
        messages in prop::collection::vec((0_u8..6, prop::collection::vec(any::<u8>(), 0..80)), 0..8),
        greeted in any::<bool>(),
    ) {
        let [(mut a, _), (_, hello_b)] = greet(config(1, 7), config(2, 8));
        if greeted {
            hear(&mut a, &hello_b);
        }
        for (what, mut payload) in messages {
            payload.insert(0, what);
            let heard = hear(&mut a, &[(Kind::Handshake, payload)]);
            prop_assert!(!heard.iter().any(|effect| matches!(effect, Effect::Established(_))));
        }
        prop_assert!(!a.is_established());
    }

    #[test]
    fn l4_every_hello_that_is_written_is_read_as_it_was(
        node in any::<u64>(),
        fabric in "[a-z]{1,64}",
        (shards, messages, units) in (1_u16.., 1_u16.., 1_u16..),
        (slot_bytes, features) in (SLOT_BYTES_MIN.., any::<u64>()),
        host in prop::option::of(any::<[u8; 16]>()),
        listed in prop::collection::vec((any::<u32>(), any::<u64>()), 0..40),
    ) {
        let schemas = listed.into_iter().map(|(method, hash)| {
            Schema { method: MethodId::from_u32(method), hash }
        });
        let offer =
            Offer { slot_bytes, features, host: host.map(HostId), schemas: Schemas::of(schemas) };
        let window = Window { messages, units };
        let node = NodeId::new(node);
        let hello = Hello::of(&Config { fabric, node, shards, window, offer, ..config(1, 7) }, [9; 32]);
        let written = hello.write();
        prop_assert!(written.len() <= HELLO_BYTES_MAX);
        prop_assert_eq!(Hello::read(&written), Ok(hello));
        // No cut leaves a hello, unless it is cut between two fields that need not be there.
        for len in 0..written.len() {
            let cut = Hello::read(&written[..len]);
            prop_assert!(cut.is_err() || len > NONCE_AT + 40);
        }
    }

    #[test]
    fn reading_arbitrary_bytes_as_a_hello_never_panics(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        sound in any::<bool>(),
    ) {
        let start: &[u8] = if sound { b"EPIC\x01\x00\x01\x00" } else { &[] };
        drop(Hello::read(&[start, &bytes].concat()));
    }
}

#[test]
fn what_control_threads_say_is_passed_on_once_the_link_is_established() {
    let [mut a, _] = established();
    let said = hear(&mut a, &[(Kind::Control, b"hello".to_vec())]);
    assert_eq!(said, [Effect::Control(b"hello".to_vec())]);
}
