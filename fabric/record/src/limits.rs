//! Every bound of stores in one place. What is full refuses.
//!
//! # Not here
//! Sizes that a user sets, as that of a cache.

use epicserver_wire::limits::KEY_BYTES_MAX;

/// Handles that one opened store has at a time.
pub const HANDLES_MAX: usize = 4096;
/// Ops of one handle that may be unanswered; further ones are given back.
pub const OPS_MAX: usize = 4096;
/// Bytes of records in the unanswered ops of one handle, but for the first op, which may always come.
pub const OPS_BYTES_MAX: usize = 128 << 20;
/// Saves in one op.
pub const SAVES_MAX: usize = 4096;
/// Rows beside a state in one save.
pub const ROWS_MAX: usize = 64;
/// Longest payload of a record, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 64 << 20;
/// Reminders of one entity.
pub const REMINDERS_MAX: usize = 24;
/// Longest label of a reminder, in bytes.
pub const LABEL_BYTES_MAX: usize = 128;
/// Longest pinned form of an entity's id, in bytes.
pub const ID_BYTES_MAX: usize = 16 + KEY_BYTES_MAX;
/// Longest name of a row, in bytes: that of a reminder.
pub const NAME_BYTES_MAX: usize = 1 + 2 + 2 + 8 + 2 + ID_BYTES_MAX + LABEL_BYTES_MAX;
/// Longest stored form of an entity's reminders, in bytes.
pub const AGENDA_BYTES_MAX: usize = REMINDERS_MAX * (8 + 8 + 1 + LABEL_BYTES_MAX);
/// Longest record, in bytes.
pub const RECORD_BYTES_MAX: usize =
    crate::envelope::HEAD + NAME_BYTES_MAX + 16 + PAYLOAD_BYTES_MAX + AGENDA_BYTES_MAX;
/// Slots in one claim: all of a class.
pub const SLOTS_MAX: usize = 1 << 16;
/// Rows in one page of a scan or of a verification.
pub const PAGE_MAX: usize = 1024;
/// Bytes of records after which a page ends; a page has one record at the least.
pub const PAGE_BYTES_MAX: usize = 4 << 20;
/// Tombstones that one purge removes.
pub const PURGE_MAX: usize = 4096;
/// Ops that a store makes durable together.
pub const GROUP_OPS_MAX: usize = 8192;
/// Bytes of records after which such a group ends.
pub const GROUP_BYTES_MAX: usize = 32 << 20;

const _: () = assert!(NAME_BYTES_MAX <= u16::MAX as usize, "its length is kept in 16 bits");
const _: () = assert!(AGENDA_BYTES_MAX <= u16::MAX as usize, "its length is kept in 16 bits");
const _: () = assert!(2 * REMINDERS_MAX < ROWS_MAX, "all can change in one save");
const _: () = assert!(PAYLOAD_BYTES_MAX <= u32::MAX as usize, "its length is kept in 32 bits");
