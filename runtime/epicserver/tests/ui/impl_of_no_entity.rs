use epicserver::prelude::*;

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

fn main() {}
