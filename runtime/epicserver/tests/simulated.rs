//! A program's own entities in the simulator: many orders of events, one seed each.

use epicserver::prelude::*;

#[entity(key = u64)]
#[derive(Default)]
struct Account {
    cents: i64,
}

#[entity]
impl Account {
    pub fn add(&mut self, cents: i64) -> i64 {
        self.cents += cents;
        self.cents
    }

    /// Takes from this account and gives to `to`, or does neither.
    #[exclusive]
    pub async fn pay(&mut self, to: Ref<Account>, cents: i64) -> Result<bool> {
        if self.cents < cents {
            return Ok(false);
        }
        to.add(cents).await?;
        self.cents -= cents;
        Ok(true)
    }
}

#[epicserver::test(entities(Account), shards = 3, seeds = 50)]
async fn money_is_neither_made_nor_lost_whatever_the_order(pool: Pool) -> Result<()> {
    let accounts: Vec<Ref<Account>> = (0..4).map(|key| pool.get(key)).collect();
    for account in &accounts {
        account.add(100).await?;
    }
    let payments: Vec<_> = (0..40)
        .map(|n| {
            let (from, to) = (&accounts[n % 4], &accounts[(n * 7 + 1) % 4]);
            from.pay(to.clone(), 30)
        })
        .collect();
    for payment in payments {
        // Payments in opposite directions may be refused; then nothing has moved.
        if let Err(error) = payment.await {
            assert_eq!(error.kind(), ErrorKind::WouldDeadlock);
        }
    }
    let mut sum = 0;
    for account in &accounts {
        sum += account.add(0).await?;
    }
    assert_eq!(sum, 400);
    Ok(())
}

#[epicserver::test(entities(Account))]
async fn the_simulator_runs_with_its_defaults(pool: Pool) {
    assert_eq!(pool.get::<Account>(1).add(5).await, Ok(5));
}
