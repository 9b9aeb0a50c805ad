//! The barrels game: a player walks through a level and hits every barrel in it.
//!
//! One process, two pinned shards. The player lives on one of them, the barrels on both, so that
//! about half of the calls stay on the player's shard and half cross to the other core. Nobody
//! says where anything lives, and the player's code reads like a loop over local objects.

#![expect(clippy::print_stdout, reason = "the game has an audience")]

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

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

async fn play(pool: Pool) -> Result<(u32, Duration)> {
    let barrels: Vec<Ref<Barrel>> = (0..BARRELS).map(|i| pool.get(i)).collect();
    let bob = pool.get::<Player>("Bob: Slayer of armoured cylinders");
    let mut score = bob.enter_level(barrels.clone()).await?;
    let start = Instant::now();
    for _ in 0..LEVELS {
        score = bob.enter_level(barrels.clone()).await?;
    }
    Ok((score, start.elapsed()))
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let shards = NonZeroUsize::new(2).ok_or("a node has a shard")?;
    let node = Node::builder().entity::<Player>().entity::<Barrel>().shards(shards).start()?;
    let (score, took) = node.run(play)??;
    println!("New high score: {score}");
    let calls = u64::from(LEVELS) * (BARRELS + 1);
    let each = took.as_nanos() / u128::from(calls);
    println!("{calls} calls over {} shards, {each} ns each", node.shards());
    if !node.stop() {
        return Err("the node did not drain".into());
    }
    Ok(())
}
