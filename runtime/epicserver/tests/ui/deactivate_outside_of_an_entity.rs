use epicserver::prelude::*;

pub struct Player;

impl Player {
    #[deactivate]
    pub fn leave(&mut self) {}
}

fn main() {}
