//! What a device, a peer or a user may make of a link, and what follows.

use std::sync::Arc;
use std::time::Duration;

use super::end::{End, config, header, joined, settle};
use super::fake;
use crate::{Config, Key};
use epicserver_link::{Down, Parcel, Transport as _};
use epicserver_wire::frame::FrameMut;
use epicserver_wire::header::append;

/// `IBV_EVENT_QP_FATAL`, `IBV_EVENT_DEVICE_FATAL`, `IBV_EVENT_PORT_ERR`.
const PAIR_FAILED: u32 = 1;
const DEVICE_FAILED: u32 = 8;
const PORT_DOWN: u32 = 10;

fn pair_of(end: &End) -> u32 {
    end.verbs.pairs().next().unwrap()
}

fn said(end: &End) -> String {
    let [(_, Down::Failed(why))] = end.down.as_slice() else { panic!("{:?}", end.down) };
    why.clone()
}

#[test]
fn a_peer_whose_device_does_not_answer_is_lost_and_can_be_dialled_anew() {
    let (mut near, mut far, [link, _]) = joined(config(), config());
    fake::cut(pair_of(&near));
    let parcel = near.message(100);
    near.submit(link, parcel);
    settle(&mut [&mut near, &mut far]);
    assert_eq!(near.down, [], "the control connection may know better");
    near.now = near.now + Duration::from_millis(100);
    settle(&mut [&mut near, &mut far]);
    assert!(said(&near).contains("IBV_WC_RETRY_EXC_ERR"), "{}", said(&near));
    assert_eq!(far.down.len(), 1, "the control connection has ended");
    let again = near.dial(&far.address());
    settle(&mut [&mut near, &mut far]);
    assert_eq!(near.up, [link, again]);
    assert!(far.frames.is_empty(), "nothing is sent twice");
}

#[test]
fn a_peer_that_has_gone_is_said_to_have_gone_though_its_device_is_missed_first() {
    let (mut near, mut far, [link, _]) = joined(config(), config());
    fake::cut(pair_of(&near));
    let parcel = near.message(100);
    near.submit(link, parcel);
    settle(&mut [&mut near, &mut far]);
    drop(far);
    settle(&mut [&mut near]);
    assert_eq!(near.down, [(link, Down::There)]);
}

#[test]
fn what_the_device_says_of_a_pair_ends_its_link_and_of_a_port_none() {
    let (mut near, mut far, [_, _]) = joined(config(), config());
    let second = near.dial(&far.address());
    settle(&mut [&mut near, &mut far]);
    fake::say(PORT_DOWN, None);
    settle(&mut [&mut near, &mut far]);
    assert_eq!(near.down, []);
    fake::say(PAIR_FAILED, near.verbs.pairs().last());
    settle(&mut [&mut near, &mut far]);
    near.now = near.now + Duration::from_millis(100);
    settle(&mut [&mut near, &mut far]);
    assert_eq!(near.down[0].0, second);
    assert!(said(&near).contains("IBV_EVENT_QP_FATAL"), "{}", said(&near));
}

#[test]
fn a_pair_that_failed_without_a_word_ends_its_link_when_something_is_sent() {
    let (mut near, mut far, [link, _]) = joined(config(), config());
    fake::fail_silently(pair_of(&near));
    let parcel = near.message(100);
    near.submit(link, parcel);
    settle(&mut [&mut near, &mut far]);
    near.now = near.now + Duration::from_millis(100);
    settle(&mut [&mut near, &mut far]);
    assert!(said(&near).contains("IBV_WC_WR_FLUSH_ERR"), "{}", said(&near));
    assert_eq!(far.down.len(), 1, "the control connection has ended");
}

#[test]
fn vt2_a_device_that_fails_ends_its_links_and_is_opened_again_for_the_next() {
    let (mut near, mut far, [link, other]) = joined(config(), config());
    fake::say(DEVICE_FAILED, None);
    settle(&mut [&mut near, &mut far]);
    assert!(said(&near).contains("IBV_EVENT_DEVICE_FATAL"), "{}", said(&near));
    assert_eq!((near.down[0].0, far.down[0].0), (link, other));
    (near.slots, far.slots) = (None, None);
    assert_eq!(fake::opened(), 0);
    let again = near.dial(&far.address());
    settle(&mut [&mut near, &mut far]);
    assert_eq!(near.up, [link, again]);
    let parcel = near.message(100);
    near.submit(again, parcel);
    settle(&mut [&mut near, &mut far]);
    assert_eq!(far.frames.len(), 1);
}

#[test]
fn everything_is_given_back_when_an_end_goes_whatever_was_under_way() {
    let (mut near, mut far, [link, other]) = joined(config(), config());
    for _ in 0..10 {
        let (small, long) = (near.message(1000), near.body(300 << 10));
        near.submit(link, small);
        near.submit(link, long);
        let long = far.body(3 << 20);
        far.submit(other, long);
    }
    near.round();
    far.round();
    let frames = std::mem::take(&mut far.frames);
    // The device refuses to end, and so the test, if anything is left that was made from it.
    drop(near);
    drop(far);
    assert!(frames.iter().all(|frame| frame.bytes().len() >= 32));
    drop(frames);
    assert_eq!(fake::opened(), 0);
}

#[test]
fn a_body_that_cannot_be_registered_says_how_much_may_be() {
    let (mut near, mut far, [link, _]) = joined(config(), config());
    let parcel = near.body(100 << 10);
    fake::set_short(true);
    near.submit(link, parcel);
    near.round();
    fake::set_short(false);
    settle(&mut [&mut near, &mut far]);
    assert!(said(&near).contains("ibv_reg_mr failed"), "{}", said(&near));
    assert_eq!(far.down[0].1, Down::There);
}

