//! Wakes: how whoever polls is told that it should.
//!
//! # Not here
//! What there is to poll.

use std::fmt;
use std::sync::Arc;

/// Called, from any thread, when a handle has answers. It must not block, and may be called for nothing.
#[derive(Clone)]
pub struct Wake(Arc<dyn Fn() + Send + Sync>);

impl Wake {
    /// A wake that calls `ring`: one that unparks a thread, or writes to an eventfd.
    pub fn new(ring: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(ring))
    }

    /// Tells whoever polls.
    pub fn ring(&self) {
        (self.0)();
    }
}

impl fmt::Debug for Wake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wake")
    }
}
