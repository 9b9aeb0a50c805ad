//! Admission in given situations: who enters, who waits, who is refused.

use super::*;
use epicserver_wire::{ChainId, ClassId, EntityKey, TypeId};

#[derive(Debug, Clone, PartialEq)]
struct Ask {
    path: Path,
    exclusive: bool,
}

impl Waiting for Ask {
    fn path(&self) -> &Path {
        &self.path
    }
    fn is_exclusive(&self) -> bool {
        self.exclusive
    }
    fn turn(&self) -> Option<u32> {
        None
    }
}

type Table = Activations<u64, Ask>;

fn chain(birth: u64) -> Path {
    Path::new(ChainId::new(Time::from_nanos(birth), 0))
}

fn elsewhere(birth: u64) -> Path {
    chain(birth).with(SectionId::new(9, birth)).unwrap()
}

fn shared(path: &Path) -> Ask {
    Ask { path: path.clone(), exclusive: false }
}

fn exclusive(path: &Path) -> Ask {
    Ask { path: path.clone(), exclusive: true }
}

fn table() -> (Table, u32) {
    let mut table = Table::new(2, 1000, 0);
    let place = table.insert(1, (0, None), 1, Time::ZERO).unwrap();
    (table, place)
}

fn id(key: u64) -> EntityId {
    EntityId::new(TypeId::of("T"), ClassId::DEFAULT, None, key.to_key())
}

#[test]
fn shared_turns_enter_beside_each_other() {
    let (mut table, place) = table();
    table.begin(place, chain(1)).unwrap();
    assert_eq!(table.admit(place, &shared(&chain(2))), Admission::Enter);
    assert_eq!(table.admit(place, &exclusive(&chain(2))), Admission::Enter);
}

#[test]
fn a1_a_held_activation_keeps_every_other_turn_out_and_frozen() {
    let (mut table, place) = table();
    let parked = table.begin(place, chain(1)).unwrap();
    let holder = table.begin(place, chain(2)).unwrap();
    let section = table.take(holder, true).unwrap();
    assert_eq!(table.admit(place, &shared(&chain(3))), Admission::Wait);
    assert!(table.resumes(parked).is_none());
    assert!(table.resumes(holder).is_some());
    assert!(table.release(holder, section));
    let mut thawed = Vec::new();
    table.thaw(place, |turn| thawed.push(turn));
    assert_eq!(thawed, [parked]);
    assert!(table.resumes(parked).is_some());
}

#[test]
fn a4_a_call_that_returns_into_its_own_section_is_refused() {
    let (mut table, place) = table();
    let holder = table.begin(place, chain(1)).unwrap();
    table.take(holder, true).unwrap();
    let inside = table.path_of(holder).unwrap().clone();
    assert_eq!(table.admit(place, &shared(&inside)), Admission::Refuse(ErrorKind::WouldDeadlock));
}

#[test]
fn a4_of_two_that_hold_sections_the_younger_is_refused_and_the_older_waits() {
    let (mut table, place) = table();
    let holder = table.begin(place, chain(5)).unwrap();
    table.take(holder, true).unwrap();
    assert_eq!(table.admit(place, &shared(&elsewhere(4))), Admission::Wait);
    let younger = table.admit(place, &shared(&elsewhere(6)));
    assert_eq!(younger, Admission::Refuse(ErrorKind::WouldDeadlock));
    assert_eq!(table.admit(place, &shared(&chain(6))), Admission::Wait);
}

#[test]
fn a4_an_exclusive_call_waits_for_a_parked_turn_that_holds_a_section() {
    let (mut table, place) = table();
    let parked = table.begin(place, elsewhere(1)).unwrap();
    assert_eq!(table.admit(place, &exclusive(&chain(2))), Admission::Wait);
    assert_eq!(
        table.admit(place, &exclusive(&elsewhere(2))),
        Admission::Refuse(ErrorKind::WouldDeadlock)
    );
    table.wait(place, exclusive(&chain(2)));
    assert_eq!(table.next(place), None);
    table.end(parked);
    assert_eq!(table.next(place), Some((exclusive(&chain(2)), Admission::Enter)));
}

#[test]
fn a3_a_chain_with_a_parked_turn_passes_a_waiting_exclusive_call() {
    let (mut table, place) = table();
    table.begin(place, elsewhere(1)).unwrap();
    table.wait(place, exclusive(&chain(2)));
    assert_eq!(table.admit(place, &shared(&elsewhere(1))), Admission::Pass);
    assert_eq!(table.admit(place, &shared(&chain(3))), Admission::Wait);
    table.pass(place, shared(&elsewhere(1)));
    assert_eq!(table.next(place), Some((shared(&elsewhere(1)), Admission::Enter)));
    assert_eq!(table.next(place), None);
}

