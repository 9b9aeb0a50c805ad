use epicserver::prelude::*;

pub struct Item;

#[message]
impl Item {}

fn main() {}
