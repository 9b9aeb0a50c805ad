//! Whom a search dials, told by hand what there is.

use super::dials::{PAUSE_MAX, REFUSED_MAX};
use super::*;
use crate::discovery::registry::Registry;
use crate::discovery::source::Fixed;

const HOST: &str = "host";
const LAN: &str = "lan";
const NONE: [u64; 0] = [];

fn id(node: u64) -> NodeId {
    NodeId::new(node)
}

fn at(port: u64) -> Address {
    Address::new("tcp", &format!("127.0.0.1:{port}"))
}

fn named(node: u64, ports: &[u64]) -> Candidate {
    Candidate::node(id(node), ports.iter().copied().map(at).collect())
}

/// The node 5, and the time.
struct Searching {
    search: Search,
    now: Instant,
}

impl Searching {
    fn new() -> Self {
        Self::with(Vec::new())
    }

    fn with(sources: Vec<Box<dyn Source>>) -> Self {
        Self { search: Search::new(id(5), sources), now: Instant::now() }
    }

    fn hear(&mut self, name: &'static str, candidates: &[Candidate]) {
        self.search.hear(name, name != LAN, candidates.to_vec());
    }

    /// The ports that are dialled now.
    fn due(&mut self) -> Vec<u64> {
        let due = self.search.due(self.now, |addresses| addresses.first().cloned());
        due.iter().map(port).collect()
    }

    fn fails(&mut self, ports: &[u64], refused: Option<Refusal>) {
        for port in ports {
            self.search.unreachable(&at(*port), refused, self.now);
        }
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
    }

    fn linked(&mut self, node: u64, dialled: Option<u64>) {
        self.search.linked(id(node), dialled.map(at).as_ref(), self.now);
    }

    fn unlinked(&mut self, node: u64, left: bool) {
        self.search.unlinked(id(node), left, self.now);
    }
}

fn port(address: &Address) -> u64 {
    address.rest().rsplit_once(':').unwrap().1.parse().unwrap()
}

#[test]
fn a_seed_is_dialled_until_it_is_linked_and_again_when_the_link_is_lost() {
    let mut node = Searching::with(vec![Box::new(Fixed::new("seeds", [at(1), at(2)]))]);
    assert!(node.search.poll(node.now));
    assert_eq!(node.due(), [1, 2]);
    node.fails(&[1], None);
    node.linked(9, Some(2));
    for _ in 0..20 {
        node.wait(PAUSE_MAX);
        assert!(node.search.poll(node.now), "somebody is missing");
        assert_eq!(node.due(), [1], "however many are linked");
        node.fails(&[1], None);
    }
    node.linked(8, Some(1));
    node.wait(PAUSE_MAX);
    assert_eq!(node.due(), NONE);
    assert!(!node.search.poll(node.now + PAUSE_MAX), "nobody is missing");
    node.unlinked(9, true);
    assert_eq!(node.due(), [2]);
    let counts = node.search.counts();
    assert_eq!((counts.offered, counts.linked, counts.dialled), (2, 2, 23));
    assert_eq!((counts.unreachable, counts.refused), (21, 0));
}

#[test]
fn fa1_the_node_with_the_smaller_id_dials_and_the_other_only_after_a_while() {
    let mut node = Searching::new();
    node.hear(HOST, &[named(4, &[4]), named(6, &[6])]);
    assert_eq!(node.due(), [6]);
    node.linked(6, Some(6));
    node.wait(PATIENCE - Duration::from_millis(1));
    assert_eq!(node.due(), NONE);
    node.wait(Duration::from_millis(1));
    assert_eq!(node.due(), [4]);
    node.linked(4, Some(4));
    node.unlinked(4, false);
    node.wait(REDIAL);
    assert_eq!(node.due(), NONE, "it is waited for anew");
    node.wait(PATIENCE);
    assert_eq!(node.due(), [4]);
}

#[test]
fn fa9_a_node_that_many_sources_offer_is_dialled_once() {
    let mut node = Searching::new();
    node.hear(HOST, &[named(6, &[60, 61])]);
    node.hear("registry", &[named(6, &[61])]);
    node.hear("seeds", &[Candidate::at(at(61)), Candidate::at(at(70))]);
    assert_eq!(node.due(), [60, 70]);
    node.wait(REDIAL);
    assert_eq!(node.due(), NONE);
    node.linked(6, None);
    node.fails(&[60], Some(Refusal::Duplicate));
    node.fails(&[70], None);
    node.wait(REFUSED_MAX);
    assert_eq!(node.due(), [70], "the seed 61 is known to be linked");
}

#[test]
fn whom_the_coordinator_knows_is_dialled_until_it_forgets_them() {
    let (mut node, mut registry) = (Searching::new(), Registry::default());
    registry.set([(id(5), vec![at(5)]), (id(6), vec![at(6)]), (id(7), vec![at(7)])]);
    assert!(node.search.ask(&mut registry, node.now));
    assert!(!node.search.ask(&mut registry, node.now), "it has said so already");
    assert_eq!(node.due(), [6, 7]);
    node.fails(&[6, 7], None);
    registry.set([(id(5), vec![at(5)]), (id(7), vec![at(8)])]);
    assert!(node.search.ask(&mut registry, node.now));
    node.wait(PAUSE_MAX);
    assert_eq!(node.due(), [8]);
}

