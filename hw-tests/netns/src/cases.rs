//! The cases: what is done to a fabric while calls are under way, and what must hold then.
//!
//! What must hold fails a case; how long things took is printed.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::etcd::Etcd;
use crate::fabric::{Fabric, NODES};
use crate::load::{Done, Load, call, describe};
use crate::node::By;
use crate::{Failure, hosts};

/// Entities of the case that says how long things take.
const MANY: u64 = 100_000;
/// Of the others.
const FEW: u64 = 2_000;
/// Load before and after what is done.
const CALM: Duration = Duration::from_secs(2);
/// Longer than a lease.
const PAST_LEASE: Duration = Duration::from_secs(6);
/// One of so many entities is asked whether it is back.
const SAMPLE: usize = 50;

/// A case, and what it does.
type Case = (&'static str, fn(&Path) -> Result<(), Failure>);

const CASES: &[Case] = &[
    ("kill", kill),
    ("freeze", freeze),
    ("rolling", rolling),
    ("turn", turn),
    ("partition", partition),
    ("oneway", oneway),
    ("lossy", lossy),
    ("coordinator", coordinator),
];

/// Runs the cases whose names contain one of `words`, or all. Each has a process of its own.
pub(crate) fn run(words: &[String]) -> Result<(), Failure> {
    let kept = PathBuf::from(
        std::env::var("EPIC_NETNS_KEPT").map_err(|_| "start this by hw-tests/netns/run")?,
    );
    if let [word, name] = words
        && word == "case"
    {
        let (_, case) =
            CASES.iter().find(|(known, _)| known == name).ok_or("there is no such case")?;
        return case(&kept.join(name));
    }
    hosts::make(NODES)?;
    let chosen =
        |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    let mut failed = Vec::new();
    for (name, _) in CASES.iter().filter(|(name, _)| chosen(name)) {
        println!("--- netns: {name}");
        let began = Instant::now();
        let status =
            std::process::Command::new(std::env::current_exe()?).args(["case", name]).status()?;
        (0..NODES).try_for_each(hosts::mend)?;
        let result = if status.success() { "ok" } else { "FAILED" };
        println!("--- netns: {name}: {result} after {:.0} s", began.elapsed().as_secs_f64());
        if !status.success() {
            failed.push(*name);
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(failed.join(", ").into()) }
}

/// Calls go on meanwhile.
fn pass(time: Duration) {
    std::thread::sleep(time);
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A node is killed: what it had is back on others, what it had not does not notice.
fn kill(folder: &Path) -> Result<(), Failure> {
    let mut fabric = Fabric::start(folder, By::Files, MANY)?;
    let lost = fabric.keys_of(2);
    let load = fabric.load();
    pass(CALM);
    let killed = Instant::now();
    fabric.nodes[2].kill()?;
    let sample: Vec<u64> = lost.iter().copied().step_by(SAMPLE).collect();
    fabric.insist(sample.iter().copied().take(1))?;
    println!(
        "  of {} entities that node 2 had, the first is back after {:.0} ms",
        lost.len(),
        ms(killed.elapsed())
    );
    fabric.insist(sample.iter().copied())?;
    let back = Instant::now();
    println!("  {} of them, one after another, after {:.0} ms", sample.len(), ms(killed.elapsed()));
    pass(CALM);
    let done = load.end()?;
    let is_lost = |of: &&Done| lost.binary_search(&of.key).is_ok();
    let meanwhile = |of: &&Done| of.began + of.took >= killed && of.began <= back;
    println!(
        "  before:                 {}",
        describe(done.iter().filter(|of| of.began + of.took < killed))
    );
    let others = done.iter().filter(|of| meanwhile(of) && !is_lost(of) && !of.relayed);
    println!("  until back, of others:  {}", describe(others));
    println!(
        "  until back, of node 2:  {}",
        describe(done.iter().filter(|of| meanwhile(of) && is_lost(of)))
    );
    println!("  after:                  {}", describe(done.iter().filter(|of| of.began > back)));
    fabric.take(&done);
    fabric.wait_for(&[0, 1, 3])?;
    fabric.end()
}

/// A node stands still for longer than its lease, and goes on: by then others have what it had, and it is a new node.
fn freeze(folder: &Path) -> Result<(), Failure> {
    let mut fabric = Fabric::start(folder, By::Files, FEW)?;
    let lost = fabric.keys_of(1);
    let load = fabric.load();
    pass(CALM);
    let frozen = Instant::now();
    fabric.nodes[1].freeze()?;
    fabric.insist(lost.iter().copied().step_by(SAMPLE))?;
    println!("  what node 1 had is back {:.0} ms after it was frozen", ms(frozen.elapsed()));
    pass(PAST_LEASE.saturating_sub(frozen.elapsed()));
    fabric.nodes[1].thaw()?;
    rejoined(fabric, load)
}

/// Waits until all four nodes take part again, and ends the case.
fn rejoined(mut fabric: Fabric, load: Load) -> Result<(), Failure> {
    let began = Instant::now();
    fabric.wait_for(&[0, 1, 2, 3])?;
    println!("  it has entities again {:.0} ms after that was over", ms(began.elapsed()));
    pass(CALM);
    let done = load.end()?;
    println!("  all: {}", describe(done.iter()));
    fabric.take(&done);
    fabric.end()
}

/// Each node in turn is stopped and started again: no call fails.
fn rolling(folder: &Path) -> Result<(), Failure> {
    let mut fabric = Fabric::start(folder, By::Files, FEW)?;
    let load = fabric.load();
    pass(CALM);
    let began = Instant::now();
    for at in 0..NODES {
        fabric.nodes[at].stop()?;
        fabric.again(at)?;
    }
    let over = Instant::now();
    println!("  four nodes stopped and started again in {:.0} ms", ms(began.elapsed()));
    fabric.wait_for(&[0, 1, 2, 3])?;
    pass(CALM);
    let done = load.end()?;
    println!("  before:    {}", describe(done.iter().filter(|of| of.began + of.took < began)));
    println!(
        "  meanwhile: {}",
        describe(done.iter().filter(|of| of.began + of.took >= began && of.began < over))
    );
    fabric.take(&done);
    let failed = done.iter().find(|of| of.outcome.is_err()).map(|of| format!("{of:?}"));
    fabric.end()?;
    failed.map_or(Ok(()), |failed| Err(format!("a call failed: {failed}").into()))
}

/// Every shard has a turn of five seconds that never waits: leases are renewed all the same, so nothing moves.
fn turn(folder: &Path) -> Result<(), Failure> {
    let mut fabric = Fabric::start(folder, By::Files, FEW)?;
    let before = fabric.owners();
    let hogged: Vec<u64> =
        (0..NODES).filter_map(|at| fabric.keys_of(at).first().copied()).collect();
    let began = Instant::now();
    std::thread::scope(|scope| {
        for key in hogged {
            let account = fabric.client.get::<crate::account::Account>(key);
            let client = &fabric.client;
            scope.spawn(move || {
                client.block_on(account.hog(5_000).timeout(Duration::from_secs(60)))
            });
        }
    });
    println!(
        "  turns of five seconds on {NODES} nodes took {:.0} ms together",
        ms(began.elapsed())
    );
    fabric.insist(0..FEW)?;
    let moved =
        fabric.owners().iter().filter(|(key, owner)| before.get(key) != Some(owner)).count();
    fabric.end()?;
    if moved == 0 { Ok(()) } else { Err(format!("{moved} entities have gone elsewhere").into()) }
}

/// A node is cut off from all others and from the coordinator, for longer than its lease.
fn partition(folder: &Path) -> Result<(), Failure> {
    cut_off(folder, hosts::cut)
}

/// Nothing of what a node says arrives, while it hears all others.
fn oneway(folder: &Path) -> Result<(), Failure> {
    cut_off(folder, hosts::mute)
}

fn cut_off(folder: &Path, how: fn(usize) -> Result<(), Failure>) -> Result<(), Failure> {
    let _etcd = Etcd::start(&folder.join("etcd"))?;
    let mut fabric = Fabric::start(folder, By::Etcd, FEW)?;
    let lost = fabric.keys_of(3);
    let load = fabric.load();
    pass(CALM);
    let cut = Instant::now();
    how(3)?;
    fabric.insist(lost.iter().copied().step_by(SAMPLE))?;
    println!("  what node 3 had is back {:.0} ms after it was cut off", ms(cut.elapsed()));
    pass(PAST_LEASE.saturating_sub(cut.elapsed()));
    hosts::mend(3)?;
    rejoined(fabric, load)
}

/// Wires that lose one packet of fifty: calls take longer, nothing fails and nothing moves.
fn lossy(folder: &Path) -> Result<(), Failure> {
    let _etcd = Etcd::start(&folder.join("etcd"))?;
    let mut fabric = Fabric::start(folder, By::Etcd, FEW)?;
    let before = fabric.owners();
    (0..NODES).try_for_each(|at| hosts::wear(at, 2))?;
    let load = fabric.load();
    pass(PAST_LEASE);
    let done = load.end()?;
    println!("  meanwhile: {}", describe(done.iter()));
    (0..NODES).try_for_each(hosts::mend)?;
    fabric.take(&done);
    settled(fabric, &before, &done)
}

/// No call has failed, and nothing has moved.
fn settled(
    fabric: Fabric,
    before: &std::collections::BTreeMap<u64, (u32, u64)>,
    done: &[Done],
) -> Result<(), Failure> {
    let moved =
        fabric.owners().iter().filter(|(key, owner)| before.get(key) != Some(owner)).count();
    let failed = done.iter().find(|of| of.outcome.is_err()).map(|of| format!("{of:?}"));
    fabric.end()?;
    match failed {
        Some(failed) => Err(format!("a call failed: {failed}").into()),
        None if moved > 0 => Err(format!("{moved} entities have gone elsewhere").into()),
        None => Ok(()),
    }
}

/// The coordinator is killed: for a second nobody notices, for longer than a lease the fabric stands still, and goes on.
fn coordinator(folder: &Path) -> Result<(), Failure> {
    let mut etcd = Etcd::start(&folder.join("etcd"))?;
    let mut fabric = Fabric::start(folder, By::Etcd, FEW)?;
    let before = fabric.owners();
    let load = fabric.load();
    pass(CALM);
    etcd.kill()?;
    pass(Duration::from_secs(1));
    etcd.again()?;
    pass(PAST_LEASE);
    let shortly = load.end()?;
    println!("  away for 1 s: {}", describe(shortly.iter()));
    fabric.take(&shortly);
    let load = fabric.load();
    etcd.kill()?;
    pass(PAST_LEASE);
    etcd.again()?;
    let back = Instant::now();
    while call(&fabric.client, 0, None).outcome.is_err() {}
    println!(
        "  after 6 s without it, the first answer comes {:.0} ms after it is back",
        ms(back.elapsed())
    );
    fabric.insist((0..FEW).step_by(SAMPLE))?;
    pass(CALM);
    let done = load.end()?;
    println!("  away for 6 s: {}", describe(done.iter()));
    fabric.take(&done);
    settled(fabric, &before, &shortly)
}
