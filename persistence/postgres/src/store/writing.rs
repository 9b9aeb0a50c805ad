//! The task that writes: all saves that wait by one statement a server.
//!
//! # Not here
//! The invariants: they are in `store`.

use std::collections::BTreeSet;

use epicserver_store::limits::{GROUP_BYTES_MAX, GROUP_OPS_MAX, PURGE_MAX};
use epicserver_store::{
    Answer, Found, Job, Lane, Name, Op, Outcome, Owner, Row, Save, Slot, Ticket, Trouble,
};
use epicserver_wire::EntityId;
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use super::link::{Link, Links};
use super::reading::{load, owners};
use super::rows::{CLAIM, PURGE, SAVE, ordered, owner_in};

type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// Carries out ops until there are no more.
pub(super) async fn run(mut lane: Lane, mut links: Links) {
    while let Some(job) = lane.next().await {
        let mut commits = Vec::new();
        let (mut next, mut bytes) = (Some(job), 0);
        while let Some(Job { op, ticket }) = next {
            bytes += op.bytes();
            match op {
                Op::Commit(saves) => commits.push((ticket, saves)),
                op @ (Op::Claim { .. }
                | Op::Load { .. }
                | Op::Scan { .. }
                | Op::Purge { .. }
                | Op::Verify { .. }
                | Op::Backup { .. }
                | Op::Restore { .. }) => {
                    // What came before it is done before.
                    commit(&mut links, std::mem::take(&mut commits)).await;
                    ticket.answer(other(&mut links, op).await);
                }
            }
            let more = commits.len() < GROUP_OPS_MAX && bytes < GROUP_BYTES_MAX;
            next = if more { lane.try_next() } else { None };
        }
        commit(&mut links, commits).await;
    }
}

/// What is no commit.
async fn other(links: &mut Links, op: Op) -> Result<Answer, Trouble> {
    match op {
        Op::Claim { owner, slots } => {
            let mut refused = Vec::new();
            let mut some = false;
            for at in 0..links.count() {
                let here = slots.iter().copied().filter(|slot| links.of(*slot) == at);
                let here: Vec<Slot> = here.collect();
                match claim(links.at(at), owner, &here).await {
                    Ok(more) => refused.extend(more),
                    Err(trouble) => return Err(after(some, trouble)),
                }
                some |= !here.is_empty();
            }
            Ok(Answer::Claimed { refused })
        }
        Op::Load { entity, claim: by } => {
            let (name, slot) = (Name::state(&entity), Slot::of(&entity));
            let link = links.at(links.of(slot));
            if let Some(owner) = by
                && let Some((_, by)) = claim(link, owner, &[slot]).await?.pop()
            {
                return Ok(Answer::Loaded(Found::Fenced(by)));
            }
            let mut found = load(link, &[name.as_bytes()]).await?;
            let found = found.remove(name.as_bytes()).unwrap_or(Found::Nothing);
            Ok(Answer::Loaded(found))
        }
        Op::Purge { before_ms } => purge(links, before_ms).await,
        Op::Commit(_)
        | Op::Scan { .. }
        | Op::Verify { .. }
        | Op::Backup { .. }
        | Op::Restore { .. } => Err(Trouble::Refused("it is none of the writer's".to_owned())),
    }
}

/// What is said of trouble at one server, where `some` of the op was done at others.
fn after(some: bool, trouble: Trouble) -> Trouble {
    if some { Trouble::Unknown(trouble.to_string()) } else { trouble }
}

/// Claims slots of one server; gives those that others own.
async fn claim(
    link: &mut Link,
    owner: Owner,
    slots: &[Slot],
) -> Result<Vec<(Slot, Owner)>, Trouble> {
    if slots.is_empty() {
        return Ok(Vec::new());
    }
    let numbers: Vec<i64> = slots.iter().map(|slot| i64::from(slot.as_u32())).collect();
    let (epoch, node) = (ordered(owner.epoch), owner.node.as_u64().cast_signed());
    let taken: BTreeSet<i64> = link
        .ask(async |client: &mut Client, fabric: &str| {
            let parameters: [Parameter<'_>; 4] = [
                (&fabric, Type::TEXT),
                (&numbers, Type::INT8_ARRAY),
                (&epoch, Type::INT8),
                (&node, Type::INT8),
            ];
            let rows = client.query_typed(CLAIM, &parameters).await?;
            rows.iter().map(|row| row.try_get(0)).collect()
        })
        .await?;
    let not_taken = |slot: &Slot| !taken.contains(&i64::from(slot.as_u32()));
    let left: Vec<Slot> = slots.iter().copied().filter(not_taken).collect();
    let owners = owners(link, &left).await.map_err(|trouble| after(!taken.is_empty(), trouble))?;
    let by_others = |slot: Slot| {
        let by = owners.get(&slot.as_u32()).copied().filter(|by| *by != owner)?;
        Some((slot, by))
    };
    Ok(left.into_iter().filter_map(by_others).collect())
}

