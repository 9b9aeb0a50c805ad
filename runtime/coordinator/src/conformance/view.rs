//! Views: numbered, changed by one at a time.
//!
//! # Not here
//! What a change does to leases: `leases`.

use std::thread;

use super::Subject;
use super::asking::says;
use super::client::{Client, Outcome, changed, until};
use crate::{Answer, Ask};

/// Handles that change at once.
const MANY: u8 = 8;
/// Changes that they fight for.
const ROUNDS: u8 = 12;

pub(super) fn there_is_no_view_until_the_first_change_makes_number_one(subject: &dyn Subject) {
    let (mut one, mut other) = (Client::open(subject), Client::open(subject));
    assert_eq!(other.read(), (None, Vec::new()));
    assert_eq!(one.change(0, b"first", &[]), changed(1));
    assert_eq!(other.read().0, Some((1, b"first".to_vec())));
    assert_eq!(other.change(1, b"second", &[]), changed(2));
    assert_eq!(one.read().0, Some((2, b"second".to_vec())));
}

pub(super) fn a_change_of_another_number_is_overtaken_and_changes_nothing(subject: &dyn Subject) {
    let mut client = Client::open(subject);
    assert_eq!(client.change(1, b"early", &[]), Answer::Overtaken { number: 0 });
    assert_eq!(client.read().0, None);
    assert_eq!(client.change(0, b"first", &[]), changed(1));
    for from in [0, 2, u64::MAX] {
        assert_eq!(client.change(from, b"wrong", &[]), Answer::Overtaken { number: 1 });
    }
    assert_eq!(client.read().0, Some((1, b"first".to_vec())));
}

pub(super) fn views_of_all_sizes_come_back_as_they_were(subject: &dyn Subject) {
    let (mut one, mut other) = (Client::open(subject), Client::open(subject));
    let sizes =
        [0, 1, 255, 4096, (1 << 20) - 1, 1 << 20, (3 << 20) + 7, subject.view_bytes_max(), 3];
    for (from, size) in (0..).zip(sizes) {
        let view: Vec<u8> = (0..size).map(|at| u8::try_from(at % 251).expect("small")).collect();
        // What is long may take a slow machine longer than an ask may: then nobody knows, and it is asked again.
        until("a long view", || match one.try_change(from, &view, &[]) {
            Outcome::Changed => true,
            Outcome::Overtaken(number) => number == from + 1,
            Outcome::Failed(why) => {
                assert!(!why.contains("more than"), "{size} bytes are too long: {why}");
                false
            }
            Outcome::Alive => panic!("nobody was to end"),
        });
        let mut there = None;
        until("a long view", || {
            let answer = other.ask(Ask::Read);
            if let Answer::State { view, .. } = answer {
                there = view;
            }
            there.is_some()
        });
        assert!(there == Some((from + 1, view)), "{size} bytes come back otherwise");
    }
    let most = subject.view_bytes_max();
    says(&one.change(9, &vec![0; most + 1], &[]), &most.to_string());
}

pub(super) fn exactly_one_of_many_changes_at_once_wins(subject: &dyn Subject) {
    let mut clients: Vec<Client> = (0..MANY).map(|_| Client::open(subject)).collect();
    for client in &mut clients {
        // The first time, some would be late for having to connect.
        client.read();
    }
    for round in 0..ROUNDS {
        let from = u64::from(round);
        let fight = |(me, client): (u8, &mut Client)| {
            let outcome = client.try_change(from, &[round, me], &[]);
            let won = matches!(outcome, Outcome::Changed);
            assert!(
                won || matches!(outcome, Outcome::Overtaken(number) if number == from + 1),
                "{outcome:?}"
            );
            won.then_some(me)
        };
        let won: Vec<u8> = thread::scope(|scope| {
            let fighters: Vec<_> = (0..)
                .zip(&mut clients)
                .map(|fighter| scope.spawn(move || fight(fighter)))
                .collect();
            fighters.into_iter().filter_map(|fighter| fighter.join().expect("it fights")).collect()
        });
        let [won] = won[..] else { panic!("CO1: {won:?} have won round {round}") };
        let view = clients[0].read().0;
        assert_eq!(view, Some((from + 1, vec![round, won])), "CO1: not the winner's");
    }
}

pub(super) fn the_changes_of_many_count_up_by_one(subject: &dyn Subject) {
    const EACH: usize = 8;
    let add = || {
        let mut client = Client::open(subject);
        let mut done = 0;
        while done < EACH {
            let (view, _) = client.read();
            let (from, count) = view.map_or((0, 0), |(number, count)| (number, count.len()));
            // The view counts the changes: one that is lost would be missed.
            match client.try_change(from, &vec![1; count + 1], &[]) {
                Outcome::Changed => done += 1,
                Outcome::Overtaken(number) => {
                    assert!(number > from, "{number} is not after {from}")
                }
                Outcome::Alive => panic!("nobody was to end"),
                Outcome::Failed(why) => panic!("{why}"),
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(add);
        }
    });
    let (number, count) = Client::open(subject).read().0.expect("there is a view");
    assert_eq!((number, count.len()), (4 * EACH as u64, 4 * EACH));
}
