use epicserver::prelude::*;

#[entity(upgrades(PlayerV1), writes = 1)]
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

#[message]
pub struct PlayerV1 {
    points: u32,
}

impl From<PlayerV1> for Player {
    fn from(old: PlayerV1) -> Self {
        Self { score: old.points }
    }
}

async fn the_rest_counts(pool: Pool) -> Result<u32> {
    pool.get::<Player>("x").score().await
}

fn main() {}