async fn purge(links: &mut Links, before_ms: u64) -> Result<Answer, Trouble> {
    let mut count = 0;
    for link in links.all() {
        let before = ordered(before_ms);
        let left = i64::try_from(PURGE_MAX - count).unwrap_or(0);
        let removed = link.ask(async |client: &mut Client, fabric: &str| {
            let parameters: [Parameter<'_>; 3] =
                [(&fabric, Type::TEXT), (&before, Type::INT8), (&left, Type::INT8)];
            client.execute_typed(PURGE, &parameters).await
        });
        let removed = removed.await.map_err(|trouble| after(count > 0, trouble))?;
        count += usize::try_from(removed).unwrap_or(0);
    }
    Ok(Answer::Purged { count, more: count >= PURGE_MAX })
}

/// One save, and what came of it.
struct Saving<'a> {
    save: &'a Save,
    outcome: Option<Result<Outcome, Trouble>>,
}

/// Carries out commits, in their order, by as few statements as can be (**PS2**).
async fn commit(links: &mut Links, commits: Vec<(Ticket, Vec<Save>)>) {
    let saves = commits.iter().flat_map(|(_, saves)| saves);
    let mut all: Vec<Saving<'_>> = saves.map(|save| Saving { save, outcome: None }).collect();
    let mut from = 0;
    while from < all.len() {
        let mut entities: BTreeSet<Name> = BTreeSet::new();
        let new = |saving: &Saving<'_>| entities.insert(Name::state(&saving.save.entity));
        let len = all[from..].iter().map(new).take_while(|new| *new).count();
        for at in 0..links.count() {
            let here = |saving: &&mut Saving<'_>| links.of(Slot::of(&saving.save.entity)) == at;
            let mut batch: Vec<_> = all[from..from + len].iter_mut().filter(here).collect();
            save(links.at(at), &mut batch).await;
        }
        from += len;
    }
    let mut outcomes = all.into_iter().map(|saving| {
        saving.outcome.unwrap_or_else(|| Err(Trouble::Unknown("it was not answered".to_owned())))
    });
    let answers: Vec<_> =
        commits.iter().map(|(_, saves)| answer(outcomes.by_ref().take(saves.len()))).collect();
    for ((ticket, _), answer) in commits.into_iter().zip(answers) {
        ticket.answer(answer);
    }
}

/// The answer to an op whose saves have these outcomes.
fn answer(outcomes: impl Iterator<Item = Result<Outcome, Trouble>>) -> Result<Answer, Trouble> {
    let (mut all, mut trouble, mut saved) = (Vec::new(), None, false);
    for outcome in outcomes {
        match outcome {
            Ok(outcome) => {
                saved |= outcome == Outcome::Saved;
                all.push(outcome);
            }
            Err(other) => trouble = Some(other),
        }
    }
    trouble.map_or(Ok(Answer::Committed(all)), |trouble| Err(after(saved, trouble)))
}

