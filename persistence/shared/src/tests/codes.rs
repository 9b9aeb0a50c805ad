//! What crosses: there and back, and bytes that are none of it.

use epicserver_store::conformance::{Writing, barrel, owner};
use epicserver_store::limits::PAGE_MAX;
use epicserver_store::{
    Answer, Corrupt, Envelope, Flaw, Found, Name, Op, Outcome, Owner, Range, Record, Save, Slot,
    Trouble,
};
use epicserver_wire::{ClassId, TypeId};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::bytes::Malformed;
use crate::frame::{Frame, Hello, Refusal, VERSION};
use crate::limits::TEXT_BYTES_MAX;

fn owners() -> impl Strategy<Value = Owner> {
    (any::<u64>(), any::<u64>()).prop_map(|(node, epoch)| owner(node, epoch))
}

fn slots() -> impl Strategy<Value = Slot> {
    (any::<u16>(), any::<u16>())
        .prop_map(|(class, index)| Slot { class: ClassId::from_u16(class), index })
}

fn names() -> impl Strategy<Value = Name> {
    prop_oneof![
        any::<u64>().prop_map(|key| Name::state(&barrel(key))),
        (any::<u64>(), any::<u64>(), vec(any::<u8>(), 0..30))
            .prop_map(|(key, due, label)| Name::reminder(&barrel(key), due, &label).unwrap()),
        (any::<u64>(), any::<u128>())
            .prop_map(|(key, request)| Name::answer(&barrel(key), request)),
        vec(any::<u8>(), 0..50).prop_map(|bytes| Name::at(&bytes)),
    ]
}

fn payloads() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..300)
}

fn records() -> impl Strategy<Value = Record> {
    (any::<u64>(), 0..u64::MAX, payloads())
        .prop_map(|(key, version, payload)| Writing::of(barrel(key), version).record(&payload))
}

fn saves() -> impl Strategy<Value = Save> {
    let rows = vec((any::<u128>(), option::of(payloads())), 0..4);
    (any::<u64>(), 0..u64::MAX, option::of(payloads()), rows, owners()).prop_map(
        |(key, version, state, rows, by)| {
            let mut writing = Writing::of(barrel(key), version).by(by);
            for (request, payload) in rows {
                let name = Name::answer(&barrel(key), request);
                writing = match payload {
                    Some(payload) => writing.with(&name, &payload),
                    None => writing.without(name),
                };
            }
            match state {
                Some(state) => writing.state(&state),
                None => writing.only_rows(),
            }
        },
    )
}

fn ranges() -> impl Strategy<Value = Range> {
    prop_oneof![
        Just(Range::All),
        any::<u32>().prop_map(|of| Range::Type(TypeId::from_u32(of))),
        (slots(), any::<u64>()).prop_map(|(slot, until_ms)| Range::Due { slot, until_ms }),
        any::<u64>().prop_map(|key| Range::Answers(barrel(key))),
        any::<u16>().prop_map(|class| Range::Next(ClassId::from_u16(class))),
    ]
}

fn ops() -> impl Strategy<Value = Op> {
    let limits = 0..2 * PAGE_MAX;
    prop_oneof![
        (owners(), vec(slots(), 0..9)).prop_map(|(owner, slots)| Op::Claim { owner, slots }),
        (any::<u64>(), option::of(owners()))
            .prop_map(|(key, claim)| Op::Load { entity: barrel(key), claim }),
        vec(saves(), 0..5).prop_map(Op::Commit),
        (ranges(), option::of(names()), limits.clone())
            .prop_map(|(range, after, limit)| Op::Scan { range, after, limit }),
        any::<u64>().prop_map(|before_ms| Op::Purge { before_ms }),
        (option::of(names()), limits).prop_map(|(after, limit)| Op::Verify { after, limit }),
        "\\PC{0,40}".prop_map(|to| Op::Backup { to: to.into() }),
        "\\PC{0,40}".prop_map(|from| Op::Restore { from: from.into() }),
    ]
}

fn corrupts() -> impl Strategy<Value = Corrupt> {
    let flaws = prop_oneof![
        Just(Flaw::Short),
        Just(Flaw::Checksum),
        any::<u8>().prop_map(Flaw::Format),
        Just(Flaw::Parts),
        Just(Flaw::Misplaced),
        Just(Flaw::Beside),
        Just(Flaw::Order),
    ];
    (names(), flaws).prop_map(|(name, flaw)| Corrupt { name, flaw })
}

fn founds() -> impl Strategy<Value = Found> {
    let envelopes = (any::<(u8, u64, u32, u64, u64, bool)>(), owners()).prop_map(
        |((codec, layout, schema, version, written_ms, tombstone), owner)| Envelope {
            codec,
            layout,
            schema,
            owner,
            version,
            written_ms,
            tombstone,
        },
    );
    prop_oneof![
        Just(Found::Nothing),
        envelopes.prop_map(Found::Tombstone),
        records().prop_map(Found::State),
        owners().prop_map(Found::Fenced),
        corrupts().prop_map(Found::Corrupt),
    ]
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        Just(Outcome::Saved),
        option::of(owners()).prop_map(Outcome::Fenced),
        (any::<u64>(), option::of(owners()))
            .prop_map(|(found, by)| Outcome::Conflict { found, by }),
        corrupts().prop_map(Outcome::Corrupt),
    ]
}

