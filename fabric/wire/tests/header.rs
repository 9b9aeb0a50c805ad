//! Messages in frames: whatever is written is read as it was, and whatever a peer may send instead is
//! refused or a message, and nothing else.

use std::time::Duration;

use epicserver_wire::frame::{FRAME_ALIGN, FrameMut};
use epicserver_wire::header::{
    CORE_BYTES, Callee, Credit, Glance, Header, Kind, Message, Opened, Violation, append,
    append_head, extent, set_credit,
};
use epicserver_wire::limits::{CHAIN_SECTIONS_MAX, KEY_BYTES_MAX, MESSAGE_BYTES_MAX};
use epicserver_wire::rkyv::ser::Writer as _;
use epicserver_wire::{
    Born, ChainId, ClassId, EntityId, EntityKey, Path, SectionId, ShardId, Time, Token, TypeId,
    Unwritten,
};
use proptest::prelude::*;
use proptest::sample::Index;

const KINDS: [Kind; 16] = Kind::ALL;

/// Longest message of a sample: the longest key, all sections, and the longest payload.
const SAMPLE_BYTES_MAX: usize = 2048;

/// A message as it is to be read.
#[derive(Clone, Debug)]
struct Sample {
    header: Header,
    callee: Option<Callee>,
    payload: Vec<u8>,
}

impl Sample {
    fn write(&self, frame: &mut FrameMut) -> bool {
        let callee = self.callee.as_ref().map(Callee::address);
        let Some(opened) = Opened::new(frame, &self.header, callee) else { return false };
        let filled = opened.fill(frame, |out| {
            let fits = out.write(&self.payload).is_ok();
            if fits { Ok(()) } else { Err(Unwritten::Full) }
        });
        filled.is_ok_and(|len| opened.close(frame, len))
    }

    fn bytes(&self) -> Vec<u8> {
        let mut frame = dirty(SAMPLE_BYTES_MAX);
        assert!(self.write(&mut frame), "a sample fits");
        frame.bytes().to_vec()
    }
}

/// A slot that was used before.
fn dirty(capacity: usize) -> FrameMut {
    let mut frame = FrameMut::detached(capacity);
    frame.slot_mut().fill(0xdd);
    frame
}

fn header(kind: Kind) -> impl Strategy<Value = Header> {
    let numbers = (any::<u64>(), any::<u32>(), any::<u32>(), any::<u64>());
    numbers.prop_map(move |(token, method, left, rest)| {
        let [a, b, c, d, e, f, g, h] = token.to_le_bytes();
        let [i, j, k, l, m, n, o, p] = rest.to_le_bytes();
        Header {
            kind,
            token: Token::new(u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])),
            method,
            left,
            from: ShardId::new(u16::from_le_bytes([i, j])),
            to: ShardId::new(u16::from_le_bytes([k, l])),
            credit: Credit {
                messages: u16::from_le_bytes([m, n]),
                units: u16::from_le_bytes([o, p]),
            },
        }
    })
}

fn callee() -> impl Strategy<Value = Callee> {
    let key = prop_oneof![
        any::<u64>().prop_map(|key| key.to_key()),
        any::<i128>().prop_map(|key| key.to_key()),
        "\\PC{0,120}".prop_map(|key| key.to_key()),
        (0..=KEY_BYTES_MAX).prop_map(|len| "k".repeat(len).to_key()),
        (any::<u16>(), "[a-z]{0,9}".prop_map(String::from)).prop_map(|key| key.to_key()),
    ];
    let sections = prop::collection::vec(any::<u64>(), 0..=CHAIN_SECTIONS_MAX);
    let placed = (any::<Option<u64>>(), "[a-z]{0,3}");
    let rest = (any::<u64>(), any::<u64>(), any::<u32>(), any::<Option<u128>>());
    (key, placed, rest, sections).prop_map(|(key, (group, class), rest, sections)| {
        let to = EntityId::new(TypeId::of("Sample"), ClassId::of(&class), group, key);
        let (birth, origin, born, request) = rest;
        let start = Path::new(ChainId::new(Time::from_nanos(birth), origin));
        let start = start.born_under(Born::from_u32(born));
        let path = sections
            .into_iter()
            .fold(start, |path, section| path.with(SectionId::from_u64(section)).unwrap_or(path));
        Callee { to, path, request }
    })
}

