//! Bounded ring: messages from exactly one thread to exactly one other, in order.
//!
//! Each slot carries a stamp beside its value. The producer writes the value and then the stamp;
//! the consumer waits for the stamp. So a message costs the transfer of one cache line, and
//! neither side reads the other's position. The consumer does note how far it has come, in a line
//! of its own, which the producer looks at only when its last look says that the ring is full:
//! once a lap, while the consumer keeps up. (Clearing a flag in the slot instead, as in
//! FastForward, would take the slot's line back from the producer with every message.)
//!
//! A slot has a whole 64-byte line for a `T` of up to 56 bytes, so that a consumer which is awake
//! and polls the next slot does not fight for the line that the producer is filling. Measured with
//! a `T` of 24 bytes on two virtual CPUs, against two slots a line: a lone message takes the same
//! time give or take, a stream through 16 slots 8 ns a message against 12, and one through 256
//! slots, where the two ends seldom meet, 6 against 4. The price is memory: 64 bytes a slot.
//!
//! # Invariants
//! - **R1** The capacity is a power of two, and at least 1.
//! - **R2** The slot of position `p` holds a value if and only if its stamp is `p + 1` and the
//!   consumer's position is at most `p`. Only the producer writes stamps.
//! - **R3** The producer writes the slot of `p` only after it has seen, with acquire, that the
//!   consumer's position is past `p - capacity`.
//! - **R4** The consumer reads the value of `p` only after it has seen the stamp `p + 1`, with
//!   acquire, and reads it once: it moves its position past `p` afterwards.
//! - **R5** What nobody popped is dropped with the last of the two ends.
//!
//! # Not here
//! Waking. `park` does that, once a batch. Waiting for room: a full ring refuses, and the caller
//! decides.
//!
//! Checked by `tests/loom_ring.rs`, and by a run of two threads in `ring/tests.rs`.

use std::{fmt, mem::MaybeUninit};

use crate::sync::{Arc, AtomicBool, AtomicUsize, Ordering, UnsafeCell};

#[cfg(test)]
#[cfg(not(loom))]
mod tests;

/// A ring for `capacity` messages: the end that pushes and the end that pops.
///
/// # Panics
/// If `capacity` is not a power of two.
pub fn ring<T: Send>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    assert!(capacity.is_power_of_two(), "R1: a ring's capacity is a power of two");
    let ring = Arc::new(Ring {
        slots: (0..capacity).map(|_| Slot::empty()).collect(),
        popped: OwnLine(AtomicUsize::new(0)),
        gone: OwnLine(Gone { producer: AtomicBool::new(false), consumer: AtomicBool::new(false) }),
    });
    let producer = Producer { ring: Arc::clone(&ring), next: 0, popped_seen: 0 };
    (producer, Consumer { ring, next: 0 })
}

/// The end that pushes.
pub struct Producer<T> {
    ring: Arc<Ring<T>>,
    /// The position of the next push.
    next: usize,
    /// The consumer's position when it was last looked at.
    popped_seen: usize,
}

impl<T: Send> Producer<T> {
    /// Sends `value`, or gives it back if the ring is full.
    ///
    /// A ring whose consumer is gone still takes messages until it is full, and drops them
    /// unread; ask [`is_closed`](Self::is_closed) when a push is refused.
    ///
    /// # Errors
    /// [`Full`], with the value, if `capacity` messages are waiting.
    #[inline]
    pub fn push(&mut self, value: T) -> Result<(), Full<T>> {
        if !self.has_room() {
            return Err(Full(value));
        }
        let slot = self.ring.slot(self.next);
        slot.value.with_mut(|place| {
            // SAFETY: R3, `has_room` saw the consumer past this slot's last value, R2, and it does
            // not read the slot again before the store of the stamp below.
            unsafe { place.write(MaybeUninit::new(value)) }
        });
        self.next = self.next.wrapping_add(1);
        slot.stamp.store(self.next, Ordering::Release);
        Ok(())
    }

    /// Whether the next push would be taken.
    #[inline]
    pub fn has_room(&mut self) -> bool {
        let capacity = self.ring.slots.len();
        if self.next.wrapping_sub(self.popped_seen) < capacity {
            return true;
        }
        self.popped_seen = self.ring.popped.0.load(Ordering::Acquire);
        self.next.wrapping_sub(self.popped_seen) < capacity
    }
}

