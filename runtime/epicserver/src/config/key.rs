//! The fabric's key: a secret that does not show itself.
//!
//! # Not here
//! Proving to know it: that is part of the handshake. The invariant: it is in `config` (CF3).

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::{KEY_BYTES_MAX, KEY_BYTES_MIN};

/// The bit of a file's mode that lets everybody read it.
const READ_BY_ALL: u32 = 0o004;

/// A secret that all nodes of a fabric share, of [`KEY_BYTES_MIN`] to [`KEY_BYTES_MAX`] bytes.
///
/// `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(Box<[u8]>);

impl Key {
    /// The key `secret`; `None` if it is shorter or longer than a key may be.
    #[must_use]
    pub fn new(secret: &[u8]) -> Option<Self> {
        (KEY_BYTES_MIN..=KEY_BYTES_MAX).contains(&secret.len()).then(|| Self(secret.into()))
    }

    /// The secret itself.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Reads the key from the file `path`, without the white space at its end.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let failed = |error: io::Error| format!("cannot read {}: {error}", path.display());
        let file = File::open(path).map_err(failed)?;
        let about = file.metadata().map_err(failed)?;
        if !about.is_file() {
            return Err(format!("{} is no regular file", path.display()));
        }
        if about.mode() & READ_BY_ALL != 0 {
            return Err(format!(
                "everybody may read {0} (mode {1:o}); chmod 600 {0}",
                path.display(),
                about.mode() & 0o7777
            ));
        }
        // One byte more than a key, and a line's end, tells that the file is too long.
        let mut secret = Vec::new();
        let most = u64::try_from(KEY_BYTES_MAX).map_or(u64::MAX, |most| most + 3);
        file.take(most).read_to_end(&mut secret).map_err(failed)?;
        Self::new(secret.trim_ascii_end())
            .ok_or_else(|| format!("{} holds no key: {}", path.display(), rule()))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(hidden)")
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // What the deserialiser has to say might quote what it found.
        let text = String::deserialize(deserializer).map_err(|_| D::Error::custom(rule()))?;
        Self::new(text.as_bytes()).ok_or_else(|| D::Error::custom(rule()))
    }
}

pub(super) fn rule() -> String {
    format!("a key is a text of {KEY_BYTES_MIN} to {KEY_BYTES_MAX} bytes")
}
