//! Instances of our service: what a node says of itself, and what others were heard to say.
//!
//! # Invariants
//! - **MC3** At most [`CANDIDATES_MAX`] instances are kept, with at most [`ADDRESSES_MAX`] addresses each; what
//!   is beyond that, or says nothing of use, is counted.
//!
//! # Not here
//! How it is said and heard.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use epicserver_link::Address;
use epicserver_wire::NodeId;

use crate::discovery::ADDRESSES_MAX;
use crate::discovery::host::parse_node;
use crate::discovery::source::{CANDIDATES_MAX, Candidate};

/// The type of our instances.
pub const SERVICE: &str = "_epicserver._tcp.local.";
/// The form of their text. A node that writes another form is not found by this version.
const FORM: &str = "1";

/// What others are told: one port, and the addresses at which it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Announcement {
    pub(super) node: NodeId,
    /// The name of the instance, and of the host as far as it is concerned.
    pub(super) name: String,
    pub(super) port: u16,
    pub(super) ips: Vec<IpAddr>,
}

impl Announcement {
    pub(super) fn text(&self, fabric: &str) -> [(&'static str, String); 3] {
        [("v", FORM.to_owned()), ("fabric", fabric.to_owned()), ("node", self.node.to_string())]
    }
}

/// What others are told of `node`, which listens at `addresses`; `own` are those of the interfaces at which
/// they are told. They do not depend on it alone whether anybody can get there, but on no other host does a
/// loopback address lead here, nor one that holds for one link.
pub(super) fn announcements(
    node: NodeId,
    addresses: &[Address],
    own: &[IpAddr],
) -> Vec<Announcement> {
    let mut ports: BTreeMap<u16, BTreeSet<IpAddr>> = BTreeMap::new();
    let tcp = addresses.iter().filter(|address| address.scheme() == "tcp");
    for socket in tcp.filter_map(|address| address.rest().parse::<SocketAddr>().ok()) {
        let ips = ports.entry(socket.port()).or_default();
        if socket.ip().is_unspecified() {
            let both = socket.is_ipv6();
            ips.extend(own.iter().filter(|ip| both || ip.is_ipv4()).filter(|ip| reaches(**ip)));
        } else if reaches(socket.ip()) {
            ips.insert(socket.ip());
        }
    }
    ports.retain(|_, ips| !ips.is_empty());
    let announcement = |(port, ips): (u16, BTreeSet<IpAddr>)| Announcement {
        node,
        name: format!("{node}-{port}"),
        port,
        ips: ips.into_iter().take(ADDRESSES_MAX).collect(),
    };
    ports.into_iter().map(announcement).collect()
}

/// Whether another host might reach somebody by this address.
fn reaches(ip: IpAddr) -> bool {
    let of_all = ip.is_loopback() || ip.is_unspecified() || ip.is_multicast();
    let of_one_link = match ip {
        IpAddr::V4(ip) => ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !of_all && !of_one_link
}

/// What was heard and is of no use, since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct InstanceCounts {
    /// Instances of other fabrics.
    pub(super) foreign: u64,
    /// Instances that say nothing of use.
    pub(super) ignored: u64,
    /// Instances for which there was no room.
    pub(super) beyond: u64,
}

/// Instances that are there now.
#[derive(Debug)]
pub(super) struct Instances {
    fabric: String,
    found: BTreeMap<String, (NodeId, Vec<Address>)>,
    changed: bool,
    counts: InstanceCounts,
}

impl Instances {
    pub(super) fn new(fabric: &str) -> Self {
        let (found, counts) = (BTreeMap::new(), InstanceCounts::default());
        Self { fabric: fabric.to_owned(), found, changed: false, counts }
    }

    pub(super) fn fabric(&self) -> &str {
        &self.fabric
    }

    pub(super) fn counts(&self) -> InstanceCounts {
        self.counts
    }

