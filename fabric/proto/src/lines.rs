//! Lines: what waits at its caller's shard while slots change their owners, one line for each slot.
//!
//! A shard does not send what it says of a slot by two lanes at a time: where one has to answer first, all that is said
//! of the slot stands in line until it has. So whatever is under way was made before all that stands here, and what comes
//! back goes to the front.
//!
//! # Invariants
//! - **LN1** All that waits of one slot is in one line: what was given back, in the order in which it came, then the
//!   rest in the order in which it was made.
//! - **LN2** Nothing is taken out of a line that awaits a view or the answer of a lane: something that was made before
//!   may still be given back, or could go by a wrong way.
//! - **LN3** No line is empty.
//!
//! # Not here
//! What has to be awaited (`passage`, `trail`), and how a lane is asked. Bounds: whoever puts something in counts.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::ownership::SlotId;

/// What waits of one slot.
#[derive(Debug)]
struct Line<L, W> {
    /// What was given back by lanes that have not answered since.
    back: VecDeque<(L, W)>,
    rest: VecDeque<W>,
    /// Lanes that have to answer.
    awaits: BTreeSet<L>,
    /// The first view by which anything may go on.
    view: u64,
}

impl<L, W> Line<L, W> {
    fn new() -> Self {
        Self { back: VecDeque::new(), rest: VecDeque::new(), awaits: BTreeSet::new(), view: 0 }
    }
}

impl<L: Ord, W> Line<L, W> {
    /// Whether it awaits nothing (**LN2**).
    fn is_free(&self, view: u64) -> bool {
        self.awaits.is_empty() && self.view <= view
    }

    /// A lane has no more to give back: what it gave is in front of the rest from now on.
    fn answered(&mut self, lane: &L) {
        self.awaits.remove(lane);
        let (gave, others): (VecDeque<_>, _) =
            std::mem::take(&mut self.back).into_iter().partition(|(by, _)| by == lane);
        self.back = others;
        gave.into_iter().rev().for_each(|(_, one)| self.rest.push_front(one));
    }

    fn extract(&mut self, goes: &impl Fn(&W) -> bool, gone: &mut Vec<W>) {
        let (back, rest) = (std::mem::take(&mut self.back), std::mem::take(&mut self.rest));
        let (went, back): (VecDeque<_>, _) = back.into_iter().partition(|(_, one)| goes(one));
        gone.extend(went.into_iter().map(|(_, one)| one));
        let (went, rest): (VecDeque<_>, _) = rest.into_iter().partition(goes);
        gone.extend(went);
        (self.back, self.rest) = (back, rest);
    }
}

/// What waits, by slot. A lane `L` is a way to another shard.
#[derive(Debug)]
pub struct Lines<L, W> {
    lines: BTreeMap<SlotId, Line<L, W>>,
    /// The lines that await each lane.
    awaiting: BTreeMap<L, BTreeSet<SlotId>>,
    /// Lines that awaited nothing when they were looked at last.
    free: BTreeSet<SlotId>,
    len: usize,
}

impl<L, W> Default for Lines<L, W> {
    fn default() -> Self {
        let (lines, awaiting, free) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Self { lines, awaiting, free, len: 0 }
    }
}

impl<L: Ord + Copy, W> Lines<L, W> {
    /// How much waits in all lines.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Whether anything of `slot` waits: what is said of it later waits behind it.
    #[must_use]
    pub fn has(&self, slot: SlotId) -> bool {
        self.lines.contains_key(&slot)
    }

    /// Whether `slot` awaits `lane`: nothing has been said there of it since.
    #[must_use]
    pub fn awaits(&self, slot: SlotId, lane: L) -> bool {
        self.awaiting.get(&lane).is_some_and(|slots| slots.contains(&slot))
    }

    fn line(&mut self, slot: SlotId) -> &mut Line<L, W> {
        self.len += 1;
        self.free.insert(slot);
        self.lines.entry(slot).or_insert_with(Line::new)
    }

    /// Waits behind all that waits of its slot.
    pub fn push(&mut self, slot: SlotId, one: W) {
        self.line(slot).rest.push_back(one);
    }

