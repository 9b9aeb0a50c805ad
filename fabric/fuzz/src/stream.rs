//! Framing: however a stream is cut into pieces, its whole messages come out, and a violation is found
//! exactly where there is one.

use epicserver_link::framing::Framing;
use epicserver_wire::frame::Frame;
use epicserver_wire::header::{Violation, extent};

use crate::input::Input;

/// A table of sizes, then a stream of any bytes that comes in pieces of those sizes.
///
/// # Panics
/// If something is wrong.
pub fn stream(data: &[u8]) {
    let mut input = Input::new(data);
    let sizes: Vec<usize> =
        (0..input.byte() % 8).map(|_| 1 + usize::from(input.u16() % 700)).collect();
    let stream = Frame::copy_of(input.rest());
    let mut sizes = sizes.into_iter().cycle();
    let (mut framing, mut out, mut ended) = (Framing::default(), Vec::new(), None);
    assert!(framing.is_new());
    let mut at = 0;
    while at < stream.len() && ended.is_none() {
        let end = sizes.next().map_or(stream.len(), |size| stream.len().min(at + size));
        let piece = stream.slice(at, end).expect("it is that long");
        ended = framing.piece(&piece, |frame| give(&frame, &mut out)).err();
        at = end;
    }
    let (whole, why) = expected(stream.bytes());
    assert_eq!(ended, why);
    // Messages of the very piece that ends the link need not be passed on.
    assert!(stream.bytes().starts_with(&out));
    assert!(out.len() == whole || (ended.is_some() && out.len() < whole));
    if ended.is_none() {
        assert_eq!(framing.counters().bytes, whole as u64);
    }
}

/// Whole messages come, aligned, and at least one.
fn give(frame: &Frame, out: &mut Vec<u8>) {
    assert!(frame.is_aligned());
    assert_eq!(expected(frame.bytes()), (frame.len(), None));
    assert!(!frame.is_empty());
    out.extend_from_slice(frame.bytes());
}

/// How long the whole messages are, and what is wrong behind them.
fn expected(bytes: &[u8]) -> (usize, Option<Violation>) {
    let mut at = 0;
    loop {
        match extent(&bytes[at..]) {
            Ok(Some(extent)) if at + extent <= bytes.len() => at += extent,
            Ok(_) => return (at, None),
            Err(why) => return (at, Some(why)),
        }
    }
}