    /// The instance of that name was heard, with this text.
    pub(super) fn insert<'a>(
        &mut self,
        name: &str,
        text: impl Fn(&str) -> Option<&'a str>,
        (port, ips): (u16, impl Iterator<Item = IpAddr>),
    ) {
        if text("fabric").is_some_and(|fabric| fabric != self.fabric) {
            self.counts.foreign += 1;
            return self.remove(name);
        }
        let node = text("node").and_then(parse_node);
        let node = node.filter(|_| text("v") == Some(FORM) && text("fabric").is_some() && port > 0);
        let ips: BTreeSet<IpAddr> = ips.filter(|ip| reaches(*ip)).collect();
        let Some(node) = node.filter(|_| !ips.is_empty()) else {
            self.counts.ignored += 1;
            return self.remove(name);
        };
        if self.found.len() >= CANDIDATES_MAX && !self.found.contains_key(name) {
            self.counts.beyond += 1;
            return;
        }
        let address = |ip| Address::new("tcp", &SocketAddr::new(ip, port).to_string());
        let addresses = ips.into_iter().take(ADDRESSES_MAX).map(address).collect();
        let said = (node, addresses);
        self.changed |= self.found.get(name) != Some(&said);
        self.found.insert(name.to_owned(), said);
    }

    /// The instance of that name is gone.
    pub(super) fn remove(&mut self, name: &str) {
        self.changed |= self.found.remove(name).is_some();
    }

    pub(super) fn clear(&mut self) {
        self.changed |= !self.found.is_empty();
        self.found.clear();
    }