fn sample() -> impl Strategy<Value = Sample> {
    (any::<Index>(), callee(), prop::collection::vec(any::<u8>(), 0..300)).prop_flat_map(
        |(kind, callee, payload)| {
            let kind = *kind.get(&KINDS);
            let callee = kind.has_callee().then_some(callee);
            header(kind).prop_map(move |header| Sample {
                header,
                callee: callee.clone(),
                payload: payload.clone(),
            })
        },
    )
}

/// Reads what begins at `start`, and holds all that the three readers say against each other: they
/// agree on where a message ends, and the parts lie in it, in their order, whatever the bytes are.
fn read(bytes: &[u8], start: usize) -> Result<Message, Violation> {
    let message = Message::parse(bytes, start);
    let glance = Glance::at(bytes, start);
    let rest = bytes.get(start..).unwrap_or(&[]);
    match (&message, extent(rest)) {
        (Ok(message), extent) => {
            assert_eq!(extent, Ok(Some(message.end - start)));
            assert_lies_in(message, bytes, start);
            let seen = glance.map(|glance| (glance.kind, glance.to, glance.len, glance.end));
            let Message { header, len, end, .. } = message;
            assert_eq!(seen, Ok((header.kind, header.to, *len, *end)));
            if message.callee.is_none() {
                let payload = glance.as_ref().map(|glance| glance.payload_of(bytes));
                assert_eq!(payload, Ok(message.payload_of(bytes)));
            }
        }
        // A glance does not read the callee.
        (Err(Violation::Callee | Violation::Sections), _) => {}
        // Of two things that are wrong, each may find another one first.
        (Err(why), Ok(Some(end))) => assert!(end > rest.len(), "{why}, but it ends at {end}"),
        (Err(_), _) => assert!(glance.is_err()),
    }
    message
}

fn assert_lies_in(message: &Message, bytes: &[u8], start: usize) {
    let Message { payload, len, end, .. } = *message;
    assert!(start + CORE_BYTES <= payload && payload + len <= end && end <= bytes.len());
    assert!((payload - start).is_multiple_of(FRAME_ALIGN) && (end - start).is_multiple_of(16));
    assert!(end - start <= MESSAGE_BYTES_MAX);
    assert_eq!(message.payload_of(bytes).len(), len);
    assert_eq!(message.callee.is_some(), message.header.kind.has_callee());
}

fn assert_is(message: &Message, bytes: &[u8], sample: &Sample) {
    assert_eq!(message.header, sample.header);
    let callee = &message.callee;
    assert_eq!(callee, &sample.callee);
    assert_eq!(message.payload_of(bytes), sample.payload);
}

/// All messages of a frame, up to the first that is none.
fn read_all(bytes: &[u8]) -> (Vec<Message>, Option<Violation>) {
    let (mut messages, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        match read(bytes, at) {
            Ok(message) => {
                at = message.end;
                messages.push(message);
            }
            Err(why) => return (messages, Some(why)),
        }
    }
    (messages, None)
}

