//! Handles that want the same at once, each from a thread of its own.

use std::sync::Barrier;

use epicserver_wire::{ClassId, EntityId, EntityKey as _, TypeId};

use super::Subject;
use super::client::{Client, Writing, barrel, owner};
use crate::{Found, Keeper, Op, Outcome, Slot};

const MANY: u64 = 8;

/// What `each` gives for the numbers from 1 to [`MANY`], all at once.
fn at_once<T: Send>(
    keeper: &dyn Keeper,
    subject: &dyn Subject,
    each: impl Fn(u64, &mut Client) -> T + Sync,
) -> Vec<T> {
    let (start, patience) = (Barrier::new(MANY as usize), subject.patience());
    std::thread::scope(|scope| {
        let one = |number| {
            let (start, each) = (&start, &each);
            scope.spawn(move || {
                let mut client = Client::with_patience(keeper, patience);
                start.wait();
                each(number, &mut client)
            })
        };
        let threads: Vec<_> = (1..=MANY).map(one).collect();
        threads.into_iter().map(|thread| thread.join().expect("none panics")).collect()
    })
}

pub(super) fn of_many_that_save_one_version_one_is_saved(subject: &dyn Subject) {
    let keeper = subject.open();
    let mut client = Client::owning(&*keeper, subject);
    for version in 0..10 {
        let outcomes = at_once(&*keeper, subject, |number, client| {
            let payload = number.to_string();
            (
                payload.clone(),
                client.save(Writing::of(barrel(1), version).state(payload.as_bytes())),
            )
        });
        let saved: Vec<_> =
            outcomes.iter().filter(|(_, outcome)| *outcome == Outcome::Saved).collect();
        let [(payload, _)] = saved[..] else { panic!("{outcomes:?}") };
        assert_eq!(client.payload(&barrel(1)), Some(payload.clone().into_bytes()));
    }
}

pub(super) fn of_many_that_claim_an_epoch_one_has_it(subject: &dyn Subject) {
    let keeper = subject.open();
    let slot = Slot::of(&barrel(1));
    for epoch in 1..11 {
        let refused = at_once(&*keeper, subject, |number, client| {
            client.claim(owner(number, epoch), &[slot])
        });
        let winners = refused.iter().filter(|refused| refused.is_empty()).count();
        assert_eq!(winners, 1, "{refused:?}");
        let winner = refused.iter().position(Vec::is_empty).expect("there is one") as u64 + 1;
        let by_winner =
            |refused: &Vec<_>| refused.iter().all(|(_, by)| *by == owner(winner, epoch));
        assert!(refused.iter().all(by_winner), "{refused:?}");
    }
}

pub(super) fn no_save_follows_a_later_claim(subject: &dyn Subject) {
    let keeper = subject.open();
    let slot = Slot::of(&barrel(1));
    // Each claims when it likes, and then saves until it is refused: after that nothing may change but by a later owner.
    at_once(&*keeper, subject, |number, client| {
        let me = owner(number, number);
        let mut epochs = Vec::new();
        for _ in 0..10 {
            let found = match client.load_as(&barrel(1), Some(me)) {
                Found::Nothing => 0,
                Found::State(record) => {
                    epochs.push(record.envelope().owner.epoch);
                    record.envelope().version
                }
                Found::Fenced(by) => {
                    assert!(by.epoch > number, "{by:?} fences {me:?}");
                    return;
                }
                found @ (Found::Tombstone(_) | Found::Corrupt(_)) => panic!("{found:?}"),
            };
            match client.save(Writing::of(barrel(1), found).by(me).state(b"x")) {
                Outcome::Saved => {}
                Outcome::Fenced(by) => assert!(by.is_some_and(|by| by.epoch > number)),
                // Nobody else may have saved: whoever did after our claim was fenced or has fenced us.
                Outcome::Conflict { by, .. } => {
                    assert!(by.is_some_and(|by| by.epoch > number), "{by:?} saved beside {me:?}");
                }
                outcome @ Outcome::Corrupt(_) => panic!("{outcome:?}"),
            }
        }
        assert!(epochs.is_sorted() && epochs.iter().all(|epoch| *epoch <= number), "{epochs:?}");
    });
    let mut client = Client::open(&*keeper, subject);
    assert_eq!(client.claim(owner(1, 1), &[slot]), [(slot, owner(MANY, MANY))]);
}

pub(super) fn saves_to_slots_in_any_order_never_wait_for_each_other_for_ever(
    subject: &dyn Subject,
) {
    let keeper = subject.open();
    let entity = |group: u64, key: u64| {
        EntityId::new(TypeId::of("Barrel"), ClassId::DEFAULT, Some(group), key.to_key())
    };
    let slots: Vec<Slot> = (0..6).map(|group| Slot::of(&entity(group, 0))).collect();
    let mut client = Client::open(&*keeper, subject);
    client.claim(owner(1, 1), &slots);
    at_once(&*keeper, subject, |number, client| {
        let mut groups: Vec<u64> = (0..6).collect();
        for round in 0..10 {
            groups.rotate_left((number % 6) as usize);
            if number % 2 == 0 {
                groups.reverse();
            }
            // Half of them are everybody's, so that their rows are waited for too.
            let keys =
                groups.iter().map(|group| entity(*group, if group % 2 == 0 { 0 } else { number }));
            let saves = keys.map(|entity| Writing::of(entity, round).state(b"x")).collect();
            for outcome in client.commit(saves) {
                assert!(
                    matches!(outcome, Outcome::Saved | Outcome::Conflict { .. }),
                    "{outcome:?}"
                );
            }
            let claimed = client.ask(Op::Claim {
                owner: owner(1, 1),
                slots: slots.iter().rev().copied().collect(),
            });
            claimed.expect("it is done");
        }
    });
}
