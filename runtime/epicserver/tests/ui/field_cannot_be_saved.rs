use epicserver::prelude::*;

#[entity]
#[derive(Default)]
pub struct Player {
    file: Option<std::fs::File>,
}

#[entity]
impl Player {
    pub fn score(&self) -> u32 {
        1
    }
}

fn main() {}
