//! TLS between two ends over the loopback: what it carries, whom it refuses, what tampering does.
use std::collections::VecDeque;

pub(super) mod ends;
mod proxy;

use super::*;
use crate::tests::forms;
use ends::{
    AnySlots, Authority, End, Joined, both_down, both_end, down, frame, join, message, read, until,
    up,
};
use epicserver_link::driver::Form;
use epicserver_link::{Down, Event, Transport};
use epicserver_wire::{LinkId, Time};
use proxy::Proxy;

fn joined() -> Joined {
    joined_by((Form::Epoll, "127.0.0.1:0"))
}

fn joined_by(way: (Form, &str)) -> Joined {
    let tls = Authority::new().member();
    join([End::of(way, Some(&tls)), End::of(way, Some(&tls))], None)
}

/// Sizes about the bounds of records and slots, and long ones.
fn sizes() -> Vec<usize> {
    let edges = [0, 1, 15, 16_336, 16_352, 16_353, 16_384, 65_400, 65_504, 65_505, 3 << 20];
    let some = (0..400_usize).map(|n| (n * n * 31) % 9_000);
    edges.into_iter().chain(some).chain([5_000_011, 200_001]).collect()
}

/// What one end sends of `sizes`, and what has come to it.
struct Talk {
    sent: usize,
    got: VecDeque<(u8, usize)>,
}

impl Talk {
    fn go_on(&mut self, end: &mut End, link: LinkId, slots: &AnySlots, sizes: &[usize]) {
        while self.sent < sizes.len() {
            let fill = u8::try_from(self.sent % 251).unwrap();
            let Some(parcel) = message(slots, fill, sizes[self.sent]) else { break };
            if end.with(|tcp, io| tcp.submit(io, link, parcel)).is_err() {
                break;
            }
            self.sent += 1;
        }
        while let Some(frame) = end.take(frame) {
            self.got.extend(read(&frame));
        }
    }
}

#[test]
fn t1_messages_of_all_sizes_arrive_in_order_in_both_directions_at_once() {
    let ways = forms().into_iter().flat_map(|form| ["127.0.0.1:0", "[::1]:0"].map(|at| (form, at)));
    for way in ways {
        let mut joined = joined_by(way);
        let sizes = sizes();
        let mut talks = [(); 2].map(|()| Talk { sent: 0, got: VecDeque::new() });
        until(&mut joined.ends, |ends| {
            for side in 0..2 {
                let (link, slots) = (joined.links[side], &joined.slots[side]);
                talks[side].go_on(&mut ends[side], link, slots, &sizes);
            }
            talks.iter().all(|talk| talk.got.len() == sizes.len()).then_some(())
        });
        for talk in talks {
            for (at, (fill, len)) in talk.got.into_iter().enumerate() {
                assert_eq!(len, sizes[at]);
                assert!(len == 0 || usize::from(fill) == at % 251);
            }
        }
        until(&mut joined.ends, |ends| ends.iter().all(|end| end.tcp.lent() == 0).then_some(()));
    }
}

#[test]
fn t4_a_receiver_that_does_not_read_stops_its_sender_and_nothing_is_lost() {
    for form in forms() {
        let mut joined = joined_by((form, "127.0.0.1:0"));
        let link = joined.links[0];
        let (mut sent, mut idle) = (0, 0);
        // It is full only when it still refuses after many rounds of its own.
        while idle < 100 {
            let parcel = message(&joined.slots[0], 1, 60_000);
            let taken = parcel
                .map(|parcel| joined.ends[0].with(|tcp, io| tcp.submit(io, link, parcel)).is_ok());
            idle = if taken == Some(true) { 0 } else { idle + 1 };
            sent += usize::from(taken == Some(true));
            joined.ends[0].round();
        }
        assert!(sent > 10);
        let lent = joined.ends[0].tcp.lent();
        assert!(lent <= crate::SLOTS_MAX + 1, "{lent} slots wait");
        joined.ends[0].events.clear();
        let mut got = 0;
        until(&mut joined.ends, |ends| {
            while let Some(frame) = ends[1].take(frame) {
                got += read(&frame).len();
            }
            (got == sent).then_some(())
        });
        let room = |event: &Event| matches!(event, Event::Room { .. }).then_some(());
        until(&mut joined.ends, |ends| ends[0].take(room));
    }
}

