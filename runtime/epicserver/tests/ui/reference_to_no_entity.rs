use epicserver::prelude::*;

pub struct Item {
    worth: u32,
}

#[message]
pub struct Bag {
    item: Ref<Item>,
}

fn main() {}
