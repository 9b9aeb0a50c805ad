//! A request id for a method during whose waits others run.

use epicserver::prelude::*;

#[entity(saved = "every_turn")]
#[derive(Default)]
pub struct Account {}

#[entity]
impl Account {
    pub async fn pay(cx: Cx<Self>) -> Result<()> {
        cx.save().await
    }
}

async fn pay(account: Ref<Account>) -> Result<()> {
    account.pay().request_id(Uuid::from_u128(7)).await
}

fn main() {
    drop(pay(Ref::of("bob")));
}
