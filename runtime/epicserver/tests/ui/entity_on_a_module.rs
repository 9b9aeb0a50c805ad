use epicserver::prelude::*;

#[entity]
mod player {
    pub struct Player;
}

fn main() {}
