//! Messages in frames: where each field of a head lies, what kinds and flags there are, and the limits.

use std::time::Duration;

use epicserver_proto::{link, transfers};
use epicserver_wire::frame::{FRAME_ALIGN, FrameMut};
use epicserver_wire::header::{
    Address, CORE_BYTES, Credit, Header, Kind, Message, Opened, VERSION, append, append_head,
};
use epicserver_wire::{
    Born, ChainId, ClassId, EntityId, EntityKey as _, Path, SectionId, ShardId, Time, Token,
    TypeId, limits,
};

use crate::page::{Page, hex};

pub(crate) fn render(page: &mut Page) {
    page.section("messages");
    page.line("version of the layout", VERSION);
    page.line("bytes of the core", CORE_BYTES);
    page.line("messages begin at multiples of", FRAME_ALIGN);
    core(page);
    kinds(page);
    calls(page);
    views(page);
    bounds(page);
}

fn ping() -> Header {
    Header::new(Kind::Ping, ShardId::new(0), ShardId::new(0))
}

fn written(header: &Header, payload: &[u8]) -> Vec<u8> {
    let mut frame = FrameMut::detached(1024);
    assert!(append(&mut frame, header, payload), "a sample fits");
    frame.bytes().to_vec()
}

/// Each field is where the bytes differ from those of a message that lacks it.
fn core(page: &mut Page) {
    page.section("fields of the core: bytes, where set to, as written");
    let plain = written(&ping(), &[]);
    let token = Token::new(0x0403_0201, 0);
    let generation = Token::new(0, 0x0403_0201);
    let credit = |messages, units| Credit { messages, units };
    let shard = ShardId::new(0x0201);
    let samples = [
        ("kind: Pong", Header { kind: Kind::Pong, ..ping() }),
        ("token, index: 0x04030201", Header { token, ..ping() }),
        ("token, generation: 0x04030201", Header { token: generation, ..ping() }),
        ("method: 0x04030201", Header { method: 0x0403_0201, ..ping() }),
        ("deadline left: 0x04030201", Header { left: 0x0403_0201, ..ping() }),
        ("sending shard: 0x0201", Header { from: shard, ..ping() }),
        ("receiving shard: 0x0201", Header { to: shard, ..ping() }),
        ("credit, messages: 0x0201", Header { credit: credit(0x0201, 0), ..ping() }),
        ("credit, units: 0x0201", Header { credit: credit(0, 0x0201), ..ping() }),
    ];
    page.bytes("Ping and nothing else", &plain);
    for (name, header) in samples {
        page.line(name, differing(&plain, &written(&header, &[])));
    }
    let mut head = FrameMut::detached(CORE_BYTES);
    assert!(append_head(&mut head, &ping(), 0x0403_0201), "a sample fits");
    page.line("bytes of the payload: 0x04030201", differing(&plain, head.bytes()));
    let (message, forever) = (written(&ping(), &[0xee; 17]), Header::units_left(None));
    page.bytes("Ping with a payload of 17 bytes", &message);
    let units = |nanos| Header::units_left(Some(Duration::from_nanos(nanos)));
    let deadlines = [units(0), units(1), units(64_000), units(64_001), units(u64::MAX), forever];
    page.line("deadline left, of 0, 1, 64,000,", "");
    page.line("64,001, 2^64 - 1 ns, and none", format!("{deadlines:x?}"));
}

fn differing(plain: &[u8], other: &[u8]) -> String {
    let differs = |at: &usize| plain.get(*at) != other.get(*at);
    let at: Vec<usize> = (0..CORE_BYTES).filter(differs).collect();
    let (Some(first), Some(last)) = (at.first(), at.last()) else { return "nowhere".to_owned() };
    format!("{first}..{}  {}", last + 1, hex(&other[*first..=*last]))
}

