//! How connections begin and end.

use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;

use epicserver_link::driver::SocketAddress;
use epicserver_link::pool::HeapPool;
use epicserver_wire::frame::Slots;
use rustix::net::sockopt::set_socket_linger;
use socket2::{Domain, Socket, Type};

use super::*;

fn connected(done: &Done) -> Option<()> {
    matches!(done, Done::Connected).then_some(())
}

fn stream_to(address: SocketAddr) -> Socket {
    Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap()
}

#[test]
fn a_connection_that_is_made_carries_what_was_given_before() {
    each_form(|form| {
        let mut end = End::new(form);
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let address = listener.local_addr().unwrap();
            let socket = stream_to(address).into();
            let to = SocketAddress::Inet(address);
            let handle = end.driver.connect(OWNER, socket, &to, Receive::Stream).unwrap();
            end.driver.send(handle, parcel(0, 1_000)).unwrap();
            end.until(|end| end.take(handle, connected));
            let (mut peer, _) = listener.accept().unwrap();
            peer.write_all(&bytes(0, 500)).unwrap();
            end.until(|end| end.take(handle, sent));
            let mut got = vec![0; 1_000];
            peer.read_exact(&mut got).unwrap();
            assert_eq!(got, bytes(0, 1_000));
            let frame = end.until(|end| end.take(handle, received));
            assert_eq!(frame.bytes(), bytes(0, 500));
        }
    });
}

#[test]
fn a_connection_that_is_closed_before_it_is_made_is_never_made() {
    each_form(|form| {
        for flush in [true, false] {
            let mut end = End::new(form);
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let (socket, to) = (stream_to(address).into(), SocketAddress::Inet(address));
            let handle = end.driver.connect(OWNER, socket, &to, Receive::Stream).unwrap();
            end.driver.close(handle, flush);
            assert_eq!(end.until_closed(handle), None);
            assert!(end.take(handle, connected).is_none());
        }
    });
}

#[test]
fn where_nobody_listens_the_socket_is_closed_with_the_reason() {
    each_form(|form| {
        let mut end = End::new(form);
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (socket, to) = (stream_to(address).into(), SocketAddress::Inet(address));
        let handle = end.driver.connect(OWNER, socket, &to, Receive::Stream).unwrap();
        assert_eq!(end.until_closed(handle), Some(ErrorKind::ConnectionRefused));
        assert!(end.take(handle, connected).is_none());
    });
}

#[test]
fn all_that_connect_are_accepted_and_none_after_the_close() {
    each_form(|form| {
        let mut end = End::new(form);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let handle = end.driver.listen(OWNER, listener.into()).unwrap();
        let mut peers = Vec::new();
        for _ in 0..100 {
            peers.push(TcpStream::connect(address).unwrap());
        }
        let accepted = |end: &mut End| {
            let is = |one: &Completion| matches!(one.done, Done::Accepted(_));
            let at = end.done.iter().position(is)?;
            match end.done.remove(at) {
                Completion { done: Done::Accepted(socket), .. } => Some(socket),
                other => panic!("{other:?}"),
            }
        };
        for peer in &mut peers {
            let socket = end.until(accepted);
            let handle = end.adopt(socket);
            end.driver.send(handle, parcel(7, 1)).unwrap();
            end.until(|end| end.take(handle, sent));
            drop(peer.write(&[1]));
        }
        // In whatever order they were accepted, each has somebody who speaks to it.
        for peer in &mut peers {
            let mut got = [0];
            peer.read_exact(&mut got).unwrap();
            assert!(is_stream(&got, 7));
        }
        end.driver.close(handle, false);
        assert_eq!(end.until_closed(handle), None);
        assert!(TcpStream::connect(address).is_err());
    });
}

