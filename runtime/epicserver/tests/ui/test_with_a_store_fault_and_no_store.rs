use epicserver::prelude::*;

#[entity]
#[derive(Default)]
pub struct Player;

#[entity]
impl Player {}

#[epicserver::test(entities(Player), nodes = 2, faults(store))]
async fn it_holds(pool: Pool) {
    drop(pool);
}

fn main() {}
