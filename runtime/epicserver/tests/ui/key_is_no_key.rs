use epicserver::prelude::*;

#[entity(key = Vec<u8>)]
#[derive(Default)]
pub struct Player;

#[entity]
impl Player {
    pub fn score(&self) -> u32 {
        1
    }
}

async fn the_rest_counts(pool: Pool) -> Result<u32> {
    pool.get::<Player>(vec![1]).score().await
}

fn main() {}
