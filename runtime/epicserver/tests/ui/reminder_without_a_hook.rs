//! An entity that asks to be reminded and has no hook for it.

use std::time::Duration;

use epicserver::prelude::*;

#[entity]
#[derive(Default)]
pub struct Player {}

#[entity]
impl Player {
    pub fn start(&mut self, at: At<Self>) {
        drop(at.remind_in("tea", Duration::from_secs(1)));
    }
}

fn main() {}
