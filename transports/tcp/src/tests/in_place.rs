//! Views of arguments point into the memory that the kernel filled.

use super::*;
use epicserver_link::driver::Done;
use epicserver_wire::frame::Part;
use epicserver_wire::header::Message;
use epicserver_wire::view::View;
use epicserver_wire::{Codec, Rkyv};

type Arguments = (u32, View<Vec<u8>>);

/// Messages to be sent: so many that some straddle two buffers.
const MESSAGES: u32 = 2_000;
/// Bytes of each argument: above what is copied so that it pins no buffer.
const BYTES: usize = 1_000;

fn arguments(number: u32) -> Arguments {
    (number, vec![u8::try_from(number % 251).unwrap(); BYTES].into())
}

fn send(joined: &mut Joined) {
    let Joined { ends, links, slots } = joined;
    let header = Header::new(Kind::Reply, ShardId::new(0), ShardId::new(0));
    let mut number = 0;
    while number < MESSAGES {
        let Some(mut slot) = Arc::clone(slots).reserve() else { return };
        while number < MESSAGES {
            let bytes = <Rkyv as Codec<Arguments>>::encode(&arguments(number)).unwrap();
            if !append(&mut slot, &header, &bytes) {
                break;
            }
            number += 1;
        }
        let link = links[0];
        ends[0].with(|tcp, io| tcp.submit(io, link, Parcel::of(slot))).unwrap();
    }
}

/// The arguments in `frame`, and how many of them lie in one of `filled`.
fn read(frame: &Frame, filled: &[std::ops::Range<*const u8>]) -> (u32, u32) {
    let (mut at, mut messages, mut in_place) = (0, 0, 0);
    while at < frame.len() {
        let message = Message::parse(frame.bytes(), at).unwrap();
        let part: Part<'_> = message.payload_in(frame);
        let (number, view): Arguments = Rkyv::decode_in(part).unwrap();
        assert_eq!(&view[..], &arguments(number).1[..]);
        in_place += u32::from(filled.iter().any(|range| range.contains(&view.as_ptr())));
        messages += 1;
        at = message.end;
    }
    (messages, in_place)
}

#[test]
fn f1_a_view_of_what_straddles_no_buffers_points_into_the_kernels_buffer() {
    for form in forms() {
        let mut joined = join(form, "127.0.0.1:0");
        send(&mut joined);
        let [near, far] = &mut joined.ends;
        // Frames are kept, so that no buffer is filled twice and a range tells one buffer.
        let (mut filled, mut frames, mut kept) = (Vec::new(), Vec::new(), Vec::new());
        let (mut messages, mut in_place) = (0, 0);
        while messages < MESSAGES {
            near.round();
            far.driver.wait(Some(Duration::from_millis(1)), &mut far.done).unwrap();
            for completion in std::mem::take(&mut far.done) {
                if let Done::Received(frame) = &completion.done {
                    filled.push(frame.bytes().as_ptr_range());
                    kept.push(frame.clone());
                }
                far.with(|tcp, io| tcp.complete(io, completion));
            }
            while let Some(frame) = far.take(frame) {
                let (read, there) = read(&frame, &filled);
                messages += read;
                in_place += there;
                frames.push(frame);
            }
        }
        let counters = far.tcp.counters();
        let copied = 100.0 * counters.copied_bytes as f64 / counters.bytes as f64;
        println!("{form}: {in_place} of {messages} in place, {copied:.1} % of the bytes copied");
        // What was copied are single messages, each between two buffers.
        assert_eq!(u64::from(messages - in_place), counters.copied, "{form}");
        assert!(counters.copied < filled.len() as u64, "{form}: {counters:?}");
    }
}
