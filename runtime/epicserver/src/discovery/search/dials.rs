//! Which addresses were dialled, and which may be dialled now.
//!
//! # Invariants
//! - **FA5** An address is not dialled while a dial of it is under way, however long its handshake takes:
//!   two links from one end to the other cost more than they are worth.
//! - **FA6** Every address may be dialled again some day, whatever became of the dial before.
//! - **FA7** Each dial in vain makes the pause before the next one longer, up to a bound; a refusal more so.
//!   The pauses of two nodes differ.
//! - **FA8** No source has more than [`UNDER_WAY_MAX`] dials under way, nor more than [`TRIED_MAX`] addresses
//!   that are remembered: one that offers nonsense leaves the others their dials.
//!
//! # Not here
//! Whom to dial.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use epicserver_link::Address;
use epicserver_proto::link::Refusal;
use epicserver_wire::NodeId;

use crate::discovery::jitter::Jitter;

/// How long an address is left alone when a dial of it has succeeded, and at most when it failed for the
/// first time.
pub(super) const REDIAL: Duration = Duration::from_millis(200);
/// The longest pause of an address at which nobody is.
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(10);
/// The first pause of an address that has led to somebody who is not wanted, or does not want this node.
pub(super) const REFUSED: Duration = Duration::from_secs(5);
/// The longest pause of one.
pub(super) const REFUSED_MAX: Duration = Duration::from_secs(60);
/// How long a dial of which nothing was heard counts as being under way: longer than connecting and the
/// handshake may take together.
const UNHEARD: Duration = Duration::from_secs(15);
/// Dials that one source may have under way.
pub(super) const UNDER_WAY_MAX: usize = 64;
/// Addresses that are remembered of one source.
pub(super) const TRIED_MAX: usize = 4096;

/// What became of a dial.
#[derive(Debug)]
enum State {
    UnderWay { since: Instant },
    Resting { until: Instant },
}

#[derive(Debug)]
struct Dial {
    /// The source that offered the address.
    source: &'static str,
    /// Which node it should lead to, where that is known.
    node: Option<NodeId>,
    state: State,
    /// The pause after the last dial in vain; zero if that has succeeded, or is the first.
    pause: Duration,
    refused: Option<Refusal>,
}

/// A dial that has ended in vain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Failure {
    /// The source that offered the address.
    pub(super) source: &'static str,
    /// Whether the dial before did not end so.
    pub(super) news: bool,
}

/// The addresses that were dialled lately.
#[derive(Debug)]
pub(super) struct Dials {
    tried: BTreeMap<Address, Dial>,
    /// How many are remembered, and how many of them are under way, for each source.
    loads: BTreeMap<&'static str, (usize, usize)>,
    jitter: Jitter,
}

impl Dials {
    /// No dials yet; `seed` makes the pauses differ from those of other nodes.
    pub(super) fn new(seed: u64) -> Self {
        Self { tried: BTreeMap::new(), loads: BTreeMap::new(), jitter: Jitter::new(seed) }
    }

    /// Forgets what no longer matters, and gives up what is not heard of (**FA6**).
    pub(super) fn prune(&mut self, now: Instant) {
        let unheard = |dial: &Dial| match dial.state {
            State::UnderWay { since } => now.duration_since(since) >= UNHEARD,
            State::Resting { .. } => false,
        };
        let late = self.tried.iter().filter(|(_, dial)| unheard(dial));
        for address in late.map(|(address, _)| address.clone()).collect::<Vec<_>>() {
            let _unheard = self.failed(&address, None, now);
        }
        self.tried.retain(|_, dial| match dial.state {
            State::UnderWay { .. } => true,
            // How long its pause was is remembered until the next one would be over.
            State::Resting { until } => now < until + 2 * dial.pause,
        });
        self.loads.clear();
        for dial in self.tried.values() {
            let (tried, under_way) = self.loads.entry(dial.source).or_default();
            *tried += 1;
            *under_way += usize::from(matches!(dial.state, State::UnderWay { .. }));
        }
    }

    /// Whether `address`, which that source offers, may be dialled now.
    pub(super) fn may_begin(&self, address: &Address, source: &'static str, now: Instant) -> bool {
        let (tried, under_way) = self.loads.get(source).copied().unwrap_or_default();
        let rested = match self.tried.get(address).map(|dial| &dial.state) {
            Some(State::UnderWay { .. }) => false,
            Some(State::Resting { until }) => now >= *until,
            // FA8.
            None => tried < TRIED_MAX,
        };
        rested && under_way < UNDER_WAY_MAX
    }

    /// The nodes to which dials are under way.
    pub(super) fn nodes(&self) -> BTreeSet<NodeId> {
        let under_way = |dial: &&Dial| matches!(dial.state, State::UnderWay { .. });
        self.tried.values().filter(under_way).filter_map(|dial| dial.node).collect()
    }