#[test]
fn t3_a_peer_that_closes_says_goodbye_after_its_last_message() {
    for form in forms() {
        let Joined { mut ends, links, slots } = joined_by((form, "127.0.0.1:0"));
        let parcel = message(&slots[1], 5, 200_000).unwrap();
        ends[1].with(|tcp, io| tcp.submit(io, links[1], parcel)).unwrap();
        ends[1].with(|tcp, io| tcp.close(io, links[1]));
        let why = until(&mut ends, |ends| ends[1].take(down));
        assert_eq!(why, Down::Here);
        until(&mut ends, |ends| {
            ends[0].events.iter().any(|event| down(event).is_some()).then_some(())
        });
        let events = &ends[0].events;
        let last =
            events.iter().position(|event| frame(event).is_some()).expect("the message came");
        let gone = events.iter().position(|event| down(event).is_some()).expect("the link is down");
        assert!(last < gone);
        assert_eq!(events.iter().filter_map(down).collect::<Vec<_>>(), [Down::There]);
        assert_eq!(ends[0].tcp.refused() + ends[1].tcp.refused(), 0);
    }
}

#[test]
fn messages_that_fit_one_record_are_read_where_they_were_decrypted() {
    let mut joined = joined();
    let link = joined.links[0];
    for len in [4_000, 77, 1_000] {
        let parcel = message(&joined.slots[0], 9, len).unwrap();
        joined.ends[0].with(|tcp, io| tcp.submit(io, link, parcel)).unwrap();
    }
    let mut got = 0;
    until(&mut joined.ends, |ends| {
        got += ends[1].take(frame).map_or(0, |frame| read(&frame).len());
        (got == 3).then_some(())
    });
    assert_eq!(joined.ends[1].tcp.counters().copied, 0);
}

/// What the link of each of two ends comes to that ought not to have one, the first having dialled.
fn refused(dialling: &Tls, other: &Tls) -> [String; 2] {
    let mut ends = [End::new(Some(dialling)), End::new(Some(other))];
    let to = ends[1].address();
    ends[0].dial(1, to);
    let why = both_end(&mut ends);
    assert!(ends.iter().all(|end| end.tcp.refused() == 1), "each end has counted it");
    assert!(ends[1].take(up).is_none(), "TL1");
    why
}

#[test]
fn tl1_an_end_with_another_authority_is_refused_whoever_dials() {
    let (ours, theirs) = (Authority::new().member(), Authority::new().member());
    for (dialling, other) in [(&ours, &theirs), (&theirs, &ours)] {
        let [here, there] = refused(dialling, other);
        assert!(here.starts_with("TLS: invalid peer certificate"), "{here}");
        assert!(there.starts_with("TLS: received fatal alert"), "{there}");
    }
}

#[test]
fn tl1_who_knows_the_authority_and_has_a_certificate_of_another_is_refused_by_who_was_dialled() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (cert, key) = theirs.sign("stranger", |_| {});
    let stranger = Tls::load(&ours.ca(), &cert, &key).unwrap();
    let [here, there] = refused(&stranger, &ours.member());
    assert!(there.starts_with("TLS: invalid peer certificate"), "{there}");
    assert!(here.starts_with("TLS: received fatal alert"), "{here}");
}

