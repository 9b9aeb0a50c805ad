//! Many ops at once, full handles, and ends that go.

use super::Subject;
use super::client::{Client, Writing, barrel, owner};
use crate::limits::{OPS_BYTES_MAX, OPS_MAX, PAYLOAD_BYTES_MAX};
use crate::{Answer, Found, Op, Outcome, Slot, Trouble};

fn load(key: u64) -> Op {
    Op::Load { entity: barrel(key), claim: None }
}

pub(super) fn a_full_handle_gives_ops_back_and_goes_on(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut client = Client::owning(&*keeper, subject);
    let ids: Vec<_> =
        (0..OPS_MAX as u64).map(|key| client.submit(load(key)).expect("there is room")).collect();
    assert_eq!(client.submit(load(7)), Err(load(7)));
    for id in ids {
        assert_eq!(client.answer(id), Ok(Answer::Loaded(Found::Nothing)));
    }
    assert_eq!(client.load(&barrel(7)), Found::Nothing);
    // By bytes too, but a first op is taken whatever it holds.
    let long = vec![1; PAYLOAD_BYTES_MAX / 4];
    let save = |key| Op::Commit(vec![Writing::of(barrel(key), 9).state(&long)]);
    let mut ids = Vec::new();
    let refused = loop {
        match client.submit(save(ids.len() as u64)) {
            Ok(id) => ids.push(id),
            Err(op) => break op,
        }
        assert!(ids.len() < OPS_BYTES_MAX / long.len(), "SO7: it takes all");
    };
    assert!(refused == save(ids.len() as u64), "it is given back as it was");
    assert_eq!(ids.len(), OPS_BYTES_MAX / long.len() - 1);
    for id in ids {
        let conflict = Outcome::Conflict { found: 0, by: None };
        assert_eq!(client.answer(id), Ok(Answer::Committed(vec![conflict])));
    }
}

pub(super) fn many_ops_have_one_answer_each(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut clients: Vec<_> = (0..4).map(|_| Client::owning(&*keeper, subject)).collect();
    let mut ids = Vec::new();
    for key in 0..1000 {
        let client = (key % 4) as usize;
        let op = match key % 3 {
            0 => load(key),
            1 => Op::Commit(vec![Writing::of(barrel(key), 0).state(b"x")]),
            _ => Op::Claim { owner: owner(1, 1), slots: vec![Slot::of(&barrel(1))] },
        };
        ids.push((client, clients[client].submit(op).expect("there is room")));
    }
    for (client, id) in ids {
        // The client sees to it that there is one to each, and no other.
        clients[client].answer(id).expect("it is done");
    }
}

pub(super) fn ops_of_one_handle_take_effect_in_order(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut client = Client::owning(&*keeper, subject);
    let save = |version| Op::Commit(vec![Writing::of(barrel(1), version).state(b"x")]);
    let saves: Vec<_> =
        (0..50).map(|version| client.submit(save(version)).expect("there is room")).collect();
    let claim = Op::Claim { owner: owner(2, 2), slots: vec![Slot::of(&barrel(1))] };
    let claim = client.submit(claim).expect("there is room");
    let late = client.submit(save(50)).expect("there is room");
    for id in saves {
        assert_eq!(client.answer(id), Ok(Answer::Committed(vec![Outcome::Saved])));
    }
    assert_eq!(client.answer(claim), Ok(Answer::Claimed { refused: Vec::new() }));
    let fenced = Outcome::Fenced(Some(owner(2, 2)));
    assert_eq!(client.answer(late), Ok(Answer::Committed(vec![fenced])));
}

pub(super) fn a_handle_that_is_dropped_harms_nobody(subject: &dyn Subject) {
    let keeper = subject.open();
    let (mut one, mut other) = (Client::owning(&*keeper, subject), Client::open(&*keeper, subject));
    for key in 0..100 {
        one.submit(Op::Commit(vec![Writing::of(barrel(key), 0).state(b"x")]))
            .expect("there is room");
        one.submit(load(key)).expect("there is room");
    }
    drop(one);
    other.must_save(vec![Writing::of(barrel(1000), 0).state(b"x")]);
    assert_eq!(other.payload(&barrel(1000)), Some(b"x".to_vec()));
}

pub(super) fn a_store_that_is_dropped_answers_all_that_wait(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut client = Client::owning(&*keeper, subject);
    let save = |key| Op::Commit(vec![Writing::of(barrel(key), 0).state(b"x")]);
    let saves: Vec<_> =
        (0..100).map(|key| client.submit(save(key)).expect("there is room")).collect();
    drop(keeper);
    let saved: Vec<bool> = saves
        .into_iter()
        .map(|id| match client.answer(id) {
            Ok(answer) => {
                assert_eq!(answer, Answer::Committed(vec![Outcome::Saved]));
                true
            }
            Err(Trouble::Unknown(_) | Trouble::Unavailable(_)) => false,
            Err(trouble) => panic!("{trouble:?}"),
        })
        .collect();
    // Some may go on without the one that opened them; a store that lasts shows that nothing was made up.
    if subject.lasts() {
        let keeper = subject.open();
        let mut client = Client::open(&*keeper, subject);
        for (key, saved) in (0..).zip(saved) {
            assert!(
                !saved || client.payload(&barrel(key)).is_some(),
                "{key} was answered as saved"
            );
        }
    }
}
