//! One shard and its store in one hand: what is loaded, what is saved when, and what becomes of those who wait.

#[path = "saving/desk.rs"]
mod desk;
#[path = "saving/reminders.rs"]
mod reminders;
#[path = "saving/requests.rs"]
mod requests;

use std::time::Duration;

use desk::{__paths, Bench, Later, UNSAVED_MAX};
use epicserver_entity::{At, Cx, Ref};
use epicserver_macros::{activate, deactivate, entity, exclusive, loaded, message};
use epicserver_record::Trouble;
use epicserver_wire::{CallError, ErrorKind, Ran};

/// Saved within a second.
#[entity(crate = __paths)]
#[derive(Default)]
struct Tally {
    count: u32,
    #[unsaved]
    loads: u32,
}

#[entity(crate = __paths)]
impl Tally {
    pub fn add(&mut self, n: u32) -> u32 {
        self.count += n;
        self.count
    }

    pub fn count(&self) -> (u32, u32) {
        (self.count, self.loads)
    }

    pub async fn add_and_save(cx: Cx<Self>, n: u32) -> Result<u32, CallError> {
        let count = cx.with(|tally| tally.add(n));
        cx.save().await?;
        Ok(count)
    }

    #[exclusive]
    pub async fn add_slowly(&mut self, at: At<Self>, n: u32) -> Result<u32, CallError> {
        self.count += n;
        at.sleep(Duration::from_secs(5)).await?;
        self.count += n;
        Ok(self.count)
    }

    #[exclusive]
    pub async fn save_inside(&mut self, at: At<Self>) -> Result<(), CallError> {
        self.count += 1;
        at.save().await
    }

    pub fn leave(&mut self, at: At<Self>) {
        at.deactivate();
    }

    pub fn delete(&mut self, at: At<Self>) {
        self.count += 1;
        at.delete();
    }

    pub fn panic(&mut self) {
        self.count = 1_000_000;
        panic!("as it was asked to");
    }

    #[loaded]
    fn was_loaded(&mut self) {
        self.loads += 1;
    }
}

/// Saved before each reply.
#[entity(saved = "every_turn", crate = __paths)]
#[derive(Default)]
struct Account {
    cents: u64,
}

#[entity(crate = __paths)]
impl Account {
    pub fn put(&mut self, cents: u64) -> u64 {
        self.cents += cents;
        self.cents
    }

    pub fn cents(&self) -> u64 {
        self.cents
    }

    pub fn nothing(&mut self) {}

    pub async fn put_twice(cx: Cx<Self>, cents: u64) -> Result<u64, CallError> {
        cx.with(|account| account.cents += cents);
        cx.sleep(Duration::from_secs(1)).await?;
        Ok(cx.with(|account| account.put(cents)))
    }

    pub fn panic(&mut self) {
        self.cents = 0;
        panic!("as it was asked to");
    }

    pub fn close(&mut self, at: At<Self>) {
        at.delete();
    }
}

/// Saved when it says so; the state of a new one is drawn.
#[entity(saved = "manual", crate = __paths)]
struct Seed {
    drawn: u64,
    left: bool,
}

#[entity(crate = __paths)]
impl Seed {
    #[activate]
    fn new(at: At<Self>) -> Self {
        Self { drawn: at.random(), left: false }
    }

    pub fn drawn(&self) -> (u64, bool) {
        (self.drawn, self.left)
    }

    pub fn change(&mut self) {
        self.drawn = 7;
    }

    #[deactivate]
    fn leave(&mut self) {
        self.left = true;
    }
}

/// Made by a hook that takes its time.
#[entity(crate = __paths)]
struct Slow {
    wakes: u32,
}

#[entity(crate = __paths)]
impl Slow {
    #[activate]
    async fn new(at: At<Self>) -> Result<Self, CallError> {
        at.sleep(Duration::from_secs(60)).await?;
        Ok(Self { wakes: 1 })
    }

