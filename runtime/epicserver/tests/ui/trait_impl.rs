use epicserver::prelude::*;

#[entity]
#[derive(Default)]
pub struct Player;

#[entity]
impl Player {}

pub trait Scored {
    fn score(&self) -> u32;
}

#[entity]
impl Scored for Player {
    fn score(&self) -> u32 {
        1
    }
}

fn main() {}
