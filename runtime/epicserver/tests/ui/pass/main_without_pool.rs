//! A setup need not take the pool.

#[epicserver::entity]
#[derive(Default)]
struct Counter;

#[epicserver::entity]
impl Counter {}

/// Documented.
#[epicserver::main(entities(self::Counter,), crate = ::epicserver::__private)]
#[allow(clippy::unused_async)]
async fn setup() -> Result<(), String> {
    Ok(())
}
