//! Asks, as statements.
//!
//! # Not here
//! The invariants: they are in `coordinator`.

use std::collections::BTreeSet;
use std::error::Error;
use std::time::Duration;

use epicserver_coordinator::{
    Answer, Ask, Known, LEASES_MAX, Lease, RECORD_BYTES_MAX, VIEW_BYTES_MAX,
};
use epicserver_wire::NodeId;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, IsolationLevel, Row, Transaction};

use crate::part::Part;

/// The tables.
pub(super) const PART: Part = Part {
    name: "coordinator",
    version: 1,
    // A lease is updated all the time: room in its page keeps that from growing the index.
    make: "CREATE TABLE epicserver.view \
           (fabric text PRIMARY KEY, number bigint NOT NULL, view bytea NOT NULL); \
           CREATE TABLE epicserver.lease \
           (fabric text NOT NULL, node bigint NOT NULL, record bytea NOT NULL, expires timestamptz NOT NULL, \
           ended boolean NOT NULL, PRIMARY KEY (fabric, node)) WITH (fillfactor = 50)",
};

/// The channel of notices; each says its fabric.
pub(super) const TOPICS: &str = "epicserver_coordinator";

/// One that has leases had a row: without it nobody knows which number comes next.
const BEGIN_FABRIC: &str = "INSERT INTO epicserver.view (fabric, number, view) SELECT $1, 0, '' \
     WHERE NOT EXISTS (SELECT FROM epicserver.lease WHERE fabric = $1) \
     ON CONFLICT (fabric) DO NOTHING";

const READ_VIEW: &str = "SELECT number, view FROM epicserver.view WHERE fabric = $1";

const READ_LEASES: &str = "SELECT node, record, \
     greatest(0, (extract(epoch FROM expires - clock_timestamp()) * 1000000)::bigint) \
     FROM epicserver.lease WHERE fabric = $1 AND NOT ended LIMIT $2";

/// For a node that this handle has never renewed. The count is of the same moment as the row that it may hinder.
const RENEW_FIRST: &str = "WITH held AS (\
         INSERT INTO epicserver.lease AS l (fabric, node, record, expires, ended) \
         SELECT $1, $2, $3, clock_timestamp() + $4 * interval '1 microsecond', false \
         WHERE (SELECT count(*) FROM epicserver.lease WHERE fabric = $1 AND NOT ended) < $6 \
         ON CONFLICT (fabric, node) DO UPDATE SET record = excluded.record, expires = excluded.expires \
         WHERE NOT l.ended RETURNING 1) \
     SELECT (SELECT count(*) FROM held), \
         (SELECT number FROM epicserver.view WHERE fabric = $1), \
         (SELECT count(*) FROM epicserver.lease WHERE fabric = $1 AND NOT ended) < $6, \
         CASE WHEN $5 AND EXISTS (SELECT FROM held) \
             THEN pg_notify('epicserver_coordinator', $1)::text END";

/// For one that it has: what is not there is not made again.
const RENEW_KNOWN: &str = "WITH held AS (\
         UPDATE epicserver.lease SET record = $3, expires = clock_timestamp() + $4 * interval '1 microsecond' \
         WHERE fabric = $1 AND node = $2 AND NOT ended RETURNING 1) \
     SELECT (SELECT count(*) FROM held), \
         (SELECT number FROM epicserver.view WHERE fabric = $1), true, \
         CASE WHEN $5 AND EXISTS (SELECT FROM held) \
             THEN pg_notify('epicserver_coordinator', $1)::text END \
     WHERE $6 > 0";

const RELEASE: &str = "WITH released AS (\
         INSERT INTO epicserver.lease AS l (fabric, node, record, expires, ended) \
         VALUES ($1, $2, '', clock_timestamp(), true) \
         ON CONFLICT (fabric, node) DO UPDATE SET record = '', expires = clock_timestamp(), ended = true \
         WHERE NOT l.ended RETURNING 1) \
     SELECT CASE WHEN EXISTS (SELECT FROM released) \
         THEN pg_notify('epicserver_coordinator', $1)::text END";

