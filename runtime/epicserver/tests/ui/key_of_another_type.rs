use epicserver::prelude::*;

#[entity(key = u64)]
#[derive(Default)]
pub struct Player;

#[entity]
impl Player {}

fn get(pool: Pool) -> Ref<Player> {
    pool.get("Bob")
}

fn main() {}
