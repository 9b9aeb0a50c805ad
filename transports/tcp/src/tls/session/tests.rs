//! Two sessions without a network between them.

use super::*;
use crate::tls::tests::ends::{AnySlots, Authority, message};
use proptest::prelude::*;

/// A session, what its peer has still to hear, and what it has heard.
struct Half {
    session: Session,
    work: Work,
    plain: Vec<u8>,
    ups: usize,
    goodbyes: usize,
}

impl Half {
    fn of(session: Session) -> Self {
        Self { session, work: Work::default(), plain: Vec::new(), ups: 0, goodbyes: 0 }
    }

    fn hear(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        let outcome = self.session.hear(bytes, &mut self.work);
        for heard in self.work.heard.drain(..) {
            match heard {
                Heard::Up => self.ups += 1,
                Heard::Plain(frame) => {
                    assert_eq!(self.ups, 1, "TL1: up before the first message");
                    self.plain.extend_from_slice(frame.bytes());
                }
                Heard::Goodbye => self.goodbyes += 1,
            }
        }
        outcome
    }

    /// All records that it has for its peer.
    fn records(&mut self) -> Vec<u8> {
        let mut records = Vec::new();
        self.session.seal(&mut self.work).unwrap();
        while let Some(sealed) = self.session.next_sealed() {
            records.extend_from_slice(sealed.bytes());
            drop(sealed);
            self.session.seal(&mut self.work).unwrap();
        }
        records
    }

    fn say(&mut self, slots: &AnySlots, fill: u8, len: usize) -> Vec<u8> {
        let parcel = message(slots, fill, len).unwrap();
        let plain = [parcel.head.bytes(), parcel.body.as_ref().map_or(&[][..], Frame::bytes)];
        let plain = plain.concat();
        assert!(self.session.give(parcel).is_ok(), "TS3: the one before is sealed");
        plain
    }

    /// Has it change its keys, as it does by itself after very many records.
    fn change_keys(&mut self) {
        let state = match &mut self.session.side {
            Side::Client(side) => side.process_tls_records(&mut []).state.map(refresh),
            Side::Server(side) => side.process_tls_records(&mut []).state.map(refresh),
        };
        state.unwrap();
    }
}

fn refresh<D>(state: ConnectionState<'_, '_, D>) {
    let ConnectionState::WriteTraffic(traffic) = state else { panic!("it can send") };
    traffic.refresh_traffic_keys().unwrap();
}

/// Two sessions, the one that dialled first.
fn pair() -> [Half; 2] {
    let tls = Authority::new().member();
    let address = std::net::Ipv4Addr::LOCALHOST.into();
    [Half::of(tls.connect(address).unwrap()), Half::of(tls.accept().unwrap())]
}

/// Has both hear each other, in pieces of `sizes`, until neither has anything to say.
fn talk(halves: &mut [Half; 2], sizes: &[usize]) {
    let mut sizes = sizes.iter().cycle();
    loop {
        let said = [halves[0].records(), halves[1].records()];
        if said.iter().all(Vec::is_empty) {
            return;
        }
        for (half, said) in halves.iter_mut().rev().zip(&said) {
            let mut rest = &said[..];
            while !rest.is_empty() {
                let (piece, after) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
                half.hear(piece).unwrap();
                rest = after;
            }
        }
    }
}

fn up() -> ([Half; 2], AnySlots) {
    let mut halves = pair();
    halves[0].hear(&[]).unwrap();
    talk(&mut halves, &[usize::MAX]);
    assert!(halves.iter().all(|half| half.ups == 1 && half.session.takes()));
    (halves, HeapPool::new(8, 64 << 10))
}

#[test]
fn ts1_messages_on_both_sides_of_a_change_of_keys_arrive_in_order() {
    let (mut halves, slots) = up();
    let mut said = Vec::new();
    // Both about one record that is waiting in a slot, and in the answers of the peer.
    for round in 0..6_u8 {
        said.extend(halves[0].say(&slots, round, 20_000));
        let Half { session, work, .. } = &mut halves[0];
        session.seal(work).unwrap();
        halves[0].change_keys();
        said.extend(halves[0].say(&slots, round, 100));
        halves[1].say(&slots, round, 100);
        talk(&mut halves, &[70_000]);
    }
    assert!(halves[1].plain == said);
}

