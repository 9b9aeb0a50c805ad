use epicserver::prelude::*;

#[entity]
#[derive(Default)]
pub struct Player<T> {
    items: Vec<T>,
}

fn main() {}