    /// The nodes, if they are not as they were.
    pub(super) fn take_changed(&mut self) -> Option<Vec<Candidate>> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let mut nodes: BTreeMap<NodeId, Vec<Address>> = BTreeMap::new();
        for (node, addresses) in self.found.values() {
            nodes.entry(*node).or_default().extend(addresses.iter().cloned());
        }
        Some(nodes.into_iter().map(|(node, addresses)| Candidate::node(node, addresses)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId::new(0xabc);

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn told(addresses: &[&str], own: &[&str]) -> Vec<(String, u16, Vec<IpAddr>)> {
        let addresses: Vec<Address> =
            addresses.iter().map(|text| Address::parse(text).unwrap()).collect();
        let told = announcements(NODE, &addresses, &ips(own));
        told.into_iter().map(|one| (one.name, one.port, one.ips)).collect()
    }

    /// Says to `instances` that the node of that text is at `at`.
    fn heard(instances: &mut Instances, name: &str, text: &[(&str, &str)], at: (u16, &[&str])) {
        let value =
            |key: &str| text.iter().find(|(known, _)| *known == key).map(|(_, value)| *value);
        instances.insert(name, value, (at.0, ips(at.1).into_iter()));
    }

    fn sound() -> Vec<(&'static str, &'static str)> {
        vec![("v", "1"), ("fabric", "game"), ("node", "0000000000000abc")]
    }

    fn offered(instances: &mut Instances) -> Option<Vec<(u64, Vec<String>)>> {
        let of = |candidate: Candidate| {
            let addresses = candidate.addresses.iter().map(ToString::to_string).collect();
            (candidate.node.unwrap().as_u64(), addresses)
        };
        Some(instances.take_changed()?.into_iter().map(of).collect())
    }

    #[test]
    fn others_are_told_the_addresses_that_may_lead_here_port_by_port() {
        let name = |port: u16| format!("{NODE}-{port}");
        assert_eq!(
            told(
                &[
                    "tcp://10.0.0.1:7400",
                    "tcp://[fd00::1]:7400",
                    "tcp://10.0.1.1:7401",
                    "shm://x/y"
                ],
                &[]
            ),
            [
                (name(7400), 7400, ips(&["10.0.0.1", "fd00::1"])),
                (name(7401), 7401, ips(&["10.0.1.1"])),
            ]
        );
        let own = ["127.0.0.1", "::1", "10.0.0.1", "fd00::1", "fe80::1"];
        assert_eq!(told(&["tcp://0.0.0.0:7"], &own), [(name(7), 7, ips(&["10.0.0.1"]))]);
        assert_eq!(told(&["tcp://[::]:7"], &own), [(name(7), 7, ips(&["10.0.0.1", "fd00::1"]))]);
        assert_eq!(told(&["tcp://127.0.0.1:7", "tcp://[fe80::1]:7", "shm://x/y"], &own), []);
    }

    #[test]
    fn what_a_node_says_of_itself_is_what_others_understand_and_the_key_is_not_in_it() {
        let own = announcements(NODE, &[Address::new("tcp", "10.0.0.1:7")], &[]);
        let text = own[0].text("game");
        let text: Vec<(&str, &str)> =
            text.iter().map(|(key, value)| (*key, value.as_str())).collect();
        assert_eq!(text, sound());
        let mut instances = Instances::new("game");
        heard(&mut instances, &own[0].name, &text, (7, &["10.0.0.1"]));
        assert_eq!(
            offered(&mut instances),
            Some(vec![(0xabc, vec!["tcp://10.0.0.1:7".to_owned()])])
        );
    }

    #[test]
    fn a_node_is_offered_with_all_its_ports_until_it_is_gone() {
        let mut instances = Instances::new("game");
        heard(&mut instances, "a", &sound(), (7, &["10.0.0.1", "fd00::1"]));
        heard(&mut instances, "b", &sound(), (8, &["10.0.0.2"]));
        let all = ["tcp://10.0.0.1:7", "tcp://[fd00::1]:7", "tcp://10.0.0.2:8"].map(str::to_owned);
        assert_eq!(offered(&mut instances), Some(vec![(0xabc, all.to_vec())]));
        heard(&mut instances, "b", &sound(), (8, &["10.0.0.2"]));
        assert_eq!(offered(&mut instances), None);
        instances.remove("a");
        assert_eq!(offered(&mut instances), Some(vec![(0xabc, all[2..].to_vec())]));
        instances.clear();
        assert_eq!(offered(&mut instances), Some(vec![]));
    }

    #[test]
    fn another_fabric_and_nonsense_are_counted_and_not_offered() {
        let mut instances = Instances::new("game");
        let with = |key: &'static str, value: &'static str| {
            let mut text = sound();
            text.retain(|(known, _)| *known != key);
            text.extend((!value.is_empty()).then_some((key, value)));
            text
        };
        heard(
            &mut instances,
            "a",
            &[("v", "1"), ("fabric", "other"), ("node", "1")],
            (7, &["10.0.0.1"]),
        );
        assert_eq!(instances.counts(), InstanceCounts { foreign: 1, ..InstanceCounts::default() });
        for text in [
            with("v", "2"),
            with("v", ""),
            with("node", ""),
            with("node", "abc"),
            with("fabric", ""),
            vec![],
        ] {
            heard(&mut instances, "a", &text, (7, &["10.0.0.1"]));
        }
        heard(&mut instances, "a", &sound(), (0, &["10.0.0.1"]));
        heard(
            &mut instances,
            "a",
            &sound(),
            (7, &["127.0.0.1", "fe80::1", "0.0.0.0", "224.0.0.1"]),
        );
        assert_eq!((instances.counts().foreign, instances.counts().ignored), (1, 8));
        assert_eq!(offered(&mut instances), None);
        heard(&mut instances, "a", &sound(), (7, &["10.0.0.1"]));
        assert!(offered(&mut instances).is_some());
        heard(&mut instances, "a", &with("v", "2"), (7, &["10.0.0.1"]));
        assert_eq!(offered(&mut instances), Some(vec![]), "it has become something else");
    }

    #[test]
    fn mc3_more_instances_and_addresses_than_there_is_room_for_are_left_out() {
        let mut instances = Instances::new("game");
        let many: Vec<String> = (0..100).map(|at| format!("10.0.0.{at}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        for at in 0..=CANDIDATES_MAX {
            heard(&mut instances, &format!("{at}"), &sound(), (7, &many[..1]));
        }
        assert_eq!(instances.counts().beyond, 1);
        heard(&mut instances, "0", &sound(), (7, &many));
        assert_eq!(instances.found.len(), CANDIDATES_MAX);
        assert_eq!(instances.found["0"].1.len(), ADDRESSES_MAX);
    }
}
