//! The listing of the design, as it stands there.

use epicserver::prelude::*;

#[entity(key = u64)]
#[derive(Default)]
pub struct Barrel { hits: u32 }

#[entity]                                           // the key is a String where none is named
#[derive(Default)]
pub struct Player { score: u32 }

#[entity]
impl Barrel {
    pub fn on_hit(&mut self) -> bool { self.hits += 1; self.hits == 1 }        // one turn
}

#[entity]
impl Player {
    /// Interleaves with other calls on this player at every `.await`.
    pub async fn enter_level(cx: Cx<Self>, barrels: Vec<Ref<Barrel>>) -> Result<u32> {
        for barrel in barrels {
            if barrel.on_hit().await? { cx.with(|p| p.score += 1); }
        }
        Ok(cx.with(|p| p.score))
    }
    pub fn score(&self) -> u32 { self.score }
    #[exclusive]                                    // nothing else runs on this player meanwhile
    pub async fn trade(&mut self, at: At<Self>, with: Ref<Player>) -> Result<()> { /* … */ Ok(()) }
}

#[epicserver::main(entities(Player, Barrel))]
async fn setup(pool: Pool) -> Result<(), Box<dyn std::error::Error>> {
    let barrels = (0..30).map(|i| pool.get::<Barrel>(i)).collect();
    let bob = pool.get::<Player>("Bob: Slayer of armoured cylinders");
    println!("New high score: {}", bob.enter_level(barrels).await?);
    Ok(())
}