    pub fn wakes(&self) -> u32 {
        self.wakes
    }
}

/// Never saved.
#[entity(saved = "never", crate = __paths)]
#[derive(Default)]
struct Guest {
    calls: u32,
}

#[entity(crate = __paths)]
impl Guest {
    pub fn call(&mut self) -> u32 {
        self.calls += 1;
        self.calls
    }
}

fn tally() -> Ref<Tally> {
    Ref::of("one")
}

fn account() -> Ref<Account> {
    Ref::of("one")
}

fn bench() -> Bench {
    Bench::new(|registry| {
        let added = [registry.add::<Tally>(), registry.add::<Account>()];
        let more = [registry.add::<Seed>(), registry.add::<Guest>(), registry.add::<Slow>()];
        assert!(added.iter().chain(&more).all(Result::is_ok), "they have names of their own");
    })
}

const LAG: Duration = Duration::from_secs(1);

#[test]
fn n30_what_was_saved_is_there_for_the_next_activation_and_what_is_unsaved_begins_anew() {
    let mut bench = bench();
    assert_eq!(bench.run(async |_| tally().add(3).await), Ok(3));
    assert_eq!(bench.run(async |_| tally().leave().await), Ok(()));
    assert_eq!(bench.run(async |_| tally().count().await), Ok((3, 1)));
    let mut next = bench.restarted();
    assert_eq!(next.run(async |_| tally().add(4).await), Ok(7));
    assert_eq!(next.run(async |_| tally().count().await), Ok((7, 1)));
}

#[test]
fn n30_calls_wait_for_a_load_in_their_order() {
    let mut bench = bench();
    bench.hold();
    let first = bench.start(async |_| tally().add(1).await);
    let second = bench.start(async |_| tally().add(10).await);
    bench.settle();
    assert!(first.is_empty() && second.is_empty());
    bench.release();
    assert_eq!((first.get(), second.get()), (Ok(1), Ok(11)));
}

#[test]
fn n31_write_behind_saves_within_its_lag_and_not_before_half_of_it() {
    let mut bench = bench();
    assert_eq!(bench.run(async |_| tally().add(3).await), Ok(3));
    bench.pass(LAG / 2 - Duration::from_nanos(1));
    assert!(bench.saved::<Tally>("one").is_none());
    bench.pass(Duration::from_nanos(1));
    assert_eq!(bench.saved::<Tally>("one").map(|tally| tally.count), Some(3));
    assert_eq!(bench.counters().saved, 1);
}

#[test]
fn many_changes_within_the_lag_are_one_save_and_the_same_bytes_are_none() {
    let mut bench = bench();
    for _ in 0..100 {
        assert!(bench.run(async |_| tally().add(1).await).is_ok());
    }
    bench.pass(LAG);
    assert_eq!(bench.counters().saved, 1);
    assert!(bench.run(async |_| tally().add(0).await).is_ok());
    bench.pass(LAG);
    assert_eq!((bench.counters().saved, bench.counters().unchanged), (1, 1));
    assert!(bench.run(async |_| tally().count().await).is_ok());
    bench.pass(LAG);
    assert_eq!((bench.counters().saved, bench.counters().unchanged), (1, 1), "it only looked");
}

#[test]
fn n31_an_exclusive_section_is_saved_from_its_end_on_and_never_half_done() {
    let mut bench = bench();
    let reply = bench.start(async |_| tally().add_slowly(1).await);
    bench.settle();
    for _ in 0..4 {
        bench.pass(LAG);
        assert!(bench.saved::<Tally>("one").is_none());
    }
    bench.pass(LAG);
    assert_eq!(reply.get(), Ok(2));
    bench.pass(LAG);
    assert_eq!(bench.saved::<Tally>("one").map(|tally| tally.count), Some(2));
}