/// Which numbers are kinds, and which flags each may have, is asked from the reader.
fn kinds(page: &mut Page) {
    page.section("kinds of messages, and the flags that each may have");
    let mut bytes = call(true, None);
    for number in 0..=u8::MAX {
        bytes[1] = number;
        let mut flags = Vec::new();
        let mut kind = None;
        for flag in (0..=u16::MAX).filter(|flag| flag.count_ones() <= 2) {
            bytes[2..4].copy_from_slice(&flag.to_le_bytes());
            if let Ok(message) = Message::parse(&bytes, 0) {
                flags.push(flag);
                kind = Some(message.header.kind);
            }
        }
        if let Some(kind) = kind {
            page.line(&format!("{number:3} {kind:?}"), format!("{flags:x?}"));
        }
    }
}

fn call(sections: bool, request: Option<u128>) -> Vec<u8> {
    let to = EntityId::new(TypeId::of("Player"), ClassId::DEFAULT, None, 7_u64.to_key());
    let chain = ChainId::new(Time::from_nanos(0x0807_0605_0403_0201), 0x1817_1615_1413_1211);
    let mut path = Path::new(chain).born_under(Born::from_u32(0xc4c3_c2c1));
    if sections {
        for section in [0xa8a7_a6a5_a4a3_a2a1, 0xb8b7_b6b5_b4b3_b2b1] {
            path = path.with(SectionId::from_u64(section)).expect("two sections are not too many");
        }
    }
    let header = Header::new(Kind::Call, ShardId::new(0), ShardId::new(0));
    let mut frame = FrameMut::detached(1024);
    let address = Address { to: &to, path: &path, request };
    let opened = Opened::new(&mut frame, &header, Some(address)).expect("a sample fits");
    assert!(opened.close(&mut frame, 0), "a sample fits");
    frame.bytes().to_vec()
}

fn calls(page: &mut Page) {
    page.section("calls: behind the core the callee, and the sections that its chain holds");
    page.text(
        "callee: chain, birth 0x0807060504030201 and origin 0x1817161514131211; bytes of the id;",
    );
    page.text("zeros; born under the view 0xc4c3c2c1; zeros; the id, padded. sections: how many,");
    page.text("each, padded.");
    page.bytes("Call of Player 7", &call(false, None));
    page.bytes("Call of Player 7, two sections held", &call(true, None));
    let request = Some(0xf8f7_f6f5_f4f3_f2f1_e8e7_e6e5_e4e3_e2e1);
    page.bytes("Call of Player 7 that is a request with an id", &call(false, request));
}

/// Messages about views, and where each has the number of its view.
fn views(page: &mut Page) {
    page.section("views: a call that has moved, a flush and its answer");
    let number = 0x0807_0605_0403_0201;
    for kind in [Kind::Moved, Kind::Returned, Kind::Flush, Kind::Flushed] {
        let plain = Header::new(kind, ShardId::new(0), ShardId::new(0));
        let core = |header: &Header| {
            let mut head = FrameMut::detached(CORE_BYTES);
            assert!(append_head(&mut head, header, 0), "a sample fits");
            head.bytes().to_vec()
        };
        let at = differing(&core(&plain), &core(&plain.under(number)));
        page.line(&format!("view 0x0807060504030201 of {kind:?}"), at);
    }
    page.line("method of a flush to be answered", Header::ANSWER);
    page.line("method of an answer with more", Header::MORE);
    page.text("payload of an answer: class and slot, 2 bytes each, of each slot that is emptied");
}

fn bounds(page: &mut Page) {
    page.section("limits that both sides rely on");
    page.line("bytes of a message", limits::MESSAGE_BYTES_MAX);
    page.line("bytes of a key", limits::KEY_BYTES_MAX);
    page.line("nesting of a key", limits::KEY_DEPTH_MAX);
    page.line("nesting of a value", limits::VALUE_DEPTH_MAX);
    page.line("sections that a chain holds", limits::CHAIN_SECTIONS_MAX);
    page.line("bytes of a unit of credit", Credit::UNIT_BYTES);
    page.line("transfers that a lane has begun", transfers::TRANSFERS_MAX);
    page.line("bytes of a hello", link::HELLO_BYTES_MAX);
    page.line("bytes of a fabric's name", link::FABRIC_BYTES_MAX);
    page.line("schemas that a hello lists", link::SCHEMAS_MAX);
    page.line("bytes of a slot, at least", link::SLOT_BYTES_MIN);
}
