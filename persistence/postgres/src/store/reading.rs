//! The task that reads: all loads that wait by one statement a server.
//!
//! # Not here
//! The invariants: they are in `store`.

use std::collections::BTreeMap;
use std::ops::Bound;

use epicserver_store::limits::{GROUP_OPS_MAX, PAGE_BYTES_MAX};
use epicserver_store::{
    Answer, Found, Job, Lane, Name, Op, Owner, Page, Range, Slot, Trouble, Verify, judge,
};
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use super::WRITER;
use super::link::{Link, Links};
use super::rows::{LOAD, OWNERS, PAGE, SPARSE, Stored, owner_in};

type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);
type Load = (Job, Slot, Name, Option<Owner>);

/// Carries out ops until there are no more.
pub(super) async fn run(mut lane: Lane, mut links: Links) {
    while let Some(job) = lane.next().await {
        let mut loads = Vec::new();
        let mut next = Some(job);
        while let Some(job) = next {
            if matches!(job.op, Op::Load { .. }) {
                loads.push(job);
            } else {
                let answer = page(&mut links, &job.op).await;
                job.ticket.answer(answer);
            }
            next = if loads.len() < GROUP_OPS_MAX { lane.try_next() } else { None };
        }
        load_all(&lane, &mut links, loads).await;
    }
}

/// Answers `loads`, or passes on those that have to claim.
async fn load_all(lane: &Lane, links: &mut Links, loads: Vec<Job>) {
    let mut by_server: Vec<Vec<Load>> = Vec::new();
    by_server.resize_with(links.count(), Vec::new);
    for job in loads {
        if let Op::Load { entity, claim } = &job.op {
            let (slot, name, claim) = (Slot::of(entity), Name::state(entity), *claim);
            by_server[links.of(slot)].push((job, slot, name, claim));
        }
    }
    for (at, loads) in by_server.into_iter().enumerate().filter(|(_, loads)| !loads.is_empty()) {
        let claimed = loads.iter().filter(|(.., claim)| claim.is_some());
        let slots: Vec<Slot> = claimed.map(|(_, slot, ..)| *slot).collect();
        let names: Vec<&[u8]> = loads.iter().map(|(_, _, name, _)| name.as_bytes()).collect();
        let link = links.at(at);
        // Owners first: what is read is at least as new as that they own it.
        let owners = owners(link, &slots).await;
        let found = match owners {
            Ok(owners) => load(link, &names).await.map(|found| (owners, found)),
            Err(trouble) => Err(trouble),
        };
        for (job, slot, name, claim) in loads {
            let answer = match &found {
                Err(trouble) => Err(trouble.clone()),
                Ok((owners, found)) => {
                    let stored = owners.get(&slot.as_u32()).copied();
                    match claim.map(|owner| judge::claim(owner, stored)) {
                        Some(judge::Claim::Take) => {
                            lane.pass_on(job, WRITER);
                            continue;
                        }
                        Some(judge::Claim::Refused(by)) => Ok(Answer::Loaded(Found::Fenced(by))),
                        Some(judge::Claim::Held) | None => {
                            let found = found.get(name.as_bytes()).cloned();
                            Ok(Answer::Loaded(found.unwrap_or(Found::Nothing)))
                        }
                    }
                }
            };
            job.ticket.answer(answer);
        }
    }
}

