use epicserver::prelude::*;

#[message]
pub enum Item {}

fn main() {}
