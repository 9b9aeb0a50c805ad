//! Requests with ids: a repeat gets the first answer, whatever has happened in between.

use std::time::Duration;

use epicserver_entity::{At, Ref};
use epicserver_macros::{entity, exclusive, message};
use epicserver_record::Trouble;
use epicserver_wire::uuid::Uuid;
use epicserver_wire::{CallError, ErrorKind, Ran};

use super::desk::{__paths, Bench};

/// Counts how often it was really asked.
#[entity(saved = "every_turn", crate = __paths)]
#[derive(Default)]
struct Purse {
    cents: i64,
    runs: u32,
}

/// Why a purse does not pay.
#[message(crate = __paths)]
#[derive(Clone, PartialEq, Debug)]
enum Refused {
    Poor(i64),
    Failed(CallError),
}

impl From<CallError> for Refused {
    fn from(error: CallError) -> Self {
        Self::Failed(error)
    }
}

#[entity(crate = __paths)]
impl Purse {
    pub fn put(&mut self, cents: i64) -> i64 {
        self.runs += 1;
        self.cents += cents;
        self.cents
    }

    pub fn take(&mut self, cents: i64) -> Result<i64, Refused> {
        self.runs += 1;
        if cents > self.cents {
            return Err(Refused::Poor(self.cents));
        }
        self.cents -= cents;
        Ok(self.cents)
    }

    pub fn cents(&self) -> i64 {
        self.cents
    }

    pub fn runs(&self) -> u32 {
        self.runs
    }

    #[exclusive]
    pub async fn put_slowly(&mut self, at: At<Self>, cents: i64) -> Result<i64, CallError> {
        self.runs += 1;
        at.sleep(Duration::from_secs(2)).await?;
        self.cents += cents;
        Ok(self.cents)
    }

    pub fn panic_once(&mut self, at: At<Self>) -> u32 {
        assert!(at.now().as_nanos() > 1_000_000_000, "as it was asked to");
        self.runs += 1;
        self.runs
    }

    pub fn close(&mut self, at: At<Self>) -> i64 {
        at.delete();
        self.cents
    }
}

fn bench() -> Bench {
    Bench::new(|registry| registry.add::<Purse>().expect("it has a name of its own"))
}

fn purse(pool: &epicserver_entity::Pool) -> Ref<Purse> {
    pool.get("bob")
}

fn id(of: u128) -> Uuid {
    Uuid::from_u128(of)
}

fn runs(bench: &mut Bench) -> u32 {
    bench.run(async |pool| purse(&pool).runs().await).expect("it runs")
}

#[test]
fn a_repeat_gets_the_first_answer_and_does_not_run() {
    let mut bench = bench();
    let answers = bench.run(async |pool| {
        let purse = purse(&pool);
        [
            purse.put(5).request_id(id(1)).await,
            purse.put(7).request_id(id(2)).await,
            purse.put(5).request_id(id(1)).await,
            purse.put(1).await,
        ]
    });
    assert_eq!(answers, [Ok(5), Ok(12), Ok(5), Ok(13)]);
    assert_eq!((runs(&mut bench), bench.rows()), (3, 3));
}

#[test]
fn n37_a_repeat_gets_it_after_a_crash_too_with_what_was_changed() {
    let mut bench = bench();
    assert_eq!(bench.run(async |pool| purse(&pool).put(5).request_id(id(1)).await), Ok(5));
    let mut bench = bench.restarted();
    assert_eq!(bench.run(async |pool| purse(&pool).put(5).request_id(id(1)).await), Ok(5));
    assert_eq!(runs(&mut bench), 1);
    assert_eq!(bench.saved::<Purse>("bob").unwrap().cents, 5);
}

#[test]
fn n37_what_was_not_saved_before_a_crash_has_not_happened_and_runs_again() {
    let mut bench = bench();
    bench.run(async |pool| purse(&pool).put(1).await).unwrap();
    bench.lose_next_answer(false);
    bench.hold();
    let first = bench.start(async |pool| purse(&pool).put(5).request_id(id(1)).await);
    bench.step();
    bench.step();
    assert!(first.is_empty(), "it is not durable");
    let mut bench = bench.restarted();
    assert_eq!(bench.run(async |pool| purse(&pool).put(5).request_id(id(1)).await), Ok(6));
    assert_eq!(runs(&mut bench), 2);
}

#[test]
fn n37_a_save_of_which_nobody_knows_is_settled_and_counts_once() {
    for done in [false, true] {
        let mut bench = bench();
        bench.run(async |pool| purse(&pool).put(1).await).unwrap();
        bench.lose_next_answer(done);
        let first = bench.start(async |pool| purse(&pool).put(5).request_id(id(1)).await);
        bench.pass(Duration::from_millis(1));
        assert!(first.is_empty(), "nobody knows");
        bench.pass(Duration::from_secs(5));
        assert_eq!(first.get(), Ok(6));
        let mut bench = bench.restarted();
        assert_eq!(bench.run(async |pool| purse(&pool).put(5).request_id(id(1)).await), Ok(6));
        assert_eq!(runs(&mut bench), 2);
    }
}

