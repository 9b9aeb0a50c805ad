use epicserver::prelude::*;

#[entity]
pub struct Player {
    score: u32,
}

#[entity]
impl Player {
    pub fn score(&self) -> u32 {
        self.score
    }
}

fn main() {}
