//! Texts that may hold a password.
//!
//! # Not here
//! The fabric's key: that is bytes, with rules of its own.

use std::fmt;

use serde::Deserialize;

/// A text that is in no message and in no `Debug` output.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct Secret(String);

impl Secret {
    /// The text `secret`.
    #[must_use]
    pub fn new(secret: &str) -> Self {
        Self(secret.to_owned())
    }

    /// The text, for whoever needs it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_show_itself() {
        assert_eq!(format!("{:?}", Secret::new("swordfish")), "Secret(hidden)");
        assert_eq!(Secret::new("swordfish").reveal(), "swordfish");
    }
}
