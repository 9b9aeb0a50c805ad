use epicserver::prelude::*;

#[entity(key = Vec<u8>)]
#[derive(Default)]
pub struct Player;

#[entity]
impl Player {}

fn main() {}
