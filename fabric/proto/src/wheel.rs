//! Timer wheel: what must happen at a stated time, cheap to arm and cheaper to give up.
//!
//! In:  `insert`, `cancel`, `expire(now)`   Out: the keys that are due, and `deadline`
//!
//! Most timers are deadlines of calls that are answered in time, so arming and cancelling are a few
//! stores each and firing is the rare case. Eight levels of 64 slots cover every `Time` there is: a
//! slot of the lowest level is 2^16 ns (65.5 us) wide, each level is 64 times coarser, and a timer
//! lies in the level of the highest digit in which it differs from the wheel's own position. A slot
//! is spread over the finer levels only when the earliest timer in it is due. The width of a slot
//! bounds no precision: `at` is kept whole and compared whole.
//!
//! # Invariants
//! - **W1** A timer fires at most once, at the first `expire` with `at <= now` after its insertion,
//!   and never at one with `now < at`.
//! - **W2** One `expire` fires in the order of `at`, and those of equal `at` in order of insertion.
//! - **W3** `deadline` is never later than the earliest timer, and `None` only when there is none.
//!   It is exact unless the earliest timer of its slot was cancelled; `expire` at such a stale time
//!   fires nothing and makes it exact, so a host wakes at most once for nothing before it must.
//! - **W4** At most `timers_max` timers are pending; a full wheel refuses and is left unchanged.
//! - **W5** An id of a timer that fired or was cancelled answers `None` for ever after (for 2^40
//!   uses of its place in the slab, which is twelve days at a million a second).
//! - **W6** Each pending timer lies in the slot that `place` names for it; hence timers of a lower
//!   level, or of a lower slot of one level, are all earlier, and those of equal `at` share a list.
//!
//! # Not here
//! A clock, a thread that sleeps, repetition, and what a key means. Who repeats inserts again.
//!
//! Checked by `assert_invariants` after every operation of the model test.

use std::error::Error;
use std::fmt;
use std::num::NonZeroU64;

use epicserver_wire::Time;

const LEVELS: usize = 8;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// Of a slot number: which slot of its level. The bits above say which level.
const DIGIT_MASK: u16 = (1 << SLOT_BITS) - 1;
const SLOT_MASK: u64 = 0x1ff;
const _: () = assert!(SLOT_MASK + 1 == 1 << (LEVELS.ilog2() + SLOT_BITS));
/// Width of a slot of the lowest level, in bits of a nanosecond count.
const FINEST_BITS: u32 = 16;
const _: () = assert!(FINEST_BITS as usize + LEVELS * SLOT_BITS as usize == u64::BITS as usize);

const INDEX_BITS: u32 = 24;
const GENERATION_ONE: u64 = 1 << INDEX_BITS;
const INDEX_MASK: u64 = GENERATION_ONE - 1;
/// The most timers that any wheel can be made for.
pub const TIMERS_LIMIT: u32 = (1 << INDEX_BITS) - 1;

/// No node: the end of a list.
const NIL: u32 = u32::MAX;
const _: () = assert!(TIMERS_LIMIT < NIL);

/// Names one pending timer of the wheel that gave it; harmless once that timer is gone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TimerId(NonZeroU64);

const _: () = assert!(size_of::<Option<TimerId>>() == 8);

impl TimerId {
    fn first(index: u32) -> Self {
        Self(NonZeroU64::MIN.saturating_add(INDEX_MASK + u64::from(index)))
    }

    fn index(self) -> u32 {
        (self.0.get() & INDEX_MASK) as u32
    }

    /// The id of the same place's next use.
    fn next(self) -> Self {
        self.0.checked_add(GENERATION_ONE).map_or_else(|| Self::first(self.index()), Self)
    }
}

/// The wheel holds as many timers as it was made for; nothing was inserted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("timer wheel is full")
    }
}

impl Error for Full {}

#[derive(Clone, Copy, Debug)]
struct Node<K> {
    at: u64,
    /// What its holder must present: names this place and this use of it.
    id: TimerId,
    next: u32,
    prev: u32,
    /// Index into `Wheel::slots`; says nothing while the node is free.
    slot: u16,
    key: K,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    /// No timer of the list is earlier; exact unless the earliest was cancelled. Stale when empty.
    at_min: u64,
    head: u32,
    tail: u32,
}

/// A due timer on its way out: sorted by `(at, order)`, `order` being its rank in its list.
type Due = (u64, u32, u32);

