use epicserver::prelude::*;

#[entity]
#[derive(Default)]
pub struct Player;

#[entity]
impl Player {}

#[epicserver::main]
async fn setup(pool: Pool) {
    drop(pool);
}
