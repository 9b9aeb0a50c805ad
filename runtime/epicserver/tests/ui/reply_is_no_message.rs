use epicserver::prelude::*;

pub struct Item {
    worth: u32,
}

#[entity]
#[derive(Default)]
pub struct Player {
    name: String,
    score: u32,
}

#[entity]
impl Player {
    pub fn give(&mut self) -> Item {
        Item { worth: self.score }
    }

    pub fn score(&self) -> u32 {
        self.score + self.name.len() as u32
    }
}

async fn the_others_can_be_called(player: Ref<Player>) -> Result<u32> {
    player.score().await
}

fn main() {}