/// Does a batch of one server by one statement (**PS1**).
async fn save(link: &mut Link, batch: &mut [&mut Saving<'_>]) {
    if batch.is_empty() {
        return;
    }
    let saves: Vec<&Save> = batch.iter().map(|saving| saving.save).collect();
    let columns = Columns::of(&saves);
    let done = link.ask(async |client: &mut Client, fabric: &str| {
        let rows = client.query_typed(SAVE, &columns.parameters(&fabric)).await?;
        let done = |row: &tokio_postgres::Row| {
            let ord: i32 = row.try_get(0)?;
            let (epoch, node): (Option<i64>, Option<i64>) = (row.try_get(2)?, row.try_get(3)?);
            let owner = epoch.zip(node).map(|(epoch, node)| owner_in(epoch, node));
            Ok((usize::try_from(ord).unwrap_or(usize::MAX), row.try_get::<_, bool>(1)?, owner))
        };
        rows.iter().map(done).collect::<Result<Vec<_>, tokio_postgres::Error>>()
    });
    let done = match done.await {
        Ok(done) => done,
        Err(trouble) => {
            batch.iter_mut().for_each(|saving| saving.outcome = Some(Err(trouble.clone())));
            return;
        }
    };
    let mut conflicts = Vec::new();
    for (at, done, owner) in done {
        let Some(saving) = batch.get_mut(at) else { continue };
        if done {
            saving.outcome = Some(Ok(Outcome::Saved));
        } else if owner != Some(saving.save.owner) {
            saving.outcome = Some(Ok(Outcome::Fenced(owner)));
        } else {
            conflicts.push((at, Name::state(&saving.save.entity)));
        }
    }
    if conflicts.is_empty() {
        return;
    }
    // Rare, and not part of the statement, whose view of such a row may be old.
    let names: Vec<&[u8]> = conflicts.iter().map(|(_, name)| name.as_bytes()).collect();
    let found = load(link, &names).await;
    for (at, name) in &conflicts {
        let outcome = found.as_ref().map(|found| conflict(found.get(name.as_bytes())));
        batch[*at].outcome = Some(outcome.map_err(Clone::clone));
    }
}

fn conflict(found: Option<&Found>) -> Outcome {
    let by = match found {
        Some(Found::State(record)) => record.envelope(),
        Some(Found::Tombstone(envelope)) => *envelope,
        Some(Found::Corrupt(corrupt)) => return Outcome::Corrupt(corrupt.clone()),
        Some(Found::Nothing | Found::Fenced(_)) | None => {
            return Outcome::Conflict { found: 0, by: None };
        }
    };
    Outcome::Conflict { found: by.version, by: Some(by.owner) }
}

/// Saves, column by column.
#[derive(Default)]
struct Columns<'a> {
    ord: Vec<i32>,
    slot: Vec<i64>,
    epoch: Vec<i64>,
    node: Vec<i64>,
    name: Vec<Vec<u8>>,
    expected: Vec<i64>,
    version: Vec<Option<i64>>,
    tombstone: Vec<Option<bool>>,
    written: Vec<Option<i64>>,
    record: Vec<Option<&'a [u8]>>,
    row_ord: Vec<i32>,
    row_name: Vec<Vec<u8>>,
    row_version: Vec<Option<i64>>,
    row_written: Vec<Option<i64>>,
    row_record: Vec<Option<&'a [u8]>>,
}

impl<'a> Columns<'a> {
    fn of(saves: &[&'a Save]) -> Self {
        let mut columns = Self::default();
        for (ord, save) in (0..).zip(saves) {
            let entity: &EntityId = &save.entity;
            columns.ord.push(ord);
            columns.slot.push(i64::from(Slot::of(entity).as_u32()));
            columns.epoch.push(ordered(save.owner.epoch));
            columns.node.push(save.owner.node.as_u64().cast_signed());
            columns.name.push(Name::state(entity).as_bytes().to_vec());
            columns.expected.push(save.expected.cast_signed());
            let envelope = save.state.as_ref().map(epicserver_store::Record::envelope);
            columns.version.push(envelope.map(|of| of.version.cast_signed()));
            columns.tombstone.push(envelope.map(|of| of.tombstone));
            columns.written.push(envelope.map(|of| ordered(of.written_ms)));
            columns.record.push(save.state.as_ref().map(epicserver_store::Record::as_bytes));
            for row in &save.rows {
                columns.push_row(ord, row);
            }
        }
        columns
    }

    fn push_row(&mut self, ord: i32, row: &'a Row) {
        let record = match row {
            Row::Put(record) => Some(record),
            Row::Remove(_) => None,
        };
        let envelope = record.map(epicserver_store::Record::envelope);
        self.row_ord.push(ord);
        self.row_name.push(row.name().as_bytes().to_vec());
        self.row_version.push(envelope.map(|of| of.version.cast_signed()));
        self.row_written.push(envelope.map(|of| ordered(of.written_ms)));
        self.row_record.push(record.map(epicserver_store::Record::as_bytes));
    }

    fn parameters<'b>(&'b self, fabric: &'b &str) -> [Parameter<'b>; 16] {
        [
            (fabric, Type::TEXT),
            (&self.ord, Type::INT4_ARRAY),
            (&self.slot, Type::INT8_ARRAY),
            (&self.epoch, Type::INT8_ARRAY),
            (&self.node, Type::INT8_ARRAY),
            (&self.name, Type::BYTEA_ARRAY),
            (&self.expected, Type::INT8_ARRAY),
            (&self.version, Type::INT8_ARRAY),
            (&self.tombstone, Type::BOOL_ARRAY),
            (&self.written, Type::INT8_ARRAY),
            (&self.record, Type::BYTEA_ARRAY),
            (&self.row_ord, Type::INT4_ARRAY),
            (&self.row_name, Type::BYTEA_ARRAY),
            (&self.row_version, Type::INT8_ARRAY),
            (&self.row_written, Type::INT8_ARRAY),
            (&self.row_record, Type::BYTEA_ARRAY),
        ]
    }
}
