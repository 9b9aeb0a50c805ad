//! Transfers and sessions: what a peer's shards say about them, held against a simple account.

use std::collections::BTreeMap;

use epicserver_proto::session::{Session, Window};
use epicserver_proto::transfers::{
    CHUNK_BYTES, IN_FLIGHT_BYTES, Incoming, Outgoing, TRANSFERS_MAX,
};
use epicserver_wire::frame::{Frame, Part};
use epicserver_wire::header::{Credit, Header, Kind};
use epicserver_wire::limits::MESSAGE_BYTES_MAX;
use epicserver_wire::{ShardId, Token};

use crate::input::Input;

const WINDOW: Window = Window { messages: 40, units: 3000 };

/// What two shards do, as a list of choices, the first of which says about what.
///
/// # Panics
/// If something is wrong.
pub fn chunks(data: &[u8]) {
    let mut input = Input::new(data);
    match input.byte() % 3 {
        0 => incoming(input),
        1 => transfers(input),
        _ => session(input),
    }
}

/// Chunks that no sound sender sends.
fn incoming(mut input: Input<'_>) {
    let mut incoming = Incoming::default();
    let mut open: BTreeMap<(ShardId, Token), (u32, Vec<u8>)> = BTreeMap::new();
    let mut taken: BTreeMap<ShardId, u32> = BTreeMap::new();
    while !input.is_empty() {
        let choice = input.byte();
        let (from, token) = (ShardId::new(u16::from(choice & 1)), u32::from(choice >> 1 & 31));
        let key = (from, Token::new(token, 0));
        let (offset, total) = open.get(&key).map_or((0, 0), |(total, bytes)| {
            (u32::try_from(bytes.len()).expect("it is short"), *total)
        });
        let (offset, total) = if choice & 0x80 == 0 && total > 0 {
            (offset, total)
        } else {
            (offset * u32::from(choice >> 6 & 1), u32::from(input.u16()) << (input.byte() % 16))
        };
        let bytes = input.bytes();
        let header = Header::new(Kind::Chunk, from, ShardId::new(0));
        let header = Header { token: key.1, method: total, left: offset, ..header };
        let expected = account(&mut open, key, (offset, total), bytes);
        match (incoming.chunk(&header, Part::all(&Frame::copy_of(bytes))), expected) {
            // That ends the link.
            (Err(_), None) => return,
            (Ok(None), Some(None)) => {}
            (Ok(Some(whole)), Some(Some(expected))) => assert_eq!(whole.bytes(), expected),
            (got, expected) => unreachable!("{got:?} instead of {expected:?}"),
        }
        *taken.entry(from).or_default() += u32::try_from(bytes.len()).expect("it is short");
    }
    let told: BTreeMap<_, _> = std::iter::from_fn(|| incoming.next_taken()).collect();
    assert_eq!(told, taken);
}

/// `None` if the chunk does not fit; else the message, if that is whole now.
fn account(
    open: &mut BTreeMap<(ShardId, Token), (u32, Vec<u8>)>,
    key: (ShardId, Token),
    (offset, total): (u32, u32),
    bytes: &[u8],
) -> Option<Option<Vec<u8>>> {
    if total as usize > MESSAGE_BYTES_MAX || total % 16 != 0 || bytes.is_empty() {
        return None;
    }
    if offset == 0 {
        let begun = open.keys().filter(|(from, _)| *from == key.0).count();
        if open.contains_key(&key) || begun >= TRANSFERS_MAX {
            return None;
        }
        open.insert(key, (total, Vec::new()));
    }
    let (announced, message) = open.get_mut(&key)?;
    message.extend_from_slice(bytes);
    let before = message.len() - bytes.len();
    if *announced != total || before != offset as usize || message.len() > total as usize {
        return None;
    }
    let whole = message.len() == total as usize;
    Some(if whole { open.remove(&key).map(|(_, message)| message) } else { None })
}

