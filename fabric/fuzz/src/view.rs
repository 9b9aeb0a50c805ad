//! What nodes write for one another beside calls: views, deltas, records of leases. What is read keeps its bounds,
//! and is read again as it was.

use epicserver_proto::view::{
    ADDRESSES_MAX, CLASSES_MAX, Delta, HISTORY_MAX, MEMBERS_MAX, Member, NAME_BYTES_MAX, Record,
    Share, View,
};

/// The first byte says what the others are to be.
///
/// # Panics
/// If something is wrong.
pub fn view(data: &[u8]) {
    let Some((what, bytes)) = data.split_first() else { return };
    match what % 3 {
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
        _ => {
            if let Ok(delta) = Delta::read(bytes) {
                assert_eq!(Delta::read(&delta.write()).as_ref(), Ok(&delta), "VI4: it changed");
                let before = View { number: delta.from, members: Vec::new(), history: Vec::new() };
                if let Some(view) = delta.apply(&before) {
                    sound(&view);
                }
            }
        }
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
