//! A request id for a method of an entity whose replies do not wait until it is saved.

use epicserver::prelude::*;

#[entity]
#[derive(Default)]
pub struct Account {
    cents: u64,
}

#[entity]
impl Account {
    pub fn pay(&mut self) {
        self.cents += 1;
    }
}

async fn pay(account: Ref<Account>) -> Result<()> {
    account.pay().request_id(Uuid::from_u128(7)).await
}

fn main() {
    drop(pay(Ref::of("bob")));
}