    /// Waits before all that waits of its slot and was not given back since.
    pub fn push_first(&mut self, slot: SlotId, one: W) {
        self.line(slot).rest.push_front(one);
    }

    /// Was given back by `lane` and waits until that has answered. What had left before it has come back before it.
    pub fn push_back(&mut self, slot: SlotId, lane: L, one: W) {
        self.line(slot).back.push_back((lane, one));
        self.await_lane(slot, lane);
    }

    /// The line of `slot` awaits the answer of `lane`.
    pub fn await_lane(&mut self, slot: SlotId, lane: L) {
        if let Some(line) = self.lines.get_mut(&slot) {
            line.awaits.insert(lane);
            self.awaiting.entry(lane).or_default().insert(slot);
        }
    }

    /// The line of `slot` awaits the view numbered `view`.
    pub fn await_view(&mut self, slot: SlotId, view: u64) {
        if let Some(line) = self.lines.get_mut(&slot) {
            line.view = line.view.max(view);
        }
    }

    /// A lane has answered all that it was asked. Lines that await a later view than `view` are not concerned: the lane
    /// may have been told more, and is asked again by then.
    pub fn answered(&mut self, lane: L, view: u64) {
        let Some(slots) = self.awaiting.remove(&lane) else { return };
        let (now, later): (BTreeSet<_>, BTreeSet<_>) =
            slots.into_iter().partition(|slot| self.lines.get(slot).is_none_or(|l| l.view <= view));
        if !later.is_empty() {
            self.awaiting.insert(lane, later);
        }
        self.let_go(lane, now);
    }

    /// Those lanes that `are` will never answer, and give nothing back any more.
    pub fn ended(&mut self, are: impl Fn(&L) -> bool) {
        let ended: Vec<L> = self.awaiting.keys().copied().filter(are).collect();
        for lane in ended {
            let slots = self.awaiting.remove(&lane).unwrap_or_default();
            self.let_go(lane, slots);
        }
    }

    fn let_go(&mut self, lane: L, slots: BTreeSet<SlotId>) {
        for slot in slots {
            if let Some(line) = self.lines.get_mut(&slot) {
                line.answered(&lane);
                self.free.insert(slot);
            }
        }
    }

    /// The view has changed to that numbered `view`. Gives the lanes that lines await: they have to be asked now.
    pub fn turn(&mut self, view: u64) -> Vec<L> {
        let here = self.lines.iter().filter(|(_, line)| line.view <= view);
        self.free.extend(here.map(|(slot, _)| *slot));
        self.awaiting.keys().copied().collect()
    }

    /// Takes out what may go on by the view numbered `view` (**LN2**), the first of a line before the next one.
    pub fn take_next(&mut self, view: u64) -> Option<W> {
        loop {
            let slot = *self.free.first()?;
            let line = self.lines.get_mut(&slot).filter(|line| line.is_free(view));
            if let Some(one) = line.and_then(|line| line.rest.pop_front()) {
                self.len -= 1;
                self.drop_empty(slot);
                return Some(one);
            }
            self.free.remove(&slot);
        }
    }

    /// **LN3**.
    fn drop_empty(&mut self, slot: SlotId) {
        let is_empty = |line: &Line<L, W>| line.back.is_empty() && line.rest.is_empty();
        if !self.lines.get(&slot).is_some_and(is_empty) {
            return;
        }
        let Some(line) = self.lines.remove(&slot) else { return };
        self.free.remove(&slot);
        for lane in line.awaits {
            let Some(slots) = self.awaiting.get_mut(&lane) else { continue };
            slots.remove(&slot);
            if slots.is_empty() {
                self.awaiting.remove(&lane);
            }
        }
    }

