use epicserver::prelude::*;

#[entity]
pub type Player = u32;

fn main() {}