#[test]
fn a_close_that_flushes_delivers_everything_first() {
    each_form(|form| {
        for kind in KINDS {
            let mut end = End::new(form);
            let (one, other) = pair(kind);
            let from = end.adopt(one);
            for n in 0..200 {
                end.driver.send(from, parcel(n * 40_000, 40_000)).unwrap();
            }
            end.driver.close(from, true);
            assert!(end.driver.send(from, parcel(0, 16)).is_err());
            let reader = std::thread::spawn(move || {
                let mut got = Vec::new();
                std::fs::File::from(other).read_to_end(&mut got).unwrap();
                got
            });
            assert_eq!(end.until_closed(from), None, "{kind:?}");
            assert!(reader.join().unwrap() == bytes(0, 8_000_000), "{kind:?}");
        }
    });
}

#[test]
fn r4_a_close_in_order_loses_nothing_although_the_peer_is_sending() {
    each_form(|form| {
        for kind in KINDS {
            let mut end = End::new(form);
            let (one, other) = pair(kind);
            let handle = end.adopt(one);
            let peer = std::fs::File::from(other);
            let mut writing = peer.try_clone().unwrap();
            let writer = std::thread::spawn(move || writing.write_all(&bytes(0, 6_000_000)));
            for n in 0..100 {
                end.driver.send(handle, parcel(n * 40_000, 40_000)).unwrap();
            }
            end.driver.close(handle, true);
            let reader = std::thread::spawn(move || {
                let mut got = Vec::new();
                (&peer).read_to_end(&mut got).unwrap();
                let all = got == bytes(0, 4_000_000);
                (writer.join().unwrap().is_ok(), all)
            });
            let mut came = Vec::new();
            end.until(|end| {
                came.extend(end.received(handle));
                end.take(handle, closed).map(|error| assert_eq!(error, None))
            });
            assert_eq!(reader.join().unwrap(), (true, true), "{kind:?}");
            assert!(came == bytes(0, 6_000_000), "{kind:?}");
        }
    });
}

#[test]
fn r4_two_ends_that_close_in_order_at_once_get_all_of_each_other() {
    each_form(|form| {
        for kind in KINDS {
            let mut end = End::new(form);
            let (one, other) = pair(kind);
            let handles = [end.adopt(one), end.adopt(other)];
            // The one has said all long before the other has.
            for (handle, parcels) in handles.into_iter().zip([1, 200]) {
                for n in 0..parcels {
                    end.driver.send(handle, parcel(n * 40_000, 40_000)).unwrap();
                }
                end.driver.close(handle, true);
            }
            for (handle, parcels) in handles.into_iter().zip([200, 1]) {
                let mut came = Vec::new();
                end.until(|end| {
                    came.extend(end.received(handle));
                    end.take(handle, closed).map(|error| assert_eq!(error, None))
                });
                came.extend(end.received(handle));
                assert!(came == bytes(0, parcels * 40_000), "{kind:?}");
            }
        }
    });
}

#[test]
fn a_close_that_does_not_flush_ends_although_the_peer_does_not_read() {
    each_form(|form| {
        for kind in KINDS {
            let mut end = End::new(form);
            let (one, other) = pair(kind);
            let from = end.adopt(one);
            while end.driver.send(from, parcel(0, 60_000)).is_ok() {}
            end.quiet_rounds(5);
            end.driver.close(from, true);
            end.quiet_rounds(5);
            assert!(end.take(from, closed).is_none());
            end.driver.close(from, false);
            assert_eq!(end.until_closed(from), None, "{kind:?}");
            drop(other);
        }
    });
}

#[test]
fn r2_a_peer_that_ends_in_order_is_closed_after_its_last_bytes() {
    each_form(|form| {
        for kind in KINDS {
            let mut end = End::new(form);
            let (one, other) = pair(kind);
            let to = end.adopt(one);
            let mut peer = std::fs::File::from(other);
            let writer = std::thread::spawn(move || {
                peer.write_all(&bytes(0, 3_000_001)).unwrap();
            });
            let mut came = Vec::new();
            end.until(|end| {
                let ends = end.done.iter().position(|one| closed(&one.done).is_some());
                let last = end.done.iter().rposition(|one| received(&one.done).is_some());
                assert!(last < ends || ends.is_none(), "R2: bytes after the end");
                came.extend(end.received(to));
                end.take(to, closed).map(|error| assert_eq!(error, None))
            });
            writer.join().unwrap();
            assert!(came == bytes(0, 3_000_001), "{kind:?}");
        }
    });
}

