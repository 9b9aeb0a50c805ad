//! Bytes: all of them, in order, aligned, whoever is slow.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::*;
use crate::driver::BUFFERS_MAX;
use crate::driver::sockets::PARCELS_MAX;

#[test]
fn r1_parcels_of_all_sizes_arrive_in_order_and_lie_as_they_were_aligned() {
    let sizes = [1, 16, 64, 100, 4_096, 16_384, 65_536, 131_072, 200_000, 1 << 20];
    each_form(|form| {
        for kind in KINDS {
            let mut end = End::new(form);
            let (one, other) = pair(kind);
            let (from, to) = (end.adopt(one), end.adopt(other));
            let total: usize = (0..60).map(|n| sizes[n % sizes.len()]).sum();
            let (mut given, mut came, mut next, mut free) = (0, 0, 0, 0);
            end.until(|end| {
                while next < 60 && give(end, from, &mut given, sizes[next % sizes.len()]) {
                    next += 1;
                }
                while let Some(frame) = end.take(to, received) {
                    assert_eq!(frame.bytes().as_ptr().addr() % 16, came % 16, "{kind:?}");
                    assert!(is_stream(frame.bytes(), came));
                    came += frame.len();
                }
                while let Some(parcels) = end.take(from, sent) {
                    free += parcels;
                }
                (came == total && free == 60).then_some(())
            });
            let counters = end.driver.counters();
            assert_eq!(counters.sent, total as u64);
            assert_eq!(counters.received, total as u64);
            end.quiet_rounds(3);
            assert!(end.done.is_empty(), "{:?}", end.done);
        }
    });
}

/// Sends the next `len` bytes of the stream. Says whether they were taken.
fn give(end: &mut End, handle: Handle, given: &mut usize, len: usize) -> bool {
    let taken = end.driver.send(handle, halves(*given, len)).is_ok();
    *given += if taken { len } else { 0 };
    taken
}

/// A parcel in two parts, of which the second is a frame of somebody else's.
fn halves(from: usize, len: usize) -> Parcel {
    let half = len / 2;
    let body = Frame::copy_of(&bytes(from + half, len - half));
    Parcel { body: Some(body), ..parcel(from, half) }
}

#[test]
fn both_ends_can_speak_at_once() {
    each_form(|form| {
        let mut end = End::new(form);
        let (one, other) = pair(Kind::V4);
        let handles = [end.adopt(one), end.adopt(other)];
        let (mut given, mut came) = ([0; 2], [0; 2]);
        end.until(|end| {
            for (side, handle) in handles.into_iter().enumerate() {
                while given[side] < 6_000_000 && give(end, handle, &mut given[side], 30_000) {}
                let got = end.received(handle);
                assert!(is_stream(&got, came[side]));
                came[side] += got.len();
                while end.take(handle, sent).is_some() {}
            }
            (came == [6_000_000; 2]).then_some(())
        });
    });
}

#[test]
fn a_peer_that_does_not_read_stops_its_sender_and_nothing_is_lost() {
    each_form(|form| {
        let mut end = End::new(form);
        let (one, mut peer) = tcp();
        let from = end.adopt(one);
        let (mut given, mut refused) = (0, 0);
        while refused < 50 {
            match end.driver.send(from, parcel(given * 5_000, 5_000)) {
                Ok(()) => given += 1,
                Err(_) => {
                    refused += 1;
                    end.round();
                }
            }
        }
        assert!(given >= PARCELS_MAX);
        peer.set_nonblocking(true).unwrap();
        let (mut came, mut free, mut room) = (0, 0, vec![0; 100_000]);
        end.until(|end| {
            while let Ok(len) = peer.read(&mut room) {
                assert!(is_stream(&room[..len], came));
                came += len;
            }
            while let Some(parcels) = end.take(from, sent) {
                free += parcels;
            }
            (came == given * 5_000 && free == given).then_some(())
        });
        assert!(end.driver.send(from, parcel(0, 16)).is_ok());
    });
}

#[test]
fn however_the_kernel_cuts_a_stream_what_was_aligned_is_aligned() {
    each_form(|form| {
        let mut end = End::new(form);
        let (one, mut peer) = tcp();
        peer.set_nodelay(true).unwrap();
        let to = end.adopt(one);
        let mut at = 0;
        for len in (1..=40).chain([1, 15, 16, 17, 3]) {
            peer.write_all(&bytes(at, len)).unwrap();
            let whole = at + len;
            while at < whole {
                let frame = end.until(|end| end.take(to, received));
                assert_eq!(frame.bytes().as_ptr().addr() % 16, at % 16);
                assert_eq!(frame.bytes(), bytes(at, frame.len()));
                at += frame.len();
            }
        }
    });
}

