use epicserver::prelude::*;

#[message]
pub union Item {
    a: u32,
    b: u32,
}

fn main() {}
