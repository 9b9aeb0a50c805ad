//! The barrels game: a player walks through a level and hits every barrel in it.
//!
//! Two processes of one pinned shard each find each other and become one fabric. The player lives in
//! one of them, the barrels in both, so that about half of the calls cross from process to process.
//! Nobody says where anything lives, and the player's code reads like a loop over local objects.
//!
//! What carries the calls is a line of the configuration: `[network] transport = "tcp"` in
//! `epicserver.toml`, or `EPICSERVER_NETWORK__TRANSPORT=tcp`. With `[store] kind = "redb"`, or `EPICSERVER_STORE__KIND=redb`, the
//! next game goes on where this one ended: the barrels stay hit, and the score stays. In a step of a Slurm job
//! (`EPICSERVER_DISCOVERY__SLURM_PORT=7400 srun -N2 barrels`) its tasks are the processes, and rank 0 plays.

#![expect(clippy::print_stdout, reason = "the game has an audience")]

use std::error::Error;
use std::io::Read;
use std::num::NonZeroUsize;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use epicserver::Config;
use epicserver::config::StoreKind;
use epicserver::prelude::*;

const BARRELS: u64 = 30;
const LEVELS: u32 = 1_000;

#[entity(key = u64)]
#[derive(Default)]
struct Barrel {
    hits: u32,
}

#[entity]
impl Barrel {
    /// Whether this hit was the first: only that one scores.
    pub fn on_hit(&mut self) -> bool {
        self.hits += 1;
        self.hits == 1
    }

    pub fn hits(&self) -> u32 {
        self.hits
    }
}

#[entity]
#[derive(Default)]
struct Player {
    score: u32,
}

#[entity]
impl Player {
    /// Interleaves with other calls on this player at every `.await`.
    pub async fn enter_level(cx: Cx<Self>, barrels: Vec<Ref<Barrel>>) -> Result<u32> {
        for barrel in barrels {
            if barrel.on_hit().await? {
                cx.with(|player| player.score += 1);
            }
        }
        Ok(cx.with(|player| player.score))
    }
}

/// The score, how often the first barrel was hit, and how long it took.
async fn play(pool: Pool) -> Result<(u32, u32, Duration)> {
    let barrels: Vec<Ref<Barrel>> = (0..BARRELS).map(|i| pool.get(i)).collect();
    let bob = pool.get::<Player>("Bob: Slayer of armoured cylinders");
    let mut score = bob.enter_level(barrels.clone()).await?;
    let start = Instant::now();
    for _ in 0..LEVELS {
        score = bob.enter_level(barrels.clone()).await?;
    }
    let took = start.elapsed();
    Ok((score, pool.get::<Barrel>(0).hits().await?, took))
}

/// One of the nodes: what the configuration says, with one shard. There are two, or as many as a step has.
fn node() -> std::result::Result<Node, Box<dyn Error>> {
    let mut config = Config::load(None)?;
    if config.discovery.slurm_port.is_none() {
        config.fabric.nodes = 2;
    }
    config.node.shards = NonZeroUsize::new(1);
    Ok(Node::builder().entity::<Player>().entity::<Barrel>().config(&config).start()?)
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    if Config::load(None)?.discovery.slurm_port.is_some() {
        let plays = std::env::var("SLURM_PROCID")? == "0";
        return if plays { play_here() } else { serve() };
    }
    if std::env::args().nth(1).as_deref() == Some("second") {
        return serve();
    }
    // A fabric of its own for each game, so that two at a time do not mix; but a game that is saved goes on.
    let goes_on = Config::load(None)?.store.kind != StoreKind::None;
    let fabric = (!goes_on).then(|| format!("barrels-{}", std::process::id()));
    let game = |role: &str| {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(role).envs(fabric.as_ref().map(|name| ("EPICSERVER_FABRIC__NAME", name)));
        Ok::<_, std::io::Error>(command)
    };
    if std::env::args().nth(1).as_deref() == Some("first") {
        return play_here();
    }
    let mut second = game("second")?.stdin(Stdio::piped()).spawn()?;
    let first = game("first")?.status()?;
    // The second node serves until nobody holds the other end of its input.
    drop(second.stdin.take());
    let second = second.wait()?;
    if first.success() && second.success() {
        return Ok(());
    }
    Err(format!("the first node ended with {first}, the second with {second}").into())
}

fn serve() -> std::result::Result<(), Box<dyn Error>> {
    let node = node()?;
    if !node.wait_for_job() {
        std::io::stdin().read_to_end(&mut Vec::new())?;
    }
    node.stop();
    Ok(())
}

fn play_here() -> std::result::Result<(), Box<dyn Error>> {
    let node = node()?;
    let (score, hits, took) = node.run(play)??;
    println!("New high score: {score}");
    println!("The first barrel was hit {hits} times");
    let calls = u64::from(LEVELS) * (BARRELS + 1);
    let each = took.as_nanos() / u128::from(calls);
    println!("{calls} calls over the processes, {each} ns each");
    if !node.stop() {
        return Err("the node did not drain".into());
    }
    Ok(())
}