proptest! {
    #[test]
    fn w13_every_message_that_is_written_is_read_as_it_was(sample in sample()) {
        let bytes = sample.bytes();
        let message = read(&bytes, 0).unwrap();
        assert_is(&message, &bytes, &sample);
        prop_assert_eq!(message.end, bytes.len());
    }

    #[test]
    fn w13_the_messages_of_a_frame_are_read_in_their_order(
        samples in prop::collection::vec(sample(), 0..9),
    ) {
        let mut frame = dirty(9 * SAMPLE_BYTES_MAX);
        for sample in &samples {
            prop_assert!(sample.write(&mut frame));
        }
        let (messages, why) = read_all(frame.bytes());
        prop_assert_eq!((messages.len(), why), (samples.len(), None));
        for (message, sample) in messages.iter().zip(&samples) {
            assert_is(message, frame.bytes(), sample);
        }
    }

    #[test]
    fn a_message_that_is_cut_anywhere_is_truncated_and_never_another_one(sample in sample()) {
        let bytes = sample.bytes();
        for len in 0..bytes.len() {
            let cut = &bytes[..len];
            prop_assert_eq!(read(cut, 0).err(), Some(Violation::Truncated));
            // Those that wait for more are told nothing, or how much there will be.
            let told = extent(cut);
            prop_assert!(told == Ok(None) || told == Ok(Some(bytes.len())), "{len}: {told:?}");
            prop_assert!(told == Ok(None) || len >= CORE_BYTES);
        }
    }

    #[test]
    fn nothing_that_a_slot_held_before_leaves_with_a_message(sample in sample()) {
        let mut clean = FrameMut::detached(SAMPLE_BYTES_MAX);
        prop_assert!(sample.write(&mut clean));
        prop_assert_eq!(sample.bytes(), clean.bytes());
        let message = read(clean.bytes(), 0).unwrap();
        let padding = &clean.bytes()[message.payload + message.len..];
        prop_assert!(padding.iter().all(|byte| *byte == 0) && padding.len() < FRAME_ALIGN);
    }

    #[test]
    fn what_stands_in_the_padding_does_not_matter(sample in sample(), fill in any::<u8>()) {
        let mut bytes = sample.bytes();
        let message = read(&bytes, 0).unwrap();
        bytes[message.payload + message.len..].fill(fill);
        assert_is(&read(&bytes, 0).unwrap(), &bytes, &sample);
    }

    #[test]
    fn a_message_without_room_is_refused_and_leaves_the_frame_as_it_was(
        first in sample(), second in sample(), room in 0..SAMPLE_BYTES_MAX,
    ) {
        let (before, whole) = (first.bytes(), second.bytes());
        let mut frame = dirty(before.len() + room);
        prop_assert!(first.write(&mut frame));
        prop_assert_eq!(second.write(&mut frame), whole.len() <= room);
        let expected = if whole.len() <= room { [before, whole].concat() } else { before };
        prop_assert_eq!(frame.bytes(), expected);
    }
}