const LOCK_VIEW: &str = "SELECT number FROM epicserver.view WHERE fabric = $1 FOR UPDATE";

/// Gives those that have ended, or had before.
const END: &str = "INSERT INTO epicserver.lease AS l (fabric, node, record, expires, ended) \
     SELECT $1, node, '', clock_timestamp(), true FROM unnest($2) AS node ORDER BY node \
     ON CONFLICT (fabric, node) DO UPDATE SET record = '', ended = true, \
         expires = CASE WHEN l.ended THEN l.expires ELSE clock_timestamp() END \
     WHERE l.ended OR l.expires <= clock_timestamp() RETURNING node";

const FORGET: &str = "DELETE FROM epicserver.lease \
     WHERE fabric = $1 AND expires < clock_timestamp() - interval '1 day'";

const CHANGE_VIEW: &str = "UPDATE epicserver.view SET number = number + 1, view = $2 WHERE fabric = $1 \
     RETURNING pg_notify('epicserver_coordinator', $1)::text";

/// Why an ask failed.
type Why = Box<dyn Error + Send + Sync>;
type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

pub(super) struct Asks {
    fabric: String,
    known: Known,
    /// The last record that was written, and whose: another one is news.
    written: Option<(NodeId, Vec<u8>)>,
}

impl Asks {
    pub(super) fn new(fabric: String) -> Self {
        Self { fabric, known: Known::default(), written: None }
    }

    pub(super) fn fabric(&self) -> &str {
        &self.fabric
    }

    /// Sees to it that the fabric has a row.
    pub(super) async fn prepare(&self, client: &Client) -> Result<(), tokio_postgres::Error> {
        client.execute_typed(BEGIN_FABRIC, &[self.of_fabric()]).await?;
        Ok(())
    }

    pub(super) async fn carry_out(&mut self, client: &mut Client, ask: Ask) -> Result<Answer, Why> {
        match ask {
            Ask::Read => self.read(client).await,
            Ask::Renew { node, record, ttl } => self.renew(client, node, record, ttl).await,
            Ask::Change { from, view, ends } => {
                self.change(client, from, &view, BTreeSet::from_iter(ends)).await
            }
            Ask::Release { node } => {
                let node = node.as_u64().cast_signed();
                client.query_typed(RELEASE, &[self.of_fabric(), (&node, Type::INT8)]).await?;
                Ok(Answer::Released)
            }
        }
    }

