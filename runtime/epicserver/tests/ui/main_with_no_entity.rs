use epicserver::prelude::*;

#[entity]
#[derive(Default)]
pub struct Player;

#[entity]
impl Player {}

#[epicserver::main(entities(Player, String))]
async fn setup(pool: Pool) {
    drop(pool);
}