#[test]
fn a_peer_that_only_ends_its_side_is_closed_in_order() {
    each_form(|form| {
        let mut end = End::new(form);
        let (one, mut peer) = tcp();
        let to = end.adopt(one);
        peer.write_all(&bytes(0, 100)).unwrap();
        peer.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(end.until(|end| end.take(to, closed)), None);
        assert_eq!(end.received(to), bytes(0, 100));
        // Our side is closed, too.
        assert_eq!(peer.read(&mut [0; 16]).unwrap(), 0);
    });
}

#[test]
fn a_peer_that_resets_is_closed_with_the_reason() {
    each_form(|form| {
        let mut end = End::new(form);
        let (one, peer) = tcp();
        let to = end.adopt(one);
        end.quiet_rounds(2);
        set_socket_linger(&peer, Some(Duration::ZERO)).unwrap();
        drop(peer);
        assert_eq!(end.until_closed(to), Some(ErrorKind::ConnectionReset));
    });
}

#[test]
fn k1_a_handle_that_was_closed_is_not_taken_for_its_successor() {
    each_form(|form| {
        let mut end = End::new(form);
        let (one, _peer) = pair(Kind::V4);
        let old = end.adopt(one);
        end.driver.close(old, false);
        assert_eq!(end.until_closed(old), None);
        let (one, other) = pair(Kind::V4);
        let (from, to) = (end.adopt(one), end.adopt(other));
        assert!(from != old && to != old);
        assert!(end.driver.send(old, parcel(0, 16)).is_err());
        end.driver.close(old, true);
        end.driver.send(from, parcel(0, 64)).unwrap();
        let frame = end.until(|end| end.take(to, received));
        assert_eq!(frame.bytes(), bytes(0, 64));
        assert!(end.take(old, closed).is_none());
    });
}

#[test]
fn a_driver_that_is_dropped_frees_what_it_had_and_leaves_what_it_gave() {
    each_form(|form| {
        for kind in KINDS {
            let pool = HeapPool::new(64, 65_536);
            let mut end = End::new(form);
            let (one, other) = pair(kind);
            let (busy, mut raw) = tcp();
            let (from, to) = (end.adopt(one), end.adopt(other));
            let stuck = end.adopt(busy);
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            end.driver.listen(OWNER, listener.into()).unwrap();
            raw.write_all(&bytes(0, 100)).unwrap();
            for handle in [from, stuck].into_iter().cycle() {
                let Some(mut head) = (Arc::clone(&pool) as Arc<dyn Slots>).reserve() else { break };
                head.set_len(65_536);
                end.driver.send(handle, Parcel::of(head)).unwrap();
            }
            let frame = end.until(|end| end.take(to, received));
            let own = end.until(|end| end.take(stuck, received));
            drop(end);
            assert_eq!(pool.lent(), 0, "{kind:?}");
            assert!(frame.bytes().iter().all(|byte| *byte == 0));
            assert_eq!(own.bytes(), bytes(0, 100));
        }
    });
}

#[test]
fn slots_come_back_although_the_peer_is_gone() {
    each_form(|form| {
        let pool = HeapPool::new(64, 65_536);
        let mut end = End::new(form);
        let (one, peer) = tcp();
        let from = end.adopt(one);
        while let Some(mut head) = (Arc::clone(&pool) as Arc<dyn Slots>).reserve() {
            head.set_len(65_536);
            end.driver.send(from, Parcel::of(head)).unwrap();
        }
        end.quiet_rounds(3);
        drop(peer);
        assert!(end.until_closed(from).is_some());
        end.until(|_| (pool.lent() == 0).then_some(()));
    });
}

#[test]
fn a_socket_is_closed_once_whatever_is_asked_of_it_meanwhile() {
    each_form(|form| {
        let mut end = End::new(form);
        let (one, peer) = tcp();
        let handle = end.adopt(one);
        drop(peer);
        end.driver.close(handle, true);
        end.driver.close(handle, false);
        end.driver.close(handle, true);
        assert_eq!(end.until_closed(handle), None);
    });
}
