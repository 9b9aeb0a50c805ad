//! A hook for reminders that returns something.

use epicserver::prelude::*;

#[entity]
#[derive(Default)]
pub struct Player {}

#[entity]
impl Player {
    #[reminded]
    fn wake(&mut self, reminder: Reminder) -> bool {
        reminder.missed == 0
    }
}

fn main() {}
