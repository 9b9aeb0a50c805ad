use epicserver::prelude::*;

#[entity]
fn player() {}

fn main() {}