#[test]
fn fa9_a_node_does_not_dial_itself() {
    let mut node = Searching::new();
    node.search.listening(&[at(50)]);
    node.hear("seeds", &[Candidate::at(at(50)), Candidate::at(at(51))]);
    node.hear(LAN, &[named(5, &[52])]);
    assert_eq!(node.due(), [51], "of 51 nobody knows that it is its own");
    node.fails(&[51], Some(Refusal::Itself));
    node.wait(Duration::from_secs(2));
    assert_eq!(node.due(), NONE);
    node.wait(REFUSED_MAX);
    assert_eq!(node.due(), [51], "behind an address may be many");
}

#[test]
fn fa10_nobody_in_the_network_can_hide_a_seed() {
    let mut node = Searching::new();
    node.linked(9, None);
    node.hear(LAN, &[named(9, &[1]), named(7, &[2])]);
    node.hear("seeds", &[Candidate::at(at(1))]);
    assert_eq!(node.due(), [1, 2]);
}

#[test]
fn an_address_that_refuses_is_counted_and_left_alone() {
    let mut node = Searching::new();
    node.hear("seeds", &[Candidate::at(at(1)), Candidate::at(at(2))]);
    assert_eq!(node.due(), [1, 2]);
    node.fails(&[1], Some(Refusal::Key));
    node.fails(&[2], None);
    node.wait(REDIAL);
    assert_eq!(node.due(), [2]);
    node.fails(&[2], None);
    node.wait(REFUSED_MAX);
    assert_eq!(node.due(), [1, 2]);
    assert_eq!(node.search.counts().refused, 1);
}

#[test]
fn what_a_source_no_longer_offers_is_no_longer_dialled() {
    let mut node = Searching::new();
    node.hear(HOST, &[named(6, &[6]), named(7, &[7])]);
    node.hear(HOST, &[named(7, &[7])]);
    assert_eq!(node.due(), [7]);
    node.hear(HOST, &[]);
    node.fails(&[7], None);
    node.wait(PAUSE_MAX);
    assert_eq!(node.due(), NONE);
    assert!(!node.search.poll(node.now + PAUSE_MAX));
}

#[test]
fn more_than_is_taken_is_counted_and_left_out() {
    let mut node = Searching::new();
    let ports: Vec<u64> = (0..=ADDRESSES_MAX as u64).collect();
    let many: Vec<Candidate> =
        (0..=CANDIDATES_MAX as u64).map(|node| named(100 + node, &ports)).collect();
    node.hear(HOST, &many);
    assert_eq!(node.search.counts().beyond, 1 + CANDIDATES_MAX as u64);
    assert_eq!(node.search.heard[0].candidates.len(), CANDIDATES_MAX);
}

#[test]
fn what_is_known_of_addresses_does_not_grow() {
    let mut node = Searching::new();
    for round in 0..100 {
        node.hear(HOST, &[named(100 + round, &[round])]);
        let _due = node.due();
        node.linked(100 + round, Some(round));
        node.unlinked(100 + round, true);
        let _due = node.due();
    }
    node.hear(HOST, &[]);
    assert_eq!((node.search.whose.len(), node.search.awaited.len()), (0, 0));
}

fn led() -> Searching {
    let mut node = Searching::new();
    node.hear("job", &[Candidate { leads: true, ..Candidate::at(at(1)) }, Candidate::at(at(2))]);
    assert_eq!(node.due(), [1, 2]);
    node.linked(9, Some(1));
    node.linked(8, Some(2));
    node
}

#[test]
fn a_job_is_over_when_the_node_that_leads_has_left() {
    let mut node = led();
    node.unlinked(8, true);
    assert!(!node.search.is_job_over(node.now + LEADER_GRACE));
    node.unlinked(9, true);
    assert!(node.search.is_job_over(node.now));
}

#[test]
fn a_job_is_over_when_the_node_that_leads_stays_lost() {
    let mut node = led();
    node.unlinked(9, false);
    node.wait(LEADER_GRACE / 2);
    assert!(!node.search.is_job_over(node.now));
    node.linked(9, Some(1));
    assert!(!node.search.is_job_over(node.now + LEADER_GRACE));
    node.unlinked(9, false);
    assert!(node.search.is_job_over(node.now + LEADER_GRACE));
}

#[test]
fn a_job_is_over_when_the_node_that_leads_does_not_come() {
    let mut node = Searching::new();
    node.hear("job", &[Candidate { leads: true, ..Candidate::at(at(1)) }, Candidate::at(at(2))]);
    assert_eq!(node.due(), [1, 2]);
    node.linked(8, Some(2));
    assert!(!node.search.is_job_over(node.now + LEADER_AWAITED / 2));
    assert!(node.search.is_job_over(node.now + LEADER_AWAITED));
    let mut alone = Searching::new();
    assert_eq!(alone.due(), NONE);
    assert!(!alone.search.is_job_over(alone.now + LEADER_AWAITED), "it has no job");
}

#[test]
fn who_may_come_by_a_better_way_is_not_dialled_before_its_time() {
    let mut node = Searching::new();
    let later = node.now + REDIAL;
    node.hear("job", &[Candidate { not_before: Some(later), ..Candidate::at(at(1)) }]);
    assert_eq!(node.due(), NONE);
    node.wait(REDIAL);
    assert!(node.search.poll(node.now));
    assert_eq!(node.due(), [1]);
}

#[test]
fn the_node_that_leads_is_known_by_what_its_own_host_says_of_it_too() {
    let mut node = Searching::new();
    node.hear(HOST, &[named(4, &[3, 1])]);
    node.hear("job", &[Candidate { leads: true, ..Candidate::at(at(1)) }]);
    node.linked(4, None);
    node.unlinked(4, true);
    assert!(node.search.is_job_over(node.now));
}
