//! The tables, and the statements on them.
//!
//! Numbers of 64 bits that are compared by size are kept with their highest bit flipped, since the server's are signed.
//!
//! # Not here
//! The invariants: they are in `store`.

use epicserver_store::{Corrupt, Flaw, Name, Owner, Record};
use epicserver_wire::NodeId;

use crate::part::Part;

/// The tables.
pub(super) const PART: Part = Part {
    name: "store",
    version: 1,
    // Records are not compressed: that would cost more than their bytes do.
    make: "CREATE TABLE epicserver.server \
           (fabric text PRIMARY KEY, place integer NOT NULL, servers integer NOT NULL); \
           CREATE TABLE epicserver.slot \
           (fabric text NOT NULL, slot bigint NOT NULL, epoch bigint NOT NULL, node bigint NOT NULL, \
           PRIMARY KEY (fabric, slot)) WITH (fillfactor = 50); \
           CREATE TABLE epicserver.record \
           (fabric text NOT NULL, name bytea NOT NULL, version bigint NOT NULL, tombstone boolean NOT NULL, \
           written bigint NOT NULL, record bytea NOT NULL, PRIMARY KEY (fabric, name)) \
           WITH (fillfactor = 80); \
           ALTER TABLE epicserver.record ALTER COLUMN record SET STORAGE EXTERNAL; \
           CREATE INDEX record_tombstone ON epicserver.record (fabric, written) WHERE tombstone",
};

pub(super) const ENROL: &str = "INSERT INTO epicserver.server (fabric, place, servers) VALUES ($1, $2, $3) \
     ON CONFLICT (fabric) DO NOTHING";

pub(super) const PLACE: &str = "SELECT place, servers FROM epicserver.server WHERE fabric = $1";

/// Gives those that are taken; their rows are locked in the order of their slots (**PS1**).
pub(super) const CLAIM: &str = "INSERT INTO epicserver.slot AS s (fabric, slot, epoch, node) \
     SELECT $1, slot, $3, $4 FROM unnest($2) AS slot ORDER BY slot \
     ON CONFLICT (fabric, slot) DO UPDATE SET epoch = excluded.epoch, node = excluded.node \
     WHERE s.epoch < excluded.epoch RETURNING slot";

pub(super) const OWNERS: &str =
    "SELECT slot, epoch, node FROM epicserver.slot WHERE fabric = $1 AND slot = ANY($2)";

pub(super) const LOAD: &str =
    "SELECT name, version, record FROM epicserver.record WHERE fabric = $1 AND name = ANY($2)";

/// A page: it ends with the row by which there are enough bytes.
pub(super) const PAGE: &str = "SELECT name, version, record FROM (\
         SELECT name, version, record, \
             sum(octet_length(record)) OVER (ORDER BY name) - octet_length(record) AS before FROM (\
             SELECT name, version, record FROM epicserver.record \
             WHERE fabric = $1 AND name >= $2 AND name <> $3 AND ($4::bytea IS NULL OR name < $4) \
             ORDER BY name LIMIT $5) AS page) AS page \
     WHERE before < $6 ORDER BY name";

/// The same for a range of which one row a slot counts: behind each, the next is looked for behind all names that begin with its
/// first five bytes and go on with the eight of the latest time. Such rows are short, so that bytes are not counted.
pub(super) const SPARSE: &str = "WITH RECURSIVE next(name) AS (\
         (SELECT name FROM epicserver.record \
             WHERE fabric = $1 AND name >= $2 AND name <> $3 AND ($4::bytea IS NULL OR name < $4) \
             ORDER BY name LIMIT 1) \
         UNION ALL \
         SELECT (SELECT r.name FROM epicserver.record r \
             WHERE r.fabric = $1 AND r.name > substring(n.name FROM 1 FOR 5) || '\\xffffffffffffffffff'::bytea \
                 AND ($4::bytea IS NULL OR r.name < $4) \
             ORDER BY r.name LIMIT 1) \
         FROM next n WHERE n.name IS NOT NULL), \
     page AS (SELECT name FROM next WHERE name IS NOT NULL LIMIT $5) \
     SELECT r.name, r.version, r.record FROM page JOIN epicserver.record r ON r.fabric = $1 AND r.name = page.name \
     WHERE $6::bigint IS NOT NULL ORDER BY r.name";

pub(super) const PURGE: &str = "DELETE FROM epicserver.record WHERE fabric = $1 AND name IN (\
         SELECT name FROM epicserver.record WHERE fabric = $1 AND tombstone AND written < $2 \
         ORDER BY written LIMIT $3 FOR UPDATE)";

pub(super) const ANY: &str = "SELECT EXISTS (SELECT FROM epicserver.record WHERE fabric = $1)";

pub(super) const RESTORE: &str = "INSERT INTO epicserver.record (fabric, name, version, tombstone, written, record) \
     SELECT $1, * FROM unnest($2, $3, $4, $5, $6)";

