use epicserver::prelude::*;

#[entity]
#[derive(Default)]
pub struct Player {
    name: String,
    score: u32,
}

#[entity]
impl Player {
    pub fn add(&mut self, a: u8, b: u8, c: u8, d: u8, e: u8, f: u8, g: u8, h: u8, i: u8) -> u8 {
        a + b + c + d + e + f + g + h + i
    }

    pub fn score(&self) -> u32 {
        self.score + self.name.len() as u32
    }
}

async fn the_others_can_be_called(player: Ref<Player>) -> Result<u32> {
    player.score().await
}

fn main() {}
