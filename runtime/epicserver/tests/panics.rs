//! Panics of user code (**N6**): who is told, what is lost, and what goes on.

mod common;

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use common::{Gate, on_nodes};
use epicserver::Builder;
use epicserver::prelude::*;

/// Hears of what others did, and lets others wait for it.
#[entity(key = u64)]
#[derive(Default)]
struct Log {
    lines: Vec<String>,
}

#[entity]
impl Log {
    pub fn add(&mut self, at: At<Self>, line: String) {
        self.lines.push(line);
        at.event("added").set();
    }

    pub async fn lines(cx: Cx<Self>, count: u32) -> Result<Vec<String>> {
        while cx.with(|log| log.lines.len() < count as usize) {
            cx.event("added").clear();
            cx.event("added").wait().await?;
        }
        Ok(cx.with(|log| log.lines.clone()))
    }
}

/// Is made once, and never again.
#[entity(key = u64)]
struct Once;

static MADE: AtomicU32 = AtomicU32::new(0);
/// How often a method that was reset has taken something of its entity.
static TAKEN: AtomicU32 = AtomicU32::new(0);

#[entity]
impl Once {
    #[activate]
    fn make() -> Result<Self, ()> {
        if MADE.fetch_add(1, SeqCst) == 0 { Ok(Self) } else { Err(()) }
    }

    pub fn break_up(&self) {
        panic!("broken up")
    }

    pub async fn break_itself(cx: Cx<Self>) -> Result<()> {
        let told = cx.this().break_up().await;
        cx.sleep(Duration::from_millis(1)).await?;
        told
    }
}

/// Panics when it is told to.
#[entity(key = u64)]
#[derive(Default)]
struct Fragile {
    calls: u32,
}

struct PanicsWhenDropped;

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

struct TellsWhenDropped(Ref<Log>);

impl Drop for TellsWhenDropped {
    fn drop(&mut self) {
        self.0.add("dropped".to_owned()).tell();
    }
}

#[entity]
impl Fragile {
    pub fn call(&mut self) -> u32 {
        self.calls += 1;
        self.calls
    }

    pub fn break_in_a_turn(&mut self) -> u32 {
        panic!("a turn")
    }

    pub async fn break_after(_cx: Cx<Self>, gate: Ref<Gate>) -> Result<u32> {
        gate.pass().await?;
        panic!("a task")
    }

    pub async fn break_at_once(_cx: Cx<Self>) -> u32 {
        panic!("a task at its start")
    }

    #[exclusive]
    pub async fn break_alone(&mut self, gate: Ref<Gate>) -> Result<u32> {
        gate.pass().await?;
        panic!("an exclusive task")
    }

    pub async fn pass(cx: Cx<Self>, gate: Ref<Gate>) -> Result<u32> {
        let passed = gate.pass().await;
        cx.with(|fragile| fragile.calls += 1);
        passed.map(|()| 0)
    }

    pub async fn pass_with_a_bomb(_cx: Cx<Self>, gate: Ref<Gate>) -> Result<()> {
        let bomb = PanicsWhenDropped;
        let passed = gate.pass().await;
        std::mem::forget(bomb);
        passed
    }

    pub async fn pass_and_tell(_cx: Cx<Self>, gate: Ref<Gate>, log: Ref<Log>) -> Result<()> {
        let _tells = TellsWhenDropped(log);
        gate.pass().await
    }

    pub async fn break_itself(cx: Cx<Self>) -> Result<String> {
        let kind = cx.this().break_in_a_turn().await.map_err(CallError::kind);
        Ok(format!("{kind:?}"))
    }

    pub async fn break_itself_and_lock(cx: Cx<Self>) -> Result<()> {
        let _panicked = cx.this().break_in_a_turn().await;
        let guard = cx.lock("a").acquire().await?;
        TAKEN.fetch_add(1, SeqCst);
        drop(guard);
        Ok(())
    }

    pub async fn break_itself_and_hold(mut cx: Cx<Self>) -> Result<()> {
        let _panicked = cx.this().break_in_a_turn().await;
        cx.exclusive(async |_| TAKEN.fetch_add(1, SeqCst)).await?;
        Ok(())
    }
}

fn all(builder: Builder) -> Builder {
    builder.entity::<Log>().entity::<Once>().entity::<Fragile>()
}

