//! Nodes that are gone, and who waits to be told.
//!
//! # Invariants
//! - **N25** The last [`limits::DEPARTURES_MAX`] are kept; who has not asked for so long is told of the oldest of these next.
//!
//! # Not here
//! Why they are gone: views say that they are.

use std::collections::VecDeque;

use epicserver_entity::{Answer, Desk};
use epicserver_proto::Ownership;
use epicserver_wire::{NodeId, Token, limits};

use crate::core::Core;

/// Nodes that are gone since the shard began.
#[derive(Debug, Default)]
pub(crate) struct Departures {
    count: u64,
    last: VecDeque<NodeId>,
    waiting: VecDeque<Token>,
}

impl Departures {
    /// How many they are.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    fn add(&mut self, node: NodeId) {
        self.count += 1;
        self.last.push_back(node);
        if self.last.len() > limits::DEPARTURES_MAX {
            self.last.pop_front();
        }
    }

    /// The first that is kept (**N25**) after the one numbered `seen`.
    fn after(&self, seen: u64) -> Option<Answer> {
        let first = self.count - self.last.len() as u64;
        let at = usize::try_from(seen.saturating_sub(first)).ok()?;
        let node = *self.last.get(at)?;
        Some(Answer::Gone { number: first + at as u64 + 1, node })
    }
}

impl Core {
    /// Members of `before` are none any more.
    pub(crate) fn depart(&self, desk: &Desk, before: &Ownership, now: &Ownership) {
        let is_gone = |node: &&NodeId| now.members().binary_search(node).is_err();
        let gone: Vec<NodeId> = before.members().iter().filter(is_gone).copied().collect();
        let Some(first) = gone.first() else { return };
        let (number, waiting) = {
            let departures = &mut *self.departures.borrow_mut();
            let number = departures.count + 1;
            gone.iter().for_each(|node| departures.add(*node));
            (number, std::mem::take(&mut departures.waiting))
        };
        for token in waiting {
            self.complete(desk, token, Answer::Gone { number, node: *first });
        }
    }

    /// Who knows of `seen` wants to be told of the next.
    pub(crate) fn watch(&self, desk: &Desk, seen: u64, token: Token) {
        let departures = &mut *self.departures.borrow_mut();
        let Some(answer) = departures.after(seen) else {
            if departures.waiting.len().is_power_of_two() {
                // Those that have given up take no room.
                departures.waiting.retain(|token| desk.tickets().borrow_mut().waits(*token));
            }
            return departures.waiting.push_back(token);
        };
        self.complete(desk, token, answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n25_whoever_asks_is_told_of_one_after_another_and_late_of_the_oldest_that_is_kept() {
        let mut departures = Departures::default();
        assert_eq!(departures.after(0), None);
        for node in 1..=limits::DEPARTURES_MAX as u64 + 2 {
            departures.add(NodeId::new(node));
        }
        let gone = |number| Some(Answer::Gone { number, node: NodeId::new(number) });
        assert_eq!(departures.after(0), gone(3));
        assert_eq!(departures.after(2), gone(3));
        assert_eq!(departures.after(7), gone(8));
        assert_eq!(departures.after(departures.count()), None);
    }
}
