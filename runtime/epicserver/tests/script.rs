//! Business logic under the test kit alone: no runtime, no mock, no I/O.

use std::time::Duration;

use epicserver::prelude::*;
use epicserver::{Answer, Script, Syscall};

#[entity(key = u64)]
#[derive(Default)]
struct Barrel {
    hits: u32,
}

#[entity]
impl Barrel {
    pub fn on_hit(&mut self) -> bool {
        self.hits += 1;
        self.hits == 1
    }

    pub fn roll(&mut self, by: u32) {
        self.hits += by;
    }
}

#[entity]
#[derive(Default)]
struct Player {
    score: u32,
    log: Vec<String>,
}

#[entity]
impl Player {
    pub async fn enter_level(cx: Cx<Self>, barrels: Vec<Ref<Barrel>>) -> Result<u32> {
        for barrel in barrels {
            if barrel.on_hit().await? {
                cx.with(|player| player.score += 1);
            }
        }
        Ok(cx.with(|player| player.score))
    }

    pub fn score(&self) -> u32 {
        self.score
    }

    pub fn add(&mut self, at: At<Self>, by: u32) -> String {
        self.score += by;
        at.pool().get::<Barrel>(7).roll(by).tell();
        at.key()
    }

    #[exclusive]
    pub async fn trade(&mut self, at: At<Self>, with: Ref<Barrel>) -> Result<()> {
        self.log.push("trade begins".into());
        with.on_hit().await?;
        at.sleep(Duration::from_secs(1)).await?;
        self.log.push("trade ends".into());
        Ok(())
    }

    pub async fn note(cx: Cx<Self>, barrel: Ref<Barrel>) -> Result<()> {
        cx.with(|player| player.log.push("note begins".into()));
        barrel.on_hit().await?;
        cx.with(|player| player.log.push("note ends".into()));
        Ok(())
    }

    pub async fn section(mut cx: Cx<Self>, barrel: Ref<Barrel>) -> Result<bool> {
        cx.exclusive(async |player| {
            player.log.push("section begins".into());
            let first = barrel.on_hit().await;
            player.log.push("section ends".into());
            first
        })
        .await?
    }

    pub async fn both(_cx: Cx<Self>, one: Ref<Barrel>, other: Ref<Barrel>) -> Result<(bool, bool)> {
        let (one, other) = (one.on_hit(), other.on_hit());
        Ok((one.await?, other.await?))
    }

    pub async fn patient(cx: Cx<Self>, barrel: Ref<Barrel>) -> Result<bool> {
        cx.within(Duration::from_secs(5), barrel.on_hit()).await?
    }

    pub async fn nap(cx: Cx<Self>) -> Result<u64> {
        let before = cx.now();
        cx.sleep(Duration::from_secs(60)).await?;
        Ok(cx.now().since(before).as_secs())
    }

    pub async fn lock(cx: Cx<Self>) -> Result<u32> {
        let held = cx.lock("chest").acquire().await?;
        let score = cx.with(|player| player.score);
        drop(held);
        Ok(score)
    }

    pub async fn wait(cx: Cx<Self>) -> Result<()> {
        cx.event("start").wait().timeout(Duration::from_secs(9)).await
    }

    pub fn start(&mut self, at: At<Self>) {
        at.event("start").set();
        at.event("start").clear();
    }

    pub async fn pump(cx: Cx<Self>) -> Result<u32> {
        let queue = cx.queue::<u32>("orders");
        queue.push(&5)?.await?;
        queue.pop().await
    }

    pub fn send_out(&mut self, at: At<Self>) {
        at.spawn(async |cx: Cx<Self>| {
            let barrel = cx.pool().get::<Barrel>(3);
            if barrel.on_hit().await == Ok(true) {
                cx.with(|player| player.score += 10);
            }
        });
    }

    pub fn regenerate(&mut self, at: At<Self>) {
        at.every(Duration::from_secs(2), async |cx: Cx<Self>| cx.with(|player| player.score += 1));
    }

    pub fn dice(&self, at: At<Self>) -> Vec<u64> {
        (0..4).map(|_| at.random()).collect()
    }

    pub async fn wall(cx: Cx<Self>) -> Result<(u64, Vec<u8>)> {
        Ok((cx.wall_clock().await?.as_secs(), cx.random_bytes(2).await?))
    }