#[test]
fn n6_a_panic_ends_its_call_and_the_entity_starts_anew() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        for key in 0..4 {
            let fragile = pool.get::<Fragile>(key);
            assert_eq!(fragile.call().await, Ok(1));
            let error = fragile.break_in_a_turn().await.unwrap_err();
            assert_eq!((error.kind(), error.ran()), (ErrorKind::Panicked, Ran::Yes));
            assert_eq!(fragile.call().await, Ok(1));
            let error = fragile.break_at_once().await.unwrap_err();
            assert_eq!((error.kind(), error.ran()), (ErrorKind::Panicked, Ran::Yes));
            assert_eq!(fragile.call().await, Ok(1));
        }
    });
}

#[test]
fn n6_a_panic_resets_the_methods_that_were_parked() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        for key in 0..4 {
            let (fragile, gates) = (pool.get::<Fragile>(key), key * 2 + 10);
            let (gate, other) = (pool.get::<Gate>(gates), pool.get::<Gate>(gates + 1));
            let (breaks, parked) = (fragile.break_after(gate.clone()), fragile.pass(other.clone()));
            gate.came(1).await.unwrap();
            other.came(1).await.unwrap();
            gate.open().await.unwrap();
            let error = breaks.await.unwrap_err();
            assert_eq!((error.kind(), error.ran()), (ErrorKind::Panicked, Ran::Yes));
            let error = parked.await.unwrap_err();
            assert_eq!((error.kind(), error.ran()), (ErrorKind::Reset, Ran::Unknown));
            assert_eq!(fragile.call().await, Ok(1));
            other.open().await.unwrap();
            assert_eq!(fragile.call().await, Ok(2), "the reset method does not come back");
        }
    });
}

#[test]
fn n6_calls_that_waited_behind_a_method_that_panics_run_on_a_fresh_state() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        for key in 0..4 {
            let (fragile, gate) = (pool.get::<Fragile>(key), pool.get::<Gate>(key));
            assert_eq!(fragile.call().await, Ok(1));
            let breaks = fragile.break_alone(gate.clone());
            gate.came(1).await.unwrap();
            let (one, other) = (fragile.call(), fragile.call());
            gate.open().await.unwrap();
            let error = breaks.await.unwrap_err();
            assert_eq!((error.kind(), error.ran()), (ErrorKind::Panicked, Ran::Yes));
            assert_eq!((one.await, other.await), (Ok(1), Ok(2)));
        }
    });
}

#[test]
fn n6_a_method_that_survives_the_panic_of_its_own_call_is_reset_as_well() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        for key in 0..4 {
            let fragile = pool.get::<Fragile>(key);
            let error = fragile.break_itself().await.unwrap_err();
            assert_eq!((error.kind(), error.ran()), (ErrorKind::Reset, Ran::Unknown));
            assert_eq!(fragile.call().await, Ok(1));
        }
    });
}

#[test]
fn n27_a_method_that_survives_the_panic_of_its_own_call_takes_no_lock_and_no_section() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        let fragile = pool.get::<Fragile>(5);
        let error = fragile.break_itself_and_lock().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Reset);
        let error = fragile.break_itself_and_hold().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Reset);
        assert_eq!((fragile.call().await, TAKEN.load(SeqCst)), (Ok(1), 0));
    });
}

#[test]
fn n6_a_method_whose_entity_cannot_start_anew_is_told_too() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        MADE.store(0, SeqCst);
        let error = pool.get::<Once>(0).break_itself().await.unwrap_err();
        assert_eq!((error.kind(), error.ran()), (ErrorKind::Reset, Ran::Unknown));
        let error = pool.get::<Once>(0).break_up().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ActivationFailed);
    });
}

#[test]
fn a_future_whose_destructor_panics_harms_nobody_else() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        let (fragile, gate) = (pool.get::<Fragile>(1), pool.get::<Gate>(1));
        let bomb = fragile.pass_with_a_bomb(gate.clone());
        gate.came(1).await.unwrap();
        let error = fragile.break_in_a_turn().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Panicked);
        assert_eq!(bomb.await.unwrap_err().kind(), ErrorKind::Reset);
        assert_eq!(fragile.call().await, Ok(1));
        gate.open().await.unwrap();
    });
}

#[test]
fn what_a_destructor_of_a_reset_method_tells_arrives() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        let (fragile, gate) = (pool.get::<Fragile>(1), pool.get::<Gate>(1));
        let parked = fragile.pass_and_tell(gate.clone(), pool.get(1));
        gate.came(1).await.unwrap();
        fragile.break_in_a_turn().tell();
        assert_eq!(parked.await.unwrap_err().kind(), ErrorKind::Reset);
        assert_eq!(pool.get::<Log>(1).lines(1).await.unwrap(), ["dropped"]);
        gate.open().await.unwrap();
    });
}
