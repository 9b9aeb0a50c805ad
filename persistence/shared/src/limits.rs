//! Every bound of sharing in one place. What is full refuses.
//!
//! # Not here
//! Bounds of stores: `epicserver_store::limits`.

use std::time::Duration;

use epicserver_store::limits::{
    ID_BYTES_MAX, NAME_BYTES_MAX, OPS_BYTES_MAX, PAGE_BYTES_MAX, PAGE_MAX, RECORD_BYTES_MAX,
    ROWS_MAX, SAVES_MAX, SLOTS_MAX,
};

/// Bytes of records in one op; a longer one is refused, whoever has the file.
pub const OP_BYTES_MAX: usize = OPS_BYTES_MAX + RECORD_BYTES_MAX;
/// Longest frame, in bytes.
pub const FRAME_BYTES_MAX: usize = 256 << 20;
/// Longest frame of one who has not said yet who it is, in bytes.
pub const HELLO_BYTES_MAX: usize = 2048;
/// Longest name of a fabric, in bytes.
pub const FABRIC_BYTES_MAX: usize = 1024;
/// Longest text that says why an op has no answer, in bytes; a longer one is cut.
pub const TEXT_BYTES_MAX: usize = 4096;
/// Members of one list in a frame: the slots of a claim are the longest.
pub const LIST_MAX: usize = SLOTS_MAX;
/// Processes that one serves at a time.
pub const PEERS_MAX: usize = 256;
/// Bytes that wait to be sent over one connection, after which nothing more is taken for it.
pub const OUT_BYTES_MAX: usize = 8 << 20;
/// Bytes that are read from one connection before others have their turn.
pub const READ_BYTES_MAX: usize = 1 << 20;
/// The patience that suits most.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// The least patience; less is taken for this.
pub const PATIENCE_MIN: Duration = Duration::from_millis(100);
/// The greatest patience; more is taken for this.
pub const PATIENCE_MAX: Duration = Duration::from_secs(3600);

/// What a save or a row takes beside its record, in bytes, at the most.
const AROUND: usize = ID_BYTES_MAX + NAME_BYTES_MAX + 64;

const _: () = assert!(
    OP_BYTES_MAX + SAVES_MAX * (AROUND + 16 * ROWS_MAX) <= FRAME_BYTES_MAX,
    "an op that is taken has a frame"
);
const _: () = assert!(
    PAGE_BYTES_MAX + RECORD_BYTES_MAX + PAGE_MAX * AROUND <= FRAME_BYTES_MAX,
    "an answer has a frame"
);
const _: () = assert!(FABRIC_BYTES_MAX + 64 <= HELLO_BYTES_MAX, "a name is said in a hello");
