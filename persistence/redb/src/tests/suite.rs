//! The conformance suite, on a real file and on a disk of the tests' own.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::{Mutex, MutexGuard};

use epicserver_store::conformance::{Lacks, Scratch, Subject};
use epicserver_store::{Keeper, Name, Record};

use super::disk::Disk;
use crate::{Options, Redb, open};

/// Where a record lies, and what it was.
#[derive(Default)]
struct Place {
    name: Option<Name>,
    whole: Vec<u8>,
    at: Vec<usize>,
}

impl Place {
    /// Finds all copies of the record that lies under `name` in `bytes`.
    fn find(name: &Name, bytes: &[u8]) -> Self {
        let wanted = name.as_bytes();
        let mut place = Self { name: Some(name.clone()), ..Self::default() };
        let first = wanted[0];
        for end in (0..bytes.len() - wanted.len()).filter(|at| bytes[*at] == first) {
            let Some(at) = end.checked_sub(64).filter(|_| bytes[end..].starts_with(wanted)) else {
                continue;
            };
            let payload = u32::from_le_bytes(bytes[at + 16..at + 20].try_into().unwrap());
            let len = (64 + wanted.len()).next_multiple_of(16) + payload as usize;
            let Some(found) = bytes.get(at..at + len) else { continue };
            if Record::is_of(name, found) {
                place.whole = found.to_vec();
                place.at.push(at);
            }
        }
        assert!(!place.at.is_empty(), "{name:?} is not in the file");
        place
    }
}

fn lock(place: &Mutex<Place>) -> MutexGuard<'_, Place> {
    place.lock().unwrap()
}

/// Flips a bit in all copies; `read` and `write` are those of the file.
fn flip(
    place: &Mutex<Place>,
    name: &Name,
    bit: usize,
    all: impl FnOnce() -> Vec<u8>,
    mut write: impl FnMut(usize),
) -> bool {
    let mut place = lock(place);
    if place.name.as_ref() != Some(name) {
        *place = Place::find(name, &all());
    }
    if bit >= 8 * place.whole.len() {
        return false;
    }
    place.at.iter().for_each(|at| write(at + bit / 8));
    true
}

/// A file of its own.
struct OfFile(Scratch, Mutex<Place>);

impl OfFile {
    fn new() -> Self {
        Self(Scratch::new("redb"), Mutex::default())
    }
}

impl Subject for OfFile {
    fn open(&self) -> Box<dyn Keeper> {
        let path = self.0.0.clone();
        let options = Options { path, fabric: "fabric".to_owned(), cache_bytes: 16 << 20 };
        Box::new(open(&options).unwrap())
    }

    fn another(&self) -> Box<dyn Subject> {
        Box::new(Self::new())
    }

    fn flip(&self, name: &Name, bit: usize) -> bool {
        let all = || std::fs::read(&self.0.0).unwrap();
        flip(&self.1, name, bit, all, |at| {
            let file = File::options().read(true).write(true).open(&self.0.0).unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, at as u64).unwrap();
            byte[0] ^= 1 << (bit % 8);
            file.write_all_at(&byte, at as u64).unwrap();
        })
    }
}

fn file() -> Result<OfFile, Lacks> {
    Ok(OfFile::new())
}

/// A disk of the tests' own.
struct OfDisk(Disk, Mutex<Place>);

impl Subject for OfDisk {
    fn open(&self) -> Box<dyn Keeper> {
        Box::new(Redb::start(self.0.book().unwrap()).unwrap())
    }

    fn another(&self) -> Box<dyn Subject> {
        Box::new(Self(Disk::default(), Mutex::default()))
    }

    fn flip(&self, name: &Name, bit: usize) -> bool {
        flip(
            &self.1,
            name,
            bit,
            || self.0.bytes(),
            |at| {
                self.0.with_bytes(|bytes| bytes[at] ^= 1 << (bit % 8));
            },
        )
    }
}

fn disk() -> Result<OfDisk, Lacks> {
    Ok(OfDisk(Disk::default(), Mutex::default()))
}

epicserver_store::conformance!(mod on_a_file, file());
epicserver_store::conformance!(mod on_a_disk, disk());