#[test]
fn n29_replies_of_every_turn_wait_until_what_they_saw_is_durable() {
    let mut bench = bench();
    assert_eq!(bench.run(async |_| account().put(5).await), Ok(5));
    bench.hold();
    let put = bench.start(async |_| account().put(1).await);
    let seen = bench.start(async |_| account().cents().await);
    bench.settle();
    assert!(put.is_empty() && seen.is_empty());
    assert_eq!(bench.saved::<Account>("one").map(|account| account.cents), Some(5));
    bench.release();
    assert_eq!((put.get(), seen.get()), (Ok(6), Ok(6)));
    assert_eq!(bench.saved::<Account>("one").map(|account| account.cents), Some(6));
    bench.hold();
    assert_eq!(bench.run(async |_| account().cents().await), Ok(6), "nothing has changed");
    assert_eq!(bench.run(async |_| account().nothing().await), Ok(()), "the same bytes");
}

#[test]
fn n29_changes_that_come_while_a_save_is_under_way_are_one_more_save_together() {
    let mut bench = bench();
    assert_eq!(bench.run(async |_| account().put(1).await), Ok(1));
    bench.hold();
    let first = bench.start(async |_| account().put(1).await);
    bench.settle();
    let others: Vec<Later<_>> =
        (0..50).map(|_| bench.start(async |_| account().put(1).await)).collect();
    bench.settle();
    assert_eq!(bench.step(), 1, "one op of an entity at a time");
    assert_eq!(first.get(), Ok(2));
    assert!(others.iter().all(Later::is_empty));
    assert_eq!(bench.step(), 1);
    assert!(others.into_iter().map(Later::get).all(|cents| cents.is_ok()));
    assert_eq!(bench.counters().saved, 3);
}

#[test]
fn n29_an_interleaving_method_waits_for_its_last_change_and_its_first_half_may_be_saved_before() {
    let mut bench = bench();
    let reply = bench.start(async |_| account().put_twice(4).await);
    bench.settle();
    assert_eq!(bench.saved::<Account>("one").map(|account| account.cents), Some(4));
    bench.hold();
    bench.pass(Duration::from_secs(1));
    assert!(reply.is_empty());
    bench.release();
    assert_eq!(reply.get(), Ok(8));
}

#[test]
fn a_barrier_waits_for_the_store_and_saves_at_once() {
    let mut bench = bench();
    assert_eq!(bench.run(async |_| tally().add_and_save(3).await), Ok(3));
    assert_eq!(bench.saved::<Tally>("one").map(|tally| tally.count), Some(3));
    let refused = bench.run(async |_| tally().save_inside().await);
    assert_eq!(refused.map_err(CallError::kind), Err(ErrorKind::WouldDeadlock));
}

#[test]
fn manual_saves_at_the_end_at_the_latest_with_what_the_last_hook_did() {
    let mut bench = bench();
    let (drawn, left) = bench.run(async |_| Ref::<Seed>::of("s").drawn().await).unwrap();
    assert!(!left);
    bench.pass(10 * LAG);
    assert_eq!(bench.saved::<Seed>("s").map(|_| ()), None);
    bench.close();
    assert_eq!(bench.saved::<Seed>("s").map(|seed| (seed.drawn, seed.left)), Some((drawn, true)));
    let mut next = bench.restarted();
    assert_eq!(next.run(async |_| Ref::<Seed>::of("s").drawn().await), Ok((drawn, true)));
    assert_eq!(next.run(async |_| Ref::<Seed>::of("s").change().await), Ok(()));
}

#[test]
fn never_is_never() {
    let mut bench = bench();
    assert_eq!(bench.run(async |_| Ref::<Guest>::of("g").call().await), Ok(1));
    bench.close();
    assert_eq!(bench.rows(), 0);
}

#[test]
fn a_shard_is_closed_when_all_that_has_changed_is_saved() {
    let mut bench = bench();
    assert!(bench.run(async |_| tally().add(3).await).is_ok());
    bench.hold();
    bench.close();
    assert!(!bench.is_closed());
    bench.release();
    assert!(bench.is_closed());
    assert_eq!(bench.saved::<Tally>("one").map(|tally| tally.count), Some(3));
}