#[test]
fn k3_receives_wait_while_all_buffers_are_out_and_go_on_when_one_is_free() {
    each_form(|form| {
        let mut end = End::new(form);
        let (one, mut peer) = tcp();
        let to = end.adopt(one);
        let mut frames = Vec::new();
        let mut at = 0;
        while end.driver.counters().starved == 0 {
            peer.write_all(&bytes(at, 16)).unwrap();
            at += 16;
            end.round();
            while let Some(frame) = end.take(to, received) {
                frames.push(frame);
            }
            assert!(frames.len() <= BUFFERS_MAX);
        }
        peer.write_all(&bytes(at, 160)).unwrap();
        at += 160;
        end.quiet_rounds(10);
        assert!(end.take(to, received).is_none());
        assert_eq!(frames.len(), BUFFERS_MAX);
        let mut came = read(&frames);
        frames.clear();
        end.until(|end| {
            came.extend(end.received(to));
            (came.len() == at).then_some(())
        });
        assert_eq!(came, bytes(0, at));
    });
}

fn read(frames: &[Frame]) -> Vec<u8> {
    frames.iter().flat_map(|frame| frame.bytes().to_vec()).collect()
}

#[test]
fn a_starved_socket_does_not_keep_others_from_closing() {
    each_form(|form| {
        let mut end = End::new(form);
        let (one, mut peer) = tcp();
        let to = end.adopt(one);
        let mut frames = Vec::new();
        while end.driver.counters().starved == 0 {
            peer.write_all(&[1; 16]).unwrap();
            end.round();
            while let Some(frame) = end.take(to, received) {
                frames.push(frame);
            }
        }
        end.driver.close(to, false);
        assert_eq!(end.until_closed(to), None);
    });
}

#[test]
fn more_sockets_than_the_rings_hold_are_all_served() {
    each_form(|form| {
        let mut end = End::new(form);
        let pairs: Vec<_> = (0..150).map(|_| pair(Kind::Unix)).collect();
        let adopted = pairs.into_iter().map(|(one, other)| (end.adopt(one), end.adopt(other)));
        let handles: Vec<(Handle, Handle)> = adopted.collect();
        for turn in 0..3 {
            for (one, other) in &handles {
                end.driver.send(*one, parcel(turn, 64)).unwrap();
                end.driver.send(*other, parcel(turn, 64)).unwrap();
            }
            let mut came = std::collections::BTreeMap::<Handle, Vec<u8>>::new();
            end.until(|end| {
                for (one, other) in &handles {
                    came.entry(*one).or_default().extend(end.received(*one));
                    came.entry(*other).or_default().extend(end.received(*other));
                }
                let whole = came.values().filter(|came| **came == bytes(turn, 64)).count();
                (whole == handles.len() * 2).then_some(())
            });
        }
    });
}

#[test]
fn packets_come_whole_and_each_in_a_buffer_of_its_own() {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    each_form(|form| {
        let mut end = End::new(form);
        let kind = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let (one, other) = socketpair(kind.0, kind.1, SocketFlags::CLOEXEC, None).unwrap();
        let from = end.driver.adopt(OWNER, one, Receive::Packets).unwrap();
        let to = end.driver.adopt(OWNER, other, Receive::Packets).unwrap();
        let sizes = [1, 64, 17, 60_000, 5, 30_001, 64];
        for len in sizes {
            end.driver.send(from, halves(0, len + 1)).unwrap();
            let frame = end.until(|end| end.take(to, received));
            assert!(frame.is_aligned());
            assert_eq!(frame.bytes(), bytes(0, len + 1));
        }
        // What waits together shares packets; what is too long for one takes several.
        for (from_byte, len) in [(0, 64), (64, 60_000), (60_064, 9_000), (69_064, 200_000)] {
            end.driver.send(from, halves(from_byte, len)).unwrap();
        }
        let mut at = 0;
        for len in [60_064, 9_000, 65_536, 65_536, 65_536, 3_392] {
            let frame = end.until(|end| end.take(to, received));
            assert!(frame.is_aligned());
            assert_eq!(frame.bytes(), bytes(at, len));
            at += len;
        }
        end.driver.close(from, true);
        assert_eq!(end.until_closed(to), None);
    });
}

#[test]
fn a_peer_that_reads_slowly_gets_all_of_a_large_parcel() {
    each_form(|form| {
        let mut end = End::new(form);
        let (one, mut peer): (TcpStream, TcpStream) = tcp();
        let from = end.adopt(one);
        end.driver.send(from, parcel(0, 9_000_000)).unwrap();
        peer.set_nonblocking(true).unwrap();
        let (mut came, mut room) = (0, vec![0; 50_000]);
        end.until(|end| {
            while let Ok(len) = peer.read(&mut room) {
                assert!(is_stream(&room[..len], came));
                came += len;
            }
            end.take(from, sent)
        });
        end.until(|_| {
            came += peer.read(&mut room).unwrap_or(0);
            (came == 9_000_000).then_some(())
        });
    });
}
