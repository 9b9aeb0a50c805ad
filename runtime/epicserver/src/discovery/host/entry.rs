//! Entries: what one node's file says.
//!
//! # Not here
//! Files. The invariants: they are in `host`.

use epicserver_link::Address;
use epicserver_wire::NodeId;
use serde::{Deserialize, Serialize};

use super::{ADDRESS_BYTES_MAX, ADDRESSES_MAX, ENTRY_BYTES_MAX, Found};

/// The form of entries. A node that writes another form is not found by this version.
const FORMAT: u32 = 1;

/// What follows a node's number in the name of its file.
const SUFFIX: &str = ".toml";

/// A node's file as it stands. Unknown keys are passed over: a later version may add some.
#[derive(Serialize, Deserialize)]
pub(super) struct Entry {
    format: u32,
    node: String,
    pid: u32,
    started_unix_ms: u64,
    addresses: Vec<String>,
}

impl Entry {
    /// The text for `found`; `None` if a reader would refuse it.
    pub(super) fn write(found: &Found) -> Option<String> {
        let entry = Self {
            format: FORMAT,
            node: found.node.to_string(),
            pid: found.pid,
            started_unix_ms: found.started_unix_ms,
            addresses: found.addresses.iter().map(ToString::to_string).collect(),
        };
        let text = toml::to_string(&entry).ok()?;
        (Self::read(&text, found.node).as_ref() == Some(found)).then_some(text)
    }

    /// What `text`, which stands in the file of `node`, says; `None` if that is no entry of it.
    pub(super) fn read(text: &str, node: NodeId) -> Option<Found> {
        if text.len() > ENTRY_BYTES_MAX {
            return None;
        }
        let entry: Self = toml::from_str(text).ok()?;
        let number = entry.addresses.len();
        let sound = entry.format == FORMAT
            && parse_node(&entry.node) == Some(node)
            && (1..=ADDRESSES_MAX).contains(&number)
            && entry.addresses.iter().all(|address| address.len() <= ADDRESS_BYTES_MAX);
        if !sound {
            return None;
        }
        let addresses: Option<Vec<Address>> =
            entry.addresses.iter().map(|address| Address::parse(address)).collect();
        let (pid, started_unix_ms) = (entry.pid, entry.started_unix_ms);
        Some(Found { node, pid, addresses: addresses?, started_unix_ms })
    }
}

/// The name of `node`'s file.
pub(super) fn file_name(node: NodeId) -> String {
    format!("{node}{SUFFIX}")
}

/// Whose file is called `name`, if it is an entry's.
pub(super) fn node_of(name: &str) -> Option<NodeId> {
    parse_node(name.strip_suffix(SUFFIX)?)
}

/// The node that is written `text`: one way to write each.
pub(in crate::discovery) fn parse_node(text: &str) -> Option<NodeId> {
    let node = NodeId::new(u64::from_str_radix(text, 16).ok()?);
    (node.to_string() == text).then_some(node)
}
