use epicserver::prelude::*;

pub struct Player;

impl Player {
    #[activate]
    pub fn new() -> Self {
        Self
    }
}

fn main() {}
