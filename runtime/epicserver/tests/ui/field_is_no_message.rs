use epicserver::prelude::*;

pub struct Item {
    worth: u32,
}

#[message]
pub struct Bag {
    items: Vec<Item>,
}

fn main() {}
