use epicserver::prelude::*;

#[entity]
pub trait Player {}

fn main() {}
