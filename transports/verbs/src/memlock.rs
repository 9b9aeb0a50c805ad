//! How much memory this process may pin, which bounds what it can register.
//!
//! # Not here
//! Registering.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit as far as that needs no privilege. What there is then is given, in bytes; `None` if there is no
/// limit.
pub(crate) fn raise() -> Option<u64> {
    let limit = getrlimit(Resource::Memlock);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // One that cannot be raised stays as it is.
    match setrlimit(Resource::Memlock, wanted) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    }
}

/// What is said where the limit is too small.
pub(crate) fn hint() -> String {
    match getrlimit(Resource::Memlock).current {
        None => String::new(),
        Some(bytes) => format!(
            "; this process may pin {} KiB: set LimitMEMLOCK=infinity in its systemd unit, or \
             `* - memlock unlimited` in /etc/security/limits.conf and log in again",
            bytes / 1024
        ),
    }
}
