use epicserver::prelude::*;

#[entity]
#[derive(Default)]
pub struct Player;

#[entity]
impl Player {
    pub fn score(&self) -> u32 {
        1
    }
}

#[entity]
impl Player {
    pub fn name(&self) -> u32 {
        1
    }
}

fn main() {}
