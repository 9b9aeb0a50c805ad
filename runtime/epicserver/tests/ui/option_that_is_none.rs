use epicserver::prelude::*;

#[entity(colour = "red")]
#[derive(Default)]
pub struct Player;

#[entity]
impl Player {
    pub fn score(&self) -> u32 {
        1
    }
}

async fn the_rest_counts(pool: Pool) -> Result<u32> {
    pool.get::<Player>("x").score().await
}

fn main() {}
