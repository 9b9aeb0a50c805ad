//! Links over InfiniBand and RoCE, by the verbs of libibverbs, which is loaded at run time.
//!
//! An address is `verbs://IP:PORT`: a TCP connection to it is how two ends come to know each other's queue pairs, and
//! it stays as the sign that the peer lives. Messages go by sends into the slots of a shared queue and are read where
//! the device put them; bodies are fetched by the receiver from where they lie.
//!
//! # Not here
//! Who the peer is. What packets are protected by once a link is up: nothing, so the network must be one that only
//! trusted machines can reach.

mod announce;
mod bulk;
mod choose;
#[expect(unsafe_code, reason = "a device is driven through a library in C")]
mod device;
mod engine;
#[expect(unsafe_code, reason = "a library is loaded at run time")]
mod ffi;
mod greeting;
mod link;
mod memlock;
mod receiving;
mod sending;
mod status;
pub mod survey;
#[cfg(test)]
mod tests;
mod transport;
mod window;
mod word;

use std::net::SocketAddr;

pub use greeting::Key;
pub use transport::Verbs;

/// Where the kernel tells of its devices.
const SYS: &str = "/sys";
/// The scheme of the addresses.
pub const SCHEME: &str = "verbs";
/// Least that [`Config::slot_bytes`] may be.
pub const SLOT_BYTES_MIN: usize = 8 << 10;
/// Most that it may be.
pub const SLOT_BYTES_MAX: usize = 64 << 10;
/// Most that [`Config::window`] may be.
pub const WINDOW_MAX: u16 = 1024;

/// How a transport is set up. What is `None` is chosen, and the choice logged.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen for peers, by TCP; port 0 is any free port.
    pub addresses: Vec<SocketAddr>,
    /// What a peer proves to know before anything is made for it.
    pub key: Key,
    /// The device, by the kernel's name; the first with an active port if `None`.
    pub device: Option<String>,
    /// Its port; the first that is active if `None`.
    pub port: Option<u8>,
    /// The index of its GID; RoCE v2 and IPv4 before others if `None`.
    pub gid_index: Option<u8>,
    /// The most bytes of one packet; what the port has if `None`, and in any case no more than the peer's.
    pub mtu: Option<Mtu>,
    /// The partition, as the subnet manager numbers it; the port's first if `None`.
    pub pkey: Option<u16>,
    /// The traffic class of packets, by which routers and switches tell them apart.
    pub traffic_class: u8,
    /// The service level of InfiniBand, or the priority of Ethernet.
    pub service_level: u8,
    /// Bytes of the slots in which messages are received, a multiple of 1,024 from [`SLOT_BYTES_MIN`] to
    /// [`SLOT_BYTES_MAX`]. Links take the lesser of both ends.
    pub slot_bytes: usize,
    /// How many of them each peer may fill before it has to wait; 1 to [`WINDOW_MAX`].
    pub window: u16,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            key: Key([0; 32]),
            device: None,
            port: None,
            gid_index: None,
            mtu: None,
            pkey: None,
            traffic_class: 0,
            service_level: 0,
            slot_bytes: 8 << 10,
            window: 64,
        }
    }
}

/// The most bytes that one packet carries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Mtu {
    /// 256 bytes.
    B256 = 1,
    /// 512 bytes.
    B512 = 2,
    /// 1,024 bytes.
    B1024 = 3,
    /// 2,048 bytes.
    B2048 = 4,
    /// 4,096 bytes.
    B4096 = 5,
}

impl Mtu {
    /// The one of so many bytes, if there is one.
    #[must_use]
    pub fn of_bytes(bytes: u32) -> Option<Self> {
        let all = [Self::B256, Self::B512, Self::B1024, Self::B2048, Self::B4096];
        all.into_iter().find(|mtu| mtu.bytes() == bytes)
    }

    /// How many bytes they are.
    #[must_use]
    pub fn bytes(self) -> u32 {
        128 << self.code()
    }

    /// As in `enum ibv_mtu`.
    pub(crate) fn code(self) -> u32 {
        u32::from(self as u8)
    }
}

/// Why there are no links over verbs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerbsError {
    /// This machine has no library or no device, or what it has cannot be used as configured.
    #[error("verbs unavailable: {0}")]
    Unavailable(String),
    /// The addresses cannot be listened at.
    #[error(transparent)]
    Refused(#[from] epicserver_link::Refused),
}

/// What this crate takes the header of libibverbs to say: expressions in C, and their values. For a test that has
/// the header.
#[doc(hidden)]
pub fn layout() -> Vec<(&'static str, usize)> {
    ffi::layout::layout().collect()
}
