//! Which device, port and address are used: as configured, or the best that there are.
//!
//! # Not here
//! How a device is asked.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

use crate::Config;
use crate::device::{Context, DeviceError, Local, Port, devices};
use crate::ffi::library::Library;

/// Entries of a port's table of GIDs that are looked at.
const GIDS_MAX: u32 = 256;
/// Entries of a port's table of P_Keys that are looked at.
const PKEYS_MAX: u16 = 128;

/// What kind of address a GID is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum GidKind {
    /// RoCE over UDP, which routers pass.
    RoceV2,
    /// It is not said, by an old kernel.
    Unknown,
    /// RoCE right over Ethernet, or InfiniBand.
    IbOrRoceV1,
}

/// An address of a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct GidEntry {
    pub(crate) index: u8,
    pub(crate) gid: [u8; 16],
    pub(crate) kind: GidKind,
}

impl GidEntry {
    fn address(&self) -> IpAddr {
        Ipv6Addr::from(self.gid).to_canonical()
    }

    /// How good it is: the less the better. One that the node listens at first, then RoCE v2 before others, and IPv4
    /// before what routers pass, before what they do not.
    fn rank(&self, listening: &[IpAddr]) -> (GidKind, bool, u8, u8) {
        let address = self.address();
        let reach = match address {
            IpAddr::V4(_) => 0,
            IpAddr::V6(ip) if ip.is_unicast_link_local() => 2,
            IpAddr::V6(_) => 1,
        };
        (self.kind, !listening.contains(&address), reach, self.index)
    }
}

impl fmt::Display for GidEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            GidKind::RoceV2 => "RoCE v2",
            GidKind::Unknown => "of a kind that the kernel does not tell",
            GidKind::IbOrRoceV1 => "InfiniBand or RoCE v1",
        };
        write!(f, "{} ({}, {kind})", self.index, self.address())
    }
}

/// What can be chosen from: a port of a device, as far as it is known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Candidate {
    pub(crate) device: String,
    pub(crate) port: Port,
    pub(crate) gids: Vec<GidEntry>,
    pub(crate) pkeys: Vec<u16>,
}

/// What was chosen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Choice {
    pub(crate) device: String,
    pub(crate) local: Local,
    /// The NUMA node that the device is at, if it is at one.
    pub(crate) numa: Option<u32>,
}

/// The states of a port, as the header numbers them.
const STATES: [&str; 6] = ["no state", "DOWN", "INIT", "ARMED", "ACTIVE", "ACTIVE_DEFER"];

/// Looks for the best port that `config` allows.
///
/// # Errors
/// What is wrong, with what there is instead.
pub(crate) fn choose(candidates: &[Candidate], config: &Config) -> Result<Choice, String> {
    let of_device: Vec<&Candidate> = candidates
        .iter()
        .filter(|candidate| config.device.as_ref().is_none_or(|name| *name == candidate.device))
        .collect();
    if let (Some(name), true) = (&config.device, of_device.is_empty()) {
        return Err(format!("there is no device called `{name}`; {}", there_is(candidates)));
    }
    let of_port: Vec<&Candidate> = of_device
        .iter()
        .copied()
        .filter(|candidate| config.port.is_none_or(|port| port == candidate.port.number))
        .collect();
    if let (Some(port), true) = (config.port, of_port.is_empty()) {
        return Err(format!("there is no port {port}; {}", there_is(candidates)));
    }
    let Some(best) = of_port.iter().find(|candidate| candidate.port.active) else {
        return Err(match of_port.as_slice() {
            [] => "the kernel knows no RDMA device".to_owned(),
            ports => {
                let named: Vec<_> = ports.iter().map(|port| port.to_string()).collect();
                format!("no port is active: {}", named.join(", "))
            }
        });
    };
    let gid = choose_gid(best, config)?;
    let pkey_index = choose_pkey(best, config.pkey)?;
    let mtu = match config.mtu {
        None => best.port.mtu,
        Some(mtu) if mtu.code() <= best.port.mtu => mtu.code(),
        Some(mtu) => return Err(format!("{best} has a smaller MTU than {} bytes", mtu.bytes())),
    };
    let local = Local {
        port: best.port.number,
        gid: gid.gid,
        gid_index: gid.index,
        lid: best.port.lid,
        pkey_index,
        mtu,
        ethernet: best.port.ethernet,
        traffic_class: config.traffic_class,
        service_level: config.service_level,
    };
    Ok(Choice { device: best.device.clone(), local, numa: None })
}

