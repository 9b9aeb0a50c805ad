use epicserver::prelude::*;

pub struct Player;

impl Player {
    #[exclusive]
    pub async fn trade(&mut self) {}
}

fn main() {}
