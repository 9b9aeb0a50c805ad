//! Parts of the schema `epicserver`: each is made by whoever first needs it, and has a version.
//!
//! # Invariants
//! - **PA1** A part is made as one step, by one session at a time. One of another version is left alone, and refused.
//!
//! # Not here
//! What is in a part.

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::server::why;

/// The lock under which parts are made: the bytes of `epic` and the start of `serv`.
const MAKING: i64 = 0x6570_6963_7365_7276;

/// A part, and how it is made.
pub(crate) struct Part {
    pub(crate) name: &'static str,
    pub(crate) version: i32,
    pub(crate) make: &'static str,
}

impl Part {
    /// Sees to it that the part is there.
    ///
    /// # Errors
    /// Says why it cannot be used.
    pub(crate) async fn prepare(&self, client: &mut Client) -> Result<(), String> {
        let name = self.name;
        let prepared = match self.there(client).await {
            Ok(Some(there)) => return self.check(there),
            Ok(None) => self.make(client).await,
            Err(error) => Err(error),
        };
        match prepared {
            Ok(there) => self.check(there),
            Err(error) => {
                Err(format!("cannot use the part {name} of the schema epicserver: {}", why(&error)))
            }
        }
    }

    fn check(&self, there: i32) -> Result<(), String> {
        let Self { name, version, .. } = self;
        if there == *version {
            return Ok(());
        }
        Err(format!(
            "the part {name} of the schema epicserver has version {there}, and this program knows {version}"
        ))
    }

    /// The version that is there.
    async fn there(&self, client: &Client) -> Result<Option<i32>, tokio_postgres::Error> {
        let any = "SELECT to_regclass('epicserver.part') IS NOT NULL";
        let any: bool = client.query_typed_one(any, &[]).await?.try_get(0)?;
        if !any {
            return Ok(None);
        }
        let version = "SELECT version FROM epicserver.part WHERE name = $1";
        let row = client.query_typed_opt(version, &[(&self.name, Type::TEXT)]).await?;
        row.map(|row| row.try_get(0)).transpose()
    }

    async fn make(&self, client: &mut Client) -> Result<i32, tokio_postgres::Error> {
        let transaction = client.transaction().await?;
        let lock = "SELECT pg_advisory_xact_lock($1)";
        transaction.query_typed(lock, &[(&MAKING, Type::INT8)]).await?;
        // Somebody may have been faster.
        if let Some(there) = self.there(transaction.client()).await? {
            return Ok(there);
        }
        let parts = "CREATE SCHEMA IF NOT EXISTS epicserver; \
                     CREATE TABLE IF NOT EXISTS epicserver.part \
                     (name text PRIMARY KEY, version integer NOT NULL)";
        transaction.batch_execute(parts).await?;
        transaction.batch_execute(self.make).await?;
        let insert = "INSERT INTO epicserver.part (name, version) VALUES ($1, $2)";
        let row: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
            [(&self.name, Type::TEXT), (&self.version, Type::INT4)];
        transaction.execute_typed(insert, &row).await?;
        transaction.commit().await?;
        Ok(self.version)
    }
}
