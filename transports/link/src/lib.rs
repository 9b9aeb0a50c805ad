//! Links: how frames get from one node to another, whatever carries them.
//!
//! A [`Transport`] is a value that one I/O thread owns and polls; nothing in it blocks. What waits for
//! the kernel on its behalf is a [`Driver`](driver::Driver), which all transports of the thread share.
//!
//! # Not here
//! What the bytes mean beyond where a message ends; who the peer is; any concrete transport.

pub mod buffers;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod driver;
pub mod framing;
pub mod pool;
mod transport;

pub use transport::{Address, Down, Event, Io, Parcel, Refused, Transport};