fn choose_gid<'a>(candidate: &'a Candidate, config: &Config) -> Result<&'a GidEntry, String> {
    let named = || {
        let named: Vec<_> = candidate.gids.iter().map(ToString::to_string).collect();
        named.join(", ")
    };
    if let Some(index) = config.gid_index {
        let found = candidate.gids.iter().find(|gid| gid.index == index);
        let none = || format!("{candidate} has no GID at index {index}; it has {}", named());
        return found.ok_or_else(none);
    }
    let listening: Vec<IpAddr> = config.addresses.iter().map(|address| address.ip()).collect();
    let best = candidate.gids.iter().min_by_key(|gid| gid.rank(&listening));
    best.ok_or_else(|| format!("{candidate} has no GID: give its interface an IP address"))
}

fn choose_pkey(candidate: &Candidate, wanted: Option<u16>) -> Result<u16, String> {
    // The upper bit says who is a full member, without which two limited ones cannot talk.
    let fits = |pkey: u16| match wanted {
        None => pkey & 0x7fff != 0,
        Some(wanted) => pkey & 0x7fff == wanted & 0x7fff,
    };
    let found = (0..).zip(&candidate.pkeys).find(|(_, pkey)| fits(**pkey));
    found.map(|(index, _)| index).ok_or_else(|| {
        let named: Vec<_> = candidate.pkeys.iter().map(|pkey| format!("{pkey:#06x}")).collect();
        let wanted = wanted.map_or_else(String::new, |wanted| format!(" {wanted:#06x}"));
        format!("{candidate} has no P_Key{wanted}; it has {}", named.join(", "))
    })
}

fn there_is(candidates: &[Candidate]) -> String {
    let named: Vec<_> = candidates.iter().map(ToString::to_string).collect();
    if named.is_empty() {
        "there are none".to_owned()
    } else {
        format!("there is {}", named.join(", "))
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = STATES.get(self.port.state as usize).unwrap_or(&"in an unknown state");
        write!(f, "port {} of {} ({state})", self.port.number, self.device)
    }
}

/// All ports of all devices. One that cannot be looked at is passed over, and that is said.
///
/// # Errors
/// If the library lists no devices.
pub(crate) fn look(library: &Arc<Library>, sys: &Path) -> Result<Vec<Candidate>, DeviceError> {
    let mut found = Vec::new();
    for device in devices(library)? {
        let looked =
            Context::open(library, &device).and_then(|context| ports(&context, &device, sys));
        match looked {
            Ok(ports) => found.extend(ports),
            Err(error) => {
                tracing::warn!(device, %error, why = %error.source, "an RDMA device cannot be used");
            }
        }
    }
    Ok(found)
}

fn ports(context: &Context, device: &str, sys: &Path) -> Result<Vec<Candidate>, DeviceError> {
    let mut found = Vec::new();
    for number in 1..=context.limits()?.ports {
        let port = context.port(number)?;
        let mut gids = Vec::new();
        for index in 0..port.gids.min(GIDS_MAX) {
            let (Ok(gid), Ok(at)) = (context.gid(number, index), u8::try_from(index)) else {
                continue;
            };
            if gid.iter().any(|byte| *byte != 0) {
                let kind = kind_of(sys, device, (number, index), port.ethernet);
                gids.push(GidEntry { index: at, gid, kind });
            }
        }
        let pkeys =
            (0..port.pkeys.min(PKEYS_MAX)).filter_map(|index| context.pkey(number, index).ok());
        let pkeys = pkeys.collect();
        found.push(Candidate { device: device.to_owned(), port, gids, pkeys });
    }
    Ok(found)
}

fn kind_of(sys: &Path, device: &str, (port, index): (u8, u32), ethernet: bool) -> GidKind {
    let path = format!("class/infiniband/{device}/ports/{port}/gid_attrs/types/{index}");
    match std::fs::read_to_string(sys.join(path)) {
        Ok(kind) if kind.trim() == "RoCE v2" => GidKind::RoceV2,
        Ok(_) => GidKind::IbOrRoceV1,
        Err(_) if ethernet => GidKind::Unknown,
        Err(_) => GidKind::IbOrRoceV1,
    }
}