#[test]
fn ts2_what_is_kept_of_records_is_less_than_one() {
    let (mut halves, slots) = up();
    halves[0].say(&slots, 1, 60_000);
    let records = halves[0].records();
    for byte in records {
        halves[1].hear(&[byte]).unwrap();
        assert!(halves[1].session.begun.len() < RECORD + RECORD_EXTRA);
    }
    assert!(halves[1].session.begun.is_empty());
}

#[test]
fn ts2_a_greeting_that_never_ends_is_given_up() {
    let tls = Authority::new().member();
    let mut half = Half::of(tls.accept().unwrap());
    // A greeting that says it has 65,535 bytes, in records of 16 KiB; another one begins before it ends.
    let mut record = vec![0x16, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff];
    record.resize(5 + RECORD, 0);
    let trouble = (0..16).find_map(|at| {
        if at == 1 {
            record[5..9].fill(0);
        }
        half.hear(&record).err()
    });
    assert!(trouble.is_some(), "it is kept for ever");
    assert!(half.session.begun.is_empty());
    half.hear(&record).unwrap();
    assert!(half.session.begun.is_empty(), "nothing is kept after that");
}

#[test]
fn ts3_while_a_parcel_waits_for_slots_no_other_is_taken_and_none_is_lost() {
    let (mut halves, slots) = up();
    let mut said = halves[0].say(&slots, 7, 20 << 20);
    let Half { session, work, .. } = &mut halves[0];
    session.seal(work).unwrap();
    assert!(!session.takes());
    assert_eq!(session.lent(), SEALED_MAX);
    let refused = session.give(message(&slots, 1, 1).unwrap());
    assert!(refused.is_err());
    talk(&mut halves, &[100_000]);
    said.extend(halves[0].say(&slots, 8, 10));
    talk(&mut halves, &[100_000]);
    assert!(halves[1].plain == said);
    assert_eq!(halves[0].session.lent(), 0);
}

#[test]
fn a_session_that_is_closed_seals_what_it_has_before_it_says_goodbye() {
    let (mut halves, slots) = up();
    let said = halves[0].say(&slots, 7, 20 << 20);
    let Half { session, work, .. } = &mut halves[0];
    session.seal(work).unwrap();
    assert!(!session.close(work), "a parcel still waits");
    talk(&mut halves, &[100_000]);
    assert_eq!(halves[1].goodbyes, 0);
    let Half { session, work, .. } = &mut halves[0];
    assert!(session.close(work));
    assert!(session.close(work), "once is enough");
    talk(&mut halves, &[100_000]);
    assert_eq!(halves[1].goodbyes, 1);
    assert!(halves[1].plain == said);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn t1_however_a_stream_of_records_is_cut_its_messages_come_out_whole(
        lens in prop::collection::vec(0_usize..40_000, 1..8),
        cuts in prop::collection::vec(1_usize..20_000, 1..20),
    ) {
        let mut halves = pair();
        halves[0].hear(&[]).unwrap();
        talk(&mut halves, &cuts);
        let slots: AnySlots = HeapPool::new(8, 64 << 10);
        let mut said = Vec::new();
        for (at, len) in lens.iter().enumerate() {
            said.extend(halves[0].say(&slots, u8::try_from(at).unwrap(), *len));
            let Half { session, work, .. } = &mut halves[0];
            session.seal(work).unwrap();
        }
        talk(&mut halves, &cuts);
        prop_assert!(halves[1].plain == said);
    }

    #[test]
    fn hostile_bytes_in_place_of_a_handshake_end_it_or_wait_for_more(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        at in 0_usize..400,
    ) {
        let mut halves = pair();
        halves[0].hear(&[]).unwrap();
        let mut greeting = halves[0].records();
        let at = at.min(greeting.len());
        greeting.truncate(at);
        greeting.extend(bytes);
        // What matters is that it returns.
        drop(halves[1].hear(&greeting));
        prop_assert_eq!(halves[1].ups, 0);
    }
}