    /// Takes out those that `goes` says yes to.
    pub fn extract(&mut self, goes: impl Fn(&W) -> bool) -> Vec<W> {
        let mut gone = Vec::new();
        let slots: Vec<SlotId> = self.lines.keys().copied().collect();
        for slot in slots {
            if let Some(line) = self.lines.get_mut(&slot) {
                line.extract(&goes, &mut gone);
            }
            self.drop_empty(slot);
        }
        self.len -= gone.len();
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use epicserver_wire::ClassId;

    const A: SlotId = SlotId { class: ClassId::DEFAULT, index: 1 };
    const B: SlotId = SlotId { class: ClassId::DEFAULT, index: 2 };

    fn all(lines: &mut Lines<char, u32>, view: u64) -> Vec<u32> {
        std::iter::from_fn(|| lines.take_next(view)).collect()
    }

    #[test]
    fn ln1_what_was_given_back_comes_before_what_has_waited() {
        let mut lines: Lines<char, u32> = Lines::default();
        lines.push(A, 3);
        lines.await_lane(A, 'x');
        lines.push_back(A, 'x', 1);
        lines.push(A, 4);
        lines.push_back(A, 'x', 2);
        lines.push(B, 5);
        assert_eq!(lines.len(), 5);
        assert_eq!(all(&mut lines, 1), [5], "other slots are not concerned");
        lines.answered('x', 1);
        assert_eq!(all(&mut lines, 1), [1, 2, 3, 4]);
        assert!(lines.is_empty());
        assert_eq!(lines.len(), 0);
    }

    #[test]
    fn ln1_what_left_and_was_given_back_comes_before_what_had_been_given_back_and_had_not_left() {
        let mut lines: Lines<char, u32> = Lines::default();
        for one in 1..=3 {
            lines.push_back(A, 'x', one);
        }
        lines.push(A, 4);
        lines.answered('x', 1);
        assert_eq!(lines.take_next(1), Some(1));
        lines.await_lane(A, 'y');
        lines.push_back(A, 'y', 1);
        lines.answered('y', 1);
        assert_eq!(all(&mut lines, 1), [1, 2, 3, 4]);
    }

    #[test]
    fn ln1_what_another_lane_is_awaited_for_stays_before_what_was_made_later() {
        let mut lines: Lines<char, u32> = Lines::default();
        lines.push(A, 1);
        lines.await_lane(A, 'x');
        lines.push(A, 2);
        lines.answered('x', 1);
        assert_eq!(lines.take_next(1), Some(1));
        lines.push_first(A, 1);
        lines.await_lane(A, 'y');
        lines.answered('x', 1);
        lines.push(A, 3);
        assert_eq!(lines.take_next(1), None);
        lines.answered('y', 1);
        assert_eq!(all(&mut lines, 1), [1, 2, 3]);
    }

    #[test]
    fn ln2_nothing_goes_on_before_its_view_and_its_lanes() {
        let mut lines: Lines<char, u32> = Lines::default();
        lines.push_back(A, 'x', 1);
        lines.await_view(A, 3);
        lines.answered('x', 2);
        assert!(lines.awaits(A, 'x'), "it may have been told more since it was asked");
        assert_eq!(lines.turn(3), ['x']);
        assert_eq!(lines.take_next(3), None);
        lines.answered('x', 3);
        assert_eq!(lines.take_next(2), None);
        assert!(lines.turn(3).is_empty());
        assert_eq!(lines.take_next(3), Some(1));
    }

    #[test]
    fn ln2_lanes_that_end_are_not_awaited() {
        let mut lines: Lines<char, u32> = Lines::default();
        lines.push_back(A, 'x', 1);
        lines.await_view(A, 3);
        lines.push_back(B, 'y', 2);
        lines.ended(|lane| *lane == 'x');
        assert_eq!(all(&mut lines, 3), [1]);
        lines.ended(|_| true);
        assert_eq!(all(&mut lines, 3), [2]);
    }

    #[test]
    fn ln3_a_line_whose_last_is_taken_out_awaits_nothing() {
        let mut lines: Lines<char, u32> = Lines::default();
        lines.push_back(A, 'x', 1);
        lines.push(A, 2);
        assert_eq!(lines.extract(|one| *one == 1), [1]);
        assert!(lines.awaits(A, 'x'));
        assert_eq!(lines.extract(|_| true), [2]);
        assert!(!lines.has(A) && !lines.awaits(A, 'x') && lines.is_empty());
        lines.push(A, 3);
        assert_eq!(lines.take_next(0), Some(3));
    }
}