    /// A dial has begun.
    pub(super) fn begin(
        &mut self,
        address: Address,
        (source, node): (&'static str, Option<NodeId>),
        now: Instant,
    ) {
        let before = self.tried.remove(&address);
        let (tried, under_way) = self.loads.entry(source).or_default();
        *under_way += 1;
        *tried += usize::from(before.is_none());
        let (pause, refused) =
            before.map_or((Duration::ZERO, None), |dial| (dial.pause, dial.refused));
        let state = State::UnderWay { since: now };
        self.tried.insert(address, Dial { source, node, state, pause, refused });
    }

    /// A dial has led to a node of the fabric.
    pub(super) fn succeeded(&mut self, address: &Address, now: Instant) {
        if let Some(dial) = self.tried.get_mut(address) {
            dial.state = State::Resting { until: now + REDIAL };
            (dial.pause, dial.refused) = (Duration::ZERO, None);
        }
    }

    /// A dial has ended in vain (**FA7**). Says nothing of one that is forgotten.
    pub(super) fn failed(
        &mut self,
        address: &Address,
        refused: Option<Refusal>,
        now: Instant,
    ) -> Option<Failure> {
        let dial = self.tried.get_mut(address)?;
        let (first, most) = match refused {
            // Whoever is over begins again as another node, there and soon.
            None | Some(Refusal::Ended) => (REDIAL, PAUSE_MAX),
            // The other link may be about to go.
            Some(Refusal::Duplicate) => (REDIAL, REFUSED_MAX),
            Some(_) => (REFUSED, REFUSED_MAX),
        };
        let news = dial.pause.is_zero() || dial.refused != refused;
        dial.pause = (2 * dial.pause).clamp(first, most);
        dial.refused = refused;
        dial.state = State::Resting { until: now + self.jitter.about(dial.pause) };
        Some(Failure { source: dial.source, news })
    }

    /// A node is gone: what led to one that had another link may lead to one that has none now.
    pub(super) fn node_lost(&mut self, now: Instant) {
        for dial in self.tried.values_mut().filter(|dial| dial.refused == Some(Refusal::Duplicate))
        {
            if let State::Resting { until } = &mut dial.state {
                *until = now.min(*until);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(1);
    const SEEDS: &str = "seeds";
    const LAN: &str = "lan";

    fn address(port: usize) -> Address {
        Address::new("tcp", &format!("127.0.0.1:{port}"))
    }

    fn dialling(now: Instant) -> (Dials, Address) {
        let (mut dials, address) = (Dials::new(7), address(1));
        assert!(dials.may_begin(&address, SEEDS, now));
        dials.begin(address.clone(), (SEEDS, None), now);
        (dials, address)
    }

    /// How long `address` rests from `now` on, to a millisecond.
    fn rest(dials: &Dials, address: &Address, now: Instant) -> Duration {
        let mut rest = Duration::ZERO;
        while !dials.may_begin(address, SEEDS, now + rest) {
            rest += SHORT;
        }
        rest
    }

    #[test]
    fn fa5_an_address_is_not_dialled_while_its_handshake_takes_long() {
        let now = Instant::now();
        let (mut dials, first) = dialling(now);
        for waited in [SHORT, REDIAL, Duration::from_secs(10)] {
            dials.prune(now + waited);
            assert!(!dials.may_begin(&first, SEEDS, now + waited), "after {waited:?}");
        }
        assert!(dials.may_begin(&address(2), SEEDS, now));
    }

    #[test]
    fn fa6_an_address_is_dialled_again_a_while_after_a_dial_has_ended() {
        let now = Instant::now();
        let (mut dials, address) = dialling(now);
        dials.succeeded(&address, now);
        assert!(!dials.may_begin(&address, SEEDS, now + REDIAL - SHORT));
        assert!(dials.may_begin(&address, SEEDS, now + REDIAL));
    }

    #[test]
    fn fa6_a_dial_of_which_nothing_is_heard_is_not_waited_for_for_ever() {
        let now = Instant::now();
        let (mut dials, address) = dialling(now);
        dials.prune(now + UNHEARD);
        assert!(dials.may_begin(&address, SEEDS, now + UNHEARD + REDIAL));
    }

    #[test]
    fn fa7_pauses_grow_to_their_bound_and_begin_anew_after_success() {
        let mut now = Instant::now();
        let (mut dials, address) = dialling(now);
        let mut wanted = REDIAL;
        for dial in 0..12 {
            let failure = dials.failed(&address, None, now).unwrap();
            assert_eq!(failure, Failure { source: SEEDS, news: dial == 0 });
            let rest = rest(&dials, &address, now);
            assert!(
                (wanted / 2..=wanted + SHORT).contains(&rest),
                "{rest:?} in place of {wanted:?}"
            );
            wanted = (2 * wanted).min(PAUSE_MAX);
            now += rest;
            dials.prune(now);
            dials.begin(address.clone(), (SEEDS, None), now);
        }
        dials.succeeded(&address, now);
        dials.begin(address.clone(), (SEEDS, None), now + REDIAL);
        assert!(dials.failed(&address, None, now + REDIAL).unwrap().news);
        assert!(rest(&dials, &address, now + REDIAL) <= REDIAL);
    }

    #[test]
    fn fa7_an_address_that_refuses_is_left_alone_for_longer() {
        let mut now = Instant::now();
        let (mut dials, address) = dialling(now);
        let mut wanted = REFUSED;
        for dial in 0..6 {
            let failure = dials.failed(&address, Some(Refusal::Key), now).unwrap();
            assert_eq!(failure.news, dial == 0);
            let rest = rest(&dials, &address, now);
            assert!(
                (wanted / 2..=wanted + SHORT).contains(&rest),
                "{rest:?} in place of {wanted:?}"
            );
            wanted = (2 * wanted).min(REFUSED_MAX);
            now += rest;
            dials.prune(now);
            dials.begin(address.clone(), (SEEDS, None), now);
        }
        assert!(dials.failed(&address, None, now).unwrap().news, "now nobody is there");
        assert!(rest(&dials, &address, now) <= PAUSE_MAX);
    }

    #[test]
    fn fa7_an_address_whose_node_is_over_is_dialled_again_soon() {
        let now = Instant::now();
        let (mut dials, address) = dialling(now);
        let _failed = dials.failed(&address, Some(Refusal::Ended), now);
        assert!(rest(&dials, &address, now) <= REDIAL);
    }

    #[test]
    fn fa7_two_nodes_do_not_dial_at_the_same_times() {
        let now = Instant::now();
        let rests: Vec<Duration> = [1, 2, 3]
            .map(|seed| {
                let mut dials = Dials::new(seed << 32);
                dials.begin(address(1), (SEEDS, None), now);
                let _first = dials.failed(&address(1), Some(Refusal::Fabric), now);
                rest(&dials, &address(1), now)
            })
            .to_vec();
        assert!(rests[0] != rests[1] || rests[1] != rests[2], "{rests:?}");
    }

    #[test]
    fn fa8_a_source_that_offers_nonsense_leaves_the_others_their_dials() {
        let now = Instant::now();
        let mut dials = Dials::new(1);
        for port in 0..UNDER_WAY_MAX {
            assert!(dials.may_begin(&address(port), LAN, now));
            dials.begin(address(port), (LAN, None), now);
        }
        let next = address(UNDER_WAY_MAX);
        assert!(!dials.may_begin(&next, LAN, now) && dials.may_begin(&next, SEEDS, now));
        dials.prune(now);
        assert!(!dials.may_begin(&next, LAN, now) && dials.may_begin(&next, SEEDS, now));
        for port in 0..TRIED_MAX {
            dials.begin(address(port), (LAN, None), now);
            let _refused = dials.failed(&address(port), Some(Refusal::Key), now);
        }
        dials.prune(now);
        let next = address(TRIED_MAX);
        assert!(!dials.may_begin(&next, LAN, now) && dials.may_begin(&next, SEEDS, now));
        dials.prune(now + 4 * REFUSED);
        assert!(dials.may_begin(&next, LAN, now + 4 * REFUSED), "they are forgotten");
        assert_eq!(dials.tried.len(), 0);
    }

    #[test]
    fn an_address_whose_node_had_another_link_is_tried_when_a_node_is_lost() {
        let now = Instant::now();
        let (mut dials, first) = dialling(now);
        dials.begin(address(2), (SEEDS, None), now);
        let _refused = dials.failed(&first, Some(Refusal::Duplicate), now);
        let _refused = dials.failed(&address(2), Some(Refusal::Key), now);
        dials.node_lost(now + SHORT);
        assert!(dials.may_begin(&first, SEEDS, now + SHORT));
        assert!(!dials.may_begin(&address(2), SEEDS, now + SHORT));
    }

    #[test]
    fn a_dial_to_a_node_is_known_by_the_node() {
        let now = Instant::now();
        let mut dials = Dials::new(1);
        dials.begin(address(1), (SEEDS, Some(NodeId::new(5))), now);
        assert_eq!(dials.nodes(), BTreeSet::from([NodeId::new(5)]));
        let _failed = dials.failed(&address(1), None, now);
        assert_eq!(dials.nodes(), BTreeSet::new());
    }
}
