//! Reminders: when the hook is called, what a crash leaves of them, and what they cost who watches.

use std::time::Duration;

use epicserver_entity::{At, Cx, Ref, Reminder};
use epicserver_macros::{activate, entity, reminded};
use epicserver_record::Trouble;
use epicserver_wire::{CallError, ErrorKind};

use super::desk::{__paths, Bench};

/// Notes what it is reminded of.
#[entity(crate = __paths)]
#[derive(Default)]
struct Clock {
    heard: Vec<(String, u64, u64)>,
    panics: u32,
}

#[entity(crate = __paths)]
impl Clock {
    pub fn remind_in(&mut self, at: At<Self>, label: String, ms: u64) {
        drop(at.remind_in(label, Duration::from_millis(ms)));
    }

    pub fn remind_at(&mut self, at: At<Self>, label: String, ms: u64) {
        drop(at.remind_at(label, Duration::from_millis(ms)));
    }

    pub async fn remind_surely(cx: Cx<Self>, label: String, ms: u64) -> Result<(), CallError> {
        cx.remind_in(label, Duration::from_millis(ms)).await
    }

    pub async fn remind_every(cx: Cx<Self>, label: String, ms: u64) -> Result<(), CallError> {
        cx.remind_every(label, Duration::from_millis(ms)).await
    }

    pub async fn forget(cx: Cx<Self>, label: String) -> Result<(), CallError> {
        cx.forget(label).await
    }

    pub async fn reminders(cx: Cx<Self>) -> Result<Vec<(String, u64)>, CallError> {
        let all = cx.reminders().await?;
        Ok(all.into_iter().map(|one| (one.label, ms(one.due))).collect())
    }

    pub fn heard(&self) -> Vec<(String, u64, u64)> {
        self.heard.clone()
    }

    pub fn panic_at_the_next(&mut self, times: u32) {
        self.panics = times;
    }

    pub fn panic(&mut self) {
        panic!("as it was asked to");
    }

    pub fn leave(&mut self, at: At<Self>) {
        at.deactivate();
    }

    pub fn delete(&mut self, at: At<Self>) {
        at.delete();
    }

    #[reminded]
    fn ring(&mut self, at: At<Self>, reminder: Reminder) {
        assert!(reminder.label != "poison", "as it was asked to");
        if reminder.label == "again" {
            drop(at.remind_in("again", Duration::from_secs(9)));
        }
        self.heard.push((reminder.label, ms(reminder.due), reminder.missed));
    }
}

/// Reminds itself from its beginning, and takes its time.
#[entity(saved = "manual", crate = __paths)]
struct Slow {
    began: u32,
    ended: u32,
}

#[entity(crate = __paths)]
impl Slow {
    #[activate]
    fn new(at: At<Self>) -> Self {
        drop(at.remind_every("work", Duration::from_secs(60)));
        Self { began: 0, ended: 0 }
    }

    pub fn counts(&self) -> (u32, u32) {
        (self.began, self.ended)
    }

    #[reminded]
    async fn work(cx: Cx<Self>, _: Reminder) {
        cx.with(|slow| slow.began += 1);
        if cx.sleep(Duration::from_secs(2)).await.is_ok() {
            cx.with(|slow| slow.ended += 1);
        }
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).expect("it is no longer than ages")
}

/// What the clock of a bench says when it begins, in ms.
const BEGAN: u64 = 1_000_000;

fn bench() -> Bench {
    Bench::new(|registry| {
        registry.add::<Clock>().expect("it has a name of its own");
        registry.add::<Slow>().expect("it has a name of its own");
    })
}

fn heard(bench: &mut Bench) -> Vec<(String, u64, u64)> {
    bench.run(async |pool| pool.get::<Clock>("wall").heard().await).expect("it runs")
}

