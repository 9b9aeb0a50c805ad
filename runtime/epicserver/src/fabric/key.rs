//! The key that a node proves to know.
//!
//! Where none is configured, the nodes of one user on one host share one that the first of them draws,
//! in a file that only this user can read.
//!
//! # Not here
//! The proof itself.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::FabricError;
use crate::config::Config;

/// The file's name, in the fabric's folder.
const FILE: &str = "key";
/// How often a file that is being written by another node is looked at again.
const LOOKS: u32 = 100;

/// The key of `config`'s fabric, whose folder on this host is `folder`.
pub(super) fn of(config: &Config, folder: &Path) -> std::result::Result<[u8; 32], FabricError> {
    if let Some(key) = &config.fabric.key {
        return Ok(derive(config.fabric.name.to_string().as_bytes(), key.as_bytes()));
    }
    let path = folder.join(FILE);
    shared(&path).map_err(|source| FabricError::Key { path, source })
}

/// Two fabrics that are given one secret still have keys of their own.
fn derive(fabric: &[u8], secret: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"epicserver fabric key 1");
    hash.update((fabric.len() as u64).to_le_bytes());
    hash.update(fabric);
    hash.update(secret);
    hash.finalize().into()
}

/// The key that the ends of a link over verbs prove to know before there is one, made of the fabric's.
pub(super) fn for_verbs(key: &[u8; 32]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"epicserver verbs key 1");
    hash.update(key);
    hash.finalize().into()
}

/// Reads the shared key, or draws it.
fn shared(path: &Path) -> Result<[u8; 32]> {
    for _ in 0..LOOKS {
        match File::open(path) {
            Ok(file) => return read(file),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        match draw(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            drawn => return drawn,
        }
    }
    Err(Error::new(ErrorKind::NotFound, "the file comes and goes"))
}

fn read(mut file: File) -> Result<[u8; 32]> {
    let mut key = [0; 32];
    file.read_exact(&mut key)?;
    Ok(key)
}

/// Writes a new key under a name of its own, and gives it the right one if nobody else has done so.
fn draw(path: &Path) -> Result<[u8; 32]> {
    let mut key = [0; 32];
    rustix::rand::getrandom(&mut key, rustix::rand::GetRandomFlags::empty())?;
    // Two nodes may be of one process, and a killed one may have left its own.
    let own = path.with_extension(format!("{:016x}", super::random()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&own)?;
    let written = file.write_all(&key).and_then(|()| std::fs::hard_link(&own, path));
    std::fs::remove_file(&own)?;
    written.map(|()| key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_node_draws_a_key_and_the_others_read_it() {
        let folder = std::env::temp_dir().join(format!("epic-key-test-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(FILE);
        let first = shared(&path).unwrap();
        assert_eq!(shared(&path).unwrap(), first);
        assert_ne!(first, [0; 32]);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn nodes_that_start_at_once_in_one_process_agree_on_a_key() {
        for round in 0..50 {
            let name = format!("epic-keys-test-{}-{round}", std::process::id());
            let folder = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&folder).unwrap();
            let path = folder.join(FILE);
            let drawing: Vec<_> = (0..8)
                .map(|_| {
                    let path = path.clone();
                    std::thread::spawn(move || shared(&path))
                })
                .collect();
            let keys: Vec<_> =
                drawing.into_iter().map(|key| key.join().unwrap().unwrap()).collect();
            assert!(keys.iter().all(|key| *key == keys[0]));
            assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "nothing else is left");
            std::fs::remove_dir_all(&folder).unwrap();
        }
    }

    #[test]
    fn one_secret_gives_two_fabrics_two_keys() {
        assert_ne!(derive(b"a", b"secret"), derive(b"b", b"secret"));
        assert_eq!(derive(b"a", b"secret"), derive(b"a", b"secret"));
    }
}