#[test]
fn a_shard_that_is_closed_waits_neither_for_loads_nor_for_states_that_are_still_made() {
    let mut bench = bench();
    bench.hold();
    let loads = bench.start(async |_| tally().count().await);
    bench.close();
    assert!(bench.activations() == 0 && loads.get().is_err());
    bench.release();
    assert!(bench.is_closed());
    let mut bench = self::bench();
    let made = bench.start(async |_| Ref::<Slow>::of("s").wakes().await);
    bench.settle();
    bench.close();
    assert!(bench.is_closed() && made.get().is_err());
}

#[test]
fn after_a_panic_a_shard_that_is_closed_waits_for_the_save_that_is_under_way() {
    for done in [true, false] {
        let mut bench = bench();
        assert_eq!(bench.run(async |_| account().put(5).await), Ok(5));
        bench.lose_next_answer(done);
        bench.hold();
        let saved = bench.start(async |_| account().put(1).await);
        let panics = bench.start(async |_| account().panic().await);
        bench.settle();
        assert!(panics.get().is_err() && saved.is_empty());
        bench.close();
        assert!(!bench.is_closed());
        bench.release();
        bench.pass(LAG);
        assert!(bench.is_closed());
    }
}

#[test]
fn a_call_that_comes_while_the_last_save_is_under_way_finds_the_next_activation() {
    let mut bench = bench();
    assert!(bench.run(async |_| tally().add(3).await).is_ok());
    bench.hold();
    assert_eq!(bench.run(async |_| tally().leave().await), Ok(()));
    let later = bench.start(async |_| tally().add(1).await);
    bench.settle();
    assert!(later.is_empty());
    bench.release();
    assert_eq!(later.get(), Ok(4));
    assert_eq!(bench.run(async |_| tally().count().await), Ok((4, 1)));
}

#[test]
fn what_is_deleted_leaves_a_tombstone_and_begins_anew() {
    let mut bench = bench();
    assert!(bench.run(async |_| tally().add_and_save(3).await).is_ok());
    assert_eq!(bench.run(async |_| tally().delete().await), Ok(()));
    bench.settle();
    assert!(bench.saved::<Tally>("one").is_none());
    assert_eq!(bench.rows(), 1, "the tombstone");
    assert_eq!(bench.run(async |_| tally().add_and_save(1).await), Ok(1));
    assert_eq!(bench.saved::<Tally>("one").map(|tally| tally.count), Some(1));
}

#[test]
fn n29_the_reply_of_a_deletion_waits_for_the_tombstone() {
    let mut bench = bench();
    assert_eq!(bench.run(async |_| account().put(5).await), Ok(5));
    bench.hold();
    let closed = bench.start(async |_| account().close().await);
    bench.settle();
    assert!(closed.is_empty());
    bench.release();
    assert_eq!(closed.get(), Ok(()));
    assert_eq!(bench.run(async |_| account().cents().await), Ok(0));
}

#[test]
fn n31_what_changes_while_a_save_is_under_way_is_saved_before_the_activation_ends() {
    let mut bench = bench();
    assert!(bench.run(async |_| tally().add(3).await).is_ok());
    bench.hold();
    bench.pass(LAG);
    assert!(bench.run(async |_| tally().add(1).await).is_ok());
    assert_eq!(bench.run(async |_| tally().leave().await), Ok(()));
    bench.release();
    assert_eq!(bench.activations(), 0);
    assert_eq!(bench.saved::<Tally>("one").map(|tally| tally.count), Some(4));
}

