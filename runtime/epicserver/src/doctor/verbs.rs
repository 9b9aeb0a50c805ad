//! What verbs need. What a process may pin, and huge pages, are the area of memory.

use epicserver_verbs::survey;

use super::{Area, Check, Finding};
use crate::config::{Config, Transport};
use crate::fabric::verbs_of;

pub(super) const AREA: Area = Area {
    name: "verbs",
    needed_by: &[Transport::Verbs],
    checks: &[
        Check { name: "module", dispensable: false, look: module },
        Check { name: "device", dispensable: false, look: device },
        Check { name: "library", dispensable: false, look: library },
        Check { name: "permission", dispensable: false, look: permission },
        Check { name: "port", dispensable: false, look: port },
        Check { name: "NUMA node", dispensable: true, look: numa },
        Check { name: "queues", dispensable: false, look: queues },
    ],
};

const MODULE: &str = "modprobe ib_uverbs, and a line `ib_uverbs` in /etc/modules-load.d/rdma.conf";
const DEVICE: &str = "the module of the card (mlx5_ib, irdma, bnxt_re, …); or, of software: modprobe rdma_rxe && \
                      rdma link add rxe0 type rxe netdev IFACE";
const LIBRARY: &str = "apt-get install libibverbs1 ibverbs-providers";
const PORT: &str = "`ibv_devinfo` shows states: a cable, a switch or a subnet manager (opensm) for InfiniBand; \
                    `ip link set IFACE up` and an address for RoCE; [network.verbs] for another choice";

fn module(_: &Config) -> Finding {
    match survey::has_module() {
        true => Finding::Ok("the kernel has ib_uverbs".to_owned()),
        false => Finding::lacks("the kernel has not loaded ib_uverbs", MODULE),
    }
}

fn device(_: &Config) -> Finding {
    match survey::devices() {
        Ok(devices) if devices.is_empty() => Finding::lacks("the kernel knows no device", DEVICE),
        Ok(devices) => Finding::Ok(devices.join(", ")),
        Err(error) => Finding::lacks(format!("its devices cannot be listed: {error}"), DEVICE),
    }
}

fn library(_: &Config) -> Finding {
    match survey::library() {
        Ok(()) => Finding::Ok("libibverbs is there".to_owned()),
        Err(why) => Finding::lacks(why, LIBRARY),
    }
}

fn permission(_: &Config) -> Finding {
    let forbidden = survey::forbidden();
    if forbidden.is_empty() {
        return Finding::Ok("all devices may be opened".to_owned());
    }
    let mend = "a rule `KERNEL==\"uverbs*\", MODE=\"0666\"` in /etc/udev/rules.d/90-rdma.rules, then udevadm trigger";
    Finding::lacks(format!("this user may not open {}", forbidden.join(", ")), mend)
}

fn port(config: &Config) -> Finding {
    match survey::chosen(&verbs_of(config)) {
        Ok(chosen) => {
            let survey::Chosen { device, port, gid_index, gid, mtu, .. } = chosen;
            Finding::Ok(format!(
                "port {port} of {device}, GID {gid_index} ({gid}), packets of {mtu} bytes"
            ))
        }
        Err(why) => Finding::lacks(why, PORT),
    }
}

fn numa(config: &Config) -> Finding {
    match survey::chosen(&verbs_of(config)) {
        Ok(chosen) => match chosen.numa {
            Some(node) => Finding::Ok(format!("{node}: threads run near it where they may")),
            None => Finding::Ok("the device is at none".to_owned()),
        },
        Err(_) => Finding::lacks("no port", PORT),
    }
}

fn queues(config: &Config) -> Finding {
    match survey::usable(&verbs_of(config)) {
        Ok(links) => Finding::Ok(format!("can be made; the device carries {links} links")),
        Err(why) => Finding::lacks(why, "what the lines above say"),
    }
}
