//! A device and what is made of it, safe to use.
//!
//! What a device may still touch is owned by the value that gave it to it, and is freed only after the device
//! was told to let go: a slot that was posted lies in its queue, a queue is shared by the pairs that use it, and
//! each thing keeps a share of what it was made from. So the order in which things end follows from ownership.
//!
//! # Invariants
//! - **D1** A pointer that the library gave is used until the one call that gives it back, and that call comes
//!   when nothing that was made from it is left.
//! - **D2** Memory that a device may touch is neither freed nor looked at before the device has said that it is
//!   done, or its registration or queue is gone. If that call fails, the memory is kept for ever.
//! - **D3** libibverbs may be called by any number of threads at once; its manual says so of every function.
//!
//! # Not here
//! What is sent; which device, port and address are chosen.

mod completion;
mod context;
mod memory;
mod pair;
mod shared;

use std::ffi::c_int;
use std::io;

pub(crate) use completion::{Channel, Completed, Completions, Ended};
pub(crate) use context::{Context, Domain, Limits, Port, devices};
pub(crate) use memory::{Outgoing, Piece, Region, Registered, Span};
pub(crate) use pair::{Local, Pair, PairOptions, Remote};
pub(crate) use shared::{Landing, SharedQueue};

/// A call that the library refused.
#[derive(Debug, thiserror::Error)]
#[error("{call} failed")]
pub(crate) struct DeviceError {
    /// Which.
    pub(crate) call: &'static str,
    /// Why.
    pub(crate) source: io::Error,
}

impl DeviceError {
    /// What the last call that gave no pointer left behind.
    fn last(call: &'static str) -> Self {
        Self { call, source: io::Error::last_os_error() }
    }
}

/// What a call that answers with a number of an error says.
fn check(call: &'static str, answer: c_int) -> Result<(), DeviceError> {
    match answer {
        0 => Ok(()),
        // Some calls answer so, and leave the number elsewhere.
        ..0 => Err(DeviceError::last(call)),
        number => Err(DeviceError { call, source: io::Error::from_raw_os_error(number) }),
    }
}

/// Gives something back, of which nobody wants to know more if that fails. Says whether it did not.
fn is_given_back(call: &'static str, answer: c_int) -> bool {
    match check(call, answer) {
        Ok(()) => true,
        Err(error) => {
            tracing::error!(%error, why = %error.source, "a device does not let go; what it has is kept");
            false
        }
    }
}
