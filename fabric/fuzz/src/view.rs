//! What nodes write for one another beside calls: views, deltas, records of leases, and what control threads say. What
//! is read keeps its bounds, and is read again as it was.

use std::sync::OnceLock;

use epicserver_proto::Atlas;
use epicserver_proto::control::{Config, Control, Effect, Event, SAID_BYTES_MAX};
use epicserver_proto::view::{
    ADDRESSES_MAX, CLASSES_MAX, Delta, HISTORY_MAX, MEMBERS_MAX, Member, NAME_BYTES_MAX, Record,
    Share, View,
};
use epicserver_wire::{NodeId, Time};

/// The first byte says what the others are to be.
///
/// # Panics
/// If something is wrong.
pub fn view(data: &[u8]) {
    let Some((what, bytes)) = data.split_first() else { return };
    match what % 4 {
        0 => {
            if let Ok(view) = View::read(bytes) {
                sound(&view);
                assert_eq!(View::read(&view.write()).as_ref(), Ok(&view), "VI3: it changed");
            }
        }
        1 => {
            if let Ok(record) = Record::read(bytes) {
                member(&record.member);
                assert_eq!(Record::read(&record.write()), Ok(record), "VI3: it changed");
            }
        }
        2 => {
            if let Ok(delta) = Delta::read(bytes) {
                assert_eq!(Delta::read(&delta.write()).as_ref(), Ok(&delta), "VI4: it changed");
                let before = View { number: delta.from, members: Vec::new(), history: Vec::new() };
                if let Some(view) = delta.apply(&before) {
                    sound(&view);
                }
            }
        }
        _ => said(bytes),
    }
}

const PEER: NodeId = NodeId::new(2);

/// Another control thread says this to a node that is a member: it says something back, or reads, and no more.
fn said(bytes: &[u8]) {
    static ATLAS: OnceLock<Atlas> = OnceLock::new();
    let atlas = ATLAS.get_or_init(Atlas::default).clone();
    let (now, mut out) = (Time::from_nanos(1), Vec::new());
    let mut node = Control::new(Config { atlas, ..Config::default() });
    let member = |node| Member::of(node, 1);
    node.handle(now, Event::Begin { member: member(NodeId::new(1)), seed: 7 }, &mut out);
    let members = [NodeId::new(1), PEER].map(member).to_vec();
    let whole = [&[4], &View { number: 3, members, history: Vec::new() }.write()[..]].concat();
    node.handle(now, Event::Said { from: PEER, bytes: &whole }, &mut out);
    assert_eq!(node.view().map(|view| view.number), Some(3));
    out.clear();
    node.handle(now, Event::Said { from: PEER, bytes }, &mut out);
    assert!(out.len() < 1_000);
    for effect in &out {
        if let Effect::Say { bytes, .. } = effect {
            assert!(bytes.len() <= SAID_BYTES_MAX, "CS1");
        }
    }
    if let Some(view) = node.view() {
        assert!(view.number >= 3, "CN2");
        sound(view);
    }
}

fn sound(view: &View) {
    assert!(view.number > 0);
    assert!(view.members.len() <= MEMBERS_MAX && view.history.len() <= HISTORY_MAX);
    assert!(view.members.windows(2).all(|pair| pair[0].node() < pair[1].node()), "VI1");
    view.members.iter().for_each(member);
    let numbers: Vec<u64> = view.history.iter().map(|past| past.number).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "VI2");
    assert!(numbers.last().is_none_or(|last| *last < view.number), "VI2");
    for past in &view.history {
        assert!(past.shares.len() <= MEMBERS_MAX);
        assert!(past.shares.windows(2).all(|pair| pair[0].node < pair[1].node));
        past.shares.iter().for_each(share);
    }
}

fn member(member: &Member) {
    share(&member.share);
    assert!(member.shards > 0);
    assert!(member.addresses.len() <= ADDRESSES_MAX && member.name.len() <= NAME_BYTES_MAX);
}

fn share(share: &Share) {
    assert!(share.classes.len() <= CLASSES_MAX);
    assert!(share.classes.windows(2).all(|pair| pair[0] < pair[1]));
}