#[test]
fn what_is_deleted_while_a_save_is_under_way_is_deleted_behind_it() {
    let mut bench = bench();
    bench.hold();
    let put = bench.start(async |_| account().put(5).await);
    bench.release();
    assert_eq!(put.get(), Ok(5));
    bench.hold();
    let again = bench.start(async |_| account().put(5).await);
    bench.settle();
    let closed = bench.start(async |_| account().close().await);
    bench.settle();
    assert!(again.is_empty() && closed.is_empty());
    bench.release();
    assert_eq!((again.get(), closed.get()), (Ok(10), Ok(())));
    assert!(bench.saved::<Account>("one").is_none());
    assert_eq!(bench.run(async |_| account().cents().await), Ok(0));
}

#[test]
fn a_barrier_of_an_entity_that_is_to_be_deleted_would_wait_for_itself() {
    let mut bench = bench();
    assert!(bench.run(async |_| tally().add_and_save(3).await).is_ok());
    bench.hold();
    let saves = bench.start(async |_| tally().add_and_save(1).await);
    assert_eq!(bench.run(async |_| tally().delete().await), Ok(()));
    bench.release();
    assert_eq!(saves.get().map_err(CallError::kind), Err(ErrorKind::WouldDeadlock));
    assert!(bench.saved::<Tally>("one").is_none());
}

#[test]
fn n29_after_a_panic_nobody_is_told_that_a_save_of_which_nobody_knows_was_done() {
    let mut bench = bench();
    assert_eq!(bench.run(async |_| account().put(5).await), Ok(5));
    bench.hold();
    let saved = bench.start(async |_| account().put(1).await);
    bench.settle();
    let panics = bench.start(async |_| account().panic().await);
    bench.settle();
    bench.lose_next_answer(false);
    bench.release();
    assert!(panics.get().is_err());
    let saved = saved.get().map_err(|error| (error.kind(), error.ran()));
    assert_eq!(saved, Err((ErrorKind::Reset, Ran::Yes)));
    bench.pass(LAG);
    assert_eq!(bench.run(async |_| account().cents().await), Ok(5));
}

#[test]
fn what_never_was_stored_is_deleted_without_a_trace() {
    let mut bench = bench();
    assert_eq!(bench.run(async |_| tally().delete().await), Ok(()));
    bench.settle();
    assert_eq!(bench.rows(), 0);
    assert_eq!(bench.run(async |_| tally().count().await), Ok((0, 0)));
}

#[test]
fn after_a_panic_an_entity_goes_on_from_what_was_saved() {
    let mut bench = bench();
    assert_eq!(bench.run(async |_| account().put(5).await), Ok(5));
    bench.hold();
    let saved = bench.start(async |_| account().put(1).await);
    bench.settle();
    let unsaved = bench.start(async |_| account().put(1).await);
    let panics = bench.start(async |_| account().panic().await);
    let after = bench.start(async |_| account().cents().await);
    bench.settle();
    assert_eq!(panics.get().map_err(CallError::kind), Err(ErrorKind::Panicked));
    assert_eq!(
        unsaved.get().map_err(|error| (error.kind(), error.ran())),
        Err((ErrorKind::Reset, Ran::Yes))
    );
    assert!(saved.is_empty() && after.is_empty());
    bench.release();
    assert_eq!((saved.get(), after.get()), (Ok(6), Ok(6)));
}

#[test]
fn a_store_that_is_away_lets_active_entities_go_on_and_fails_those_that_would_be_loaded() {
    let mut bench = bench();
    assert!(bench.run(async |_| tally().add_and_save(3).await).is_ok());
    bench.fail(Trouble::Unavailable("it is away".to_owned()));
    assert_eq!(bench.run(async |_| tally().add(1).await), Ok(4));
    let error = bench.run(async |_| account().cents().await).map_err(|e| (e.kind(), e.ran()));
    assert_eq!(error, Err((ErrorKind::StoreUnavailable, Ran::No)));
    let barrier = bench.start(async |_| tally().add_and_save(1).await);
    bench.pass(LAG);
    assert_eq!(barrier.get().map_err(CallError::kind), Err(ErrorKind::StoreUnavailable));
    bench.pass(10 * LAG);
    assert_eq!(bench.saved::<Tally>("one").map(|tally| tally.count), Some(3));
    bench.heal();
    bench.pass(2 * LAG);
    assert_eq!(bench.saved::<Tally>("one").map(|tally| tally.count), Some(5));
    assert_eq!(bench.troubles(), (1, 1), "said once when it began, and once when it was over");
}

