//! The files `.lease`, each with the record of a node, and what is seen of all leases together.
//!
//! A record is not synced: it is of use only while the machine runs. What a crash of the machine has torn belongs to a
//! process that is gone, and counts for nothing.
//!
//! # Not here
//! Until when a lease lasts: `alive`.

use std::path::PathBuf;
use std::time::Duration;

use epicserver_wire::NodeId;
use rustix::io::Errno;

use super::folder::{Folder, UNFINISHED};
use super::state::{seal, unseal};
use super::{Error, Why, alive};
use crate::{Ended, RECORD_BYTES_MAX};

const SUFFIX: &str = ".lease";
const KIND: &[u8; 8] = b"EPICNODE";
const FORMAT: u32 = 1;
const BOOT_BYTES: usize = 36;
const BYTES_MAX: usize = 8 + 4 + 8 + BOOT_BYTES + RECORD_BYTES_MAX;

/// Which run of which machine this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Boot([u8; BOOT_BYTES]);

impl Boot {
    pub(super) fn detect() -> Result<Self, Error> {
        let path = PathBuf::from("/proc/sys/kernel/random/boot_id");
        let io = |path, source| Error::Io { what: "read", path, source };
        let text = std::fs::read(&path);
        let text = text
            .map_err(|error| io(path.clone(), Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
        let id = text.first_chunk().copied().ok_or_else(|| io(path, Errno::INVAL))?;
        Ok(Self(id))
    }
}

/// A lease as it lies there.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) node: NodeId,
    /// `None` if the machine crashed while it was written.
    pub(super) record: Option<Vec<u8>>,
    /// Whether this run of the machine wrote it.
    fresh: bool,
    /// Until when it lasts; `None` if its process is gone.
    expires: Option<Duration>,
}

impl Seen {
    pub(super) fn left(&self, now: Duration) -> Duration {
        self.expires.map_or(Duration::ZERO, |expires| expires.saturating_sub(now))
    }

    pub(super) fn lasts(&self, now: Duration) -> bool {
        !self.left(now).is_zero()
    }
}

/// All leases that lie there, by node.
pub(super) fn see(folder: &Folder, boot: &Boot) -> Result<Vec<Seen>, Why> {
    let nodes = folder.names()?.into_iter().filter_map(|name| node_of(&name, SUFFIX));
    let mut seen = Vec::new();
    for node in nodes {
        seen.extend(see_one(folder, boot, node)?);
    }
    seen.sort_unstable_by_key(|seen: &Seen| seen.node);
    Ok(seen)
}

fn see_one(folder: &Folder, boot: &Boot, node: NodeId) -> Result<Option<Seen>, Why> {
    let name = file_name(node);
    let expires = alive::read(folder, node)?;
    let read = folder.read(&name, BYTES_MAX);
    let content = match read {
        Ok(None) => return Ok(None),
        Ok(Some(bytes)) => from_bytes(&bytes).map_err(|why| folder.why("use", &name, why)),
        Err(why) => Err(why),
    };
    match content {
        Ok((of, _)) if of != *boot && expires.is_some() => Err(folder.why(
            "use",
            &name,
            "a node of another machine keeps it: the coordinator `local` is for one machine",
        )),
        Ok((of, record)) => {
            Ok(Some(Seen { node, record: Some(record), fresh: of == *boot, expires }))
        }
        Err(why) if expires.is_some() => Err(why),
        Err(_) => Ok(Some(Seen { node, record: None, fresh: false, expires })),
    }
}

/// Whether `node` has a lease here, whatever is in it.
pub(super) fn exists(folder: &Folder, node: NodeId) -> Result<bool, Why> {
    folder.exists(&file_name(node))
}

/// Whether anybody has.
pub(super) fn any(folder: &Folder) -> Result<bool, Why> {
    Ok(folder.names()?.iter().any(|name| node_of(name, SUFFIX).is_some()))
}

pub(super) fn write(folder: &Folder, boot: &Boot, node: NodeId, record: &[u8]) -> Result<(), Why> {
    let body = [&boot.0[..], record].concat();
    folder.replace(&file_name(node), &seal(KIND, FORMAT, &body))
}

/// Removes what has no meaning any more: leases that have ended, those of an earlier run of the machine, those whose
/// process is gone without a whole record, and files that were never finished. For whoever is alone (**LO1**).
pub(super) fn remove_old(folder: &Folder, seen: &[Seen], ended: &Ended) -> Result<(), Why> {
    remove_ended(folder, seen, ended);
    for seen in seen.iter().filter(|seen| seen.expires.is_none() && !seen.fresh) {
        remove(folder, seen.node);
    }
    for name in folder.names()? {
        let alone = node_of(&name, alive::SUFFIX).is_some_and(|node| {
            !matches!(exists(folder, node), Ok(true)) && !alive::is_locked(folder, node)
        });
        if alone || name.ends_with(UNFINISHED) {
            folder.remove(&name);
        }
    }
    Ok(())
}

/// Removes the leases of those that have ended.
pub(super) fn remove_ended(folder: &Folder, seen: &[Seen], ended: &Ended) {
    for seen in seen.iter().filter(|seen| ended.contains(seen.node)) {
        remove(folder, seen.node);
    }
}

fn remove(folder: &Folder, node: NodeId) {
    folder.remove(&file_name(node));
    folder.remove(&alive::file_name(node));
}

fn from_bytes(bytes: &[u8]) -> Result<(Boot, Vec<u8>), String> {
    let body = unseal(KIND, FORMAT, bytes)?;
    let (boot, record) = body.split_first_chunk().ok_or("it is damaged")?;
    Ok((Boot(*boot), record.to_owned()))
}

fn file_name(node: NodeId) -> String {
    format!("{node}{SUFFIX}")
}

/// Whose file is called `name`, if it ends in `suffix`.
pub(super) fn node_of(name: &str, suffix: &str) -> Option<NodeId> {
    let text = name.strip_suffix(suffix)?;
    let node = NodeId::new(u64::from_str_radix(text, 16).ok()?);
    (node.to_string() == text).then_some(node)
}
