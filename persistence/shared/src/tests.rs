//! The shared store: the suite from both ends, its bytes, hostile peers, and changes of who has the file.

#![expect(
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    reason = "numbers are those of tests, and whatever else comes fails one"
)]

mod codes;
mod hostile;
mod scripted;
mod suite;
mod turns;

use std::path::PathBuf;
use std::time::Duration;

use epicserver_store::conformance::Scratch;

use crate::{Options, Shared, open};

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(60);

/// A file of a test's own, and what lies beside it.
struct Files(Scratch);

impl Files {
    fn new() -> Self {
        Self(Scratch::new("shared"))
    }

    fn path(&self) -> PathBuf {
        self.0.0.clone()
    }

    fn beside(&self, ending: &str) -> PathBuf {
        let mut path = self.path().into_os_string();
        path.push(ending);
        path.into()
    }

    fn options(&self) -> Options {
        Options {
            path: self.path(),
            fabric: "fabric".to_owned(),
            cache_bytes: 16 << 20,
            patience: LONG,
        }
    }

    fn open(&self) -> Shared {
        open(&self.options()).unwrap()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        for ending in [".lock", ".sock"] {
            // It may never have been there.
            let _removed = std::fs::remove_file(self.beside(ending));
        }
    }
}
