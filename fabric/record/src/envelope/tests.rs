//! The envelope, byte by byte and bit by bit.

use epicserver_wire::{ClassId, EntityId, EntityKey as _, TypeId};
use proptest::prelude::*;

use super::*;

fn name() -> Name {
    let key = 7_u64.to_key();
    Name::state(&EntityId::new(TypeId::of("Player"), ClassId::DEFAULT, None, key))
}

fn envelope() -> Envelope {
    Envelope {
        codec: 1,
        layout: 0x1112_1314_1516_1718,
        schema: 0x2122_2324,
        owner: Owner { node: NodeId::new(0x3132_3334_3536_3738), epoch: 0x4142_4344_4546_4748 },
        version: 0x5152_5354_5556_5758,
        written_ms: 0x6162_6364_6566_6768,
        tombstone: false,
    }
}

fn record() -> Record {
    Record::seal(&name(), &envelope(), b"state").unwrap()
}

/// As if whoever wrote `bytes` had meant them.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = checksum(&bytes[8..]);
    bytes[..8].copy_from_slice(&sum.to_le_bytes());
    bytes
}

#[test]
fn the_stored_form_is_frozen() {
    let record = record();
    let bytes = record.as_bytes();
    let head: [&[u8]; 9] = [
        &[1, 1, 0, 0],
        &[25, 0, 0, 0],
        &[5, 0, 0, 0],
        &0x2122_2324_u32.to_le_bytes(),
        &0x1112_1314_1516_1718_u64.to_le_bytes(),
        &0x4142_4344_4546_4748_u64.to_le_bytes(),
        &0x3132_3334_3536_3738_u64.to_le_bytes(),
        &0x5152_5354_5556_5758_u64.to_le_bytes(),
        &0x6162_6364_6566_6768_u64.to_le_bytes(),
    ];
    let rest = [&head.concat()[..], name().as_bytes(), &[0; 7], b"state"].concat();
    assert_eq!(bytes[8..], rest);
    assert_eq!(bytes[..8], 0x9a33_a694_550f_2b78_u64.to_le_bytes());
    assert_eq!(checksum(b"123456789"), 0x995d_c9bb_df19_39fa, "it is CRC-64/XZ");
}

#[test]
fn the_agenda_lies_behind_the_payload_and_is_part_of_what_is_checked() {
    let mut agenda = Agenda::default();
    let tick = crate::agenda::Reminder { label: "tick".to_owned(), due_ms: 7, period_ms: 0 };
    agenda.put(tick).unwrap();
    let record = Record::write_with(&name(), &envelope(), &agenda, |out| {
        out.extend_from_slice(b"state");
    });
    let record = record.unwrap();
    assert_eq!((record.payload(), record.agenda()), (&b"state"[..], &agenda.to_bytes()[..]));
    assert_eq!(Record::open(&name(), record.as_bytes()), Ok(record.clone()));
    let plain = self::record();
    assert_eq!(record.as_bytes()[14..16], [21, 0]);
    assert_eq!(record.as_bytes()[16..HEAD], plain.as_bytes()[16..HEAD]);
    assert_ne!(record.content_sum(), plain.content_sum());
    let mut spoiled = record.as_bytes().to_vec();
    *spoiled.last_mut().unwrap() ^= 1;
    assert!(Record::open(&name(), &spoiled).is_err());
    spoiled[14] -= 1;
    let flaw = Record::open(&name(), &sealed(spoiled)).map_err(|corrupt| corrupt.flaw);
    assert_eq!(flaw, Err(Flaw::Parts));
}

#[test]
fn what_was_sealed_is_opened() {
    let record = record();
    assert_eq!(Record::open(&name(), record.as_bytes()), Ok(record.clone()));
    assert_eq!(Record::open_any(record.as_bytes()), Ok((name(), record.clone())));
    assert_eq!(Record::look(&name(), record.as_bytes()), Ok(envelope()));
    assert_eq!((record.envelope(), record.payload()), (envelope(), &b"state"[..]));
}

#[test]
fn en3_a_payload_is_aligned() {
    for len in 0..40 {
        let key = "x".repeat(len).to_key();
        let name = Name::state(&EntityId::new(TypeId::of("T"), ClassId::DEFAULT, None, key));
        let record = Record::seal(&name, &envelope(), b"payload").unwrap();
        assert_eq!(record.payload().as_ptr() as usize % 16, 0);
    }
}