/// Two sound ends: every message comes as it was, and never too much is under way.
fn transfers(mut input: Input<'_>) {
    let (mut out, mut inc) = (Outgoing::default(), Incoming::default());
    let from = ShardId::new(1);
    let mut under_way: BTreeMap<Token, Frame> = BTreeMap::new();
    let mut in_flight = 0;
    while !input.is_empty() {
        match input.byte() % 4 {
            0 if under_way.len() < 40 => {
                let len = 16 * (1 + usize::from(input.u16() % 8192));
                let message = Frame::copy_of(&vec![input.byte(); len]);
                let total = u32::try_from(len).expect("it is short");
                under_way.insert(out.begin(total), message);
            }
            0 | 1 => in_flight += deliver(&mut out, &mut inc, from, &mut under_way, input.u16()),
            2 => {
                for (_, bytes) in std::iter::from_fn(|| inc.next_taken()) {
                    in_flight -= bytes as usize;
                    out.taken(bytes as usize).expect("it was under way");
                }
            }
            _ => assert!(out.taken(in_flight + 1 + usize::from(input.u16())).is_err()),
        }
        assert!(in_flight <= IN_FLIGHT_BYTES, "X2: too much is under way");
        assert!(!out.is_idle() || in_flight == 0, "what was not taken in is forgotten");
    }
}

fn deliver(
    out: &mut Outgoing,
    inc: &mut Incoming,
    from: ShardId,
    under_way: &mut BTreeMap<Token, Frame>,
    bytes_max: u16,
) -> usize {
    let Some(chunk) = out.next(usize::from(bytes_max)) else { return 0 };
    let (start, len) = (chunk.offset as usize, chunk.len as usize);
    assert!(len <= CHUNK_BYTES && len > 0);
    let sent = under_way.get(&chunk.transfer).expect("it was begun");
    let part = sent.slice(start, start + len).expect("it is within its message");
    let header = Header::new(Kind::Chunk, from, ShardId::new(0));
    let header =
        Header { token: chunk.transfer, method: chunk.total, left: chunk.offset, ..header };
    let whole = inc.chunk(&header, Part::all(&part)).expect("sound chunks fit");
    assert_eq!(whole.is_some(), chunk.last);
    if let Some(whole) = whole {
        let sent = under_way.remove(&chunk.transfer).expect("it was begun");
        assert_eq!(whole.bytes(), sent.bytes());
    }
    len
}

/// One end that keeps the rules and a peer that need not.
fn session(mut input: Input<'_>) {
    let shards = 1 + u16::from(input.byte() % 3);
    let mut session = Session::new(shards, WINDOW, WINDOW);
    let mut sent = vec![(0_u32, 0_u32); usize::from(shards)];
    while !input.is_empty() {
        let choice = input.byte();
        let shard = ShardId::new(u16::from(choice >> 4 & 3));
        let known = shard.index() < usize::from(shards);
        match choice & 3 {
            0 => {
                let units = u32::from(input.u16()) % 4000;
                if session.may_send(shard, units) {
                    session.sent(shard, units);
                    let lane = &mut sent[shard.index()];
                    *lane = (lane.0 + 1, lane.1 + units);
                    let within = lane.0 <= WINDOW.messages.into() && lane.1 <= WINDOW.units.into();
                    assert!(within, "S1: over the window");
                }
            }
            1 => {
                let credit = Credit { messages: input.u16() % 64, units: input.u16() };
                let Ok(any) = session.credited(shard, credit) else { return };
                assert_eq!(any, credit != Credit::default());
                if any {
                    let lane = &mut sent[shard.index()];
                    let left = lane.0.checked_sub(credit.messages.into());
                    let left = left.zip(lane.1.checked_sub(credit.units.into()));
                    *lane = left.expect("no more came back than was sent");
                }
            }
            2 => {
                if session.consumed(shard, input.u32()).is_err() {
                    return;
                }
                assert!(known, "a shard that is none was heard");
            }
            _ => {
                let due = session.next_due();
                let owed = session.take_owed(due.unwrap_or(shard));
                assert!(due.is_none() || owed != Credit::default(), "S2: nothing is due");
                assert!(owed.messages <= WINDOW.messages && owed.units <= WINDOW.units);
                if choice & 4 != 0 {
                    session.owe_again(due.unwrap_or(shard), owed);
                }
            }
        }
    }
}
