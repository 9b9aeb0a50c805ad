//! What turns have written down, and whether it fits what callers were told.
//!
//! # Not here
//! Who writes: entities, from all processes.

use std::collections::HashMap;
use std::path::Path;

use epicserver::Ran;

use crate::Failure;
use crate::load::Done;

/// One turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) call: u64,
    pub(crate) key: u64,
    pub(crate) fence: u64,
    pub(crate) count: u32,
    pub(crate) node: u32,
}

impl Entry {
    /// Bytes of a line.
    pub(crate) const BYTES: usize = 32;

    pub(crate) fn write(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.call.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.key.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.fence.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.count.to_le_bytes());
        bytes[28..].copy_from_slice(&self.node.to_le_bytes());
        bytes
    }

    fn read(bytes: &[u8; Self::BYTES]) -> Self {
        let long = |at: usize| {
            let bytes = bytes[at..].first_chunk().copied();
            u64::from_le_bytes(bytes.unwrap_or_default())
        };
        let short = |at: usize| {
            let bytes = bytes[at..].first_chunk().copied();
            u32::from_le_bytes(bytes.unwrap_or_default())
        };
        Self { call: long(0), key: long(8), fence: long(16), count: short(24), node: short(28) }
    }
}

/// All turns, in the order in which they were written.
pub(crate) fn read(path: &Path) -> Result<Vec<Entry>, Failure> {
    let bytes = std::fs::read(path)?;
    let (lines, rest) = bytes.as_chunks::<{ Entry::BYTES }>();
    if !rest.is_empty() {
        return Err("the journal ends in the middle of a line".into());
    }
    Ok(lines.iter().map(Entry::read).collect())
}

/// What the journal refuses: lines of owners that had been replaced, since a line of a later one comes before them.
/// One of each process may be among them: its turn that was under way when the process was stopped.
pub(crate) fn refused(entries: &[Entry]) -> Vec<Entry> {
    let mut fences: HashMap<u64, u64> = HashMap::new();
    let late = |entry: &&Entry| {
        let fence = fences.entry(entry.key).or_default();
        *fence = entry.fence.max(*fence);
        entry.fence < *fence
    };
    entries.iter().filter(late).copied().collect()
}

/// What does not fit, at most a few of each kind, where `refused` are those that are [refused](refused()):
/// - a process has begun no turn after it was replaced: no more than one of its lines is refused;
/// - of the others each owner's turns of one entity are of one node and counted without a gap or a repeat: it was alive
///   in one place at a time;
/// - no call ran twice, each that was answered ran as its answer says, none of them was refused, and none that "did not
///   run" did.
pub(crate) fn check(entries: &[Entry], refused: &[Entry], calls: &[Done]) -> Vec<String> {
    let mut wrong = Wrong::default();
    let mut stopped: HashMap<u32, Entry> = HashMap::new();
    for entry in refused {
        if let Some(before) = stopped.insert(entry.node, *entry) {
            wrong.note("turns of an owner that had been replaced", format!("{before:?} {entry:?}"));
        }
    }
    let mut last: HashMap<u64, Entry> = HashMap::new();
    let mut ran: HashMap<u64, Entry> = HashMap::new();
    for entry in entries {
        if let Some(before) = ran.insert(entry.call, *entry) {
            wrong.note("a call that ran twice", format!("{before:?} {entry:?}"));
        }
        if refused.contains(entry) {
            continue;
        }
        if let Some(before) = last.insert(entry.key, *entry) {
            let same = entry.fence == before.fence;
            if same && entry.node != before.node {
                wrong.note("two owners in one epoch", format!("{before:?} {entry:?}"));
            } else if same && entry.count != before.count + 1 {
                wrong.note("turns of two activations", format!("{before:?} {entry:?}"));
            }
        }
    }
    for done in calls {
        let entry = ran.get(&done.call);
        match (&done.outcome, entry) {
            (Ok(hit), Some(entry))
                if (hit.node, hit.fence, hit.count) == (entry.node, entry.fence, entry.count)
                    && !refused.contains(entry) => {}
            (Ok(_), _) => {
                wrong.note("an answer to what did not run so", format!("{done:?} {entry:?}"))
            }
            (Err(error), Some(entry)) if error.ran() == Ran::No => {
                wrong.note(
                    "a call that ran, and its caller was told it did not",
                    format!("{done:?} {entry:?}"),
                );
            }
            (Err(_), _) => {}
        }
    }
    wrong.told
}

/// A few examples of each kind.
#[derive(Default)]
struct Wrong {
    told: Vec<String>,
    counts: HashMap<&'static str, u32>,
}

impl Wrong {
    fn note(&mut self, kind: &'static str, example: String) {
        let count = self.counts.entry(kind).or_default();
        *count += 1;
        if *count <= 3 {
            self.told.push(format!("{kind}: {example}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::account::Hit;

    fn entry(call: u64, fence: u64, count: u32, node: u32) -> Entry {
        Entry { call, key: 1, fence, count, node }
    }

    fn answered(call: u64, fence: u64, count: u32, node: u32) -> Done {
        let outcome = Ok(Hit { node, fence, count });
        Done { call, key: 1, relayed: false, began: Instant::now(), took: Duration::ZERO, outcome }
    }

    fn checked(entries: &[Entry], calls: &[Done]) -> Vec<String> {
        check(entries, &refused(entries), calls)
    }

    #[test]
    fn a_line_reads_as_it_was_written() {
        let entry = Entry { call: 1 << 40, key: 2, fence: 3, count: 4, node: 5 };
        assert_eq!(Entry::read(&entry.write()), entry);
    }

    #[test]
    fn one_owner_after_another_is_as_it_should_be() {
        let entries = [entry(1, 1, 1, 0), entry(2, 1, 2, 0), entry(3, 2, 1, 1)];
        assert_eq!(checked(&entries, &[answered(2, 1, 2, 0), answered(3, 2, 1, 1)]), [""; 0]);
    }

    #[test]
    fn a_turn_that_was_under_way_is_refused_when_it_ends_under_a_later_owner() {
        let entries = [entry(1, 1, 1, 0), entry(2, 2, 1, 1), entry(3, 1, 2, 0)];
        assert_eq!(refused(&entries), entries[2..]);
        assert_eq!(checked(&entries, &[]), [""; 0]);
    }

    #[test]
    fn each_thing_that_does_not_fit_is_told() {
        let told = |entries: &[Entry], calls: &[Done]| checked(entries, calls).concat();
        let late = [entry(1, 2, 1, 1), entry(2, 1, 1, 0), entry(3, 1, 2, 0)];
        assert!(told(&late, &[]).contains("had been replaced"));
        assert!(told(&late[..2], &[answered(2, 1, 1, 0)]).contains("did not run so"));
        assert!(told(&[entry(1, 1, 1, 1), entry(2, 1, 2, 0)], &[]).contains("two owners"));
        assert!(told(&[entry(1, 1, 1, 1), entry(2, 1, 1, 1)], &[]).contains("two activations"));
        assert!(told(&[entry(1, 1, 1, 1), entry(1, 1, 2, 1)], &[]).contains("ran twice"));
        assert!(told(&[], &[answered(1, 1, 1, 1)]).contains("did not run so"));
        assert!(told(&[entry(1, 1, 1, 1)], &[answered(1, 1, 2, 1)]).contains("did not run so"));
    }
}
