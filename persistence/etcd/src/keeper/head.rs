//! The head: the number of the view, and who has ended.
//!
//! # Not here
//! The bytes of the view.

use epicserver_coordinator::Ended;
use serde_json::Value;

use super::{Keeper, foreign};
use crate::VIEW_BYTES_MAX;
use crate::txn::{Done, Txn, count, get, put, unchanged};

/// How `number` is written.
const FORMAT: &str = "1";

/// What `number` and `ended` say, of one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Head {
    /// 0 if there is no view.
    pub(super) number: u64,
    /// Tells views of one number apart that were not made with one that was.
    pub(super) nonce: u64,
    /// Bytes of the view.
    pub(super) length: usize,
    pub(super) ended: Ended,
    /// When `number` was written last; 0 if it is not there.
    pub(super) modified: i64,
    /// How many leases there are.
    pub(super) records: usize,
}

impl Head {
    /// What reading it does in a transaction, before what is done also.
    pub(super) const OPERATIONS: usize = 3;

    /// Reads it, and does `also` in the same transaction.
    pub(super) async fn read(
        keeper: &mut Keeper,
        also: Vec<Value>,
    ) -> Result<(Self, Done), String> {
        let keys = &keeper.keys;
        let mut then = vec![get(&keys.number()), get(&keys.ended()), count(&keys.all_records())];
        then.extend(also);
        let done = keeper.send(Txn { then, ..Txn::default() }).await?;
        let records = done.count(2)?;
        let Some(number) = done.one(0)? else {
            if records > 0 {
                let key = keeper.keys.number();
                return Err(format!("the key {key} is gone, and there are leases"));
            }
            let ended = Ended::default();
            let none = Self { number: 0, nonce: 0, length: 0, ended, modified: 0, records };
            return Ok((none, done));
        };
        let modified = number.modified;
        let (number, nonce, length) = parse(&number.value).ok_or_else(|| foreign(&number.key))?;
        let ended = match done.one(1)? {
            Some(pair) => Ended::from_bytes(&pair.value).ok_or_else(|| foreign(&pair.key))?,
            None => Ended::default(),
        };
        Ok((Self { number, nonce, length, ended, modified, records }, done))
    }

    /// The number of the view in a transaction that got only that, first.
    pub(super) fn number_in(done: &Done) -> Result<u64, String> {
        let Some(pair) = done.one(0)? else {
            return Err("the number is gone, and there are leases".to_owned());
        };
        let (number, _, _) = parse(&pair.value).ok_or_else(|| foreign(&pair.key))?;
        Ok(number)
    }

    /// That it is still what it was.
    pub(super) fn unchanged(&self, keeper: &Keeper) -> Value {
        unchanged(&keeper.keys.number(), self.modified)
    }

    /// What writes it, if it is not there yet.
    pub(super) fn begin(&self, keeper: &Keeper) -> Option<Value> {
        (self.modified == 0).then(|| put(&keeper.keys.number(), self.text()))
    }

    /// What is written to `number`.
    pub(super) fn text(&self) -> String {
        format!("{FORMAT} {} {:016x} {}", self.number, self.nonce, self.length)
    }
}

/// Number, nonce and length.
fn parse(value: &[u8]) -> Option<(u64, u64, usize)> {
    let words: Vec<&str> = str::from_utf8(value).ok()?.split(' ').collect();
    let [FORMAT, number, nonce, length] = words[..] else { return None };
    let length = length.parse().ok().filter(|length| *length <= VIEW_BYTES_MAX)?;
    Some((number.parse().ok()?, u64::from_str_radix(nonce, 16).ok()?, length))
}
