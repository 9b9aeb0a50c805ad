use epicserver::prelude::*;

#[entity(clas = "gpu", key = u64)]
#[derive(Default)]
pub struct Player;

#[entity]
impl Player {
    pub fn score(&self) -> u32 {
        1
    }
}

async fn the_rest_counts(pool: Pool) -> Result<u32> {
    pool.get::<Player>(1).score().await
}

fn main() {}