    fn of_fabric(&self) -> Parameter<'_> {
        (&self.fabric, Type::TEXT)
    }

    async fn read(&self, client: &mut Client) -> Result<Answer, Why> {
        // Both are of one moment.
        let transaction = client.build_transaction().read_only(true);
        let transaction = transaction.isolation_level(IsolationLevel::RepeatableRead);
        let transaction = transaction.start().await?;
        let view = transaction.query_typed_opt(READ_VIEW, &[self.of_fabric()]).await?;
        let most = i64::try_from(LEASES_MAX + 1)?;
        let bounds = [self.of_fabric(), (&most, Type::INT8)];
        let rows = transaction.query_typed(READ_LEASES, &bounds).await?;
        transaction.commit().await?;
        let view = view.ok_or("the row of the fabric was removed")?;
        let number = number_in(&view)?;
        let bytes: Vec<u8> = at_most("a view", view.try_get(1)?, VIEW_BYTES_MAX)?;
        let view = (number > 0).then_some((number, bytes));
        if rows.len() > LEASES_MAX {
            return Err(format!("there are more than {LEASES_MAX} leases").into());
        }
        let mut leases = rows.iter().map(lease_in).collect::<Result<Vec<_>, Why>>()?;
        leases.sort_unstable_by_key(|lease| lease.node);
        Ok(Answer::State { view, leases })
    }

    async fn renew(
        &mut self,
        client: &Client,
        node: NodeId,
        record: Vec<u8>,
        ttl: Duration,
    ) -> Result<Answer, Why> {
        let statement = if self.known.contains(node) { RENEW_KNOWN } else { RENEW_FIRST };
        let id = node.as_u64().cast_signed();
        // The longest lease is far from what does not fit. Up, since it must not end early.
        let micros = i64::try_from(ttl.as_nanos().div_ceil(1000))?;
        let written = (node, record);
        let news = self.written.as_ref() != Some(&written);
        let most = i64::try_from(LEASES_MAX)?;
        let parameters: [Parameter<'_>; 6] = [
            self.of_fabric(),
            (&id, Type::INT8),
            (&written.1, Type::BYTEA),
            (&micros, Type::INT8),
            (&news, Type::BOOL),
            (&most, Type::INT8),
        ];
        let row = client.query_typed_one(statement, &parameters).await?;
        let (held, number, room): (i64, Option<i64>, bool) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        if held == 0 && room {
            return Ok(Answer::Evicted);
        }
        if held == 0 {
            return Err(format!("there are {LEASES_MAX} leases already").into());
        }
        let number = u64::try_from(number.ok_or("the row of the fabric was removed")?)?;
        self.known.insert(node);
        self.written = Some(written);
        Ok(Answer::Renewed { number })
    }

    async fn change(
        &self,
        client: &mut Client,
        from: u64,
        view: &[u8],
        ends: BTreeSet<NodeId>,
    ) -> Result<Answer, Why> {
        // Left at any point, it is rolled back.
        let transaction = client.transaction().await?;
        let row = transaction.query_typed_opt(LOCK_VIEW, &[self.of_fabric()]).await?;
        let number = number_in(&row.ok_or("the row of the fabric was removed")?)?;
        if number != from {
            return Ok(Answer::Overtaken { number });
        }
        if let Some(node) = self.end(&transaction, ends).await? {
            return Ok(Answer::Alive { node });
        }
        transaction.execute_typed(FORGET, &[self.of_fabric()]).await?;
        let parameters = [self.of_fabric(), (&view, Type::BYTEA)];
        transaction.query_typed(CHANGE_VIEW, &parameters).await?;
        transaction.commit().await?;
        Ok(Answer::Changed { number: from + 1 })
    }

    /// Ends the leases of `ends`; gives one that lasts.
    async fn end(
        &self,
        transaction: &Transaction<'_>,
        mut ends: BTreeSet<NodeId>,
    ) -> Result<Option<NodeId>, Why> {
        if ends.is_empty() {
            return Ok(None);
        }
        let mut ids: Vec<i64> = ends.iter().map(|node| node.as_u64().cast_signed()).collect();
        // As the server orders them, who locks them one by one.
        ids.sort_unstable();
        let parameters = [self.of_fabric(), (&ids as &(dyn ToSql + Sync), Type::INT8_ARRAY)];
        for row in transaction.query_typed(END, &parameters).await? {
            ends.remove(&NodeId::new(row.try_get::<_, i64>(0)?.cast_unsigned()));
        }
        Ok(ends.first().copied())
    }
}

fn number_in(row: &Row) -> Result<u64, Why> {
    let number: i64 = row.try_get(0)?;
    u64::try_from(number).map_err(|_| format!("the view has the number {number}").into())
}

fn lease_in(row: &Row) -> Result<Lease, Why> {
    let (node, left): (i64, i64) = (row.try_get(0)?, row.try_get(2)?);
    let record = at_most("a record", row.try_get(1)?, RECORD_BYTES_MAX)?;
    let left = Duration::from_micros(u64::try_from(left)?);
    Ok(Lease { node: NodeId::new(node.cast_unsigned()), record, left })
}

fn at_most(what: &str, bytes: Vec<u8>, most: usize) -> Result<Vec<u8>, Why> {
    if bytes.len() <= most {
        return Ok(bytes);
    }
    Err(format!("{what} of {} bytes is there, and {most} are the most", bytes.len()).into())
}
