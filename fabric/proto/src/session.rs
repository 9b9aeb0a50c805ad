//! Sessions: what one shard may send to the shards of one peer, and what it owes them.
//!
//! Each pair of shards has a lane of its own, so that a shard which does not keep up slows down only
//! those who call it. A sender counts down what its lane may still carry; a receiver says, in whatever
//! it sends back, what it has consumed. Replies take no credit: whoever sends a call has made room for
//! its outcome, so that two peers which are full cannot keep each other from answering.
//!
//! # Invariants
//! - **S1** A lane never carries more unconsumed messages or units than its window.
//! - **S2** What was consumed is credited once: piggybacked, or in a message of its own when so much
//!   is owed that the sender might stop.
//!
//! # Not here
//! Bytes, queues, and what becomes of a call that may not leave yet.

use epicserver_wire::ShardId;
use epicserver_wire::header::{Credit, Violation};

/// What a receiver lets each lane carry unconsumed: two slots at least, since a lane carries a message
/// only while a whole slot would fit, and up to a quarter of the window may be owed for long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// Messages.
    pub messages: u16,
    /// Units of [`Credit::UNIT_BYTES`] bytes.
    pub units: u16,
}

impl Window {
    /// 1,024 messages, 8 MiB.
    pub const DEFAULT: Self = Self { messages: 1_024, units: 32_768 };
}

#[derive(Clone, Copy, Debug)]
struct Lane {
    /// What may still be sent.
    messages: u16,
    units: u16,
    /// What has come and is not credited yet.
    owed: Credit,
}

/// The lanes between one shard and all shards of one peer.
#[derive(Debug)]
pub struct Session {
    lanes: Vec<Lane>,
    theirs: Window,
    ours: Window,
    /// Lanes that owe a credit which should not wait for something to ride on.
    due: Vec<ShardId>,
}

impl Session {
    /// Lanes to `shards` shards that take `theirs`, while this one takes `ours`.
    #[must_use]
    pub fn new(shards: u16, theirs: Window, ours: Window) -> Self {
        let lane = Lane { messages: theirs.messages, units: theirs.units, owed: Credit::default() };
        Self { lanes: vec![lane; usize::from(shards)], theirs, ours, due: Vec::new() }
    }

    /// How many lanes there are.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.lanes.len()
    }

    /// Whether a message of so many units may leave for `shard` now.
    #[must_use]
    pub fn may_send(&self, shard: ShardId, units: u32) -> bool {
        let lane = self.lanes.get(shard.index());
        lane.is_some_and(|lane| lane.messages > 0 && u32::from(lane.units) >= units)
    }

    /// A message of so many units has left (**S1**).
    ///
    /// # Panics
    /// If it was not [allowed](Self::may_send) to.
    pub fn sent(&mut self, shard: ShardId, units: u32) {
        let units = u16::try_from(units).ok();
        let lane = self.lanes.get_mut(shard.index()).zip(units);
        let left = lane.and_then(|(lane, units)| {
            lane.messages = lane.messages.checked_sub(1)?;
            lane.units = lane.units.checked_sub(units)?;
            Some(())
        });
        assert!(left.is_some(), "S1: a lane was overrun");
    }

    /// `shard` lets us send so much again. Says whether that is anything.
    ///
    /// # Errors
    /// If it gives more than it took.
    pub fn credited(&mut self, shard: ShardId, credit: Credit) -> Result<bool, Violation> {
        if credit == Credit::default() {
            return Ok(false);
        }
        let theirs = self.theirs;
        let lane = self.lane(shard)?;
        let messages = lane.messages.checked_add(credit.messages);
        let units = lane.units.checked_add(credit.units);
        match messages.zip(units) {
            Some((messages, units)) if messages <= theirs.messages && units <= theirs.units => {
                (lane.messages, lane.units) = (messages, units);
                Ok(true)
            }
            Some(_) | None => Err(Violation::Unexpected("more credit than was taken")),
        }
    }

    /// A message of so many units came from `shard`, and is consumed.
    ///
    /// # Errors
    /// If it was over the window (**S1**).
    pub fn consumed(&mut self, shard: ShardId, units: u32) -> Result<(), Violation> {
        let ours = self.ours;
        let lane = self.lane(shard)?;
        let over = Violation::Unexpected("a message over the window");
        let units = u16::try_from(units).map_err(|_| over)?;
        let was_due = is_due(lane.owed, ours);
        let messages = lane.owed.messages.checked_add(1).ok_or(over)?;
        let units = lane.owed.units.checked_add(units).ok_or(over)?;
        if messages > ours.messages || units > ours.units {
            return Err(over);
        }
        lane.owed = Credit { messages, units };
        if !was_due && is_due(lane.owed, ours) {
            self.due.push(shard);
        }
        Ok(())
    }

    /// What a message that leaves for `shard` now carries along (**S2**).
    #[must_use]
    pub fn take_owed(&mut self, shard: ShardId) -> Credit {
        self.lanes
            .get_mut(shard.index())
            .map(|lane| std::mem::take(&mut lane.owed))
            .unwrap_or_default()
    }

    /// A credit that was taken did not leave after all.
    pub fn owe_again(&mut self, shard: ShardId, credit: Credit) {
        if let Some(lane) = self.lanes.get_mut(shard.index()) {
            lane.owed.messages += credit.messages;
            lane.owed.units += credit.units;
            if is_due(lane.owed, self.ours) {
                self.due.push(shard);
            }
        }
    }

    /// The next shard that has to be sent its credit though there is nothing else to say (**S2**).
    pub fn next_due(&mut self) -> Option<ShardId> {
        while let Some(shard) = self.due.pop() {
            let owed = self.lanes.get(shard.index()).map(|lane| lane.owed);
            // It may have been piggybacked meanwhile.
            if owed.is_some_and(|owed| is_due(owed, self.ours)) {
                return Some(shard);
            }
        }
        None
    }

    fn lane(&mut self, shard: ShardId) -> Result<&mut Lane, Violation> {
        self.lanes.get_mut(shard.index()).ok_or(Violation::Unexpected("a shard that it has not"))
    }
}