#[test]
fn en2_every_flipped_bit_is_found_and_named() {
    let record = record();
    for bit in 0..8 * record.as_bytes().len() {
        let mut bytes = record.as_bytes().to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let found = Record::open(&name(), &bytes).unwrap_err();
        assert_eq!(found, Corrupt { name: name(), flaw: Flaw::Checksum }, "bit {bit}");
        assert!(Record::look(&name(), &bytes).is_err() && Record::open_any(&bytes).is_err());
    }
}

#[test]
fn en2_every_burst_of_up_to_64_bits_is_found() {
    let record = record();
    let bits = 8 * record.as_bytes().len();
    for from in (0..bits - 64).step_by(5) {
        for len in [2, 3, 8, 31, 33, 63, 64] {
            let mut bytes = record.as_bytes().to_vec();
            for bit in [from, from + len / 2, from + len - 1] {
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            assert!(Record::open(&name(), &bytes).is_err(), "{len} bits from {from}");
        }
    }
}

#[test]
fn a_record_that_is_cut_off_or_too_long_is_found() {
    let record = record();
    let bytes = record.as_bytes();
    for len in 0..bytes.len() {
        assert!(Record::open(&name(), &bytes[..len]).is_err(), "{len} bytes");
    }
    assert!(Record::open(&name(), &[bytes, &[0]].concat()).is_err());
}

#[test]
fn each_field_is_checked_though_the_checksum_fits() {
    let whole = record().as_bytes().to_vec();
    let spoiled = |at: usize, to: u8| {
        let mut bytes = whole.clone();
        bytes[at] = to;
        Record::open(&name(), &sealed(bytes)).map(|_| ()).map_err(|corrupt| corrupt.flaw)
    };
    assert_eq!(spoiled(8, 2), Err(Flaw::Format(2)));
    for at in [10, 11, 12, 13, 14, 15, 16, 17, 18, 19] {
        assert_eq!(spoiled(at, 0xf0), Err(Flaw::Parts), "byte {at}");
    }
    assert_eq!(spoiled(HEAD + 25, 1), Err(Flaw::Parts), "what is between name and payload");
    for at in HEAD..HEAD + 25 {
        assert_eq!(spoiled(at, 0xee), Err(Flaw::Misplaced), "byte {at}");
    }
    // The rest may have any value: they say what the payload is.
    for at in (20..HEAD).chain([9]) {
        assert_eq!(spoiled(at, 0xee), Ok(()), "byte {at}");
    }
}

#[test]
fn a_record_of_another_row_is_found() {
    let key = 8_u64.to_key();
    let other = Name::state(&EntityId::new(TypeId::of("Player"), ClassId::DEFAULT, None, key));
    let found = Record::open(&other, record().as_bytes()).unwrap_err();
    assert_eq!(found, Corrupt { name: other, flaw: Flaw::Misplaced });
    assert!(found.to_string().contains("state of type:ff97f125/8"), "{found}");
}

#[test]
fn a_payload_that_is_too_long_is_refused() {
    let long = vec![0; PAYLOAD_BYTES_MAX + 1];
    let most = &long[..PAYLOAD_BYTES_MAX];
    assert_eq!(Record::seal(&name(), &envelope(), &long), Err(TooLong(long.len())));
    assert!(Record::seal(&name(), &envelope(), most).is_ok());
}

proptest! {
    #[test]
    fn hostile_bytes_are_a_record_or_a_flaw(bytes: Vec<u8>, seal: bool) {
        let bytes = if seal && bytes.len() >= 8 { sealed(bytes) } else { bytes };
        if let Ok((name, record)) = Record::open_any(&bytes) {
            prop_assert_eq!(record.name(), name);
            prop_assert_eq!(record.as_bytes(), &bytes[..]);
        }
    }

    #[test]
    fn spoiled_heads_are_a_record_or_a_flaw(at in 8..HEAD, to: u8, also in 8..HEAD, too: u8) {
        let mut bytes = record().as_bytes().to_vec();
        (bytes[at], bytes[also]) = (to, too);
        let _any = Record::open_any(&sealed(bytes));
    }
}
