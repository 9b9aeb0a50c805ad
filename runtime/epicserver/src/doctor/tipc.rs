//! What TIPC needs. Whether its links are encrypted cannot be asked: the kernel shows its keys to nobody.

use epicserver_tipc::{Service, neighbours, own_node, probe};
use epicserver_wire::NodeId;

use super::{Area, Check, Finding};
use crate::config::{Config, Transport};

pub(super) const AREA: Area = Area {
    name: "tipc",
    needed_by: &[Transport::Tipc],
    checks: &[
        Check { name: "module", dispensable: false, look: module },
        Check { name: "address", dispensable: false, look: address },
        Check { name: "neighbours", dispensable: true, look: other_machines },
        Check { name: "sockets", dispensable: false, look: sockets },
    ],
};

const LOAD: &str = "modprobe tipc, and a line `tipc` in /etc/modules-load.d/tipc.conf";
const ENABLE: &str = "tipc bearer enable media eth device IFACE";

fn module(_: &Config) -> Finding {
    match own_node() {
        Ok(_) => Finding::Ok("the kernel has TIPC".to_owned()),
        Err(error) => Finding::lacks(error.to_string(), LOAD),
    }
}

fn address(_: &Config) -> Finding {
    match own_node() {
        Ok(Some(node)) => Finding::Ok(format!("this machine is {node:x}")),
        Ok(None) => Finding::lacks("this machine has no address: no bearer is enabled", ENABLE),
        Err(_) => Finding::lacks("no TIPC", LOAD),
    }
}

fn other_machines(_: &Config) -> Finding {
    match neighbours() {
        Ok(machines) if machines.is_empty() => {
            let what = "no other machine is linked: the same bearer on each, one broadcast domain, no \
                        filter for Ethernet type 0x88ca";
            Finding::lacks(
                what,
                format!("on each machine: {ENABLE}; `tipc link list` shows the links"),
            )
        }
        Ok(machines) => Finding::Ok(format!("linked to {} machine(s)", machines.len())),
        Err(error) => {
            Finding::lacks(format!("the topology service does not answer: {error}"), LOAD)
        }
    }
}

fn sockets(config: &Config) -> Finding {
    let node = NodeId::new(u64::from(std::process::id()) << 32);
    match probe(Service::of(config.fabric.name.as_str(), node)) {
        Ok(()) => Finding::Ok("a service can be bound, and is found".to_owned()),
        Err(error) => Finding::lacks(format!("a service cannot be bound: {error}"), LOAD),
    }
}