    pub fn leave(&mut self, at: At<Self>) {
        at.deactivate();
    }
}

fn bob() -> Script<Player> {
    Script::new("Bob", Player::default())
}

fn barrel(key: u64) -> Ref<Barrel> {
    Ref::of(key)
}

#[test]
fn a_player_scores_once_for_each_barrel_that_it_hits_first() {
    let mut script = bob();
    let barrels = vec![barrel(1), barrel(2)];
    let level = script.start(|cx| Player::enter_level(cx, barrels.clone()));
    for (barrel, first) in barrels.iter().zip([true, false]) {
        let hit = script.next().unwrap();
        assert!(hit.is_call(barrel, "on_hit"));
        assert_eq!(script.result(&level), None);
        script.reply(hit, first);
    }
    assert_eq!(script.finish(level), Ok(1));
    assert_eq!(script.turn(|player, _| player.score()), 1);
    assert!(script.next().is_none());
}

#[test]
fn a_call_that_fails_ends_the_level_and_keeps_what_was_scored() {
    let mut script = bob();
    let level = script.start(|cx| Player::enter_level(cx, vec![barrel(1), barrel(2)]));
    let first = script.next().unwrap();
    script.reply(first, true);
    let second = script.next().unwrap();
    script.fail(second, ErrorKind::Overloaded);
    let error = script.finish(level).unwrap_err();
    assert_eq!((error.kind(), error.ran()), (ErrorKind::Overloaded, Ran::No));
    assert_eq!(script.state(|player| player.score), 1);
}

#[test]
fn a_call_that_is_late_fails_and_whether_it_ran_is_not_known() {
    let mut script = bob();
    let level = script.start(|cx| Player::enter_level(cx, vec![barrel(1)]));
    let hit = script.next().unwrap();
    script.fail(hit, ErrorKind::Deadline);
    let error = script.finish(level).unwrap_err();
    assert_eq!((error.kind(), error.ran()), (ErrorKind::Deadline, Ran::Unknown));
}

#[test]
fn a_timeout_within_a_method_is_a_sleep_that_comes_first() {
    let mut script = bob();
    let level = script.start(|cx| Player::patient(cx, barrel(1)));
    let (one, other) = (script.next().unwrap(), script.next().unwrap());
    let is_sleep = |asked: &epicserver::Asked| matches!(asked.syscall, Syscall::Sleep { .. });
    let sleep = if is_sleep(&one) { one } else { other };
    assert!(is_sleep(&sleep));
    script.complete(sleep, Answer::Done);
    assert_eq!(script.finish(level).unwrap_err().kind(), ErrorKind::Deadline);
}

#[test]
fn two_methods_of_one_entity_interleave_in_any_order_of_answers() {
    let mut script = bob();
    let one = script.start(|cx| Player::enter_level(cx, vec![barrel(1)]));
    let other = script.start(|cx| Player::enter_level(cx, vec![barrel(2)]));
    let (first, second) = (script.next().unwrap(), script.next().unwrap());
    assert_eq!((first.run(), second.run()), (0, 1));
    script.reply(second, true);
    assert_eq!(script.finish(other), Ok(1));
    script.reply(first, true);
    assert_eq!(script.finish(one), Ok(2));
}

#[test]
fn two_calls_that_are_made_before_either_is_awaited_leave_together() {
    let mut script = bob();
    let both = script.start(|cx| Player::both(cx, barrel(1), barrel(2)));
    let (one, other) = (script.next().unwrap(), script.next().unwrap());
    assert!(one.is_call(&barrel(1), "on_hit"));
    assert!(other.is_call(&barrel(2), "on_hit"));
    script.reply(other, false);
    script.reply(one, true);
    assert_eq!(script.finish(both), Ok((true, false)));
}

#[test]
fn a_section_keeps_other_methods_from_starting_and_from_going_on() {
    let mut script = bob();
    let parked = script.start(|cx| Player::note(cx, barrel(1)));
    let parked_at = script.next().unwrap();
    let section = script.start(|cx| Player::section(cx, barrel(2)));
    let section_at = script.next().unwrap();
    let late = script.start(|cx| Player::note(cx, barrel(3)));
    script.reply(parked_at, true);
    assert!(script.next().is_none());
    assert_eq!(script.result(&parked), None);
    script.reply(section_at, true);
    assert_eq!(script.finish(section), Ok(true));
    assert_eq!(script.finish(parked), Ok(()));
    let late_at = script.next().unwrap();
    script.reply(late_at, true);
    assert_eq!(script.finish(late), Ok(()));
    let log = script.state(|player| player.log.clone());
    assert_eq!(log[..3], ["note begins", "section begins", "section ends"]);
    assert_eq!(log.len(), 6);
}