#[test]
fn a3_a_call_that_passes_starts_before_a_later_one_of_its_caller() {
    let (mut table, place) = table();
    table.begin(place, chain(1)).unwrap();
    table.wait(place, exclusive(&chain(2)));
    table.wait(place, shared(&chain(1)));
    table.pass(place, shared(&chain(1)));
    table.wait(place, exclusive(&chain(1)));
    let next = std::iter::from_fn(|| table.next(place)).map(|(ask, _)| ask);
    let order = [shared(&chain(1)), shared(&chain(1)), exclusive(&chain(2)), exclusive(&chain(1))];
    assert_eq!(next.collect::<Vec<Ask>>(), order);
}

#[test]
fn a3_who_may_not_pass_any_more_waits_in_its_place_or_is_refused() {
    let (mut table, place) = table();
    let parked = table.begin(place, elsewhere(3)).unwrap();
    table.begin(place, elsewhere(4)).unwrap();
    table.wait(place, exclusive(&chain(9)));
    table.pass(place, shared(&elsewhere(3)));
    assert_eq!(table.next_to_die(place), None);
    table.end(parked);
    assert_eq!(table.next(place), None, "it is older than who keeps the exclusive call out");
    let younger = table.begin(place, elsewhere(5)).unwrap();
    table.pass(place, shared(&elsewhere(5)));
    table.end(younger);
    let refused = Admission::Refuse(ErrorKind::WouldDeadlock);
    assert_eq!(table.next(place), Some((shared(&elsewhere(5)), refused)));
    assert_eq!(table.next(place), None);
    assert_eq!(table.mails(place), 2);
}

#[test]
fn a3_mail_is_taken_in_the_order_in_which_it_came() {
    let (mut table, place) = table();
    for birth in 1..4 {
        table.wait(place, shared(&chain(birth)));
    }
    let gone = table.withdraw(place, |ask| ask.path == chain(3));
    assert_eq!(gone, Some(shared(&chain(3))));
    table.wait(place, shared(&chain(4)));
    let order: Vec<Path> = std::iter::from_fn(|| table.pop(place)).map(|ask| ask.path).collect();
    assert_eq!(order, [chain(1), chain(2), chain(4)]);
}

#[test]
fn a2_a_full_mailbox_refuses() {
    let (mut table, place) = table();
    let holder = table.begin(place, chain(1)).unwrap();
    table.take(holder, true).unwrap();
    for _ in 0..limits::MAILBOX_MAX {
        table.wait(place, shared(&chain(2)));
    }
    let verdict = table.admit(place, &shared(&chain(3)));
    assert_eq!(verdict, Admission::Refuse(ErrorKind::Overloaded));
}

#[test]
fn a5_the_least_recently_used_idle_activation_is_offered_first() {
    let mut table = Table::new(1, 1000, 0);
    let at = |n| Time::from_nanos(n);
    let places: Vec<u32> = (0..3)
        .map(|n| {
            let place = table.insert(n, (0, None), n, at(n)).unwrap();
            table.resize(place, 10);
            place
        })
        .collect();
    table.touch(places[0], at(9));
    let turn = table.begin(places[1], chain(1)).unwrap();
    assert_eq!(table.oldest_idle(0, 10, |_| false), Some((places[2], at(2))));
    table.end(turn);
    assert_eq!(table.oldest_idle(0, 10, |_| false), Some((places[1], at(1))));
    table.remove(places[1]);
    table.remove(places[2]);
    assert_eq!(table.oldest_idle(0, 10, |_| false), Some((places[0], at(9))));
    assert_eq!(table.bytes(), 10);
}

#[test]
fn an_activation_is_found_by_id_whatever_the_hint() {
    let mut table: Activations<EntityId, Ask> = Activations::new(1, 1000, 0);
    let is = |state: &EntityId, id: &EntityId| state == id;
    let (a, b) = (id(1), id(2));
    let place = table.insert(a.hash(), (0, None), a.clone(), Time::ZERO).unwrap();
    table.insert(b.hash(), (0, None), b, Time::ZERO).unwrap();
    for hint in 0..3 {
        assert_eq!(table.find(&a, hint, is), Some(place));
    }
    assert_eq!(table.find(&id(3), 0, is), None);
}

#[test]
fn a4_an_exclusive_call_of_a_chain_that_keeps_those_ahead_of_it_waiting_is_refused() {
    let (mut table, place) = table();
    table.begin(place, elsewhere(1)).unwrap();
    table.wait(place, exclusive(&chain(2)));
    let own = table.admit(place, &exclusive(&elsewhere(1)));
    assert_eq!(own, Admission::Refuse(ErrorKind::WouldDeadlock));
}

