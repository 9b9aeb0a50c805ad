//! Renewals of this node's lease, and how long the node may go by it.
//!
//! # Invariants
//! - **RE1** A lease counts from the moment at which its renewal was *sent*, less a margin: what is taken over waits for
//!   the coordinator's clock, which began to count later.
//! - **RE2** No more than [`UNDER_WAY_MAX`] renewals are under way; a lost answer does not keep the next one back.
//!
//! # Not here
//! What the record says. That no turn runs past the deadline: shards see to that.

use std::time::Duration;

use epicserver_wire::Time;

use super::AskId;

/// Renewals whose answers are still to come.
const UNDER_WAY_MAX: usize = 4;

/// The renewals of one node.
#[derive(Debug)]
pub(super) struct Renewals {
    /// How long a renewed lease lasts here, margin taken off.
    lasts: Duration,
    under_way: Vec<(AskId, Time)>,
    due: Time,
    until: Time,
}

impl Renewals {
    /// The first one is due now.
    pub(super) fn new(now: Time, lasts: Duration) -> Self {
        Self { lasts, under_way: Vec::new(), due: now, until: Time::ZERO }
    }

    /// One is sent now, and the next one is due `after` this.
    pub(super) fn sent(&mut self, now: Time, ask: AskId, after: Duration) {
        if self.under_way.len() == UNDER_WAY_MAX {
            self.under_way.remove(0);
        }
        self.under_way.push((ask, now));
        self.due = now + after;
    }

    /// The next one is due at `at`, unless it is before.
    pub(super) fn hasten(&mut self, at: Time) {
        self.due = self.due.min(at);
    }

    /// An answer to `ask` came; says whether that was a renewal, and when it was sent.
    pub(super) fn take(&mut self, ask: AskId) -> Option<Time> {
        let at = self.under_way.iter().position(|(id, _)| *id == ask)?;
        Some(self.under_way.remove(at).1)
    }

    /// The renewal that was sent at `sent` was done. Gives the new deadline, if it is a later one (**RE1**).
    pub(super) fn renewed(&mut self, sent: Time) -> Option<Time> {
        let until = sent + self.lasts;
        let later = until > self.until;
        self.until = self.until.max(until);
        later.then_some(until)
    }

    /// When the next one is due.
    pub(super) fn due(&self) -> Time {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn re1_a_lease_counts_from_the_sending_and_never_back() {
        let mut renewals = Renewals::new(at(0), Duration::from_millis(2_500));
        renewals.sent(at(0), AskId(1), Duration::from_millis(750));
        renewals.sent(at(750), AskId(2), Duration::from_millis(750));
        let second = renewals.take(AskId(2)).unwrap();
        assert_eq!(renewals.renewed(second), Some(at(3_250)));
        let first = renewals.take(AskId(1)).unwrap();
        assert_eq!(renewals.renewed(first), None, "it came late");
        assert_eq!(renewals.take(AskId(1)), None);
    }

    #[test]
    fn re2_a_lost_answer_does_not_keep_the_next_renewal_back() {
        let mut renewals = Renewals::new(at(0), Duration::from_secs(2));
        for ask in 0..9 {
            let due = renewals.due();
            renewals.sent(due, AskId(ask), Duration::from_millis(750));
        }
        assert_eq!(renewals.due(), at(9 * 750));
        assert_eq!(renewals.take(AskId(4)), None);
        assert_eq!(renewals.take(AskId(5)), Some(at(5 * 750)));
    }
}
