//! Heads of messages: the three readers agree, and what was read can be written again.

use epicserver_wire::Unwritten;
use epicserver_wire::frame::{FRAME_ALIGN, Frame, FrameMut};
use epicserver_wire::header::{CORE_BYTES, Callee, Glance, Message, Opened, Violation, extent};
use epicserver_wire::limits::MESSAGE_BYTES_MAX;
use epicserver_wire::rkyv::ser::Writer as _;

/// A frame of any bytes.
///
/// # Panics
/// If something is wrong.
pub fn header(data: &[u8]) {
    let frame = Frame::copy_of(data);
    let bytes = frame.bytes();
    let mut at = 0;
    while at < bytes.len() {
        let Ok(message) = read(bytes, at) else { break };
        write_again(bytes, at, &message);
        at = message.end;
    }
    cut(bytes);
    // Nobody asks for such a place, but nothing may come of it.
    let odd = data.iter().map(|byte| usize::from(*byte)).sum::<usize>();
    drop(read(bytes, odd));
}

fn read(bytes: &[u8], start: usize) -> Result<Message, Violation> {
    let message = Message::parse(bytes, start);
    let glance = Glance::at(bytes, start);
    let extent = extent(bytes.get(start..).unwrap_or(&[]));
    match &message {
        Ok(message) => {
            let end = message.end;
            assert_eq!(extent, Ok(Some(end - start)));
            let seen = glance.map(|glance| (glance.kind, glance.to, glance.len, glance.end));
            assert_eq!(seen, Ok((message.header.kind, message.header.to, message.len, end)));
            assert!(start + CORE_BYTES <= message.payload && message.payload + message.len <= end);
            assert!(end <= bytes.len() && (end - start).is_multiple_of(FRAME_ALIGN));
            assert!(end - start <= MESSAGE_BYTES_MAX);
            assert_eq!(message.payload_of(bytes).len(), message.len);
        }
        // A glance does not read the callee.
        Err(Violation::Callee | Violation::Sections) => {}
        // Of two things that are wrong, each may find another one first.
        Err(_) => assert!(glance.is_err()),
    }
    message
}

/// What was read is what the same message, written anew, is read as; and it is as long.
fn write_again(bytes: &[u8], start: usize, message: &Message) {
    let mut frame = FrameMut::detached(message.end - start);
    let callee = message.callee.as_ref().map(Callee::address);
    let opened = Opened::new(&mut frame, &message.header, callee).expect("it has room");
    let written = opened
        .fill(&mut frame, |out| out.write(message.payload_of(bytes)).map_err(|_| Unwritten::Full));
    assert!(opened.close(&mut frame, written.expect("it has room")));
    let again = Message::parse(frame.bytes(), 0).expect("what is written can be read");
    assert_eq!(again.header, message.header);
    assert_eq!(again.callee, message.callee);
    assert_eq!(again.payload_of(frame.bytes()), message.payload_of(bytes));
    assert_eq!(again.end, message.end - start);
}

/// What is told of a message by its beginning stays true when more of it comes.
fn cut(bytes: &[u8]) {
    let whole = extent(bytes);
    for len in (0..bytes.len().min(700)).step_by(7) {
        match extent(&bytes[..len]) {
            Ok(None) => {}
            told @ (Ok(Some(_)) | Err(_)) => assert_eq!(told, whole),
        }
    }
}
