//! What a peer may send, as functions that take any bytes at all and panic if something is wrong.
//!
//! Each holds a part of the wire against a second, simpler account of what it should do. The targets of
//! the fuzzer call them with bytes that it makes up; a test calls them with the seeds it begins with.
//!
//! # Not here
//! Sound messages: the tests of each crate send those.

mod chunks;
mod handshake;
mod header;
mod hostlist;
mod input;
#[path = "../../../runtime/epicserver/src/discovery/hostlist.rs"]
mod lists;
mod payload;
pub mod seeds;
mod stream;
mod view;

pub use chunks::chunks;
pub use handshake::handshake;
pub use header::header;
pub use hostlist::hostlist;
pub use payload::payload;
pub use stream::stream;
pub use view::view;