fn answers() -> impl Strategy<Value = Answer> {
    let rows = vec(prop_oneof![records().prop_map(Ok), corrupts().prop_map(Err)], 0..6);
    prop_oneof![
        vec((slots(), owners()), 0..9).prop_map(|refused| Answer::Claimed { refused }),
        founds().prop_map(Answer::Loaded),
        vec(outcomes(), 0..9).prop_map(Answer::Committed),
        (rows, option::of(names())).prop_map(|(rows, next)| Answer::Scanned { rows, next }),
        (0..9999_usize, any::<bool>()).prop_map(|(count, more)| Answer::Purged { count, more }),
        (any::<u32>(), vec(corrupts(), 0..4), option::of(names())).prop_map(
            |(sound, corrupt, next)| Answer::Verified { sound: sound as usize, corrupt, next }
        ),
        (any::<u64>(), vec(corrupts(), 0..4))
            .prop_map(|(rows, corrupt)| Answer::BackedUp { rows, corrupt }),
        any::<u64>().prop_map(|rows| Answer::Restored { rows }),
    ]
}

fn troubles() -> impl Strategy<Value = Trouble> {
    (0..5_u8, "\\PC{0,60}").prop_map(|(kind, why)| match kind {
        0 => Trouble::Unavailable(why),
        1 => Trouble::Unknown(why),
        2 => Trouble::Full(why),
        3 => Trouble::Corrupt(why),
        _ => Trouble::Refused(why),
    })
}

fn frames() -> impl Strategy<Value = Frame> {
    let hello = |(beat_ms, fabric)| Frame::Hello(Hello { version: VERSION, beat_ms, fabric });
    prop_oneof![
        (any::<u32>(), "\\PC{0,40}").prop_map(hello),
        Just(Frame::Welcome),
        any::<u16>().prop_map(|version| Frame::Refuse(Refusal::Version(version))),
        "\\PC{0,40}".prop_map(|fabric| Frame::Refuse(Refusal::Fabric(fabric))),
        Just(Frame::Refuse(Refusal::Full)),
        Just(Frame::Beat),
        (any::<u64>(), ops()).prop_map(|(id, op)| Frame::Ask(id, op)),
        (any::<u64>(), answers()).prop_map(|(id, answer)| Frame::Done(id, Ok(answer))),
        (any::<u64>(), troubles()).prop_map(|(id, trouble)| Frame::Done(id, Err(trouble))),
        Just(Frame::Bye),
    ]
}

fn bytes_of(frame: &Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.push(&mut bytes);
    assert_eq!(bytes[..4], u32::try_from(bytes.len() - 4).unwrap().to_le_bytes());
    bytes.split_off(4)
}

proptest! {
    #[test]
    fn co1_what_was_put_is_taken_as_it_was(frame in frames()) {
        prop_assert_eq!(Frame::parse(&bytes_of(&frame)), Ok(frame));
    }

    #[test]
    fn fr1_a_frame_that_is_cut_or_too_long_is_refused(frame in frames(), at: prop::sample::Index) {
        let mut bytes = bytes_of(&frame);
        prop_assert!(Frame::parse(&bytes[..at.index(bytes.len())]).is_err());
        bytes.push(0);
        prop_assert_eq!(Frame::parse(&bytes), Err(Malformed("what follows the end")));
    }

    #[test]
    fn fr1_hostile_bytes_are_a_frame_or_are_refused(mut bytes: Vec<u8>, kind in 0..8_u8) {
        bytes.insert(0, kind);
        if let Ok(frame) = Frame::parse(&bytes) {
            let foreign = matches!(&frame, Frame::Hello(hello) if hello.version != VERSION);
            prop_assert!(foreign || bytes_of(&frame) == bytes);
        }
    }

    #[test]
    fn co2_a_changed_byte_is_never_a_record_that_was_not_written(
        record in records(), at: prop::sample::Index, change in 1..=255_u8,
    ) {
        let frame = Frame::Done(7, Ok(Answer::Loaded(Found::State(record.clone()))));
        let mut bytes = bytes_of(&frame);
        let index = at.index(bytes.len());
        bytes[index] ^= change;
        if let Ok(Frame::Done(_, Ok(Answer::Loaded(Found::State(taken))))) = Frame::parse(&bytes) {
            prop_assert_eq!(taken, record);
        }
    }
}

#[test]
fn by1_a_list_that_claims_to_be_long_costs_nothing() {
    let mut bytes = vec![5];
    bytes.extend([0; 8]);
    bytes.extend([1, 2, 255, 255, 255, 255]);
    assert_eq!(Frame::parse(&bytes), Err(Malformed("a list")));
}

#[test]
fn a_long_reason_is_cut_at_a_letter() {
    let why = format!("{}ü{}", "x".repeat(TEXT_BYTES_MAX - 1), "y".repeat(50));
    let frame = Frame::Done(1, Err(Trouble::Full(why)));
    let cut = "x".repeat(TEXT_BYTES_MAX - 1);
    assert_eq!(Frame::parse(&bytes_of(&frame)), Ok(Frame::Done(1, Err(Trouble::Full(cut)))));
}

#[test]
fn a_hello_of_another_version_is_understood_so_far() {
    let hello = Hello { version: VERSION, beat_ms: 5, fabric: "x".to_owned() };
    let mut bytes = bytes_of(&Frame::Hello(hello));
    bytes[9] += 1;
    bytes.extend([9; 40]);
    let hello = Hello { version: VERSION + 1, beat_ms: 0, fabric: String::new() };
    assert_eq!(Frame::parse(&bytes), Ok(Frame::Hello(hello)));
}