impl<T> Producer<T> {
    /// Whether the consumer is gone, so that nothing pushed will ever be read.
    pub fn is_closed(&self) -> bool {
        self.ring.gone.0.consumer.load(Ordering::Acquire)
    }
}

impl<T> Drop for Producer<T> {
    fn drop(&mut self) {
        self.ring.gone.0.producer.store(true, Ordering::Release);
    }
}

impl<T> fmt::Debug for Producer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("pushed", &self.next).finish_non_exhaustive()
    }
}

/// The end that pops.
pub struct Consumer<T> {
    ring: Arc<Ring<T>>,
    /// The position of the next pop.
    next: usize,
}

impl<T: Send> Consumer<T> {
    /// Takes the oldest message, if there is one.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        let slot = self.ring.slot(self.next);
        let next = self.next.wrapping_add(1);
        if slot.stamp.load(Ordering::Acquire) != next {
            return None;
        }
        let value = slot.value.with(|place| {
            // SAFETY: R4, the stamp says that the value is there, and the position moves on below,
            // so it is read once. R3, the producer does not write here before it sees that.
            unsafe { place.cast::<T>().read() }
        });
        self.next = next;
        self.ring.popped.0.store(next, Ordering::Release);
        Some(value)
    }
}

impl<T> Consumer<T> {
    /// Whether there is nothing to pop now.
    ///
    /// After [`Parker::announce`](crate::park::Parker::announce) this is the re-check which makes
    /// sure that no message is slept through.
    #[inline]
    pub fn is_empty(&self) -> bool {
        let stamp = self.ring.slot(self.next).stamp.load(Ordering::Acquire);
        stamp != self.next.wrapping_add(1)
    }

    /// Whether the producer is gone. A pop that finds nothing after this was true ends the ring:
    /// nothing will come.
    pub fn is_closed(&self) -> bool {
        self.ring.gone.0.producer.load(Ordering::Acquire)
    }
}

impl<T> Drop for Consumer<T> {
    fn drop(&mut self) {
        self.ring.gone.0.consumer.store(true, Ordering::Release);
    }
}

impl<T> fmt::Debug for Consumer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("popped", &self.next).finish_non_exhaustive()
    }
}

/// A push was refused since the ring is full; holds the value.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the ring is full")]
pub struct Full<T>(pub T);

impl<T> fmt::Debug for Full<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Full(..)")
    }
}

/// What both ends hold.
struct Ring<T> {
    slots: Box<[Slot<T>]>,
    /// The consumer's position. Only the consumer writes it, so its line stays in that core's
    /// cache but for the producer's look once a lap.
    popped: OwnLine<AtomicUsize>,
    gone: OwnLine<Gone>,
}

impl<T> Ring<T> {
    #[inline]
    fn slot(&self, position: usize) -> &Slot<T> {
        &self.slots[position & (self.slots.len() - 1)]
    }
}

// SAFETY: R2 to R4, a value is written by the one producer and read by the one consumer, never at
// once, and neither end lends a reference to it; so it only moves between threads: `T: Send`.
unsafe impl<T: Send> Sync for Ring<T> {}
// SAFETY: a ring owns its values, R5, and nothing else in it is tied to a thread.
unsafe impl<T: Send> Send for Ring<T> {}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        let mut position = self.popped.0.load(Ordering::Acquire);
        loop {
            let slot = self.slot(position);
            position = position.wrapping_add(1);
            if slot.stamp.load(Ordering::Acquire) != position {
                break;
            }
            slot.value.with_mut(|place| {
                // SAFETY: R2, stamped and not popped, so the value is there; both ends are gone,
                // and no slot is met twice, since its stamp is that of one position.
                unsafe { place.cast::<T>().drop_in_place() }
            });
        }
    }
}

/// One line of the cache, for a `T` of up to 56 bytes: its place and the stamp.
#[repr(align(64))]
struct Slot<T> {
    stamp: AtomicUsize,
    value: UnsafeCell<MaybeUninit<T>>,
}

impl<T> Slot<T> {
    fn empty() -> Self {
        // No position has the stamp 0 on its first lap: they are 1 to the capacity.
        Self { stamp: AtomicUsize::new(0), value: UnsafeCell::new(MaybeUninit::uninit()) }
    }
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Slot<[u64; 7]>>() == 64);

struct Gone {
    producer: AtomicBool,
    consumer: AtomicBool,
}

/// Two lines, as x86 fetches them in pairs.
#[repr(align(128))]
struct OwnLine<T>(T);