/// Who owns which of `slots`, by their numbers.
pub(super) async fn owners(
    link: &mut Link,
    slots: &[Slot],
) -> Result<BTreeMap<u32, Owner>, Trouble> {
    if slots.is_empty() {
        return Ok(BTreeMap::new());
    }
    let slots: Vec<i64> = slots.iter().map(|slot| i64::from(slot.as_u32())).collect();
    link.ask(async |client: &mut Client, fabric: &str| {
        let parameters: [Parameter<'_>; 2] = [(&fabric, Type::TEXT), (&slots, Type::INT8_ARRAY)];
        let rows = client.query_typed(OWNERS, &parameters).await?;
        let owner = |row: &tokio_postgres::Row| {
            let slot: i64 = row.try_get(0)?;
            let owner = owner_in(row.try_get(1)?, row.try_get(2)?);
            Ok((u32::try_from(slot).unwrap_or(u32::MAX), owner))
        };
        rows.iter().map(owner).collect()
    })
    .await
}

/// What lies under `names`, where there is something.
pub(super) async fn load(
    link: &mut Link,
    names: &[&[u8]],
) -> Result<BTreeMap<Vec<u8>, Found>, Trouble> {
    let rows = link.ask(async |client: &mut Client, fabric: &str| {
        let parameters: [Parameter<'_>; 2] = [(&fabric, Type::TEXT), (&names, Type::BYTEA_ARRAY)];
        let rows = client.query_typed(LOAD, &parameters).await?;
        rows.iter().map(Stored::parse).collect::<Result<Vec<_>, _>>()
    });
    let found = |stored: Stored| {
        let found = match stored.open().1 {
            Ok(record) if record.envelope().tombstone => Found::Tombstone(record.envelope()),
            Ok(record) => Found::State(record),
            Err(corrupt) => Found::Corrupt(corrupt),
        };
        (stored.name, found)
    };
    Ok(rows.await?.into_iter().map(found).collect())
}

/// A page of rows.
async fn page(links: &mut Links, op: &Op) -> Result<Answer, Trouble> {
    match op {
        Op::Scan { range, after, limit } => {
            let mut page = Page::new(range.clone(), *limit);
            for stored in rows(links, range, after.as_ref(), *limit).await? {
                let (name, row) = stored.open();
                if !page.push_row(name, row, stored.record.len()) {
                    break;
                }
            }
            Ok(page.finish())
        }
        Op::Verify { after, limit } => {
            let mut page = Verify::new(*limit);
            for stored in rows(links, &Range::All, after.as_ref(), *limit).await? {
                let (name, row) = stored.open();
                if !page.push_row(name, row.map(|_| ()), stored.record.len()) {
                    break;
                }
            }
            Ok(page.finish())
        }
        Op::Claim { .. }
        | Op::Load { .. }
        | Op::Commit(_)
        | Op::Purge { .. }
        | Op::Backup { .. }
        | Op::Restore { .. } => Err(Trouble::Refused("it is none of the reader's".to_owned())),
    }
}

/// Rows of all servers, in order.
async fn rows(
    links: &mut Links,
    range: &Range,
    after: Option<&Name>,
    limit: usize,
) -> Result<Vec<Stored>, Trouble> {
    let mut all = Vec::new();
    for link in links.all() {
        let rows = link.ask(async |client: &mut Client, fabric: &str| {
            rows_of(client, fabric, range, after, limit).await
        });
        all.extend(rows.await?);
    }
    all.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(all)
}

/// Rows of one server, in order.
pub(super) async fn rows_of(
    client: &impl tokio_postgres::GenericClient,
    fabric: &str,
    range: &Range,
    after: Option<&Name>,
    limit: usize,
) -> Result<Vec<Stored>, tokio_postgres::Error> {
    let (_, end) = range.bounds();
    // No row has an empty name.
    let (from, not) = match range.start(after) {
        Bound::Included(from) => (from, Name::at(&[])),
        Bound::Excluded(from) => (from.clone(), from),
        Bound::Unbounded => (Name::at(&[]), Name::at(&[])),
    };
    let (from, not) = (from.as_bytes(), not.as_bytes());
    let end = end.as_ref().map(Name::as_bytes);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let bytes = i64::try_from(PAGE_BYTES_MAX).unwrap_or(i64::MAX);
    let parameters: [Parameter<'_>; 6] = [
        (&fabric, Type::TEXT),
        (&from, Type::BYTEA),
        (&not, Type::BYTEA),
        (&end, Type::BYTEA),
        (&limit, Type::INT8),
        (&bytes, Type::INT8),
    ];
    let page = if range.is_sparse() { SPARSE } else { PAGE };
    let rows = client.query_typed(page, &parameters).await?;
    rows.iter().map(Stored::parse).collect()
}
