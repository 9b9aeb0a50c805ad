use epicserver::prelude::*;

#[entity]
#[derive(Default)]
pub struct Player;

#[entity]
impl Player {}

#[epicserver::main(entities(Player))]
fn setup(pool: Pool) {
    drop(pool);
}