#[test]
fn an_exclusive_method_keeps_other_methods_from_starting_and_from_going_on() {
    let mut script = bob();
    let parked = script.start(|cx| Player::note(cx, barrel(1)));
    let parked_at = script.next().unwrap();
    let trade =
        script.start_exclusive(async |player: &mut Player, at| player.trade(at, barrel(2)).await);
    let hit = script.next().unwrap();
    script.reply(parked_at, true);
    script.reply(hit, true);
    let sleep = script.next().unwrap();
    assert_eq!(script.result(&parked), None);
    script.complete(sleep, Answer::Done);
    assert_eq!(script.finish(trade), Ok(()));
    assert_eq!(script.finish(parked), Ok(()));
    let log = script.state(|player| player.log.clone());
    assert_eq!(log, ["note begins", "trade begins", "trade ends", "note ends"]);
}

#[test]
#[should_panic(expected = "an exclusive section is held")]
fn a_turn_cannot_come_between_an_exclusive_method() {
    let mut script = bob();
    let trade =
        script.start_exclusive(async |player: &mut Player, at| player.trade(at, barrel(2)).await);
    assert!(script.next().is_some());
    script.turn(|player, _| player.score());
    drop(trade);
}

#[test]
fn time_stands_still_until_it_is_let_pass() {
    let mut script = bob();
    let nap = script.start(Player::nap);
    let sleep = script.next().unwrap();
    script.advance(Duration::from_secs(10));
    assert_eq!(script.result(&nap), None);
    script.complete(sleep, Answer::Done);
    assert_eq!(script.finish(nap), Ok(60));
}

#[test]
fn a_lock_is_asked_for_and_let_go() {
    let mut script = bob();
    let score = script.start(Player::lock);
    let lock = script.next().unwrap();
    assert!(matches!(lock.syscall, Syscall::Lock { name: "chest", .. }));
    script.grant(lock);
    assert_eq!(script.finish(score), Ok(0));
    assert!(matches!(script.next().unwrap().syscall, Syscall::Release { .. }));
}

#[test]
fn an_event_is_waited_for_set_and_cleared() {
    let mut script = bob();
    let wait = script.start(Player::wait);
    let asked = script.next().unwrap();
    assert!(matches!(asked.syscall, Syscall::Wait { name: "start", .. }));
    script.turn(Player::start);
    assert_eq!(script.next().unwrap().syscall, Syscall::Set { name: "start", set: true });
    assert_eq!(script.next().unwrap().syscall, Syscall::Set { name: "start", set: false });
    script.complete(asked, Answer::Done);
    assert_eq!(script.finish(wait), Ok(()));
}

#[test]
fn a_queue_takes_and_gives_values() {
    let mut script = bob();
    let pump = script.start(Player::pump);
    let push = script.next().unwrap();
    let Syscall::Push { name: "orders", value, .. } = &push.syscall else {
        panic!("expected a push, got {push:?}")
    };
    let value = value.clone();
    script.complete(push, Answer::Done);
    let pop = script.next().unwrap();
    assert!(matches!(pop.syscall, Syscall::Pop { name: "orders", .. }));
    script.complete(pop, Answer::Bytes(value));
    assert_eq!(script.finish(pump), Ok(5));
}

#[test]
fn what_is_spawned_goes_on_beside_the_method_that_spawned_it() {
    let mut script = bob();
    script.turn(Player::send_out);
    assert_eq!(script.next().unwrap().syscall, Syscall::Spawn);
    let hit = script.next().unwrap();
    assert!(hit.is_call(&barrel(3), "on_hit"));
    script.reply(hit, true);
    assert!(script.next().is_none());
    assert_eq!(script.state(|player| player.score), 10);
}

