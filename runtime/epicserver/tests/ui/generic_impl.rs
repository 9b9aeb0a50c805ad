use epicserver::prelude::*;

#[derive(Default)]
pub struct Player<T> {
    items: Vec<T>,
}

#[entity]
impl<T> Player<T> {
    pub fn count(&self) -> u32 {
        self.items.len() as u32
    }
}

fn main() {}
