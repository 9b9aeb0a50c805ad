//! Strangers: nodes of another fabric or key, or too old or new, that were refused at either end.
//!
//! # Not here
//! Refusing and counting them: the handshake does the one, the endpoint of links the other.

use std::time::{Duration, Instant};

use epicserver_proto::link::Refusal;

/// How long nothing is said of strangers once something was, however many come.
pub const QUIET: Duration = Duration::from_secs(60);

/// What makes somebody a stranger.
const STRANGE: [Refusal; 3] = [Refusal::Fabric, Refusal::Key, Refusal::Version];

/// Tells the operator of strangers, seldom.
#[derive(Debug, Default)]
pub struct Strangers {
    told: [u64; STRANGE.len()],
    said: Option<Instant>,
}

impl Strangers {
    /// Logs how many there were, if there are more than at the last time, and that is long enough ago.
    /// `refused` says how many links ended for a reason since the start. Says whether it did.
    pub fn watch(&mut self, refused: impl Fn(Refusal) -> u64, now: Instant) -> bool {
        let counts = STRANGE.map(refused);
        let quiet = self.said.is_some_and(|said| now.duration_since(said) < QUIET);
        if counts == self.told || quiet {
            return false;
        }
        let [fabric, key, version] = counts;
        tracing::warn!(
            fabric,
            key,
            version,
            "strangers were refused since the start, by what differs"
        );
        (self.told, self.said) = (counts, Some(now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_told_of_when_there_are_more_and_not_too_often() {
        let (mut strangers, now) = (Strangers::default(), Instant::now());
        assert!(!strangers.watch(|_| 0, now));
        let keys = |count| move |why| if why == Refusal::Key { count } else { 0 };
        assert!(strangers.watch(keys(1), now));
        assert!(!strangers.watch(keys(7), now + QUIET / 2));
        assert!(strangers.watch(keys(7), now + QUIET));
        assert!(!strangers.watch(keys(7), now + 3 * QUIET));
    }

    #[test]
    fn a_node_that_reaches_itself_or_another_twice_is_no_stranger() {
        let mut strangers = Strangers::default();
        let usual = |why| u64::from(matches!(why, Refusal::Itself | Refusal::Duplicate));
        assert!(!strangers.watch(usual, Instant::now()));
    }
}
