//! A setup may be called `main`.

use epicserver::prelude::*;

#[entity]
#[derive(Default)]
struct Counter;

#[entity]
impl Counter {}

#[epicserver::main(entities(Counter))]
async fn main(pool: Pool) {
    drop(pool.get::<Counter>("x"));
}
