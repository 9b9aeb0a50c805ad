use epicserver::prelude::*;

#[message]
pub struct Item<'a> {
    name: &'a str,
}

fn main() {}
