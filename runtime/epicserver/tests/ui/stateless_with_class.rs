use epicserver::prelude::*;

#[entity(key = u64, stateless, class = "gpu")]
#[derive(Default)]
pub struct Gateway {}

#[entity]
impl Gateway {
    pub fn hello(&self) -> u64 {
        1
    }
}

fn main() {}