/// A hierarchical timer wheel whose owner tells it the time.
#[derive(Debug)]
pub struct Wheel<K> {
    /// The wheel's own position: at most the latest `now`, and at most every pending `at` that was
    /// not already past when it was inserted.
    position: u64,
    occupied: [u64; LEVELS],
    slots: Box<[Slot; LEVELS * SLOTS]>,
    nodes: Vec<Node<K>>,
    /// Head of the free nodes, chained by `next`: last freed is first reused, while it is warm.
    free: u32,
    len: u32,
    timers_max: u32,
    /// Empty between calls; kept for its capacity.
    due: Vec<Due>,
}

impl<K: Copy> Wheel<K> {
    /// A wheel for at most `timers_max` pending timers. Memory is taken as they come.
    ///
    /// # Panics
    /// If `timers_max` is above [`TIMERS_LIMIT`].
    pub fn new(timers_max: u32) -> Self {
        assert!(timers_max <= TIMERS_LIMIT, "W4: more timers than an id can name");
        Self {
            position: 0,
            occupied: [0; LEVELS],
            slots: Box::new([Slot { at_min: 0, head: NIL, tail: NIL }; LEVELS * SLOTS]),
            nodes: Vec::new(),
            free: NIL,
            len: 0,
            timers_max,
            due: Vec::new(),
        }
    }

    /// Arms a timer. One that is already past fires at the next `expire`.
    ///
    /// # Errors
    /// [`Full`] if `timers_max` timers are pending.
    #[inline]
    pub fn insert(&mut self, at: Time, key: K) -> Result<TimerId, Full> {
        if self.len == self.timers_max {
            return Err(Full);
        }
        let index = self.free;
        let index = if index == NIL { self.grow(key) } else { index };
        self.len += 1;
        let node = &mut self.nodes[index as usize];
        self.free = node.next;
        node.at = at.as_nanos();
        node.key = key;
        let id = node.id;
        self.link(index);
        Ok(id)
    }

    /// Disarms a timer and gives its key back; `None` if it fired or was cancelled before.
    #[inline]
    pub fn cancel(&mut self, timer: TimerId) -> Option<K> {
        let index = timer.index();
        let node = self.nodes.get(index as usize)?;
        if node.id != timer {
            return None;
        }
        let (slot, next, prev, key) = (node.slot, node.next, node.prev, node.key);
        match prev {
            NIL => self.slots[usize::from(slot)].head = next,
            _ => self.nodes[prev as usize].next = next,
        }
        match next {
            NIL => self.slots[usize::from(slot)].tail = prev,
            _ => self.nodes[next as usize].prev = prev,
        }
        if prev == NIL && next == NIL {
            self.vacate(slot);
        }
        self.release(index);
        Some(key)
    }

    /// Pushes the key of every timer with `at <= now`, in order of `at`, then of insertion.
    pub fn expire(&mut self, now: Time, fired: &mut Vec<K>) {
        let now = now.as_nanos();
        while let Some(slot) = self.earliest_slot() {
            let at_min = self.slots[usize::from(slot)].at_min;
            if at_min > now {
                // Nothing is due. Going on to `now` keeps new timers in fine levels, but never
                // into a slot that still waits to be spread (W6).
                if now < self.slot_start(slot) {
                    self.position = self.position.max(now);
                }
                return;
            }
            // No pending timer is before `at_min`, so what is due soon skips the levels between.
            self.position = self.position.max(at_min);
            if slot <= DIGIT_MASK {
                self.fire(slot, now, fired);
            } else {
                self.spread(slot);
            }
        }
        self.position = self.position.max(now);
    }

    /// When `expire` should next be called: the earliest timer, or a little before it (W3).
    #[inline]
    pub fn deadline(&self) -> Option<Time> {
        let slot = self.earliest_slot()?;
        Some(Time::from_nanos(self.slots[usize::from(slot)].at_min))
    }

    /// How many timers are pending.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether no timer is pending.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The slot where a timer for `at` belongs, seen from the present position.
    fn place(&self, at: u64) -> u16 {
        // What is past goes where the next `expire` looks first.
        let at = at.max(self.position);
        let differs = (at ^ self.position) >> FINEST_BITS;
        let level = (differs | 1).ilog2() / SLOT_BITS;
        let digit = (at >> (FINEST_BITS + level * SLOT_BITS)) & u64::from(DIGIT_MASK);
        ((u64::from(level) << SLOT_BITS | digit) & SLOT_MASK) as u16
    }