#[test]
fn n28_an_op_whose_outcome_nobody_knows_is_settled_by_the_next() {
    for done in [false, true] {
        let mut bench = bench();
        assert_eq!(bench.run(async |_| account().put(5).await), Ok(5));
        bench.lose_next_answer(done);
        let put = bench.start(async |_| account().put(1).await);
        bench.settle();
        assert!(put.is_empty());
        bench.pass(LAG);
        assert_eq!(put.get(), Ok(6));
        assert_eq!(bench.saved::<Account>("one").map(|account| account.cents), Some(6));
        assert_eq!(bench.run(async |_| account().put(1).await), Ok(7));
    }
}

#[test]
fn n32_whoever_was_replaced_saves_nothing_and_says_so() {
    let mut bench = bench();
    assert_eq!(bench.run(async |_| account().put(5).await), Ok(5));
    bench.usurp::<Account>("one");
    let put = bench.run(async |_| account().put(1).await);
    assert_eq!(put.map_err(|e| (e.kind(), e.ran())), Err((ErrorKind::NodeLost, Ran::Yes)));
    assert_eq!(bench.saved::<Account>("one").map(|account| account.cents), Some(5));
    assert_eq!(bench.activations(), 0);
    let next = bench.run(async |_| account().cents().await);
    assert_eq!(next.map_err(|e| (e.kind(), e.ran())), Err((ErrorKind::Moved, Ran::No)));
}

#[test]
fn a_corrupt_state_is_never_served_and_its_bytes_stay() {
    let mut bench = bench();
    assert!(bench.run(async |_| tally().add_and_save(3).await).is_ok());
    assert!(bench.run(async |_| tally().leave().await).is_ok());
    bench.settle();
    bench.flip_a_bit::<Tally>("one");
    let error = bench.run(async |_| tally().count().await).map_err(|e| (e.kind(), e.ran()));
    assert_eq!(error, Err((ErrorKind::StateUnreadable, Ran::No)));
    bench.flip_a_bit::<Tally>("one");
    assert_eq!(bench.run(async |_| tally().count().await), Ok((3, 1)));
}

mod old {
    use super::*;

    #[entity(name = "Hero", crate = __paths)]
    #[derive(Default)]
    pub(super) struct Hero {
        pub(super) score: u32,
    }

    #[entity(crate = __paths)]
    impl Hero {
        pub fn add_and_leave(&mut self, at: At<Self>, n: u32) -> u32 {
            self.score += n;
            at.deactivate();
            self.score
        }
    }
}

mod new {
    use super::*;

    #[message(crate = __paths)]
    pub(super) struct HeroV1 {
        score: u32,
    }

    #[entity(name = "Hero", upgrades(HeroV1), crate = __paths)]
    #[derive(Default)]
    pub(super) struct Hero {
        pub(super) points: u64,
        pub(super) title: String,
    }

    impl From<HeroV1> for Hero {
        fn from(old: HeroV1) -> Self {
            Self { points: u64::from(old.score) * 10, title: "of old".to_owned() }
        }
    }

    #[entity(crate = __paths)]
    impl Hero {
        pub fn points(&self) -> (u64, String) {
            (self.points, self.title.clone())
        }

        pub fn rest(&mut self, at: At<Self>) {
            self.title.push('!');
            at.deactivate();
        }
    }
}

mod careless {
    use super::*;

    /// Changed, and still of version 1.
    #[entity(name = "Hero", crate = __paths)]
    #[derive(Default)]
    pub(super) struct Hero {
        name: String,
    }

