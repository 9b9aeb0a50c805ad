//! The conformance suite, where this process has the file and where another end has it.

use std::os::unix::fs::FileExt as _;
use std::sync::Mutex;

use epicserver_store::conformance::{Lacks, Subject};
use epicserver_store::{Keeper, Name, Record, Store, TooMany, Wake};

use super::Files;
use crate::Shared;

/// Where a record lies in a file, and what it was.
#[derive(Default)]
struct Lies {
    name: Option<Name>,
    len: usize,
    at: Vec<usize>,
}

impl Lies {
    /// Finds all copies of the record that lies under `name` in `bytes`.
    fn find(name: &Name, bytes: &[u8]) -> Self {
        let wanted = name.as_bytes();
        let mut lies = Self { name: Some(name.clone()), ..Self::default() };
        let named = memchr(wanted, bytes);
        for at in named.into_iter().filter_map(|named| named.checked_sub(64)) {
            let payload = u32::from_le_bytes(bytes[at + 16..at + 20].try_into().unwrap());
            let len = (64 + wanted.len()).next_multiple_of(16) + payload as usize;
            if bytes.get(at..at + len).is_some_and(|found| Record::is_of(name, found)) {
                lies.len = len;
                lies.at.push(at);
            }
        }
        assert!(!lies.at.is_empty(), "{name:?} is not in the file");
        lies
    }
}

fn memchr(wanted: &[u8], bytes: &[u8]) -> Vec<usize> {
    let first = wanted[0];
    (0..bytes.len() - wanted.len())
        .filter(|at| bytes[*at] == first && bytes[*at..].starts_with(wanted))
        .collect()
}

/// Which end is tried.
#[derive(Clone, Copy)]
enum End {
    Near,
    Far,
}

struct OfFile(Files, Mutex<Lies>, End);

/// One that asks, and then the one that it asks, in the order in which they go.
#[derive(Debug)]
struct Far {
    far: Shared,
    near: Shared,
}

impl Keeper for Far {
    fn name(&self) -> &'static str {
        self.near.name()
    }

    fn handle(&self, wake: Wake) -> Result<Box<dyn Store>, TooMany> {
        self.far.handle(wake)
    }
}

impl OfFile {
    fn new(end: End) -> Self {
        Self(Files::new(), Mutex::default(), end)
    }
}

impl Subject for OfFile {
    fn open(&self) -> Box<dyn Keeper> {
        let near = self.0.open();
        assert!(near.holds());
        match self.2 {
            End::Near => Box::new(near),
            End::Far => {
                let far = self.0.open();
                assert!(!far.holds(), "SH1: both have it");
                Box::new(Far { far, near })
            }
        }
    }

    fn another(&self) -> Box<dyn Subject> {
        Box::new(Self::new(self.2))
    }

    fn flip(&self, name: &Name, bit: usize) -> bool {
        let mut lies = self.1.lock().unwrap();
        if lies.name.as_ref() != Some(name) {
            *lies = Lies::find(name, &std::fs::read(self.0.path()).unwrap());
        }
        if bit >= 8 * lies.len {
            return false;
        }
        let file = std::fs::File::options().read(true).write(true).open(self.0.path()).unwrap();
        for at in &lies.at {
            let (at, mut byte) = ((at + bit / 8) as u64, [0]);
            file.read_exact_at(&mut byte, at).unwrap();
            byte[0] ^= 1 << (bit % 8);
            file.write_all_at(&byte, at).unwrap();
        }
        true
    }
}

fn subject(end: End) -> Result<OfFile, Lacks> {
    Ok(OfFile::new(end))
}

epicserver_store::conformance!(mod near, subject(End::Near));
epicserver_store::conformance!(mod far, subject(End::Far));