#[test]
fn a4_who_stands_behind_an_exclusive_call_waits_for_what_that_one_waits_for() {
    let (mut table, place) = table();
    table.begin(place, elsewhere(1)).unwrap();
    table.wait(place, exclusive(&chain(3)));
    let between = table.admit(place, &shared(&elsewhere(2)));
    assert_eq!(between, Admission::Refuse(ErrorKind::WouldDeadlock));
}

#[test]
fn a4_a_section_that_is_taken_later_ends_the_waits_that_it_makes_dangerous() {
    let (mut table, place) = table();
    let turn = table.begin(place, chain(1)).unwrap();
    table.wait(place, exclusive(&chain(3)));
    table.wait(place, shared(&elsewhere(2)));
    assert_eq!(table.next_to_die(place), None);
    table.take(turn, false).unwrap();
    assert_eq!(table.next_to_die(place), Some(shared(&elsewhere(2))));
    assert_eq!(table.next_to_die(place), None);
}

#[test]
fn a4_a_section_that_is_given_up_ends_the_waits_of_other_branches_that_it_makes_dangerous() {
    let mut table = Table::new(2, 1000, 5);
    let place = table.insert(1, (0, None), 1, Time::ZERO).unwrap();
    let turn = table.begin(place, elsewhere(1)).unwrap();
    let section = table.take(turn, false).unwrap();
    table.wait(place, exclusive(&chain(3)));
    let branch = exclusive(&elsewhere(1).with(SectionId::new(1, 0)).unwrap());
    assert_eq!(table.admit(place, &branch), Admission::Wait, "it is the older of the two");
    table.wait(place, branch.clone());
    assert_eq!(table.next_to_die(place), None);
    table.release(turn, section);
    assert_eq!(table.next_to_die(place), Some(branch), "the turn may wait for it from now on");
}

fn slot(index: u16) -> SlotId {
    SlotId { class: ClassId::DEFAULT, index }
}

fn swept(table: &mut Table, each: impl Fn(&mut Table, u32)) -> Vec<u32> {
    let mut seen = Vec::new();
    while let Some(place) = table.next_swept() {
        seen.push(place);
        each(table, place);
    }
    seen
}

#[test]
fn a_sweep_looks_at_each_activation_of_its_slot_once_while_others_come_and_go() {
    let mut table = Table::new(1, 1000, 0);
    let mut insert = |n: u64, index| {
        let at = Some(slot(index));
        table.insert(n, (0, at), n, Time::ZERO).unwrap()
    };
    let [a, b, c, d] = [1, 2, 3, 4].map(|n| insert(n, 7));
    let other = insert(5, 300);
    table.sweep(slot(7));
    assert_eq!(table.next_swept(), Some(d));
    table.remove(d);
    table.remove(c);
    table.insert(6, (0, Some(slot(7))), 6, Time::ZERO).unwrap();
    assert_eq!(swept(&mut table, |_, _| {}), [b, a]);
    assert!(!table.is_vacant(slot(7)) && table.is_vacant(slot(8)));
    table.sweep(slot(7));
    let emptied = swept(&mut table, |table, place| assert!(table.remove(place).is_some()));
    assert_eq!(emptied.len(), 3);
    assert!(table.is_vacant(slot(7)) && !table.is_vacant(slot(300)));
    assert_eq!(table.slot_of(other), Some(slot(300)));
}

#[test]
fn a7_an_activation_that_is_emptied_is_not_open() {
    let (mut table, place) = table();
    assert!(table.is_open(place, false));
    table.set_emptied(place);
    assert!(!table.is_open(place, false) && table.is_leaving(place));
}

#[test]
fn those_that_are_withdrawn_and_those_that_stay_keep_their_order() {
    let (mut table, place) = table();
    for birth in 0..9 {
        table.wait(place, shared(&chain(birth)));
    }
    let odd = |ask: &Ask| (0..9).any(|n| n % 2 == 1 && ask.path == chain(n));
    let taken = table.withdraw_all(place, odd);
    assert_eq!(taken, [1, 3, 5, 7].map(|n| shared(&chain(n))));
    table.wait(place, shared(&chain(9)));
    assert_eq!(table.mails(place), 6);
    let rest: Vec<Ask> = std::iter::from_fn(|| table.pop(place)).collect();
    assert_eq!(rest, [0, 2, 4, 6, 8, 9].map(|n| shared(&chain(n))));
    assert!(table.withdraw_all(place, |_| true).is_empty());
}
