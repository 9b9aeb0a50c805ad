use epicserver::prelude::*;

#[entity]
pub union Player {
    a: u32,
    b: u32,
}

fn main() {}