proptest! {
    #[test]
    fn w12_arbitrary_bytes_are_messages_or_a_violation(
        bytes in prop::collection::vec(any::<u8>(), 0..400), start in 0_usize..500,
    ) {
        drop(read(&bytes, start));
        read_all(&bytes);
    }

    #[test]
    fn w12_messages_with_a_few_other_bytes_are_messages_or_a_violation(
        samples in prop::collection::vec(sample(), 1..4),
        changes in prop::collection::vec((any::<Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes: Vec<u8> = samples.iter().flat_map(Sample::bytes).collect();
        for (at, byte) in changes {
            bytes[at.index(samples[0].bytes().len())] = byte;
        }
        read_all(&bytes);
    }

    #[test]
    fn w12_every_flipped_bit_of_a_head_is_another_message_or_a_violation(sample in sample()) {
        let bytes = sample.bytes();
        let head = read(&bytes, 0).unwrap().payload;
        for bit in 0..head * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok(message) = read(&flipped, 0) {
                // Only bits that pad the callee mean nothing.
                let callee = message.callee;
                let is_the_same = message.header == sample.header
                    && callee == sample.callee
                    && message.len == sample.payload.len();
                prop_assert!(!is_the_same || bit / 8 >= 2 * CORE_BYTES, "bit {bit} means nothing");
            }
        }
    }

    #[test]
    fn w12_hostile_lengths_are_refused_before_their_bytes_are_waited_for(
        sample in sample(), over in 1_u32..,
    ) {
        // Whoever cuts a stream asks `extent` before it makes room, and it may never ask for more.
        let mut bytes = sample.bytes();
        let longest = u32::try_from(MESSAGE_BYTES_MAX).unwrap();
        bytes[4..8].copy_from_slice(&longest.saturating_add(over).to_le_bytes());
        let len = longest.saturating_add(over) as usize;
        prop_assert_eq!(extent(&bytes), Err(Violation::TooLong(len)));
        prop_assert_eq!(read(&bytes, 0).err(), Some(Violation::TooLong(len)));
        // So with one that is within the limit without its head, and over it with it.
        bytes[4..8].copy_from_slice(&longest.to_le_bytes());
        prop_assert!(matches!(extent(&bytes), Err(Violation::TooLong(_))));
    }

    #[test]
    fn a_payload_that_is_appended_is_what_follows_a_head_that_is_appended(
        header in any::<Index>().prop_flat_map(|kind| header(*kind.get(&KINDS[2..11]))),
        payload in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let (mut whole, mut head) = (dirty(512), dirty(512));
        prop_assert!(append(&mut whole, &header, &payload));
        prop_assert!(append_head(&mut head, &header, payload.len()));
        let padding = vec![0; whole.len() - CORE_BYTES - payload.len()];
        prop_assert!(head.extend(&payload) && head.extend(&padding));
        prop_assert_eq!(whole.bytes(), head.bytes());
        assert_is(&read(whole.bytes(), 0).unwrap(), whole.bytes(), &Sample { header, callee: None, payload });
    }

    #[test]
    fn a_message_that_grows_in_memory_of_its_own_is_the_one_that_would_lie_in_a_slot(
        sample in sample(), before in 0_usize..3,
    ) {
        let mut frame = dirty(4 * SAMPLE_BYTES_MAX);
        for _ in 0..before {
            prop_assert!(append(&mut frame, &sample.header, b"before"));
        }
        let callee = sample.callee.as_ref().map(Callee::address);
        let opened = Opened::new(&mut frame, &sample.header, callee).unwrap();
        let grown = opened.grow(&mut frame, |out| {
            out.write(&sample.payload).map_err(|_| Unwritten::Malformed)
        });
        let grown = grown.unwrap();
        prop_assert_eq!(grown.bytes(), sample.bytes());
    }

    #[test]
    fn a_credit_that_is_set_later_changes_nothing_else(
        sample in sample(), messages in any::<u16>(), units in any::<u16>(),
    ) {
        let mut frame = dirty(2 * SAMPLE_BYTES_MAX);
        prop_assert!(append(&mut frame, &Header::new(Kind::Ping, ShardId::new(0), ShardId::new(0)), &[]));
        let start = frame.len();
        prop_assert!(sample.write(&mut frame));
        let credit = Credit { messages, units };
        set_credit(&mut frame, start, credit);
        let header = Header { credit, ..sample.header };
        assert_is(&read(frame.bytes(), start).unwrap(), frame.bytes(), &Sample { header, ..sample });
    }

    #[test]
    fn w13_the_number_of_a_view_is_read_as_it_was_and_leaves_the_token_of_a_call_alone(
        header in any::<Index>().prop_flat_map(|kind| header(*kind.get(&KINDS[11..]))),
        view in any::<u64>(),
    ) {
        prop_assert_eq!(header.under(view).view(), view);
        if header.kind == Kind::Moved {
            prop_assert_eq!(header.under(view).token, header.token);
        } else {
            prop_assert_eq!(header.under(view).method, header.method);
        }
    }

    #[test]
    fn a_deadline_is_never_shorter_on_the_other_side(nanos in 0_u64..1 << 47) {
        let left = Duration::from_nanos(nanos);
        let header = Header {
            left: Header::units_left(Some(left)),
            ..Header::new(Kind::Call, ShardId::new(0), ShardId::new(0))
        };
        let there = header.deadline_left().unwrap();
        prop_assert!(there >= left && there - left < Duration::from_micros(64));
    }
}

#[test]
fn a_key_that_is_too_long_is_a_callee_that_nobody_reads() {
    let to = EntityId::new(
        TypeId::of("T"),
        ClassId::DEFAULT,
        None,
        "k".repeat(KEY_BYTES_MAX + 1).to_key(),
    );
    let header = Header::new(Kind::Call, ShardId::new(0), ShardId::new(0));
    let path = Path::new(ChainId::NONE);
    let bytes =
        Sample { header, callee: Some(Callee { to, path, request: None }), payload: Vec::new() }
            .bytes();
    assert_eq!(read(&bytes, 0).err(), Some(Violation::Callee));
}

#[test]
fn numbers_of_kinds_that_there_are_not_are_refused() {
    let header = Header::new(Kind::Ping, ShardId::new(0), ShardId::new(0));
    let mut bytes = Sample { header, callee: None, payload: Vec::new() }.bytes();
    for number in 0..=u8::MAX {
        bytes[1] = number;
        let kind = KINDS.into_iter().find(|kind| *kind as u8 == number);
        let called = kind.is_some_and(Kind::has_callee);
        match read(&bytes, 0) {
            Ok(message) => assert_eq!(Some(message.header.kind), kind),
            Err(Violation::Flags(0)) => assert!(called, "calls have callees"),
            Err(why) => assert_eq!((why, kind), (Violation::Kind(number), None)),
        }
    }
}
