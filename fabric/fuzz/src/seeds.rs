//! What the fuzzer begins with: a few inputs of each target, made here, and kept beside the
//! code. Tests compare and try them.

use epicserver_proto::view::{Delta, Member, Past, Record, Share, View, Wants};
use epicserver_wire::frame::FrameMut;
use epicserver_wire::header::{Address, Header, Kind, Opened, append};
use epicserver_wire::{
    Born, ChainId, ClassId, EntityId, IntoKey as _, NodeId, Path, SectionId, ShardId, Time, TypeId,
};

/// Inputs by their names.
pub type Seeds = Vec<(String, Vec<u8>)>;
/// A name, what takes the inputs, and those it begins with.
pub type Target = (&'static str, fn(&[u8]), Seeds);

/// All targets.
///
/// # Panics
/// If a sample cannot be made.
#[must_use]
pub fn targets() -> [Target; 7] {
    [
        ("chunks", crate::chunks, chunks()),
        ("handshake", handshake, handshakes()),
        ("header", crate::header, headers()),
        ("hostlist", crate::hostlist, hostlists()),
        ("payload", crate::payload, crate::payload::samples::all()),
        ("stream", crate::stream, streams()),
        ("view", crate::view, views()),
    ]
}

fn handshake(data: &[u8]) {
    crate::handshake(data);
}

fn named<const N: usize>(seeds: [(&str, Vec<u8>); N]) -> Seeds {
    seeds.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect()
}

/// A call with all that a head may have, and two short messages.
fn frame() -> [Vec<u8>; 3] {
    let mut frame = FrameMut::detached(1024);
    let plain = |kind| Header::new(kind, ShardId::new(1), ShardId::new(2));
    let to = EntityId::new(TypeId::of("Player"), ClassId::of("gpu"), Some(7), "bob".into_key());
    let path = Path::new(ChainId::new(Time::from_nanos(5), 6)).born_under(Born::under(4));
    let path = path.with(SectionId::new(1, 2)).and_then(|path| path.with(SectionId::new(1, 3)));
    let path = path.expect("two sections are not too many");
    let ends = [Some(Kind::Call), None, Some(Kind::Chunk)].map(|kind| {
        let start = frame.len();
        match kind {
            Some(Kind::Call) => {
                let address = Address { to: &to, path: &path, request: Some(9) };
                let opened = Opened::new(&mut frame, &plain(Kind::Call), Some(address));
                assert!(opened.expect("it has room").close(&mut frame, 40));
            }
            Some(kind) => assert!(append(&mut frame, &plain(kind), &[7; 33])),
            None => assert!(append(&mut frame, &plain(Kind::Ping), &[])),
        }
        (start, frame.len())
    });
    ends.map(|(start, end)| frame.bytes()[start..end].to_vec())
}

/// What two shards say about views.
fn said_of_views() -> Vec<u8> {
    let mut frame = FrameMut::detached(1024);
    for kind in [Kind::Flush, Kind::Moved, Kind::Flushed] {
        let header = Header::new(kind, ShardId::new(1), ShardId::new(2)).under(5);
        let slots: &[u8] = if kind == Kind::Flushed { &[0, 0, 7, 0] } else { &[] };
        assert!(append(&mut frame, &header, slots), "it has room");
    }
    frame.bytes().to_vec()
}

fn headers() -> Seeds {
    let [call, ping, chunk] = frame();
    let all = [&call[..], &ping, &chunk].concat();
    let mut later = ping.clone();
    later[0] = 2;
    named([
        ("call", call),
        ("chunk", chunk),
        ("ping", ping),
        ("three", all),
        ("version", later),
        ("views", said_of_views()),
    ])
}

fn hostlists() -> Seeds {
    let text = |text: &str| text.as_bytes().to_vec();
    named([
        ("plain", text("left,right.example")),
        ("ranges", text("n[001-012,7],login-[1-2]")),
        ("brackets", text("rack[0-1]node[00-03]-ib[1,3].example")),
        ("many", text("n[0-9][0-9][0-9]")),
        ("open", text("n[1-2],m[3")),
        ("counts", text("4(x2),1,12(x3)")),
    ])
}

fn streams() -> Seeds {
    let all = frame().concat();
    let cut = |sizes: &[u16]| {
        let sizes: Vec<u8> = sizes.iter().flat_map(|size| size.to_le_bytes()).collect();
        [&[u8::try_from(sizes.len() / 2).expect("they are few")], &sizes[..], &all].concat()
    };
    let mut garbage = cut(&[47]);
    garbage.extend([0xab; 64]);
    named([
        ("whole", cut(&[])),
        ("odd", cut(&[6, 49, 16])),
        ("aligned", cut(&[31, 15])),
        ("garbage", garbage),
    ])
}

/// Numbers of choices are those of `handshake`.
fn handshakes() -> Seeds {
    const PATIENT: u8 = 0xff;
    let (up, hello, proof, wait, close) = ([0], [1, 0], [2, 0], [8], [11]);
    let sound = [&up[..], &hello, &proof].concat();
    let said = |then: &[u8]| [&[1, PATIENT], &sound[..], then].concat();
    // All fields there are but the last: node, fabric, nonce, shards, window, slot, features, host.
    let fields = "\x01\0\x08\0........\x02\0\x04\0test\x03\0\x20\0................................\
        \x04\0\x02\0..\x05\0\x04\0....\x06\0\x04\0....\x07\0\x08\0........\x08\0\x10\0................";
    let len = u16::try_from(fields.len()).expect("it is short").to_le_bytes();
    let custom = [&[0, PATIENT, 0, 4], &len[..], fields.as_bytes(), &proof, &wait].concat();
    named([
        ("established", said(&[])),
        ("silent", said(&[wait, wait, wait].concat())),
        ("closed", said(&close)),
        ("pinged", said(&[6, 7, 0, 0, 6, 8, 0, 0, 6, 9, 0, 0])),
        ("wrong_proof", [&[0, PATIENT], &up[..], &hello, &[2, 1, 9, 0, 1]].concat()),
        ("mirrored", [&[0, PATIENT], &up[..], &[5, 0, 1, 13, 0, 3]].concat()),
        ("custom_hello", custom),
        ("impatient", [&[0, 0], &sound[..], &wait, &wait].concat()),
    ])
}

/// Numbers of choices are those of `chunks`.
fn chunks() -> Seeds {
    let mut incoming = vec![0];
    for part in [&[0x80, 32, 0, 0, 16, 0][..], &[0, 16, 0]] {
        incoming.extend_from_slice(part);
        incoming.extend([7; 16]);
    }
    let transfers =
        vec![1, 0, 0, 16, 7, 0, 1, 0, 9, 1, 0xff, 0xff, 1, 0xff, 0xff, 2, 1, 64, 0, 3, 0, 0];
    let session = vec![2, 1, 0, 5, 0, 1, 1, 0, 5, 0, 2, 9, 0, 0, 0, 3, 7, 18, 0, 8, 0, 0, 3];
    named([("incoming", incoming), ("transfers", transfers), ("session", session)])
}

/// The first byte is a choice of `view`.
fn views() -> Seeds {
    let member = |node, name: &str| Member {
        addresses: vec!["tcp://10.0.0.1:7".to_owned()],
        name: name.to_owned(),
        ..Member::of(NodeId::new(node), 2)
    };
    let share = Share { weight: 7, classes: vec![ClassId::of("gpu")], ..Share::of(NodeId::new(3)) };
    let history = vec![Past { number: 4, shares: vec![Share::of(NodeId::new(1)), share] }];
    let before = View { number: 5, members: vec![member(1, "a"), member(3, "")], history };
    let leaving = Member { leaving: true, ..member(1, "a") };
    let history = vec![before.as_past()];
    let after = View { number: 6, members: vec![leaving, member(2, "b")], history };
    let delta = Delta::between(&before, &after).expect("its history is that view");
    let first = View { number: 2, members: vec![member(1, "a")], history: Vec::new() };
    let grown = Delta::between(&View { number: 1, members: Vec::new(), ..first.clone() }, &first);
    let record = Record { member: member(1, "a"), wants: Wants::Stay, settled: 5 };
    let marked = |what: u8, bytes: Vec<u8>| [&[what], &bytes[..]].concat();
    // By a view, of the default class: a list of slots, and bits.
    let about = |what: u8, number: u8| [&[3, what, number], &[0; 9][..]].concat();
    let ping = [
        &[3, 1][..],
        &[2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0, 9, 0, 0],
    ];
    let mut bits = [&about(3, 4)[..], &[1, 0, 0]].concat();
    bits.extend([0xf0; 2048]);
    named([
        ("asked", [&about(2, 3)[..], &[0, 1, 0, 2, 0, 7, 1]].concat()),
        ("released", bits),
        ("suspicion", ping.concat()),
        ("whole", [&[3, 4], &after.write()[..]].concat()),
        ("delta", marked(2, delta.write())),
        ("grown", marked(2, grown.expect("it has no history").write())),
        ("record", marked(1, record.write())),
        ("view", marked(0, after.write())),
    ])
}
