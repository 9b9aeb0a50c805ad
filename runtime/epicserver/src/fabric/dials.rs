//! Which addresses were dialled, and which may be dialled now.
//!
//! # Invariants
//! - **FA5** An address is not dialled while a dial of it is under way, however long its handshake takes:
//!   two links from one end to the other cost more than they are worth.
//! - **FA6** Every address may be dialled again some day, whatever became of the dial before.
//!
//! # Not here
//! Whom to dial.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use epicserver_link::Address;

/// How long an address is left alone when a dial of it has ended, in vain or not.
pub(super) const REDIAL: Duration = Duration::from_millis(200);
/// How long a dial of which nothing was heard counts as being under way: longer than connecting and the
/// handshake may take together.
const UNDER_WAY_MAX: Duration = Duration::from_secs(15);

/// What became of a dial.
#[derive(Debug)]
enum Dial {
    UnderWay,
    Ended,
}

/// The addresses that were dialled lately.
#[derive(Debug, Default)]
pub(super) struct Dials {
    tried: BTreeMap<Address, (Dial, Instant)>,
}

impl Dials {
    /// Whether `address` may be dialled now (**FA5**, **FA6**).
    pub(super) fn may_begin(&mut self, address: &Address, now: Instant) -> bool {
        self.tried.retain(|_, (dial, since)| {
            let rest = match dial {
                Dial::UnderWay => UNDER_WAY_MAX,
                Dial::Ended => REDIAL,
            };
            now.duration_since(*since) < rest
        });
        !self.tried.contains_key(address)
    }

    /// A dial has begun.
    pub(super) fn begin(&mut self, address: Address, now: Instant) {
        self.tried.insert(address, (Dial::UnderWay, now));
    }

    /// A dial has ended.
    pub(super) fn end(&mut self, address: Address, now: Instant) {
        self.tried.insert(address, (Dial::Ended, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(1);

    fn dialling(now: Instant) -> (Dials, Address) {
        let (mut dials, address) = (Dials::default(), Address::new("tcp", "127.0.0.1:1"));
        assert!(dials.may_begin(&address, now));
        dials.begin(address.clone(), now);
        (dials, address)
    }

    #[test]
    fn fa5_an_address_is_not_dialled_while_its_handshake_takes_long() {
        let now = Instant::now();
        let (mut dials, address) = dialling(now);
        for waited in [SHORT, REDIAL, Duration::from_secs(10)] {
            assert!(!dials.may_begin(&address, now + waited), "after {waited:?}");
        }
        assert!(dials.may_begin(&Address::new("tcp", "127.0.0.1:2"), now));
    }

    #[test]
    fn fa6_an_address_is_dialled_again_a_while_after_a_dial_has_ended() {
        let now = Instant::now();
        let (mut dials, address) = dialling(now);
        dials.end(address.clone(), now);
        assert!(!dials.may_begin(&address, now + REDIAL - SHORT));
        assert!(dials.may_begin(&address, now + REDIAL));
    }

    #[test]
    fn fa6_a_dial_of_which_nothing_is_heard_is_not_waited_for_for_ever() {
        let now = Instant::now();
        let (mut dials, address) = dialling(now);
        assert!(dials.may_begin(&address, now + UNDER_WAY_MAX));
    }
}