/// A quarter of the window: the sender has three quarters left while the credit is on its way.
fn is_due(owed: Credit, window: Window) -> bool {
    owed.messages >= window.messages.div_ceil(4) || owed.units >= window.units.div_ceil(4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SHARD: ShardId = ShardId::new(1);
    const SMALL: Window = Window { messages: 4, units: 8 };

    fn session() -> Session {
        Session::new(2, SMALL, SMALL)
    }

    #[test]
    fn s1_a_full_lane_carries_no_more_until_it_is_credited() {
        let mut session = session();
        for _ in 0..4 {
            assert!(session.may_send(SHARD, 1));
            session.sent(SHARD, 1);
        }
        assert!(!session.may_send(SHARD, 1));
        assert!(session.may_send(ShardId::new(0), 1), "another lane is not concerned");
        assert_eq!(session.credited(SHARD, Credit { messages: 1, units: 1 }), Ok(true));
        assert!(session.may_send(SHARD, 5));
        assert!(!session.may_send(SHARD, 6));
    }

    #[test]
    fn s1_a_peer_that_overruns_its_window_or_credits_too_much_is_found_out() {
        let mut session = session();
        for _ in 0..4 {
            session.consumed(SHARD, 1).unwrap();
        }
        assert!(session.consumed(SHARD, 1).is_err());
        assert!(session.credited(SHARD, Credit { messages: 1, units: 0 }).is_err());
        assert!(session.consumed(ShardId::new(7), 1).is_err());
    }

    #[test]
    fn s2_a_credit_that_was_piggybacked_is_not_sent_again() {
        let mut session = session();
        session.consumed(SHARD, 1).unwrap();
        assert_eq!(session.take_owed(SHARD), Credit { messages: 1, units: 1 });
        assert_eq!(session.next_due(), None);
        session.consumed(SHARD, 2).unwrap();
        assert_eq!(session.next_due(), Some(SHARD));
        assert_eq!(session.take_owed(SHARD), Credit { messages: 1, units: 2 });
        assert_eq!(session.take_owed(SHARD), Credit::default());
    }

    proptest! {
        #[test]
        fn s1_two_sound_sessions_never_find_fault_with_each_other(
            steps in prop::collection::vec((any::<bool>(), 1_u32..4), 0..200),
        ) {
            let shard = ShardId::new(0);
            let (mut a, mut b) = (Session::new(1, SMALL, SMALL), Session::new(1, SMALL, SMALL));
            let mut wire = std::collections::VecDeque::new();
            for (send, units) in steps {
                if send && a.may_send(shard, units) {
                    a.sent(shard, units);
                    wire.push_back(units);
                } else if let Some(units) = wire.pop_front() {
                    b.consumed(shard, units).unwrap();
                    if b.next_due().is_some() {
                        a.credited(shard, b.take_owed(shard)).unwrap();
                    }
                }
            }
            while let Some(units) = wire.pop_front() {
                b.consumed(shard, units).unwrap();
            }
            a.credited(shard, b.take_owed(shard)).unwrap();
            prop_assert!(a.may_send(shard, 8), "all credit has come back");
        }
    }
}