/// The NUMA node that `device` is at; `None` if the kernel names none, as of a device that is software.
pub(crate) fn numa_of(sys: &Path, device: &str) -> Option<u32> {
    let path = sys.join(format!("class/infiniband/{device}/device/numa_node"));
    // It is -1 where there is none.
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gid(index: u8, address: &str, kind: GidKind) -> GidEntry {
        let address: IpAddr = address.parse().unwrap();
        let gid = match address {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        };
        GidEntry { index, gid, kind }
    }

    fn candidate(device: &str, active: bool) -> Candidate {
        let port = Port {
            number: 1,
            active,
            state: if active { 4 } else { 1 },
            mtu: 3,
            lid: 0,
            gids: 4,
            pkeys: 2,
            ethernet: true,
        };
        let gids = vec![
            gid(0, "fe80::1", GidKind::IbOrRoceV1),
            gid(1, "fe80::1", GidKind::RoceV2),
            gid(2, "10.0.0.1", GidKind::IbOrRoceV1),
            gid(3, "10.0.0.1", GidKind::RoceV2),
            gid(4, "10.1.0.1", GidKind::RoceV2),
        ];
        Candidate { device: device.to_owned(), port, gids, pkeys: vec![0, 0xffff, 0x8001] }
    }

    fn chosen(candidates: &[Candidate], config: &Config) -> Local {
        choose(candidates, config).unwrap().local
    }

    #[test]
    fn the_first_active_port_is_taken_with_its_best_address() {
        let candidates = [candidate("down0", false), candidate("rxe0", true)];
        let choice = choose(&candidates, &Config::default()).unwrap();
        assert_eq!(choice.device, "rxe0");
        let Local { gid_index, mtu, pkey_index, .. } = choice.local;
        assert_eq!((gid_index, mtu, pkey_index), (3, 3, 1));
    }

    #[test]
    fn the_address_that_the_node_listens_at_is_preferred() {
        let addresses = vec!["10.1.0.1:7000".parse().unwrap()];
        let config = Config { addresses, ..Config::default() };
        assert_eq!(chosen(&[candidate("rxe0", true)], &config).gid_index, 4);
    }

    #[test]
    fn what_is_configured_is_taken_or_refused_with_what_there_is() {
        let candidates = [candidate("rxe0", true), candidate("rxe1", false)];
        let refused = |config: Config| choose(&candidates, &config).unwrap_err();
        let config = Config { gid_index: Some(2), pkey: Some(0x8001), ..Config::default() };
        let Local { gid_index, pkey_index, .. } = chosen(&candidates, &config);
        assert_eq!((gid_index, pkey_index), (2, 2));
        let said = refused(Config { device: Some("mlx5_0".into()), ..Config::default() });
        assert!(said.contains("mlx5_0") && said.contains("rxe0"), "{said}");
        let said = refused(Config { device: Some("rxe1".into()), ..Config::default() });
        assert!(said.contains("DOWN"), "{said}");
        let said = refused(Config { port: Some(2), ..Config::default() });
        assert!(said.contains("no port 2"), "{said}");
        let said = refused(Config { gid_index: Some(9), ..Config::default() });
        assert!(said.contains("index 9") && said.contains("3 (10.0.0.1, RoCE v2)"), "{said}");
        let said = refused(Config { mtu: Some(crate::Mtu::B4096), ..Config::default() });
        assert!(said.contains("4096"), "{said}");
        let said = refused(Config { pkey: Some(0x8005), ..Config::default() });
        assert!(said.contains("0x8005") && said.contains("0x8001"), "{said}");
    }

    #[test]
    fn a_machine_without_a_device_is_told_so() {
        let said = choose(&[], &Config::default()).unwrap_err();
        assert_eq!(said, "the kernel knows no RDMA device");
    }

    #[test]
    fn what_the_kernel_says_in_its_files_is_read() {
        let sys = std::env::temp_dir().join(format!("epicserver-verbs-{}", std::process::id()));
        let port = sys.join("class/infiniband/rxe0/ports/1/gid_attrs/types");
        let device = sys.join("class/infiniband/rxe0/device");
        std::fs::create_dir_all(&port).unwrap();
        std::fs::create_dir_all(&device).unwrap();
        std::fs::write(port.join("0"), "IB/RoCE v1\n").unwrap();
        std::fs::write(port.join("1"), "RoCE v2\n").unwrap();
        std::fs::write(device.join("numa_node"), "1\n").unwrap();
        let kind = |index| kind_of(&sys, "rxe0", (1, index), true);
        let kinds = [kind(0), kind(1), kind(2)];
        let numa = [numa_of(&sys, "rxe0"), numa_of(&sys, "rxe1")];
        std::fs::remove_dir_all(&sys).unwrap();
        assert_eq!(kinds, [GidKind::IbOrRoceV1, GidKind::RoceV2, GidKind::Unknown]);
        assert_eq!(numa, [Some(1), None]);
    }
}