#[test]
fn a_repeat_that_comes_while_the_first_is_under_way_waits_for_its_answer() {
    let mut bench = bench();
    let both = bench.start(async |pool| {
        let purse = purse(&pool);
        let first = purse.put_slowly(5).request_id(id(1));
        let second = purse.put_slowly(5).request_id(id(1));
        (first.await, second.await)
    });
    bench.pass(Duration::from_secs(1));
    assert!(both.is_empty());
    bench.pass(Duration::from_secs(2));
    assert_eq!(both.get(), (Ok(5), Ok(5)));
    assert_eq!(runs(&mut bench), 1);
}

#[test]
fn an_error_of_the_method_is_an_answer_and_a_panic_is_none() {
    let mut bench = bench();
    let answers = bench.run(async |pool| {
        let purse = purse(&pool);
        let first = purse.take(5).request_id(id(1)).await;
        purse.put(50).await.unwrap();
        (first, purse.take(5).request_id(id(1)).await)
    });
    assert_eq!(answers, (Err(Refused::Poor(0)), Err(Refused::Poor(0))));
    let panicked = bench.run(async |pool| purse(&pool).panic_once().request_id(id(2)).await);
    assert_eq!(panicked.map_err(|error| error.kind()), Err(ErrorKind::Panicked));
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.run(async |pool| purse(&pool).panic_once().request_id(id(2)).await), Ok(3));
}

#[test]
fn an_id_that_was_another_methods_is_refused_and_nothing_runs() {
    let mut bench = bench();
    let answer = bench.run(async |pool| {
        purse(&pool).put(5).request_id(id(1)).await.unwrap();
        purse(&pool).close().request_id(id(1)).await
    });
    assert_eq!(answer.map_err(|error| error.kind()), Err(ErrorKind::Malformed));
    assert_eq!(bench.run(async |pool| purse(&pool).cents().await), Ok(5));
}

#[test]
fn who_was_deleted_by_a_request_says_so_again() {
    let mut bench = bench();
    let answers = bench.run(async |pool| {
        let purse = purse(&pool);
        purse.put(5).await.unwrap();
        (purse.close().request_id(id(1)).await, purse.close().request_id(id(1)).await)
    });
    assert_eq!(answers, (Ok(5), Ok(5)));
}

#[test]
fn who_was_deleted_before_anything_was_saved_has_answered_all_the_same() {
    let mut bench = bench();
    let first = bench.run(async |pool| {
        let purse = purse(&pool);
        let (put, closed) = (purse.put(5).request_id(id(1)), purse.close());
        [put.await, closed.await]
    });
    assert_eq!(first, [Ok(5), Ok(5)]);
    assert_eq!(bench.run(async |pool| purse(&pool).put(5).request_id(id(1)).await), Ok(5));
    assert_eq!(runs(&mut bench), 0);
}

#[test]
fn n38_more_requests_at_once_than_one_save_takes_all_run_once() {
    let mut bench = bench();
    let sum = bench.run(async |pool| {
        let purse = purse(&pool);
        let calls: Vec<_> = (0..200).map(|of| purse.put(1).request_id(id(of % 100))).collect();
        let mut greatest = 0;
        for call in calls {
            greatest = greatest.max(call.await.unwrap());
        }
        greatest
    });
    assert_eq!((sum, runs(&mut bench), bench.rows()), (100, 100, 101));
}

#[test]
fn n38_old_answers_make_room_for_new_ones() {
    let mut bench = bench();
    bench.run(async |pool| {
        for of in 0..1_100 {
            purse(&pool).put(1).request_id(id(of)).await.unwrap();
        }
    });
    bench.run(async |pool| purse(&pool).put(1).await).unwrap();
    assert_eq!(bench.rows(), 1_001, "the state and a thousand answers");
    let mut bench = bench.restarted();
    bench.run(async |pool| purse(&pool).put(1).request_id(id(1_099)).await).unwrap();
    assert_eq!(runs(&mut bench), 1_101, "that was a repeat");
    bench.pass(Duration::from_secs(24 * 60 * 60));
    bench.run(async |pool| purse(&pool).put(1).request_id(id(5_000)).await).unwrap();
    (0..60).for_each(|_| bench.run(async |pool| purse(&pool).put(1).await).map(drop).unwrap());
    assert_eq!(bench.rows(), 2, "what is a day old is gone");
}

#[test]
fn where_answers_cannot_be_read_or_kept_the_method_does_not_run() {
    let mut bench = bench();
    bench.run(async |pool| purse(&pool).put(1).await).unwrap();
    bench.fail(Trouble::Unavailable("the disk is away".to_owned()));
    let answer = bench.run(async |pool| purse(&pool).put(5).request_id(id(1)).await);
    let why = answer.map_err(|error| (error.kind(), error.ran()));
    assert_eq!(why, Err((ErrorKind::StoreUnavailable, Ran::No)));
    bench.heal();
    assert_eq!(bench.run(async |pool| purse(&pool).put(5).request_id(id(1)).await), Ok(6));
    let mut bench = bench.without_a_store();
    let answer = bench.run(async |pool| purse(&pool).put(5).request_id(id(1)).await);
    let why = answer.map_err(|error| (error.kind(), error.ran()));
    assert_eq!(why, Err((ErrorKind::StoreUnavailable, Ran::No)));
}