/// One batch of saves, each on its own: whether it was done, and who owns its slot.
///
/// `held` locks the rows of owners in their order, so `fit` has what is true until the end (**PS1**). What is written is decided
/// by the row that is there when it is written: a row that is waited for is looked at again.
///
/// The server takes each of these parts for a row or two, and would compare all rows of one with all of another. So owners are
/// looked up slot by slot, and what is asked `IS TRUE` is looked up in a hash table.
pub(super) const SAVE: &str = "WITH want AS MATERIALIZED (\
         SELECT * FROM unnest($2, $3, $4, $5, $6, $7, $8, $9, $10, $11) \
         AS w(ord, slot, epoch, node, name, expected, version, tombstone, written, record)), \
     held AS MATERIALIZED (\
         SELECT s.slot, s.epoch, s.node FROM (SELECT DISTINCT slot FROM want ORDER BY slot) w \
         CROSS JOIN LATERAL (\
             SELECT slot, epoch, node FROM epicserver.slot WHERE fabric = $1 AND slot = w.slot FOR SHARE) s), \
     fit AS MATERIALIZED (\
         SELECT w.* FROM want w JOIN held h ON h.slot = w.slot AND h.epoch = w.epoch AND h.node = w.node), \
     made AS (\
         INSERT INTO epicserver.record (fabric, name, version, tombstone, written, record) \
         SELECT $1, name, version, tombstone, written, record FROM fit \
         WHERE expected = 0 AND record IS NOT NULL \
         ON CONFLICT (fabric, name) DO NOTHING RETURNING name), \
     changed AS (\
         UPDATE epicserver.record r SET version = f.version, tombstone = f.tombstone, \
             written = f.written, record = f.record \
         FROM fit f WHERE r.fabric = $1 AND r.name = f.name AND r.version = f.expected \
             AND f.expected <> 0 AND f.record IS NOT NULL RETURNING r.name), \
     kept AS MATERIALIZED (\
         SELECT f.name FROM fit f JOIN epicserver.record r ON r.fabric = $1 AND r.name = f.name \
             AND r.version = f.expected WHERE f.record IS NULL FOR SHARE OF r), \
     absent AS (\
         SELECT f.name FROM fit f WHERE f.record IS NULL AND f.expected = 0 AND NOT EXISTS (\
             SELECT FROM epicserver.record r WHERE r.fabric = $1 AND r.name = f.name)), \
     done AS MATERIALIZED (\
         SELECT ord FROM fit WHERE (name IN (\
             SELECT name FROM made UNION ALL SELECT name FROM changed \
             UNION ALL SELECT name FROM kept UNION ALL SELECT name FROM absent)) IS TRUE), \
     beside AS MATERIALIZED (\
         SELECT b.name, b.version, b.written, b.record FROM unnest($12, $13, $14, $15, $16) \
         AS b(ord, name, version, written, record) WHERE (ord IN (SELECT ord FROM done)) IS TRUE), \
     put AS (\
         INSERT INTO epicserver.record (fabric, name, version, tombstone, written, record) \
         SELECT $1, name, version, false, written, record FROM beside WHERE record IS NOT NULL \
         ON CONFLICT (fabric, name) DO UPDATE SET version = excluded.version, \
             written = excluded.written, record = excluded.record), \
     removed AS (\
         DELETE FROM epicserver.record r USING beside b \
         WHERE r.fabric = $1 AND r.name = b.name AND b.record IS NULL) \
     SELECT w.ord, d.ord IS NOT NULL, h.epoch, h.node \
     FROM want w LEFT JOIN done d ON d.ord = w.ord LEFT JOIN held h ON h.slot = w.slot";

/// A number, so that the server's order is its.
pub(super) fn ordered(number: u64) -> i64 {
    (number ^ (1 << 63)).cast_signed()
}

/// The number that was kept so.
pub(super) fn from_ordered(number: i64) -> u64 {
    number.cast_unsigned() ^ (1 << 63)
}

/// The owner that a row says.
pub(super) fn owner_in(epoch: i64, node: i64) -> Owner {
    Owner { node: NodeId::new(node.cast_unsigned()), epoch: from_ordered(epoch) }
}

/// A row as it lies on a server.
pub(super) struct Stored {
    pub(super) name: Vec<u8>,
    version: i64,
    pub(super) record: Vec<u8>,
}

impl Stored {
    pub(super) fn parse(row: &tokio_postgres::Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self { name: row.try_get(0)?, version: row.try_get(1)?, record: row.try_get(2)? })
    }

    /// Its name, and the record that lies under it.
    pub(super) fn open(&self) -> (Name, Result<Record, Corrupt>) {
        let at = Name::at(&self.name);
        let Some(name) = Name::parse(&self.name) else {
            let found =
                Record::open_any(&self.record).map_or_else(|_| at.clone(), |(name, _)| name);
            return (at, Err(Corrupt { name: found, flaw: Flaw::Order }));
        };
        let record = Record::open(&name, &self.record).and_then(|record| {
            let fits = record.envelope().version == self.version.cast_unsigned();
            if fits { Ok(record) } else { Err(Corrupt { name: name.clone(), flaw: Flaw::Beside }) }
        });
        (name, record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_order_and_come_back() {
        let all = [0, 1, 5, i64::MAX.cast_unsigned(), 1 << 63, u64::MAX];
        assert!(all.map(ordered).is_sorted());
        assert_eq!(all.map(ordered).map(from_ordered), all);
    }
}
