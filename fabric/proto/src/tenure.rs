//! Tenure: since which view a slot has been this node's, as one shard has learned of views.
//!
//! What was said under a view that is not later than one under which the slot was another's must not come in: what
//! its shard said before that may have been given back, and comes again.
//!
//! # Not here
//! What is given back.

use epicserver_wire::ClassId;

use crate::directory::SLOTS;
use crate::ownership::{Ownership, SlotId};

/// For each slot the last view, of those that were learned of, under which it was another's.
#[derive(Debug, Default)]
pub struct Tenure {
    classes: Vec<(ClassId, Box<[u32]>)>,
}

impl Tenure {
    /// A view is learned of.
    pub fn turn(&mut self, now: &Ownership) {
        for class in now.directory().classes() {
            if !self.classes.iter().any(|(known, _)| *known == class) {
                self.classes.push((class, vec![0; SLOTS].into()));
            }
        }
        let number = u32::try_from(now.number()).unwrap_or(u32::MAX);
        for (class, views) in &mut self.classes {
            for (view, is_mine) in views.iter_mut().zip(now.mine(*class)) {
                match is_mine {
                    // Of views that nobody numbers one does not come after another.
                    true if *view == number => *view = 0,
                    true => {}
                    false => *view = number,
                }
            }
        }
    }

    /// Whether `slot`, which is this node's, was so all the time since the view numbered `said`.
    #[must_use]
    pub fn covers(&self, slot: SlotId, said: u64) -> bool {
        let views = self.classes.iter().find(|(class, _)| *class == slot.class);
        let view = views.and_then(|(_, views)| views.get(usize::from(slot.index)));
        view.is_none_or(|view| said > u64::from(*view))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Directory;
    use crate::ownership::Site;
    use crate::view::Share;
    use epicserver_wire::NodeId;
    use std::sync::Arc;

    #[test]
    fn what_was_said_before_a_slot_came_back_is_not_covered() {
        let (me, other) = (NodeId::new(1), NodeId::new(2));
        let view = |number, nodes: &[NodeId]| {
            let directory = Directory::of(nodes.iter().copied().map(Share::of));
            Ownership::new(number, me, Arc::new(directory))
        };
        let mut tenure = Tenure::default();
        let both = view(3, &[me, other]);
        let kept = (0..=u16::MAX).map(|index| SlotId { class: ClassId::DEFAULT, index });
        let (kept, lost): (Vec<_>, Vec<_>) =
            kept.partition(|slot| both.site_of(*slot) == Site::Awaited);
        tenure.turn(&view(2, &[me]));
        assert!(tenure.covers(lost[0], 1), "it was another's before anybody knew");
        tenure.turn(&both);
        tenure.turn(&view(5, &[me]));
        assert!(tenure.covers(kept[0], 1));
        assert!(!tenure.covers(lost[0], 3) && tenure.covers(lost[0], 4));
        let mut tenure = Tenure::default();
        tenure.turn(&view(1, &[me, other]));
        tenure.turn(&view(1, &[me]));
        assert!(tenure.covers(lost[0], 1), "views that nobody numbers");
    }
}
