use epicserver::prelude::*;

pub struct Player;

impl Player {
    #[memory]
    pub fn heap_bytes(&self) -> usize {
        8
    }
}

fn main() {}
