//! Pages: how a store gathers rows in order until there are enough.
//!
//! # Not here
//! Reading the rows.

use crate::limits::PAGE_BYTES_MAX;
use crate::{Answer, Corrupt, Flaw, Name, Range, Record};

/// A page of a scan, being filled.
#[derive(Debug)]
pub struct Page {
    range: Range,
    limit: usize,
    rows: Vec<Result<Record, Corrupt>>,
    last: Option<Name>,
    seen: usize,
    bytes: usize,
    full: bool,
}

impl Page {
    /// An empty page of `range` for `limit` rows.
    #[must_use]
    pub fn new(range: Range, limit: usize) -> Self {
        Self { range, limit, rows: Vec::new(), last: None, seen: 0, bytes: 0, full: false }
    }

    /// Takes in the row that lies under `name` as `bytes`; says whether there is room for another one.
    pub fn push(&mut self, name: &[u8], bytes: &[u8]) -> bool {
        let (name, row) = opened(name, bytes);
        self.push_row(name, row, bytes.len())
    }

    /// The same for one that was checked before, and whose record has `bytes` bytes.
    pub fn push_row(&mut self, name: Name, row: Result<Record, Corrupt>, bytes: usize) -> bool {
        // One that is no name is reported by every scan that meets it.
        if row.is_err() || self.range.has(&name) {
            self.rows.push(row);
        }
        self.last = Some(name);
        // Those that are left out count, so that whoever fetches as many rows as there is room for has a full page.
        self.seen += 1;
        self.bytes += bytes;
        self.full = self.seen >= self.limit || self.bytes >= PAGE_BYTES_MAX;
        !self.full
    }

    /// The page, when there are no more rows or it is full.
    #[must_use]
    pub fn finish(self) -> Answer {
        let next = if self.full { self.last } else { None };
        Answer::Scanned { rows: self.rows, next }
    }
}

/// A page of a verification, being filled.
#[derive(Debug)]
pub struct Verify {
    limit: usize,
    sound: usize,
    corrupt: Vec<Corrupt>,
    last: Option<Name>,
    bytes: usize,
    full: bool,
}

impl Verify {
    /// An empty page for `limit` rows.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, sound: 0, corrupt: Vec::new(), last: None, bytes: 0, full: false }
    }

    /// Takes in the row that lies under `name` as `bytes`; says whether there is room for another one.
    pub fn push(&mut self, name: &[u8], bytes: &[u8]) -> bool {
        let (name, row) = looked(name, bytes);
        self.push_row(name, row, bytes.len())
    }

    /// The same for one that was checked before, and whose record has `bytes` bytes.
    pub fn push_row(&mut self, name: Name, row: Result<(), Corrupt>, bytes: usize) -> bool {
        match row {
            Ok(()) => self.sound += 1,
            Err(corrupt) => self.corrupt.push(corrupt),
        }
        self.last = Some(name);
        self.bytes += bytes;
        let rows = self.sound + self.corrupt.len();
        self.full = rows >= self.limit || self.bytes >= PAGE_BYTES_MAX;
        !self.full
    }

    /// The page, when there are no more rows or it is full.
    #[must_use]
    pub fn finish(self) -> Answer {
        let next = if self.full { self.last } else { None };
        Answer::Verified { sound: self.sound, corrupt: self.corrupt, next }
    }
}

/// The row that lies under `name` as `bytes`. If that is no name, the record may tell whose it is.
fn opened(name: &[u8], bytes: &[u8]) -> (Name, Result<Record, Corrupt>) {
    let Some(name) = Name::parse(name) else { return nameless(name, bytes) };
    let row = Record::open(&name, bytes).map_err(|corrupt| told(corrupt, bytes));
    (name, row)
}

fn looked(name: &[u8], bytes: &[u8]) -> (Name, Result<(), Corrupt>) {
    let Some(name) = Name::parse(name) else {
        let (at, row) = nameless(name, bytes);
        return (at, row.map(|_| ()));
    };
    let row = Record::look(&name, bytes).map(|_| ()).map_err(|corrupt| told(corrupt, bytes));
    (name, row)
}

/// A record that is whole but lies elsewhere is named by what it says of itself.
fn told(corrupt: Corrupt, bytes: &[u8]) -> Corrupt {
    match Record::open_any(bytes) {
        Ok((name, _)) => Corrupt { name, flaw: corrupt.flaw },
        Err(_) => corrupt,
    }
}

fn nameless(at: &[u8], bytes: &[u8]) -> (Name, Result<Record, Corrupt>) {
    let name = Record::open_any(bytes).map_or_else(|_| Name::raw(at), |(name, _)| name);
    (Name::raw(at), Err(Corrupt { name, flaw: Flaw::Order }))
}