#[test]
fn a_body_that_cannot_be_registered_waits_for_those_that_were() {
    let (mut near, mut far, [link, _]) = joined(config(), config());
    let parcels = [near.body(100 << 10), near.body(100 << 10), near.message(10)];
    let [first, second, third] = parcels;
    near.submit(link, first);
    near.round();
    fake::set_short(true);
    near.submit(link, second);
    near.submit(link, third);
    near.round();
    fake::set_short(false);
    settle(&mut [&mut near, &mut far]);
    let lens: Vec<_> = far.frames.iter().map(|frame| frame.bytes().len()).collect();
    assert_eq!(lens, [32 + (100 << 10), 32 + (100 << 10), 48]);
}

#[test]
fn gr1_an_end_with_another_key_is_not_let_in_and_both_learn_why() {
    let (mut near, mut far) =
        (End::new(config()), End::new(Config { key: Key([4; 32]), ..config() }));
    near.dial(&far.address());
    settle(&mut [&mut near, &mut far]);
    assert!(said(&near).contains("different fabric keys"), "{}", said(&near));
    assert!(far.up.is_empty() && far.down.is_empty());
}

#[test]
fn ends_with_other_windows_and_slots_take_the_lesser() {
    let wide = Config { slot_bytes: 64 << 10, window: 200, ..config() };
    let narrow = Config { window: 1, ..config() };
    let (mut near, mut far, links) = joined(wide, narrow);
    assert_eq!(near.slots.as_ref().unwrap().slot_bytes(), (8 << 10) - 64);
    for len in [10, 8000, 500] {
        let parcel = near.message(len);
        near.submit(links[0], parcel);
        let parcel = far.message(len);
        far.submit(links[1], parcel);
    }
    settle(&mut [&mut near, &mut far]);
    assert_eq!((near.frames.len(), far.frames.len()), (3, 3));
}

#[test]
fn a_user_who_holds_more_than_the_window_stops_nobody() {
    let (mut near, mut far, [link, _]) = joined(config(), config());
    // The frames stay in `far.frames`.
    for round in 0..400 {
        let parcel = near.message(if round % 2 == 0 { 100 } else { 8000 });
        near.submit(link, parcel);
        near.round();
        far.round();
    }
    settle(&mut [&mut near, &mut far]);
    assert_eq!(far.frames.len(), 400);
    let lens = far.frames.iter().map(|frame| frame.bytes().len());
    assert!(lens.zip([144, 8032].into_iter().cycle()).all(|(len, wanted)| len == wanted));
}

#[test]
fn bk2_a_user_who_holds_all_places_for_bodies_stops_nobody() {
    let (mut near, mut far, [link, _]) = joined(config(), config());
    for _ in 0..100 {
        let parcel = near.body(64 << 10);
        near.submit(link, parcel);
        settle(&mut [&mut near, &mut far]);
    }
    assert_eq!(far.frames.len(), 100);
}

#[test]
fn messages_that_lie_in_no_slot_arrive_however_long_they_are() {
    let (mut near, mut far, [link, _]) = joined(config(), config());
    let lens = [10, 300, 48 << 10, 8000, 200 << 10];
    let mut frame = FrameMut::detached(512 << 10);
    for len in lens {
        assert!(append(&mut frame, &header(), &vec![9; len]));
    }
    near.submit(link, Parcel::of(frame));
    settle(&mut [&mut near, &mut far]);
    let came: Vec<_> = far.frames.iter().map(|frame| frame.bytes().len()).collect();
    assert_eq!(came, lens.map(|len: usize| 32 + len.next_multiple_of(16)));
}

#[test]
fn e3_a_device_carries_no_more_links_than_it_has_room_for_and_peers_learn_that() {
    let wide = || Config { window: 1000, ..config() };
    let (mut near, mut far) = (End::new(config()), End::new(wide()));
    let links_max = far.verbs.links_max();
    assert!(links_max < 20);
    let links: Vec<_> = (0..=links_max).map(|_| near.dial(&far.address())).collect();
    settle(&mut [&mut near, &mut far]);
    assert_eq!(near.up.len(), links_max);
    assert!(said(&near).contains("as many links"), "{}", said(&near));
    near.with(|verbs, io| verbs.close(io, links[0]));
    settle(&mut [&mut near, &mut far]);
    near.dial(&far.address());
    settle(&mut [&mut near, &mut far]);
    assert_eq!(near.up.len(), links_max + 1);
}

#[test]
fn a_device_that_is_not_there_is_named_with_what_is() {
    let mut driver =
        epicserver_shard::driver::open(Some(epicserver_link::driver::Form::Epoll)).unwrap();
    let (mut events, mut next_link) = (Vec::new(), 0);
    let mut io = epicserver_link::Io {
        now: epicserver_wire::Time::ZERO,
        driver: &mut *driver,
        events: &mut events,
        next_link: &mut next_link,
    };
    let config = Config { device: Some("mlx5_0".to_owned()), ..config() };
    let owner = epicserver_link::driver::Owner(0);
    let error = crate::Verbs::listen_by(&fake::library(), owner, config, &mut io).unwrap_err();
    let said = error.to_string();
    assert!(said.starts_with("verbs unavailable: ") && said.contains("fake0"), "{said}");
}

#[test]
fn slots_outlive_their_transport_as_long_as_somebody_has_them() {
    let (near, far, _) = joined(config(), config());
    let slots = Arc::clone(near.slots.as_ref().unwrap());
    let slot = Arc::clone(&slots).reserve().unwrap();
    drop(near);
    drop(far);
    assert_eq!(fake::opened(), 1, "its memory is still registered");
    drop(slot);
    drop(slots);
    assert_eq!(fake::opened(), 0);
}
