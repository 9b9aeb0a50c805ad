use epicserver::prelude::*;

#[entity]
#[derive(Default)]
pub struct Player;

#[entity]
impl Player {}

#[epicserver::test(entities(Player), nodes = 3, faults(crush))]
async fn it_holds(pool: Pool) {
    drop(pool);
}

fn main() {}
