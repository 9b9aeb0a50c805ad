//! The entities that are called, and the journal that their turns are written into.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use epicserver::prelude::*;

use crate::Failure;
use crate::journal::Entry;

static JOURNAL: OnceLock<File> = OnceLock::new();
static NODE: OnceLock<u32> = OnceLock::new();

/// This process is node `node`, and appends to the journal at `path`.
pub(crate) fn write_to(path: &Path, node: u32) -> Result<(), Failure> {
    let file = File::options().append(true).create(true).open(path)?;
    JOURNAL.set(file).map_err(|_| "there is a journal already")?;
    NODE.set(node).map_err(|_| "the node has a number already")?;
    Ok(())
}

/// How a turn went.
#[message]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Hit {
    /// The node that it ran on.
    pub(crate) node: u32,
    /// The fence of its owner.
    pub(crate) fence: u64,
    /// How many turns this activation has had.
    pub(crate) count: u32,
}

/// An entity that counts its turns.
#[entity(key = u64)]
#[derive(Default)]
pub(crate) struct Account {
    count: u32,
}

#[entity]
impl Account {
    /// Call number `call`: one more line in the journal.
    pub fn hit(&mut self, at: At<Self>, call: u64) -> Hit {
        self.count += 1;
        let node = NODE.get().copied().unwrap_or(u32::MAX);
        let hit = Hit { node, fence: at.fence(), count: self.count };
        let entry = Entry { call, key: at.key(), fence: hit.fence, count: hit.count, node };
        // One write of an appending file is one line, whoever else writes.
        let written = JOURNAL.get().map(|mut journal| journal.write(&entry.write()));
        assert!(
            matches!(written, Some(Ok(Entry::BYTES))),
            "the journal takes the line: {written:?}"
        );
        hit
    }

    /// Lets another one do it.
    pub async fn relay(cx: Cx<Self>, call: u64, to: Ref<Self>) -> Result<Hit> {
        // What this one has is not looked at, but another owner of it must not do this too.
        cx.with(|account| account.count |= 0);
        to.hit(call).await
    }

    /// A turn that keeps its shard for so many milliseconds.
    pub fn hog(&mut self, millis: u64) {
        let until = Instant::now() + Duration::from_millis(millis);
        while Instant::now() < until {}
    }
}