#[test]
fn a_clock_is_asked_for_with_its_period_and_ticks_when_the_author_says() {
    let mut script = bob();
    script.turn(Player::regenerate);
    assert_eq!(script.next().unwrap().syscall, Syscall::Spawn);
    let every = script.next().unwrap();
    let Syscall::Every { period, .. } = every.syscall else {
        panic!("expected a clock, got {every:?}")
    };
    assert_eq!(period, Duration::from_secs(2));
    for score in 1..=3 {
        script.tick(&every);
        assert!(script.next().is_none());
        assert_eq!(script.state(|player| player.score), score);
    }
}

#[test]
fn a_tell_leaves_with_its_turn_and_needs_no_answer() {
    let mut script = bob();
    assert_eq!(script.turn(|player, at| player.add(at, 4)), "Bob");
    let told = script.next().unwrap();
    assert!(matches!(told.syscall, Syscall::Tell(_)));
    assert!(told.is_call(&barrel(7), "roll"));
    assert!(!told.is_call(&barrel(7), "on_hit"));
    assert!(!told.is_call(&barrel(8), "roll"));
    assert_eq!(told.call().args::<(u32,)>(), Some(&(4,)));
    assert_eq!(told.call().args::<(u64,)>(), None);
}

#[test]
fn two_scripts_of_one_thread_do_not_take_each_others_calls() {
    let (mut outer, mut inner) = (bob(), bob());
    outer.turn(|_, _| {
        let ours = barrel(1).roll(10);
        inner.turn(|_, _| {
            let one = barrel(2).roll(20);
            barrel(3).roll(30).tell();
            one.tell();
        });
        ours.tell();
    });
    let told = |script: &mut Script<Player>| {
        let asked = script.next().expect("a tell left");
        (asked.call().to().clone(), asked.call().args::<(u32,)>().copied())
    };
    assert_eq!(told(&mut outer), (Ref::id(&barrel(1)).clone(), Some((10,))));
    assert_eq!(told(&mut inner), (Ref::id(&barrel(2)).clone(), Some((20,))));
    assert_eq!(told(&mut inner), (Ref::id(&barrel(3)).clone(), Some((30,))));
}

#[test]
fn a_call_that_was_just_made_ends_with_its_script() {
    let call = {
        let mut script = bob();
        let run = script.start(async |_| barrel(1).roll(10));
        script.result(&run).expect("it was only made")
    };
    let mut next = bob();
    next.turn(|_, _| drop(call));
    next.turn(|_, _| barrel(2).roll(20).tell());
    let asked = next.next().expect("a tell left");
    assert_eq!(asked.call().to(), Ref::id(&barrel(2)));
    assert!(next.next().is_none());
}

#[test]
fn random_numbers_and_time_are_the_same_in_every_run() {
    let dice = || bob().turn(|player, at| (player.dice(at), Vec::from("x")));
    assert_eq!(dice(), dice());
    let rolled = dice().0;
    assert!(rolled.iter().any(|number| *number != rolled[0]));
    let now = || bob().turn(|_, at| at.now());
    assert_eq!(now(), now());
}

#[test]
fn the_wall_clock_and_secrets_come_from_the_author() {
    let mut script = bob();
    let wall = script.start(Player::wall);
    let clock = script.next().unwrap();
    assert_eq!(clock.syscall, Syscall::Now);
    script.complete(clock, Answer::Wall(3_000_000_000));
    let bytes = script.next().unwrap();
    assert_eq!(bytes.syscall, Syscall::Random { len: 2 });
    script.complete(bytes, Answer::Bytes(vec![1, 2]));
    assert_eq!(script.finish(wall), Ok((3, vec![1, 2])));
}

#[test]
fn an_entity_asks_for_its_own_collection() {
    let mut script = Script::<Player>::activated("Bob");
    script.turn(Player::leave);
    assert_eq!(script.next().unwrap().syscall, Syscall::Deactivate);
}

#[test]
#[should_panic(expected = "returns bool")]
fn a_reply_of_another_type_is_the_authors_mistake() {
    let mut script = bob();
    let level = script.start(|cx| Player::enter_level(cx, vec![barrel(1)]));
    let hit = script.next().unwrap();
    script.reply(hit, 7_u32);
    drop(level);
}

#[test]
#[should_panic(expected = "has not returned")]
fn a_method_that_waits_has_no_result_yet() {
    let mut script = bob();
    let level = script.start(|cx| Player::enter_level(cx, vec![barrel(1)]));
    assert!(script.finish(level).is_ok());
}
