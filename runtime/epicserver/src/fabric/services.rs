//! Nodes of other machines that TIPC's topology service tells of.
//!
//! # Invariants
//! - **FA7** Of two nodes that find each other so, the one with the smaller instance dials. An instance begins as the
//!   upper half of the node's id, so this is nearly always who dials by FA1 too.
//!
//! # Not here
//! Whether a service is a node of this fabric: the handshake tells.

use std::collections::BTreeMap;
use std::io;

use epicserver_link::Address;
use epicserver_tipc::{Service, Topology};
use epicserver_wire::NodeId;

/// The services of this fabric's type.
#[derive(Debug)]
pub(super) struct Services {
    topology: Topology,
    known: Known,
}

impl Services {
    /// Watches the services of the type of `own`.
    pub(super) fn watch(own: Service) -> io::Result<Self> {
        Ok(Self { topology: Topology::watch(own)?, known: Known::default() })
    }

    /// This node listens.
    pub(super) fn listening(&mut self, addresses: &[Address]) {
        self.known.own = addresses.iter().find_map(Service::of_address);
    }

    /// An address that was dialled is that of `node`.
    pub(super) fn reached(&mut self, address: &Address, node: NodeId) {
        self.known.nodes.extend(Service::of_address(address).map(|service| (service, node)));
    }

    /// Takes in what has changed. Says whether anything has.
    pub(super) fn changed(&mut self) -> bool {
        self.topology.changed()
    }

    /// Whom to dial: who is there and was not reached, or is not linked any more.
    pub(super) fn unreached(&mut self, is_linked: impl Fn(NodeId) -> bool) -> Vec<Address> {
        self.known.unreached(self.topology.services().collect(), is_linked)
    }
}

/// What was found out about services.
#[derive(Debug, Default)]
struct Known {
    own: Option<Service>,
    /// Which node was reached at a service.
    nodes: BTreeMap<Service, NodeId>,
}

impl Known {
    fn unreached(
        &mut self,
        mut there: Vec<Service>,
        is_linked: impl Fn(NodeId) -> bool,
    ) -> Vec<Address> {
        // FA7.
        there.retain(|service| self.own.is_some_and(|own| own < *service));
        self.nodes.retain(|service, _| there.contains(service));
        there.retain(|service| !self.nodes.get(service).copied().is_some_and(&is_linked));
        there.into_iter().map(Service::address).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId::new(7);

    fn services(instances: &[u32]) -> Vec<Service> {
        instances.iter().filter_map(|instance| Service::new(100, *instance)).collect()
    }

    #[test]
    fn fa7_only_services_above_the_own_one_are_dialled_and_none_before_there_is_one() {
        let mut known = Known::default();
        assert_eq!(known.unreached(services(&[1, 5, 9]), |_| false), []);
        known.own = Service::new(100, 5);
        let wanted = [Address::new("tipc", "100:9")];
        assert_eq!(known.unreached(services(&[1, 5, 9]), |_| false), wanted);
    }

    #[test]
    fn who_is_linked_is_not_dialled_until_the_link_is_gone() {
        let (nine, own) = (services(&[9])[0], Service::new(100, 5));
        let mut known = Known { own, nodes: BTreeMap::from([(nine, NODE)]) };
        assert_eq!(known.unreached(vec![nine], |node| node == NODE), []);
        assert_eq!(known.unreached(vec![nine], |_| false), [nine.address()]);
        // Another node may have that instance once it was withdrawn.
        assert_eq!(known.unreached(Vec::new(), |_| true), []);
        assert_eq!(known.unreached(vec![nine], |_| true), [nine.address()]);
    }
}
