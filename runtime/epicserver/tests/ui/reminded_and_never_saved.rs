//! Reminders of an entity that nothing is kept of.

use epicserver::prelude::*;

#[entity(saved = "never")]
#[derive(Default)]
pub struct Player {}

#[entity]
impl Player {
    #[reminded]
    fn wake(&mut self, _: Reminder) {}
}

fn main() {}
