use epicserver::prelude::*;

#[entity(writes = 1)]
#[derive(Default)]
pub struct Player {
    score: u32,
}

#[entity]
impl Player {
    pub fn score(&self) -> u32 {
        self.score
    }
}

async fn the_rest_counts(pool: Pool) -> Result<u32> {
    pool.get::<Player>("x").score().await
}

fn main() {}
