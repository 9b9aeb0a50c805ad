//! Every bound in one place. A full queue, table or pool refuses; none of them grows past these.
//!
//! # Not here
//! Sizes that a user sets (memory budget, idle times, shard count): those are configuration.

use std::time::Duration;

/// Longest encoded key, in bytes. A longer one makes every call to its entity fail with
/// [`ErrorKind::KeyTooLong`](crate::ErrorKind::KeyTooLong).
pub const KEY_BYTES_MAX: usize = 512;
/// Deepest nesting of tuples in a key.
pub const KEY_DEPTH_MAX: u32 = 4;
/// Calls that may wait in one entity's mailbox.
pub const MAILBOX_MAX: u32 = 16_384;
/// Turns that one shard may have parked or running.
pub const TURNS_MAX: u32 = 1 << 20;
/// Tokens that one shard may have outstanding (calls, sleeps, locks, …).
pub const TOKENS_MAX: u32 = 1 << 20;
/// Syscalls that one turn may have made without yielding.
pub const OUTBOX_MAX: usize = 1 << 16;
/// Messages that one shard may hold unsent for another.
pub const UNSENT_MAX: u32 = 1 << 16;
/// Messages that one ring between two shards holds.
pub const RING_SLOTS: usize = 1024;
/// Requests from foreign threads that one shard's inlet holds.
pub const CLIENT_QUEUE_MAX: usize = 4096;
/// Exclusive sections and locks that one chain may hold at a time.
pub const CHAIN_SECTIONS_MAX: usize = 16;
/// Calls that may be nested in one another on one stack before the next one is queued.
pub const DIRECT_DEPTH_MAX: u32 = 16;
/// Direct calls that a task may make before it has to yield.
pub const DIRECT_BUDGET: u32 = 128;
/// Timers that one shard may have armed.
pub const TIMERS_MAX: u32 = 1 << 21;
/// Activations that one shard may hold; the memory budget is usually reached first.
pub const ACTIVATIONS_MAX: u32 = u32::MAX / 2;
/// Emptied envelopes and task slots that are kept for reuse, for each method and thread.
pub const POOL_MAX: usize = 1024;
/// Named locks, events and queues of one entity.
pub const SYNC_NAMES_MAX: usize = 256;
/// Values that one in-entity queue holds.
pub const QUEUE_MAX: usize = 65_536;
/// Random bytes that one syscall may ask for.
pub const RANDOM_BYTES_MAX: usize = 4096;
/// Longest message between two nodes, in bytes, header and padding included: an argument of 64 MiB
/// and what belongs to it.
pub const MESSAGE_BYTES_MAX: usize = (64 << 20) + (64 << 10);
/// Boxes, lists and the like that a value which is read may have within one another. A deeper one, of a
/// type that holds itself, is refused: reading it would exhaust the stack.
pub const VALUE_DEPTH_MAX: usize = 256;
/// Calls that may wait at one shard for their slots to be served.
pub const HELD_MAX: u32 = 1 << 16;
/// How long a call may wait there that holds an exclusive section or a lock.
pub const SECTION_HOLD_MAX: Duration = Duration::from_secs(1);
/// How long a slot that goes to another node may take to be emptied: what still runs then is ended.
pub const DRAIN_MAX: Duration = Duration::from_secs(10);
/// For how long chains that began before it was lost may enter it meanwhile.
pub const DRAIN_OPEN_MAX: Duration = Duration::from_millis(7_500);
/// Flushes that one shard may have to answer.
pub const FLUSHES_MAX: usize = 1 << 16;
/// Things that happen to a shard while its lease has lapsed, and that wait for the next one.
pub const BACKLOG_MAX: usize = 1 << 17;
/// How long a call may take where nothing says otherwise.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);

const _: () = assert!(DIRECT_DEPTH_MAX < DIRECT_BUDGET, "a full depth must fit the budget");
const _: () = assert!(RING_SLOTS.is_power_of_two(), "rings are indexed by mask");
const _: () =
    assert!(DRAIN_OPEN_MAX.as_millis() < DRAIN_MAX.as_millis(), "what enters last has time left");
const _: () = assert!(TIMERS_MAX >= TOKENS_MAX, "each token may have a deadline");
