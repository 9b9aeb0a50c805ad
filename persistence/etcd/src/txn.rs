//! Transactions, as etcd's JSON interface has them.
//!
//! # Not here
//! Which ones.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::gateway::Gateway;
use crate::keys::behind;

/// A transaction: what is compared, what is done if all of it holds, and what if not.
#[derive(Debug, Default)]
pub(crate) struct Txn {
    pub(crate) compare: Vec<Value>,
    pub(crate) then: Vec<Value>,
    pub(crate) otherwise: Vec<Value>,
}

/// What came of one.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) header: Header,
    pub(crate) held: bool,
    /// What each of the things done gave.
    responses: Vec<Value>,
}

/// Who answered, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub(crate) revision: i64,
    pub(crate) from: From,
}

/// A member, in a term.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct From {
    member: u64,
    term: u64,
}

/// A key with its value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Pair {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    pub(crate) modified: i64,
}

impl Txn {
    pub(crate) async fn send(self, gateway: &mut Gateway) -> Result<Done, String> {
        let Self { compare, then, otherwise } = self;
        let body = json!({ "compare": compare, "success": then, "failure": otherwise });
        let answer = gateway.call("/v3/kv/txn", &body).await?;
        let responses = answer["responses"].as_array().cloned().unwrap_or_default();
        let held = answer["succeeded"].as_bool().unwrap_or(false);
        Ok(Done { header: header(&answer)?, held, responses })
    }
}

impl Done {
    /// What the range at `index` of the things done gave.
    pub(crate) fn range(&self, index: usize) -> Result<Vec<Pair>, String> {
        let range = self.response(index)?;
        let pairs = range["kvs"].as_array().map_or(&[][..], Vec::as_slice);
        pairs.iter().map(pair).collect()
    }

    /// The one pair that the range at `index` gave, if there is one.
    pub(crate) fn one(&self, index: usize) -> Result<Option<Pair>, String> {
        Ok(self.range(index)?.pop())
    }

    /// How many pairs the range at `index` counted.
    pub(crate) fn count(&self, index: usize) -> Result<usize, String> {
        let count = integer(&self.response(index)?["count"])?;
        usize::try_from(count).map_err(|_| NOT_ETCD.to_owned())
    }

    fn response(&self, index: usize) -> Result<&Value, String> {
        let response = self.responses.get(index).ok_or(NOT_ETCD)?;
        response.get("response_range").ok_or_else(|| NOT_ETCD.to_owned())
    }
}

const NOT_ETCD: &str = "what answers does not speak as etcd does";

/// That `key` was last changed at `revision`; 0 if it is not there.
pub(crate) fn unchanged(key: &str, revision: i64) -> Value {
    json!({ "key": encode(key), "target": "MOD", "mod_revision": revision.to_string() })
}

/// That `key` is there and hangs on `lease`.
pub(crate) fn hangs_on(key: &str, lease: i64) -> Value {
    json!({ "key": encode(key), "target": "LEASE", "lease": lease.to_string() })
}

/// That all keys that begin with `prefix` were there at `revision` already.
pub(crate) fn none_made_after(prefix: &str, revision: i64) -> Value {
    json!({
        "key": encode(prefix), "range_end": encode(behind(prefix)),
        "target": "CREATE", "result": "LESS", "create_revision": (revision + 1).to_string(),
    })
}

/// Gives `key`.
pub(crate) fn get(key: &str) -> Value {
    json!({ "request_range": { "key": encode(key) } })
}

/// Gives all keys that begin with `prefix`, in their order.
pub(crate) fn get_all(prefix: &str) -> Value {
    json!({ "request_range": { "key": encode(prefix), "range_end": encode(behind(prefix)) } })
}

/// The same, without values.
pub(crate) fn get_names(prefix: &str) -> Value {
    json!({ "request_range":
        { "key": encode(prefix), "range_end": encode(behind(prefix)), "keys_only": true } })
}

/// Counts them.
pub(crate) fn count(prefix: &str) -> Value {
    json!({ "request_range":
        { "key": encode(prefix), "range_end": encode(behind(prefix)), "count_only": true } })
}

/// Writes `value` to `key`.
pub(crate) fn put(key: &str, value: impl AsRef<[u8]>) -> Value {
    json!({ "request_put": { "key": encode(key), "value": encode(value) } })
}

/// The same, and the key goes with `lease`.
pub(crate) fn put_on(key: &str, value: impl AsRef<[u8]>, lease: i64) -> Value {
    json!({ "request_put": { "key": encode(key), "value": encode(value), "lease": lease.to_string() } })
}

/// Removes `key`.
pub(crate) fn remove(key: &str) -> Value {
    json!({ "request_delete_range": { "key": encode(key) } })
}

/// Removes all keys from `first` on that come before `end`.
pub(crate) fn remove_between(first: &str, end: impl AsRef<[u8]>) -> Value {
    json!({ "request_delete_range": { "key": encode(first), "range_end": encode(end) } })
}

pub(crate) fn encode(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

/// A number, which is written as a text; one that is 0 is left out.
pub(crate) fn integer(value: &Value) -> Result<i64, String> {
    match value {
        Value::Null => Ok(0),
        Value::String(text) => text.parse().map_err(|_| NOT_ETCD.to_owned()),
        Value::Number(number) => number.as_i64().ok_or_else(|| NOT_ETCD.to_owned()),
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => Err(NOT_ETCD.to_owned()),
    }
}

pub(crate) fn header(answer: &Value) -> Result<Header, String> {
    let header = &answer["header"];
    // Ids of members use all 64 bits.
    let unsigned = |name: &str| {
        let text = header[name].as_str().ok_or(NOT_ETCD)?;
        text.parse::<u64>().map_err(|_| NOT_ETCD.to_owned())
    };
    let from = From { member: unsigned("member_id")?, term: unsigned("raft_term")? };
    Ok(Header { revision: integer(&header["revision"])?, from })
}

fn pair(value: &Value) -> Result<Pair, String> {
    let bytes = |name: &str| {
        let text = value[name].as_str().unwrap_or_default();
        STANDARD.decode(text).map_err(|_| NOT_ETCD.to_owned())
    };
    Ok(Pair {
        key: bytes("key")?,
        value: bytes("value")?,
        modified: integer(&value["mod_revision"])?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_however_they_are_written() {
        assert_eq!(integer(&json!("7587899174318372615")), Ok(7_587_899_174_318_372_615));
        assert_eq!(integer(&json!(12)), Ok(12));
        assert_eq!(integer(&json!({})["left out"]), Ok(0));
        for none in [json!("x"), json!(1.5), json!([]), json!(true)] {
            assert!(integer(&none).is_err(), "{none}");
        }
    }

    #[test]
    fn an_answer_of_something_else_is_refused() {
        assert!(header(&json!({})).is_err());
        assert!(header(&json!({ "header": { "member_id": "1", "raft_term": "-2" } })).is_err());
        let sound = json!({ "header": { "member_id": "14841639068965178418", "raft_term": "2" } });
        assert_eq!(header(&sound).unwrap().revision, 0);
        assert!(pair(&json!({ "key": "!" })).is_err());
    }
}
