//! Views, records and deltas, written and read.

use proptest::prelude::*;

use super::*;

fn member(node: u64) -> Member {
    let classes = vec![ClassId::DEFAULT, ClassId::from_u16(7)];
    Member {
        share: Share { node: NodeId::new(node), weight: 50, classes },
        shards: 3,
        addresses: vec!["tcp://10.0.0.1:7000".to_owned(), "tcp://[::1]:7000".to_owned()],
        name: format!("rack-{node}"),
        leaving: node.is_multiple_of(2),
        later: Vec::new(),
    }
}

fn past(number: u64, nodes: &[u64]) -> Past {
    Past { number, shares: nodes.iter().map(|node| Share::of(NodeId::new(*node))).collect() }
}

fn view() -> View {
    View {
        number: 9,
        members: [1, 2, 5].map(member).to_vec(),
        history: vec![past(6, &[1]), past(8, &[1, 2, 9])],
    }
}

#[test]
fn vi3_a_view_is_read_as_it_was_written() {
    assert_eq!(View::read(&view().write()), Ok(view()));
    let first = View { number: 1, members: Vec::new(), history: Vec::new() };
    assert_eq!(View::read(&first.write()), Ok(first));
}

#[test]
fn vi3_a_record_is_read_as_it_was_written() {
    for wants in [Wants::Join, Wants::Stay, Wants::Leave] {
        let record = Record { member: member(3), wants, settled: 41 };
        assert_eq!(Record::read(&record.write()), Ok(record));
    }
}

#[test]
fn vi1_members_that_are_not_in_order_are_refused() {
    let mut view = view();
    view.members.swap(0, 1);
    assert_eq!(View::read(&view.write()), Err(Unread::Malformed));
    view.members = vec![member(1), member(1)];
    assert_eq!(View::read(&view.write()), Err(Unread::Malformed));
}

#[test]
fn vi2_a_history_that_is_not_in_order_or_not_before_the_view_is_refused() {
    let with = |history| View { history, ..view() };
    for history in [
        vec![past(8, &[1]), past(6, &[1])],
        vec![past(9, &[1])],
        vec![past(0, &[1])],
        vec![past(7, &[2, 1])],
        (1..=17).map(|number| past(number, &[])).collect(),
    ] {
        let view = View { number: 9.max(history.len() as u64), ..with(history) };
        assert_eq!(View::read(&view.write()), Err(Unread::Malformed), "{view:?}");
    }
}

#[test]
fn what_later_versions_say_of_a_member_is_passed_on_and_of_a_view_passed_over() {
    let mut later = Vec::new();
    crate::fields::put(&mut later, 77, b"something new");
    let mut known = view();
    known.members[1].later = later;
    let mut bytes = known.write();
    crate::fields::put(&mut bytes, 78, b"and here");
    assert_eq!(View::read(&bytes), Ok(known));
    crate::fields::put(&mut bytes, 79 | crate::fields::MUST_KNOW, b"");
    assert_eq!(View::read(&bytes), Err(Unread::Version));
}

#[test]
fn vi3_a_member_that_says_too_much_is_found_before_it_is_written() {
    assert_eq!(member(1).flaw(), None);
    let long = Member { addresses: vec!["x".repeat(MEMBER_BYTES_MAX)], ..member(1) };
    assert_eq!(long.flaw(), Some("its addresses are too long"));
    assert!(Member { shards: 0, ..member(1) }.flaw().is_some());
    let mut twice = member(1);
    twice.share.classes = vec![ClassId::DEFAULT; 2];
    assert!(twice.flaw().is_some());
    let address = "y".repeat(ADDRESSES_MAX * 10);
    let full = Member {
        share: Share {
            classes: (0..32).map(ClassId::from_u16).collect(),
            ..Share::of(NodeId::new(1))
        },
        addresses: vec![address; 4],
        name: "z".repeat(NAME_BYTES_MAX),
        ..member(2)
    };
    assert_eq!(full.flaw(), None);
    let record = Record { member: full, wants: Wants::Join, settled: 0 };
    assert_eq!(Record::read(&record.write()), Ok(record));
}

#[test]
fn vi4_a_delta_leads_from_one_view_to_the_next_and_from_no_other() {
    let before = view();
    let mut after = View { number: 10, ..view() };
    after.members.remove(0);
    after.members[0].leaving = !after.members[0].leaving;
    after.members.push(member(12));
    after.history = vec![past(8, &[1, 2, 9]), before.as_past()];
    let delta = Delta::between(&before, &after).unwrap();
    let delta = Delta::read(&delta.write()).unwrap();
    assert_eq!(delta.apply(&before), Some(after.clone()));
    assert_eq!(delta.apply(&after), None);
    let other = View { members: [1, 2, 3].map(member).to_vec(), ..before.clone() };
    assert_eq!(delta.apply(&other), None, "its hash is another one");
    after.history.insert(0, past(7, &[1]));
    assert_eq!(Delta::between(&before, &after), None, "7 is not to be had");
}

fn any_members() -> impl Strategy<Value = Vec<Member>> {
    let one = (any::<u64>(), any::<u16>(), 1..9_u16, any::<bool>(), ".{0,9}");
    prop::collection::vec(one, 0..6).prop_map(|drawn| {
        let mut members: Vec<Member> = drawn
            .into_iter()
            .map(|(node, weight, shards, leaving, name)| {
                let mut member = Member { name, leaving, ..Member::of(NodeId::new(node), shards) };
                member.share.weight = weight;
                member
            })
            .collect();
        members.sort_by_key(Member::node);
        members.dedup_by_key(|member| member.node());
        members
    })
}

proptest! {
    #[test]
    fn vi3_any_view_is_read_as_it_was(members in any_members(), past in any_members(), number in 3..u64::MAX) {
        let shares = past.into_iter().map(|member| member.share).collect();
        let view = View { number, members, history: vec![Past { number: number - 2, shares }] };
        prop_assert_eq!(View::read(&view.write()), Ok(view));
    }

    #[test]
    fn vi4_any_delta_makes_the_view_that_it_was_made_from(before in any_members(), after in any_members()) {
        let before = View { number: 4, members: before, history: Vec::new() };
        let after = View { number: 6, members: after, history: vec![before.as_past()] };
        let delta = Delta::between(&before, &after).unwrap();
        prop_assert_eq!(Delta::read(&delta.write()).unwrap().apply(&before), Some(after));
    }

    #[test]
    fn vi3_whatever_is_read_keeps_the_bounds(at in 0..400_usize, by in any::<u8>(), cut in 0..400_usize) {
        let mut bytes = view().write();
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= by;
        }
        bytes.truncate(cut.max(at));
        if let Ok(view) = View::read(&bytes) {
            prop_assert!(view.is_sound());
            prop_assert_eq!(View::read(&view.write()), Ok(view));
        }
        drop(Record::read(&bytes));
        drop(Delta::read(&bytes));
    }
}