    /// The first instant that belongs to a slot, seen from the present position.
    fn slot_start(&self, slot: u16) -> u64 {
        let shift = FINEST_BITS + u32::from(slot >> SLOT_BITS) * SLOT_BITS;
        // Two steps, since the top level's shift would be 64.
        let coarser = self.position >> shift >> SLOT_BITS << SLOT_BITS;
        (coarser | u64::from(slot & DIGIT_MASK)) << shift
    }

    /// The slot of the earliest timer (W6).
    fn earliest_slot(&self) -> Option<u16> {
        let (level, bits) = (0_u16..).zip(self.occupied).find(|&(_, bits)| bits != 0)?;
        Some(level << SLOT_BITS | (bits.trailing_zeros() & 63) as u16)
    }

    /// Appends a node to the list of its place.
    fn link(&mut self, index: u32) {
        let at = self.nodes[index as usize].at;
        let slot = self.place(at);
        let list = &mut self.slots[usize::from(slot)];
        let prev = list.tail;
        list.tail = index;
        if prev == NIL {
            list.head = index;
            list.at_min = at;
            self.occupied[usize::from(slot >> SLOT_BITS)] |= 1 << (slot & DIGIT_MASK);
        } else {
            list.at_min = list.at_min.min(at);
            self.nodes[prev as usize].next = index;
        }
        let node = &mut self.nodes[index as usize];
        node.next = NIL;
        node.prev = prev;
        node.slot = slot;
    }

    /// Marks a slot whose list ended as empty.
    fn vacate(&mut self, slot: u16) {
        self.occupied[usize::from(slot >> SLOT_BITS)] &= !(1 << (slot & DIGIT_MASK));
    }

    /// Takes a whole list out of its slot and gives its first node.
    fn take_list(&mut self, slot: u16) -> u32 {
        self.vacate(slot);
        let list = &mut self.slots[usize::from(slot)];
        list.tail = NIL;
        std::mem::replace(&mut list.head, NIL)
    }

    /// Spreads a slot over finer levels, in its order, which keeps equal times in theirs (W2).
    fn spread(&mut self, slot: u16) {
        let mut index = self.take_list(slot);
        while index != NIL {
            let next = self.nodes[index as usize].next;
            self.link(index);
            index = next;
        }
    }

    /// Fires what is due of a finest slot; what is not goes back, which makes `at_min` exact (W3).
    fn fire(&mut self, slot: u16, now: u64, fired: &mut Vec<K>) {
        let mut due = std::mem::take(&mut self.due);
        let mut index = self.take_list(slot);
        let mut order = 0;
        while index != NIL {
            let Node { at, next, .. } = self.nodes[index as usize];
            if at <= now {
                due.push((at, order, index));
                order += 1;
            } else {
                self.link(index);
            }
            index = next;
        }
        due.sort_unstable();
        fired.reserve(due.len());
        for &(_, _, index) in &due {
            fired.push(self.nodes[index as usize].key);
            self.release(index);
        }
        due.clear();
        self.due = due;
    }

    /// Frees a node that is in no list any more; its old id is stale from here on (W5).
    fn release(&mut self, index: u32) {
        let node = &mut self.nodes[index as usize];
        node.id = node.id.next();
        node.next = self.free;
        self.free = index;
        self.len -= 1;
    }