fn clock(pool: &epicserver_entity::Pool) -> Ref<Clock> {
    pool.get("wall")
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[test]
fn a_reminder_wakes_an_entity_that_is_in_no_memory_once() {
    let mut bench = bench();
    bench
        .run(async |pool| {
            clock(&pool).remind_in("tea".to_owned(), 90_000).await?;
            clock(&pool).leave().await
        })
        .unwrap();
    bench.pass(secs(89));
    assert_eq!((bench.activations(), bench.rows()), (0, 2), "the state, and the reminder's row");
    bench.pass(secs(2));
    assert_eq!(bench.activations(), 1);
    bench.pass(secs(200));
    assert_eq!(heard(&mut bench), [("tea".to_owned(), BEGAN + 90_000, 0)]);
    assert_eq!(bench.rows(), 1, "its row is gone");
    assert_eq!(bench.saved::<Clock>("wall").unwrap().heard.len(), 1);
}

#[test]
fn n35_one_that_was_due_while_nothing_ran_comes_when_something_runs_again() {
    let mut bench = bench();
    bench.run(async |pool| clock(&pool).remind_surely("tea".to_owned(), 5_000).await).unwrap();
    let mut bench = bench.restarted();
    bench.pass(secs(6));
    assert_eq!(heard(&mut bench), [("tea".to_owned(), BEGAN + 5_000, 0)]);
    let mut bench = bench.restarted();
    bench.pass(secs(60));
    assert_eq!(heard(&mut bench).len(), 1, "and not once more");
}

#[test]
fn n34_a_crash_between_the_hook_and_its_save_undoes_both_and_it_is_called_again() {
    let mut bench = bench();
    bench.run(async |pool| clock(&pool).remind_surely("tea".to_owned(), 5_000).await).unwrap();
    bench.lose_next_answer(false);
    bench.pass(Duration::from_millis(1_001));
    assert_eq!(bench.counters().saved, 1, "what the hook did was not saved");
    let mut bench = bench.restarted();
    assert_eq!(bench.saved::<Clock>("wall").unwrap().heard, []);
    bench.pass(secs(6));
    assert_eq!(heard(&mut bench).len(), 1);
    assert_eq!(bench.saved::<Clock>("wall").unwrap().heard.len(), 1);
}

#[test]
fn a_later_one_of_the_same_label_takes_the_place_of_the_earlier() {
    let mut bench = bench();
    bench
        .run(async |pool| {
            clock(&pool).remind_surely("tea".to_owned(), 5_000).await?;
            clock(&pool).remind_surely("tea".to_owned(), 50_000).await?;
            clock(&pool).remind_surely("cake".to_owned(), 40_000).await
        })
        .unwrap();
    assert_eq!(bench.rows(), 3);
    let all = bench.run(async |pool| clock(&pool).reminders().await).unwrap();
    assert_eq!(all, [("cake".to_owned(), BEGAN + 40_000), ("tea".to_owned(), BEGAN + 50_000)]);
    bench.pass(secs(39));
    assert_eq!(heard(&mut bench), []);
    bench.pass(secs(20));
    let labels: Vec<String> = heard(&mut bench).into_iter().map(|(label, ..)| label).collect();
    assert_eq!(labels, ["cake", "tea"]);
}

#[test]
fn one_that_is_forgotten_does_not_come() {
    let mut bench = bench();
    bench
        .run(async |pool| {
            clock(&pool).remind_surely("tea".to_owned(), 5_000).await?;
            clock(&pool).forget("tea".to_owned()).await?;
            clock(&pool).forget("never".to_owned()).await
        })
        .unwrap();
    assert_eq!(bench.rows(), 1);
    bench.pass(secs(20));
    assert_eq!(heard(&mut bench), []);
}

#[test]
fn one_that_comes_again_and_again_tells_what_was_missed_and_makes_up_for_none_of_it() {
    let mut bench = bench();
    bench.run(async |pool| clock(&pool).remind_every("tick".to_owned(), 10_000).await).unwrap();
    bench.pass(secs(25));
    let tick = |after: u64, missed| ("tick".to_owned(), BEGAN + after, missed);
    assert_eq!(heard(&mut bench), [tick(10_000, 0), tick(20_000, 0)]);
    let mut bench = bench.restarted();
    bench.hold();
    bench.pass(secs(57));
    bench.release();
    assert_eq!(heard(&mut bench)[2..], [tick(30_000, 2)]);
    bench.pass(secs(4));
    assert_eq!(heard(&mut bench)[3..], [tick(60_000, 0)], "the times stay what they were");
}

#[test]
fn a_hook_may_ask_to_be_reminded_again() {
    let mut bench = bench();
    bench.run(async |pool| clock(&pool).remind_surely("again".to_owned(), 1_000).await).unwrap();
    bench.pass(secs(30));
    assert_eq!(heard(&mut bench).len(), 4, "after 1 s, and every 9 s after that");
    assert_eq!(bench.rows(), 2);
}

#[test]
fn n35_a_hook_that_panics_is_called_again_after_a_while_and_holds_up_no_others() {
    let mut bench = bench();
    bench
        .run(async |pool| {
            clock(&pool).remind_surely("poison".to_owned(), 1_000).await?;
            clock(&pool).remind_surely("tea".to_owned(), 1_500).await
        })
        .unwrap();
    bench.pass(secs(21));
    assert!((2..=5).contains(&bench.counters().panics), "{:?}", bench.counters());
    let labels: Vec<String> = heard(&mut bench).into_iter().map(|(label, ..)| label).collect();
    assert_eq!(labels, ["tea"]);
}

#[test]
fn n34_a_reset_undoes_reminders_that_were_not_saved() {
    let mut bench = bench();
    let asked = bench.run(async |pool| {
        clock(&pool).remind_surely("tea".to_owned(), 50_000).await?;
        clock(&pool).remind_in("cake".to_owned(), 50_000).await?;
        clock(&pool).panic().await
    });
    assert_eq!(asked.map_err(|error| error.kind()), Err(ErrorKind::Panicked));
    let all = bench.run(async |pool| clock(&pool).reminders().await).unwrap();
    let stored = bench.rows() - 1;
    assert_eq!(all.len(), stored, "what is stored and what it knows are one: {all:?}");
}

#[test]
fn who_is_deleted_is_not_reminded() {
    let mut bench = bench();
    bench
        .run(async |pool| {
            clock(&pool).remind_surely("tea".to_owned(), 5_000).await?;
            clock(&pool).remind_in("cake".to_owned(), 6_000).await?;
            clock(&pool).delete().await
        })
        .unwrap();
    bench.pass(secs(60));
    assert_eq!((bench.rows(), bench.activations()), (1, 0), "a tombstone");
    assert_eq!(heard(&mut bench), []);
}

#[test]
fn an_entity_has_so_many_reminders_and_no_more() {
    let mut bench = bench();
    let asked = bench.run(async |pool| {
        for index in 0..24 {
            clock(&pool).remind_surely(format!("r{index}"), 50_000).await?;
        }
        clock(&pool).remind_surely("r3".to_owned(), 60_000).await?;
        clock(&pool).remind_surely("more".to_owned(), 50_000).await
    });
    assert_eq!(asked.map_err(|error| error.kind()), Err(ErrorKind::Overloaded));
    let long = bench.run(async |pool| clock(&pool).remind_surely("x".repeat(129), 1).await);
    assert_eq!(long.map_err(|error| error.kind()), Err(ErrorKind::Overloaded));
    assert_eq!(bench.rows(), 25);
}

#[test]
fn where_nothing_is_saved_nobody_is_reminded_and_that_is_said() {
    let mut bench = bench().without_a_store();
    let asked = bench.run(async |pool| clock(&pool).remind_surely("tea".to_owned(), 1_000).await);
    assert_eq!(asked.map_err(|error| error.kind()), Err(ErrorKind::StoreUnavailable));
    assert_eq!(bench.run(async |pool| clock(&pool).reminders().await), Ok(Vec::new()));
}

#[test]
fn n35_a_hook_that_waits_is_done_with_when_it_ends() {
    let mut bench = bench();
    assert_eq!(bench.run(async |pool| pool.get::<Slow>("a").counts().await), Ok((0, 0)));
    bench.pass(secs(61));
    assert_eq!(bench.run(async |pool| pool.get::<Slow>("a").counts().await), Ok((1, 0)));
    let mut bench = bench.restarted();
    bench.pass(secs(65));
    let counts = bench.run(async |pool| pool.get::<Slow>("a").counts().await).unwrap();
    assert_eq!(counts.1, 1, "the one that was cut off by the crash came again: {counts:?}");
    let slow = bench.saved::<Slow>("a").unwrap();
    assert_eq!(slow.ended, 1, "what it did is saved with the note that it ran");
}

#[test]
fn n36_many_that_are_due_at_once_all_come_a_bounded_number_at_a_time() {
    let mut bench = bench();
    bench
        .run(async |pool| {
            for key in 0..500 {
                let clock = pool.get::<Clock>(format!("{key}"));
                clock.remind_at("tea".to_owned(), BEGAN + 3_000).await?;
                clock.leave().await?;
            }
            Ok::<_, CallError>(())
        })
        .unwrap();
    let mut bench = bench.restarted();
    bench.pass(secs(10));
    let heard = bench.run(async |pool| {
        let mut heard = 0;
        for key in 0..500 {
            heard += pool.get::<Clock>(format!("{key}")).heard().await.unwrap().len();
        }
        heard
    });
    assert_eq!((heard, bench.rows()), (500, 500));
}

#[test]
fn a_store_that_is_away_delays_reminders_and_loses_none() {
    let mut bench = bench();
    bench.run(async |pool| clock(&pool).remind_surely("tea".to_owned(), 5_000).await).unwrap();
    bench.fail(Trouble::Unavailable("the disk is away".to_owned()));
    bench.pass(secs(30));
    bench.heal();
    bench.pass(secs(30));
    assert_eq!(heard(&mut bench).len(), 1);
    assert_eq!(bench.rows(), 1);
}
