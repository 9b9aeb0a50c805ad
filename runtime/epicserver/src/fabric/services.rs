//! Nodes of other machines that TIPC's topology service tells of.
//!
//! # Invariants
//! - **FA20** Of two nodes that find each other so, the one with the smaller instance dials. An instance begins as the
//!   upper half of the node's id, so this is nearly always who dials by FA1 too.
//!
//! # Not here
//! Whether a service is a node of this fabric: the handshake tells.

use std::io;
use std::time::Instant;

use epicserver_link::Address;
use epicserver_tipc::{Service, Topology};
use epicserver_wire::NodeId;

use crate::discovery::{Candidate, Source};

/// The services of this fabric's type.
#[derive(Debug)]
pub(super) struct Services {
    topology: Topology,
    own: Option<Service>,
    /// This node began to listen since it was asked last.
    news: bool,
}

impl Services {
    /// Watches the services of the type of `own`.
    pub(super) fn watch(own: Service) -> io::Result<Self> {
        Ok(Self { topology: Topology::watch(own)?, own: None, news: false })
    }
}

impl Source for Services {
    fn name(&self) -> &'static str {
        "tipc"
    }

    /// Any program of any machine of the cluster may take a service of this type.
    fn is_trusted(&self) -> bool {
        false
    }

    fn announce(&mut self, _: NodeId, addresses: &[Address]) {
        self.own = addresses.iter().find_map(Service::of_address);
        self.news = true;
    }

    fn poll(&mut self, _: Instant) -> Option<Vec<Candidate>> {
        let changed = self.topology.changed() | std::mem::take(&mut self.news);
        changed.then(|| candidates(self.own, self.topology.services()))
    }
}

/// Whom to dial (**FA20**); nobody before this node listens.
fn candidates(own: Option<Service>, there: impl Iterator<Item = Service>) -> Vec<Candidate> {
    let dialled = there.filter(|service| own.is_some_and(|own| own < *service));
    dialled.map(|service| Candidate::at(service.address())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn services(instances: &[u32]) -> impl Iterator<Item = Service> {
        instances.iter().filter_map(|instance| Service::new(100, *instance))
    }

    #[test]
    fn fa20_only_services_above_the_own_one_are_dialled_and_none_before_there_is_one() {
        assert_eq!(candidates(None, services(&[1, 5, 9])), []);
        let wanted = [Candidate::at(Address::new("tipc", "100:9"))];
        assert_eq!(candidates(Service::new(100, 5), services(&[1, 5, 9])), wanted);
    }
}
