use epicserver::prelude::*;

#[entity]
#[derive(Default)]
pub struct Player {
    score: u32,
}

fn get(pool: Pool) {
    pool.get::<Player>("Bob");
}

fn main() {}
