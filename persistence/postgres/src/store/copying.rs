//! The task for what takes long: back-ups, and taking them in.
//!
//! # Not here
//! The invariants: they are in `store`.

use std::path::Path;

use epicserver_store::limits::{PAGE_BYTES_MAX, PAGE_MAX};
use epicserver_store::{Answer, Job, Lane, Name, Op, Range, Record, Slot, Trouble, archive};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, IsolationLevel, Transaction};

use super::link::{COPY_MAX, Link, Links};
use super::reading::rows_of;
use super::rows::{ANY, RESTORE, ordered};

type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// Carries out ops until there are no more.
pub(super) async fn run(mut lane: Lane, mut links: Links) {
    while let Some(Job { op, ticket }) = lane.next().await {
        let answer = match op {
            Op::Backup { to } => back_up(&mut links, &to).await,
            Op::Restore { from } => restore(&mut links, &from).await,
            Op::Claim { .. }
            | Op::Load { .. }
            | Op::Commit(_)
            | Op::Scan { .. }
            | Op::Purge { .. }
            | Op::Verify { .. } => Err(Trouble::Refused("it takes not long".to_owned())),
        };
        ticket.answer(answer);
    }
}

/// Each server as it is at one moment.
async fn back_up(links: &mut Links, to: &Path) -> Result<Answer, Trouble> {
    let mut writer = archive::Writer::create(to)?;
    for link in links.all() {
        // What goes wrong with the file is no trouble of the session's.
        let mut failed = None;
        let copied = link.ask_within(COPY_MAX, async |client: &mut Client, fabric: &str| {
            let transaction = client.build_transaction().read_only(true);
            let transaction = transaction.isolation_level(IsolationLevel::RepeatableRead);
            let transaction = transaction.start().await?;
            failed = copy(&transaction, fabric, &mut writer).await?;
            transaction.commit().await
        });
        copied.await?;
        if let Some(trouble) = failed {
            return Err(trouble);
        }
    }
    writer.finish()
}

async fn copy(
    transaction: &Transaction<'_>,
    fabric: &str,
    writer: &mut archive::Writer,
) -> Result<Option<Trouble>, tokio_postgres::Error> {
    let mut after = None;
    loop {
        let rows = rows_of(transaction, fabric, &Range::All, after.as_ref(), PAGE_MAX).await?;
        let Some(last) = rows.last() else { return Ok(None) };
        after = Some(Name::at(&last.name));
        for stored in rows {
            let pushed = match stored.open().1 {
                Ok(_) => writer.push(&stored.name, &stored.record),
                Err(corrupt) => {
                    writer.push_corrupt(corrupt);
                    Ok(())
                }
            };
            if let Err(trouble) = pushed {
                return Ok(Some(trouble));
            }
        }
    }
}

/// All servers are empty, or nothing is done.
async fn restore(links: &mut Links, from: &Path) -> Result<Answer, Trouble> {
    let rows = archive::Reader::check(from)?;
    for link in links.all() {
        if !is_empty(link).await? {
            return Err(Trouble::Refused("the store is not empty".to_owned()));
        }
    }
    let count = links.count();
    for (at, link) in links.all().enumerate() {
        let mut reader = archive::Reader::open(from)?;
        let mut failed = None;
        let restored = link.ask_within(COPY_MAX, async |client: &mut Client, fabric: &str| {
            let transaction = client.transaction().await?;
            let mut page = Vec::new();
            let mut bytes = 0;
            loop {
                let row = match reader.next() {
                    Ok(row) => row,
                    Err(trouble) => {
                        failed = Some(trouble);
                        return transaction.rollback().await;
                    }
                };
                let Some((name, record)) = row else { break };
                let slot = name.entity().map(|entity| Slot::of(&entity));
                if slot.is_some_and(|slot| usize::from(slot.index) % count == at) {
                    bytes += record.as_bytes().len();
                    page.push((name, record));
                }
                if page.len() >= PAGE_MAX || bytes >= PAGE_BYTES_MAX {
                    put(&transaction, fabric, &std::mem::take(&mut page)).await?;
                    bytes = 0;
                }
            }
            put(&transaction, fabric, &page).await?;
            transaction.commit().await
        });
        let restored = restored.await;
        if let Some(trouble) = failed {
            return Err(trouble);
        }
        restored.map_err(|trouble| match at {
            0 => trouble,
            _ => Trouble::Unknown(trouble.to_string()),
        })?;
    }
    Ok(Answer::Restored { rows })
}

async fn is_empty(link: &mut Link) -> Result<bool, Trouble> {
    let any = link.ask(async |client: &mut Client, fabric: &str| {
        let parameters: [Parameter<'_>; 1] = [(&fabric, Type::TEXT)];
        client.query_typed_one(ANY, &parameters).await?.try_get::<_, bool>(0)
    });
    Ok(!any.await?)
}

async fn put(
    transaction: &Transaction<'_>,
    fabric: &str,
    page: &[(Name, Record)],
) -> Result<(), tokio_postgres::Error> {
    let names: Vec<&[u8]> = page.iter().map(|(name, _)| name.as_bytes()).collect();
    let records: Vec<&[u8]> = page.iter().map(|(_, record)| record.as_bytes()).collect();
    let of = || page.iter().map(|(_, record)| record.envelope());
    let versions: Vec<i64> = of().map(|of| of.version.cast_signed()).collect();
    let tombstones: Vec<bool> = of().map(|of| of.tombstone).collect();
    let written: Vec<i64> = of().map(|of| ordered(of.written_ms)).collect();
    let parameters: [Parameter<'_>; 6] = [
        (&fabric, Type::TEXT),
        (&names, Type::BYTEA_ARRAY),
        (&versions, Type::INT8_ARRAY),
        (&tombstones, Type::BOOL_ARRAY),
        (&written, Type::INT8_ARRAY),
        (&records, Type::BYTEA_ARRAY),
    ];
    transaction.execute_typed(RESTORE, &parameters).await?;
    Ok(())
}