#[test]
fn tl1_a_peer_without_a_certificate_is_refused() {
    let ours = Authority::new();
    let mut ends = [End::new(Some(&ours.member()))];
    let to = ends[0].address();
    let client = proxy::client_without_certificate(&ours.ca(), to);
    until(&mut ends, |_| client.is_finished().then_some(()));
    assert_eq!(ends[0].tcp.refused(), 1);
    assert_eq!(ends[0].tcp.refusals.last(), "TLS: peer sent no certificates");
    assert!(ends[0].events.is_empty(), "TL1");
    assert!(client.join().unwrap().contains("CertificateRequired"));
}

#[test]
fn tl1_certificates_that_are_over_not_begun_or_meant_for_another_use_are_refused() {
    let ours = Authority::new();
    let sound = ours.member();
    let over = ours.member_with(|params| {
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    });
    let early = ours.member_with(|params| params.not_before = rcgen::date_time_ymd(3000, 1, 1));
    let signing = ours.member_with(|params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::CodeSigning];
    });
    for (bad, why) in [(over, "expired"), (early, "not valid yet"), (signing, "extended key usage")]
    {
        let [here, there] = refused(&sound, &bad);
        assert!(here.contains("invalid peer certificate") && here.contains(why), "{here}");
        assert!(there.starts_with("TLS: received fatal alert"), "{there}");
        let [_, there] = refused(&bad, &sound);
        assert!(there.contains("invalid peer certificate") && there.contains(why), "{there}");
    }
}

/// What becomes of a link of a `first` that dials a `second`, one of them in the clear. That one speaks
/// first, as the handshake of a fabric does.
fn misfits(mut ends: [End; 2]) -> [String; 2] {
    let to = ends[1].address();
    ends[0].dial(1, to);
    let (at, (link, slots)) = until(&mut ends, |ends| {
        ends.iter_mut().enumerate().find_map(|(at, end)| Some((at, end.take(up)?)))
    });
    let parcel = message(&slots, 1, 100).unwrap();
    drop(ends[at].with(|tcp, io| tcp.submit(io, link, parcel)));
    both_end(&mut ends)
}

#[test]
fn a_peer_in_the_clear_and_one_with_tls_tell_each_other_apart() {
    let tls = Authority::new().member();
    let [clear, secure] = misfits([End::new(None), End::new(Some(&tls))]);
    assert!(clear.contains("the peer speaks TLS, and this end does not"), "{clear}");
    assert!(secure.contains("does the peer speak TLS at all?"), "{secure}");
    let [secure, clear] = misfits([End::new(Some(&tls)), End::new(None)]);
    assert!(clear.contains("the peer speaks TLS, and this end does not"), "{clear}");
    assert!(
        secure.contains("does the peer speak TLS at all?") || secure.contains("does it speak TLS"),
        "{secure}"
    );
}

#[test]
fn a_dial_that_gets_no_answer_to_its_greeting_is_silent() {
    let tls = Authority::new().member();
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut ends = [End::new(Some(&tls))];
    ends[0].dial(1, deaf.local_addr().unwrap());
    let (kept, _) = deaf.accept().unwrap();
    for _ in 0..10 {
        ends[0].round();
    }
    assert_eq!(ends[0].tcp.deadline(), Some(Time::ZERO + crate::DIAL));
    ends[0].now = Time::ZERO + crate::DIAL;
    let why = until(&mut ends, |ends| ends[0].take(down));
    assert_eq!(why, Down::Silent(crate::DIAL));
    drop(kept);
}

/// Two ends whose link leads through a proxy.
fn through_proxy() -> (Joined, Proxy) {
    let tls = Authority::new().member();
    let ends = [End::new(Some(&tls)), End::new(Some(&tls))];
    let proxy = Proxy::before(ends[1].address());
    let to = proxy.address();
    (join(ends, Some(to)), proxy)
}

fn say(joined: &mut Joined, len: usize) {
    let parcel = message(&joined.slots[0], b'#', len).unwrap();
    let link = joined.links[0];
    joined.ends[0].with(|tcp, io| tcp.submit(io, link, parcel)).unwrap();
}