    /// Makes a new node and puts it at the head of the free list, which is empty.
    #[cold]
    fn grow(&mut self, key: K) -> u32 {
        // Every node is pending, else there were a free one.
        let index = self.len;
        assert_eq!(index as usize, self.nodes.len(), "W4: a node is neither pending nor free");
        let id = TimerId::first(index);
        self.nodes.push(Node { at: 0, id, next: NIL, prev: NIL, slot: 0, key });
        index
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "keys of tests are small")]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    impl<K: Copy> Wheel<K> {
        fn assert_invariants(&self) {
            let mut len = 0;
            for slot in 0..(LEVELS * SLOTS) as u16 {
                let list = self.slots[usize::from(slot)];
                let bit = self.occupied[usize::from(slot) / SLOTS] >> (slot % 64) & 1;
                assert_eq!(bit == 1, list.head != NIL, "W6: occupancy of slot {slot}");
                let (mut prev, mut index) = (NIL, list.head);
                while index != NIL {
                    let node = &self.nodes[index as usize];
                    assert_eq!(node.prev, prev, "W6: list of slot {slot}");
                    assert_eq!(node.slot, slot, "W6: back reference");
                    assert_eq!(self.place(node.at), slot, "W6: place of {}", node.at);
                    assert!(list.at_min <= node.at, "W3: bound of slot {slot}");
                    len += 1;
                    (prev, index) = (index, node.next);
                }
                assert_eq!(list.tail, prev, "W6: tail of slot {slot}");
            }
            assert_eq!(len, self.len, "W4: count");
            let mut free = 0;
            let mut index = self.free;
            while index != NIL {
                free += 1;
                index = self.nodes[index as usize].next;
            }
            assert_eq!(free + len as usize, self.nodes.len(), "W4: nodes lost");
            assert!(self.len <= self.timers_max, "W4: bound");
            assert!(self.due.is_empty(), "W1: a due timer was left over");
        }
    }

    fn expired(wheel: &mut Wheel<u32>, now: u64) -> Vec<u32> {
        let mut fired = Vec::new();
        wheel.expire(Time::from_nanos(now), &mut fired);
        wheel.assert_invariants();
        fired
    }

    fn armed(wheel: &mut Wheel<u32>, at: u64, key: u32) -> TimerId {
        let id = wheel.insert(Time::from_nanos(at), key).unwrap();
        wheel.assert_invariants();
        id
    }

    #[test]
    fn a_timer_fires_at_its_nanosecond_and_not_before() {
        for at in [1, 65_535, 65_536, 5_000_000_000, u64::MAX >> 1, u64::MAX] {
            let mut wheel = Wheel::new(4);
            armed(&mut wheel, at, 7);
            assert_eq!(wheel.deadline(), Some(Time::from_nanos(at)));
            assert!(expired(&mut wheel, at - 1).is_empty(), "at {at}");
            assert_eq!(wheel.deadline(), Some(Time::from_nanos(at)));
            assert_eq!(expired(&mut wheel, at), [7], "at {at}");
            assert_eq!(wheel.deadline(), None);
        }
    }

    #[test]
    fn a_timer_in_the_past_fires_at_the_next_expiry() {
        let mut wheel = Wheel::new(4);
        assert!(expired(&mut wheel, 1_000_000).is_empty());
        armed(&mut wheel, 900_000, 1);
        armed(&mut wheel, 10, 2);
        armed(&mut wheel, 10, 3);
        assert_eq!(wheel.deadline(), Some(Time::from_nanos(10)));
        assert_eq!(expired(&mut wheel, 1_000_000), [2, 3, 1]);
    }

    #[test]
    fn equal_times_fire_in_order_of_insertion_across_levels() {
        let mut wheel = Wheel::new(8);
        let at = 3_000_000_000;
        for (key, now) in [0, 1_000_000_000, 2_990_000_000, 2_999_999_000].into_iter().enumerate() {
            assert!(expired(&mut wheel, now).is_empty());
            armed(&mut wheel, at, key as u32);
        }
        armed(&mut wheel, at - 1, 9);
        assert_eq!(expired(&mut wheel, at), [9, 0, 1, 2, 3]);
    }

    #[test]
    fn a_full_wheel_refuses_until_a_timer_leaves() {
        let mut wheel = Wheel::new(2);
        let first = armed(&mut wheel, 5, 1);
        armed(&mut wheel, 6, 2);
        assert_eq!(wheel.insert(Time::from_nanos(7), 3), Err(Full));
        assert_eq!(wheel.cancel(first), Some(1));
        let third = armed(&mut wheel, 7, 3);
        assert_eq!(wheel.cancel(first), None, "W5: the place is in use again");
        assert_eq!(expired(&mut wheel, 7), [2, 3]);
        assert_eq!(wheel.cancel(third), None);
        assert_eq!(wheel.len(), 0);
    }

    #[test]
    fn a_wheel_that_can_hold_nothing_refuses_everything() {
        let mut wheel = Wheel::new(0);
        assert_eq!(wheel.insert(Time::from_nanos(7), 3), Err(Full));
        assert_eq!(wheel.deadline(), None);
    }

    #[test]
    fn an_expiry_at_a_stale_deadline_makes_it_exact() {
        let mut wheel = Wheel::new(100);
        let at = Time::from_nanos(4_000_000_000_000);
        let early = armed(&mut wheel, at.as_nanos() - 2_000_000_000, 1);
        armed(&mut wheel, at.as_nanos(), 2);
        wheel.cancel(early).unwrap();
        let stale = wheel.deadline().unwrap();
        assert!(stale < at, "W3: the two share a slot of a coarse level");
        assert!(expired(&mut wheel, stale.as_nanos()).is_empty());
        assert_eq!(wheel.deadline(), Some(at));
    }

    #[test]
    fn a_generation_that_runs_out_starts_over_at_the_same_place() {
        let last = TimerId(NonZeroU64::MAX);
        assert_eq!(last.next(), TimerId::first(INDEX_MASK as u32));
        assert_eq!(TimerId::first(5).next().index(), 5);
        assert_ne!(TimerId::first(5).next(), TimerId::first(5));
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        /// Arm a timer so long from now; negative is the past.
        Insert(i64),
        /// Cancel the n-th id ever given, pending or stale.
        Cancel(usize),
        /// Let so much time pass.
        Advance(u64),
        /// Sleep until the wheel's own deadline.
        Sleep,
        /// A clock that is turned back must not make anything fire early.
        TurnBack(u64),
    }

    fn a_span() -> impl Strategy<Value = u64> {
        // Near the slot edges of each level as often as anywhere.
        prop_oneof![
            0..4_u64,
            0..200_000_u64,
            0..10_000_000_000_u64,
            (0..58_u32, 0..3_u64).prop_map(|(bits, off)| (1_u64 << bits).saturating_sub(off)),
        ]
    }

    fn a_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => a_span().prop_map(|span| Step::Insert(span as i64)),
            1 => (0..100_000_i64).prop_map(|span| Step::Insert(-span)),
            4 => any::<usize>().prop_map(Step::Cancel),
            3 => a_span().prop_map(Step::Advance),
            2 => Just(Step::Sleep),
            1 => (0..100_000_u64).prop_map(Step::TurnBack),
        ]
    }

    #[derive(Default)]
    struct Model {
        /// By time, then by insertion; keys count up.
        pending: BTreeMap<(u64, u32), TimerId>,
        given: Vec<(u64, TimerId)>,
    }

    impl Model {
        fn expire(&mut self, now: u64) -> Vec<u32> {
            let later = self.pending.split_off(&(now.saturating_add(1), 0));
            let due = std::mem::replace(&mut self.pending, later);
            due.into_keys().map(|(_, key)| key).collect()
        }

        fn step(&mut self, wheel: &mut Wheel<u32>, now: &mut u64, step: Step) {
            match step {
                Step::Insert(span) => {
                    let at = now.saturating_add_signed(span).min(u64::MAX - 1);
                    let key = self.given.len() as u32;
                    match wheel.insert(Time::from_nanos(at), key) {
                        Ok(id) => {
                            assert_eq!(self.pending.insert((at, key), id), None);
                            self.given.push((at, id));
                        }
                        Err(Full) => assert_eq!(self.pending.len(), 32, "W4"),
                    }
                }
                Step::Cancel(pick) => {
                    let Some(key) = pick.checked_rem(self.given.len()) else { return };
                    let (at, id) = self.given[key];
                    let key = key as u32;
                    let known = self.pending.remove(&(at, key)).map(|_| key);
                    assert_eq!(wheel.cancel(id), known, "W5");
                }
                Step::Advance(span) => *now = now.saturating_add(span).min(u64::MAX - 1),
                Step::TurnBack(span) => *now = now.saturating_sub(span),
                Step::Sleep => {
                    let deadline = wheel.deadline().map(Time::as_nanos);
                    *now = deadline.map_or(*now, |at| at.max(*now).min(u64::MAX - 1));
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn the_wheel_does_what_an_ordered_map_does(
            start in prop_oneof![Just(0), any::<u64>().prop_map(|n| n >> 1)],
            steps in prop::collection::vec(a_step(), 1..120),
        ) {
            let mut wheel = Wheel::new(32);
            let mut model = Model::default();
            let mut now = start;
            for step in steps {
                model.step(&mut wheel, &mut now, step);
                wheel.assert_invariants();
                let moves = matches!(step, Step::Advance(_) | Step::Sleep | Step::TurnBack(_));
                if moves {
                    prop_assert_eq!(expired(&mut wheel, now), model.expire(now), "W1, W2");
                }
                prop_assert_eq!(wheel.len(), model.pending.len());
                let earliest = model.pending.keys().next().map(|&(at, _)| Time::from_nanos(at));
                prop_assert_eq!(wheel.deadline().is_some(), earliest.is_some(), "W3");
                prop_assert!(wheel.deadline() <= earliest, "W3");
            }
            // Sleeping from deadline to deadline fires the rest; no two wakes in a row are in vain.
            let mut in_vain = false;
            while let Some(deadline) = wheel.deadline() {
                now = now.max(deadline.as_nanos());
                let due = expired(&mut wheel, now);
                prop_assert!(!(in_vain && due.is_empty()), "W3: a deadline was stale twice");
                in_vain = due.is_empty();
                prop_assert_eq!(due, model.expire(now), "W1, W2");
            }
            prop_assert!(model.pending.is_empty(), "W3: a timer was lost");
        }
    }
}
