//! The trail: earlier views, as far as somebody may still hold what he owned then.
//!
//! A shard that is to call an entity looks here for those who lost its slot: what it said to them earlier has to
//! come back before it turns to the owner of now, and what they still run may have to be called there.
//!
//! # Invariants
//! - **TR1** The views of a trail have rising numbers, all below the present one's; at most [`STEPS_MAX`].
//!
//! # Not here
//! Whether somebody holds anything: he says so.

use std::collections::VecDeque;
use std::sync::Arc;

use epicserver_wire::NodeId;

use crate::directory::Directory;
use crate::ownership::{Ownership, SlotId};
use crate::view::HISTORY_MAX;

/// Views that a trail keeps: those that are not settled, and as many that only this shard has not done with.
pub const STEPS_MAX: usize = 2 * HISTORY_MAX;

/// Somebody lost a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lost {
    /// Who.
    pub node: NodeId,
    /// By the view of that number.
    pub view: u64,
}

/// Earlier views.
#[derive(Debug, Default)]
pub struct Trail {
    steps: VecDeque<(u64, Arc<Directory>)>,
}

impl Trail {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The view changes from `before` to `now`. If views had to be forgotten, the number of the earliest that was
    /// not is given: whatever was said before it cannot be told apart any more.
    pub fn turn(&mut self, before: Option<&Ownership>, now: &Ownership) -> Option<u64> {
        let before = before.map(|before| (before.number(), Arc::clone(before.directory())));
        let known = before.into_iter().chain(now.past().iter().cloned());
        for (number, directory) in known.filter(|(number, _)| *number < now.number()) {
            if let Err(at) = self.steps.binary_search_by_key(&number, |(number, _)| *number) {
                self.steps.insert(at, (number, directory));
            }
        }
        let over = self.steps.len().saturating_sub(STEPS_MAX);
        self.steps.drain(..over);
        (over > 0).then(|| self.steps[0].0)
    }

    /// Views before `floor` are of no more interest: nobody holds anything by them that `floor` does not give him,
    /// and nothing that was said under them is undecided.
    pub fn trim(&mut self, floor: u64) {
        while self.steps.pop_front_if(|(number, _)| *number < floor).is_some() {}
    }

    /// Those who lost `slot` on the way to `now`, the first one first. Who owned it before and after views that
    /// nobody knows may have lost it between.
    pub fn losers<'a>(
        &'a self,
        now: &'a Ownership,
        slot: SlotId,
    ) -> impl Iterator<Item = Lost> + 'a {
        let owner = move |directory: &Directory| directory.owner_of(slot.class, slot.index);
        let next = self.steps.iter().map(|(number, directory)| (*number, directory));
        let next = next.skip(1).chain([(now.number(), now.directory())]);
        self.steps.iter().zip(next).filter_map(move |((before, then), (number, after))| {
            let node = owner(then)?;
            let kept = owner(after) == Some(node) && *before + 1 == number;
            (!kept).then_some(Lost { node, view: number })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Share;
    use epicserver_wire::ClassId;

    fn node(id: u64) -> NodeId {
        NodeId::new(id)
    }

    fn directory(ids: &[u64]) -> Arc<Directory> {
        Arc::new(Directory::of(ids.iter().map(|id| Share::of(node(*id)))))
    }

    fn view(number: u64, ids: &[u64]) -> Ownership {
        Ownership::new(number, node(1), directory(ids))
    }

    /// A slot that the first owns without the second, the second without the first, and the third beside both.
    fn slot() -> SlotId {
        let all = directory(&[1, 2, 3]);
        let third = |slot: &u16| all.owner_of(ClassId::DEFAULT, *slot) == Some(node(3));
        let index = (0..=u16::MAX).find(third).unwrap();
        SlotId { class: ClassId::DEFAULT, index }
    }

    fn losers(trail: &Trail, now: &Ownership) -> Vec<(u64, u64)> {
        trail.losers(now, slot()).map(|lost| (lost.node.as_u64(), lost.view)).collect()
    }

    #[test]
    fn each_who_lost_a_slot_is_named_with_the_view_by_which_he_did() {
        let (mut trail, mut before) = (Trail::default(), view(1, &[1]));
        for (number, ids) in [(2, &[1, 2, 3][..]), (3, &[1, 2, 3]), (4, &[2]), (5, &[1, 2, 3])] {
            let now = view(number, ids);
            assert_eq!(trail.turn(Some(&before), &now), None);
            before = now;
        }
        assert_eq!(losers(&trail, &before), [(1, 2), (3, 4), (2, 5)]);
        trail.trim(3);
        assert_eq!(losers(&trail, &before), [(3, 4), (2, 5)]);
        trail.trim(5);
        assert!(trail.is_empty());
    }

    #[test]
    fn who_owned_a_slot_before_and_after_a_view_that_nobody_knows_may_have_lost_it() {
        let (mut trail, now) = (Trail::default(), view(4, &[1, 2, 3]));
        assert_eq!(trail.turn(Some(&view(2, &[1, 2, 3])), &now), None);
        assert_eq!(losers(&trail, &now), [(3, 4)]);
        let (mut trail, between) = (Trail::default(), directory(&[1, 2, 3]));
        let now = now.after(vec![(3, between)]);
        assert_eq!(trail.turn(Some(&view(2, &[1, 2, 3])), &now), None);
        assert_eq!(losers(&trail, &now), []);
    }

    #[test]
    fn tr1_a_trail_that_is_too_long_says_what_it_forgets() {
        let (mut trail, mut before) = (Trail::default(), view(1, &[1]));
        let mut told = None;
        for number in 2..=STEPS_MAX as u64 + 2 {
            let now = view(number, &[1]);
            assert_eq!(told, None);
            told = trail.turn(Some(&before), &now);
            before = now;
        }
        assert_eq!(told, Some(2));
    }
}