#[test]
fn nothing_that_is_said_can_be_read_on_the_way() {
    let (mut joined, proxy) = through_proxy();
    say(&mut joined, 100_000);
    until(&mut joined.ends, |ends| ends[1].take(frame));
    drop(joined);
    let seen = proxy.seen();
    assert!(seen.len() > 100_000, "{} bytes were seen", seen.len());
    assert!(!seen.windows(8).any(|bytes| bytes == [b'#'; 8]));
}

#[test]
fn a_bit_that_is_changed_on_the_way_ends_the_link_and_no_message_comes_of_it() {
    let (mut joined, proxy) = through_proxy();
    say(&mut joined, 50);
    until(&mut joined.ends, |ends| ends[1].take(frame));
    proxy.flip();
    say(&mut joined, 60);
    let [here, there] = both_end(&mut joined.ends);
    assert_eq!(there, "TLS: cannot decrypt peer's message");
    assert_eq!(here, "TLS: received fatal alert: BadRecordMac");
    assert!(joined.ends[1].take(frame).is_none());
    assert_eq!(joined.ends[1].tcp.refused(), 1);
}

#[test]
fn a_stream_that_is_cut_without_a_goodbye_is_down_as_if_the_process_had_ended() {
    let (mut joined, proxy) = through_proxy();
    proxy.cut();
    say(&mut joined, 60);
    assert_eq!(both_down(&mut joined.ends), [Down::There, Down::There]);
    assert!(joined.ends[1].take(frame).is_none());
}

#[test]
fn ts2_a_stream_that_comes_byte_by_byte_is_understood() {
    let (mut joined, proxy) = through_proxy();
    proxy.drip();
    say(&mut joined, 3_000);
    let got = until(&mut joined.ends, |ends| ends[1].take(frame));
    assert_eq!(read(&got), [(b'#', 3_000)]);
}

fn not_loaded(ca: &Path, cert: &Path, key: &Path) -> String {
    Tls::load(ca, cert, key).unwrap_err().to_string()
}

#[test]
fn files_that_cannot_be_used_are_named_with_the_reason() {
    let ours = Authority::new();
    let (ca, (cert, key)) = (ours.ca(), ours.sign("node", |_| {}));
    let none = ours.path("none.pem");
    for error in [
        not_loaded(&none, &cert, &key),
        not_loaded(&ca, &none, &key),
        not_loaded(&ca, &cert, &none),
    ] {
        assert_eq!(
            error,
            format!("cannot read {}: No such file or directory (os error 2)", none.display())
        );
    }
    let (_, other) = ours.sign("other", |_| {});
    let pair = format!("{} and {} do not go together: ", cert.display(), other.display());
    assert!(
        not_loaded(&ca, &cert, &other).starts_with(&pair),
        "{}",
        not_loaded(&ca, &cert, &other)
    );
    let swapped = format!("{} holds no certificate in PEM", key.display());
    assert_eq!(not_loaded(&ca, &key, &cert), swapped);
    assert_eq!(not_loaded(&key, &cert, &key), swapped);
    let no_key = format!("{} holds no private key in PEM that needs no password", other.display());
    ends::write_secret(&other, "nothing\n");
    assert_eq!(not_loaded(&ca, &cert, &other), no_key);
    ends::write_secret(&other, "-----BEGIN CERTIFICATE-----\nAAAA\n");
    let unsound = format!("{} is not sound PEM: ", other.display());
    assert!(not_loaded(&ca, &other, &key).starts_with(&unsound));
    let folder = ca.parent().unwrap();
    let no_file = format!("{} is no regular file", folder.display());
    assert_eq!(not_loaded(folder, &cert, &key), no_file);
}

#[test]
fn a_private_key_that_everybody_may_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let ours = Authority::new();
    let (cert, key) = ours.sign("node", |_| {});
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let said = format!("everybody may read {0} (mode 644); chmod 600 {0}", key.display());
    assert_eq!(not_loaded(&ours.ca(), &cert, &key), said);
}