    #[entity(crate = __paths)]
    impl Hero {
        pub fn name(&self) -> String {
            self.name.clone()
        }
    }
}

#[test]
fn e8_a_state_of_an_earlier_version_is_upgraded_and_one_of_a_later_version_is_refused_and_kept() {
    let mut first = Bench::new(|registry| registry.add::<old::Hero>().unwrap());
    assert_eq!(first.run(async |_| Ref::<old::Hero>::of("h").add_and_leave(4).await), Ok(4));
    let mut second = first.restarted_with(|registry| registry.add::<new::Hero>().unwrap());
    let hero = second.run(async |_| Ref::<new::Hero>::of("h").points().await);
    assert_eq!(hero, Ok((40, "of old".to_owned())));
    assert_eq!(second.run(async |_| Ref::<new::Hero>::of("h").rest().await), Ok(()));
    let mut third = second.restarted_with(|registry| registry.add::<old::Hero>().unwrap());
    let error = third.run(async |_| Ref::<old::Hero>::of("h").add_and_leave(1).await);
    assert_eq!(error.map_err(CallError::kind), Err(ErrorKind::StateUnreadable));
    assert_eq!(third.saved::<new::Hero>("h").map(|hero| hero.title), Some("of old!".to_owned()));
}

#[test]
fn e8_a_type_that_was_changed_without_a_new_version_does_not_read_what_it_was() {
    let mut first = Bench::new(|registry| registry.add::<old::Hero>().unwrap());
    assert_eq!(first.run(async |_| Ref::<old::Hero>::of("h").add_and_leave(4).await), Ok(4));
    let mut second = first.restarted_with(|registry| registry.add::<careless::Hero>().unwrap());
    let error = second.run(async |_| Ref::<careless::Hero>::of("h").name().await);
    assert_eq!(error.map_err(CallError::kind), Err(ErrorKind::StateUnreadable));
}

#[test]
fn without_a_store_nothing_is_saved_and_a_barrier_is_over_at_once() {
    let mut bench = bench().without_a_store();
    assert_eq!(bench.run(async |_| tally().add_and_save(3).await), Ok(3));
    assert_eq!(bench.run(async |_| account().put(1).await), Ok(1));
    assert_eq!(bench.run(async |_| tally().leave().await), Ok(()));
    assert_eq!(bench.run(async |_| tally().count().await), Ok((0, 0)));
}

#[test]
fn n41_changes_wait_for_a_store_that_does_not_keep_up_and_none_is_lost() {
    const TALLIES: u64 = 2_000;
    let mut bench = bench();
    bench.run(async |pool| {
        for key in 0..TALLIES {
            pool.get::<Tally>(format!("{key}")).count().await.unwrap();
        }
    });
    bench.hold();
    let all = bench.start(async |pool| {
        let calls: Vec<_> =
            (0..TALLIES).map(|key| pool.get::<Tally>(format!("{key}")).add(1)).collect();
        let mut sum = 0;
        for call in calls {
            sum += call.await.unwrap();
        }
        sum
    });
    bench.pass(Duration::from_secs(3));
    assert!(all.is_empty(), "some wait");
    let seen = bench.start(async |pool| {
        let mut sum = 0;
        for key in 0..TALLIES {
            // Those that wait are before it at their entity, not at others.
            let tally = pool.get::<Tally>(format!("{key}"));
            sum += u64::from(tally.count().timeout(Duration::from_millis(1)).await.is_ok());
        }
        sum
    });
    bench.pass(Duration::from_secs(3));
    let changed = seen.get();
    assert!(changed < UNSAVED_MAX / 256 + 1 && changed > 100, "{changed} were changed");
    bench.release();
    bench.pass(Duration::from_secs(10));
    assert_eq!(all.get(), u32::try_from(TALLIES).unwrap());
    assert_eq!(bench.saved::<Tally>("7").unwrap().count, 1);
    assert_eq!(bench.saved::<Tally>("1999").unwrap().count, 1);
}
