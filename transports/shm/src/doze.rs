//! The sleeping flag: how an end that waits in the kernel is woken, and one that does not is not.
//!
//! Each end has one word in memory that both can write. An end that is about to sleep writes there
//! what it wants to be woken for, and looks once more whether that has happened; an end that has
//! made it happen looks at the word. A fence lies between the two steps of either, so that at least
//! one of them sees the other.
//!
//! # Invariants
//! - **D1** If an end sleeps after [`announce`], [`barrier`] and a look that found nothing, then
//!   whoever makes that happen, then calls [`barrier`] and [`must_ring`], is told to ring.
//! - **D2** One sleep is rung at most once.
//!
//! # Not here
//! The bell: that is the socket. A peer that does not keep to this hurts only its own link.
//!
//! Checked by `tests/loom_doze.rs`.

use crate::sync::{AtomicU32, Ordering, fence};

/// Nothing: the end is awake.
const AWAKE: u32 = 0;
/// It wants to be woken for mail.
pub const MAIL: u32 = 1;
/// It wants to be woken for room in what it sends.
pub const ROOM: u32 = 2;

/// The end that `word` belongs to is about to sleep, unless [`MAIL`] or [`ROOM`], whichever `wants`
/// has, is there already.
pub fn announce(word: &AtomicU32, wants: u32) {
    // A swap and not a store, so that a peer which comes too late for the last sleep comes before this.
    // A store would do by the rules of C++, but loom does not see that, and a swap costs nothing here.
    word.swap(wants, Ordering::AcqRel);
}

/// Stands between what an end has written and what it looks at next (**D1**).
pub fn barrier() {
    fence(Ordering::SeqCst);
}

/// The end that `word` belongs to is awake.
pub fn awake(word: &AtomicU32) {
    word.store(AWAKE, Ordering::Relaxed);
}

/// Whether the end that `word` belongs to is to be rung since `what` is there now. Whoever is told
/// so does it (**D2**).
#[must_use]
pub fn must_ring(word: &AtomicU32, what: u32) -> bool {
    word.load(Ordering::Relaxed) & what != 0 && word.swap(AWAKE, Ordering::AcqRel) & what != 0
}
