//! tokio-postgres by hand: records of the same size, as many by one statement as ours, each only if it has its version.
//!
//! One connection, and a statement that the server has prepared. The server is started for a case, and syncs what is committed.
//!
//! # Not here
//! Owners, names that are checked, more than one writer.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::{Builder, Runtime};
use tokio_postgres::Client;

use crate::case::{Failure, Round, Sample, Skipped};
use crate::database::Database;
use crate::floors::raw_redb::{RECORD, fill, key};
use crate::ours::store::{Batch, longer};

const TABLE: &str = "CREATE TABLE raw \
     (name bytea PRIMARY KEY, version bigint NOT NULL, record bytea NOT NULL) WITH (fillfactor = 80); \
     ALTER TABLE raw ALTER COLUMN record SET STORAGE EXTERNAL";
const INSERT: &str = "INSERT INTO raw (name, version, record) \
     SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::bytea[])";
const SAVE: &str = "UPDATE raw r SET version = w.version, record = w.record \
     FROM unnest($1::bytea[], $2::bigint[], $3::bigint[], $4::bytea[]) \
     AS w(name, expected, version, record) WHERE r.name = w.name AND r.version = w.expected";

/// A server that starts when it is first needed.
#[derive(Clone, Default)]
pub(crate) struct Served(Arc<Mutex<Option<Database>>>);

impl Served {
    pub(crate) fn database(&self) -> Result<Database, Failure> {
        let mut started = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(database) = &*started {
            return Ok(database.clone());
        }
        let settings = ["fsync=on", "shared_buffers=128MB", "max_wal_size=1GB"];
        let database = Database::start(&settings).map_err(|lacks| Skipped(lacks.0))?;
        Ok(started.insert(database).clone())
    }
}

fn runtime() -> Result<Runtime, Failure> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

/// How many rows of `table` were written together, on average, when they were last written.
pub(crate) fn rows_a_transaction(database: &Database, table: &str) -> Result<u64, Failure> {
    let query = format!("SELECT count(*) / greatest(count(DISTINCT xmin::text), 1) FROM {table}");
    runtime()?.block_on(async {
        let row = database.connect().await.query_one(&query, &[]).await?;
        Ok(u64::try_from(row.try_get::<_, i64>(0)?)?)
    })
}

/// Records a second, of `records` that are written in turn.
pub(crate) fn rate(
    server: &Served,
    records: u32,
    batch: &Batch,
) -> impl FnMut(&Round) -> Result<Sample, Failure> + use<> {
    let (server, batch) = (server.clone(), batch.clone());
    let mut versions: Vec<i64> = Vec::new();
    move |round| {
        let database = server.database()?;
        let batch = batch.records()?.min(records);
        let mut laps = longer(round).laps();
        runtime()?.block_on(async {
            let client = database.connect().await;
            if versions.is_empty() {
                versions.resize(records as usize, 0);
                begin(&client, Rows::change(&mut versions, &mut 0, records)).await?;
            }
            let save = client.prepare(SAVE).await?;
            let mut next = 0;
            while laps.begin() {
                let rows = Rows::change(&mut versions, &mut next, batch);
                let Rows { names, expected, versions, records } = &rows;
                let done = client.execute(&save, &[names, expected, versions, records]).await?;
                if done != u64::from(batch) {
                    return Err("somebody else has written a record".into());
                }
                laps.end(batch);
            }
            laps.rate()
        })
    }
}

/// A table that has these rows.
async fn begin(client: &Client, rows: Rows) -> Result<(), Failure> {
    client.batch_execute(TABLE).await?;
    let Rows { names, versions, records, .. } = &rows;
    client.execute(INSERT, &[names, versions, records]).await?;
    Ok(())
}

/// The columns of one statement.
#[derive(Default)]
struct Rows {
    names: Vec<Vec<u8>>,
    expected: Vec<i64>,
    versions: Vec<i64>,
    records: Vec<Vec<u8>>,
}

impl Rows {
    fn change(versions: &mut [i64], next: &mut usize, batch: u32) -> Self {
        let mut rows = Self::default();
        for _ in 0..batch {
            let version = &mut versions[*next];
            rows.names.push(key(u32::try_from(*next).unwrap_or(u32::MAX)).to_vec());
            rows.expected.push(*version);
            *version += 1;
            rows.versions.push(*version);
            let mut record = [0; RECORD];
            fill(&mut record, version.cast_unsigned());
            rows.records.push(record.to_vec());
            *next = (*next + 1) % versions.len();
        }
        rows
    }
}
