use epicserver::prelude::*;

#[entity]
#[derive(Default)]
pub struct Player;

#[entity(key = u64)]
impl Player {}

fn main() {}
