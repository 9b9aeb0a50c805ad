#![deny(unused_must_use)]

use epicserver::prelude::*;

#[entity]
#[derive(Default)]
pub struct Player;

#[entity]
impl Player {
    pub fn wave(&self) {}

    pub async fn greet(_cx: Cx<Self>, other: Ref<Player>) {
        other.wave();
    }
}

fn main() {}
