//! The transport: its links, each one connection of packets.
//!
//! # Invariants
//! - **C1** A link is up once its connection is, and gone when the driver has closed its socket.
//! - **C2** A packet holds whole messages, but for a message that is longer than a packet.
//!
//! # Not here
//! Where packets are cut, and how the kernel is asked: that is the driver's.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use epicserver_link::driver::{
    Completion, Done, Handle, Owner, PACKET_BYTES_MAX, Receive, SocketAddress,
};
use epicserver_link::framing::{Counters, Framing};
use epicserver_link::pool::{HeapPool, SLOT_BYTES};
use epicserver_link::{Address, Down, Event, Io, Parcel, Refused, Transport};
use epicserver_wire::frame::{Frame, Slots};
use epicserver_wire::{LinkId, Time};

use crate::raw::{self, Importance};
use crate::{Service, topology};

/// The scheme of the addresses.
pub const SCHEME: &str = "tipc";
/// Links that one transport has at most.
pub const LINKS_MAX: usize = 8192;
/// Slots of one link.
const SLOTS_MAX: usize = 256;
/// How long a connection may take to be made.
const DIAL: Duration = Duration::from_secs(5);
/// How long a link that is closed may take to send what was submitted.
const LINGER: Duration = Duration::from_millis(500);

// C2: what a slot holds goes in one packet.
const _: () = assert!(SLOT_BYTES <= PACKET_BYTES_MAX);

/// How a transport is set up.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Where to listen. If somebody does already, at the next instance that is free.
    pub service: Service,
    /// How much its packets count.
    pub importance: Importance,
}

/// One link.
struct Link {
    handle: Handle,
    accepted: bool,
    up: bool,
    peer: Address,
    slots: Arc<HeapPool>,
    framing: Framing,
    /// When it is given up: a dial that takes too long, or a close.
    until: Option<Time>,
    why: Option<Down>,
    /// A parcel was refused since there was room last.
    refused: bool,
}

/// The transport over TIPC.
pub struct Tipc {
    owner: Owner,
    config: Config,
    links: BTreeMap<LinkId, Link>,
    by_handle: BTreeMap<Handle, LinkId>,
    gone: Counters,
}

impl Tipc {
    /// Listens as `config` says; `owner` is this transport's place among those of its thread. Blocks for some
    /// milliseconds.
    ///
    /// # Errors
    /// [`Refused::Io`], which says what to do if the kernel has no TIPC or has not set it up.
    pub fn listen(owner: Owner, config: Config, io: &mut Io<'_>) -> Result<Self, Refused> {
        let refused = |call| {
            let address = config.service.address();
            move |source| Refused::Io { address, call, source }
        };
        if raw::own_node().map_err(refused("socket"))?.is_none() {
            return Err(refused("listen")(no_address()));
        }
        let service = topology::free_from(config.service).map_err(refused("listen"))?;
        let socket = raw::listen(service).map_err(refused("listen"))?;
        io.driver.listen(owner, socket).map_err(refused("accept"))?;
        if topology::neighbours().is_ok_and(|machines| machines.is_empty()) {
            tracing::warn!(
                "TIPC connects this machine to no other: on each, `tipc bearer enable media eth device IFACE`"
            );
        }
        let config = Config { service, ..config };
        let (links, by_handle) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { owner, config, links, by_handle, gone: Counters::default() })
    }

    /// Where it listens.
    #[must_use]
    pub fn service(&self) -> Service {
        self.config.service
    }

    /// What was received, and how much of it had to be copied, over all links.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.links.values().fold(self.gone, |sum, link| sum + link.framing.counters())
    }

    /// Slots that are lent now, over all links.
    #[must_use]
    pub fn lent(&self) -> usize {
        self.links.values().map(|link| link.slots.lent()).sum()
    }

    fn insert(&mut self, id: LinkId, handle: Handle, (peer, accepted): (Address, bool), now: Time) {
        let link = Link {
            handle,
            accepted,
            up: false,
            peer,
            slots: HeapPool::new(SLOTS_MAX, SLOT_BYTES),
            framing: Framing::default(),
            until: Some(now + DIAL),
            why: None,
            refused: false,
        };
        self.links.insert(id, link);
        self.by_handle.insert(handle, id);
    }

    fn accept(&mut self, io: &mut Io<'_>, socket: OwnedFd) {
        if self.links.len() >= LINKS_MAX {
            // Dropping the socket tells the peer.
            return;
        }
        // One that is gone already needs no link.
        let Ok(port) = raw::peer(&socket) else { return };
        let peer = Address::new(SCHEME, &format!("{:x}.{}", port.node, port.number));
        let Ok(handle) = io.driver.adopt(self.owner, socket, Receive::Packets) else { return };
        let link = io.new_link();
        self.insert(link, handle, (peer, true), io.now);
        self.connected(io, link);
    }

    fn connected(&mut self, io: &mut Io<'_>, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.why.is_some() {
            // It was given up while it was made: its end is all that is left to be told.
            return;
        }
        link.up = true;
        link.until = None;
        let slots = Arc::clone(&link.slots) as Arc<dyn Slots>;
        let (accepted, peer) = (link.accepted, link.peer.clone());
        io.events.push(Event::Up { link: id, accepted, peer, slots });
    }

    fn received(&mut self, io: &mut Io<'_>, id: LinkId, packet: &Frame) {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.why.is_none()) else { return };
        let events = &mut *io.events;
        let framed =
            link.framing.piece(packet, |frame| events.push(Event::Frame { link: id, frame }));
        if let Err(violation) = framed {
            link.why = Some(Down::from(violation));
            io.driver.close(link.handle, false);
        }
    }

    fn closed(&mut self, io: &mut Io<'_>, id: LinkId, error: Option<io::Error>) {
        let Some(link) = self.links.remove(&id) else { return };
        self.by_handle.remove(&link.handle);
        let Counters { frames, bytes, copied, copied_bytes, .. } = link.framing.counters();
        tracing::debug!(%link.peer, frames, bytes, copied, copied_bytes, "a link over TIPC has ended");
        self.gone = self.gone + link.framing.counters();
        let why = link.why.unwrap_or_else(|| match error {
            Some(error) if !is_the_peers(error.kind()) => Down::Failed(error.to_string()),
            None | Some(_) => Down::There,
        });
        // A link that was accepted is nobody's before it is up.
        if link.up || !link.accepted {
            io.events.push(Event::Down { link: id, why });
        }
    }

    fn has_room(&mut self, io: &mut Io<'_>, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.slots.has_room_again() | std::mem::take(&mut link.refused) {
            io.events.push(Event::Room { link: id });
        }
    }
}

impl Transport for Tipc {
    fn name(&self) -> &'static str {
        SCHEME
    }

    fn addresses(&self) -> Vec<Address> {
        vec![self.config.service.address()]
    }

    fn dial(&mut self, io: &mut Io<'_>, link: LinkId, to: &Address) -> Result<(), Refused> {
        let malformed = |why| Refused::Address { address: to.clone(), transport: SCHEME, why };
        let service = Service::parse(to).map_err(malformed)?;
        if self.links.len() >= LINKS_MAX {
            return Err(Refused::Links(LINKS_MAX));
        }
        let failed = |call| {
            let address = to.clone();
            move |source| Refused::Io { address, call, source }
        };
        let socket = raw::socket().map_err(failed("socket"))?;
        // The other end takes it over from this one.
        raw::set_importance(&socket, self.config.importance).map_err(failed("setsockopt"))?;
        let at = SocketAddress::Tipc(service.kind(), service.instance());
        let handle = io.driver.connect(self.owner, socket, &at, Receive::Packets);
        let handle = handle.map_err(failed("connect"))?;
        self.insert(link, handle, (to.clone(), false), io.now);
        Ok(())
    }

    fn submit(&mut self, io: &mut Io<'_>, id: LinkId, parcel: Parcel) -> Result<(), Parcel> {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.up) else {
            return Err(parcel);
        };
        io.driver.send(link.handle, parcel).inspect_err(|_| link.refused = true)
    }

    fn flush(&mut self, _: &mut Io<'_>) {
        // The driver sends all that it was given when it is polled, in as few packets as there can be.
    }

    fn complete(&mut self, io: &mut Io<'_>, completion: Completion) {
        let Completion { handle, done, .. } = completion;
        if let Done::Accepted(socket) = done {
            return self.accept(io, socket);
        }
        let Some(id) = self.by_handle.get(&handle).copied() else { return };
        match done {
            Done::Connected => self.connected(io, id),
            Done::Received(packet) => self.received(io, id, &packet),
            Done::Sent(_) => self.has_room(io, id),
            Done::Closed(error) => self.closed(io, id, error),
            Done::Accepted(_) | Done::Readable => {}
        }
    }

    fn stirs(&mut self) -> bool {
        // All that arrives comes by way of the driver.
        false
    }

    fn poll(&mut self, io: &mut Io<'_>) -> bool {
        let late = |link: &Link| link.until.is_some_and(|until| until <= io.now);
        for link in self.links.values_mut().filter(|link| late(link)) {
            link.until = None;
            link.why.get_or_insert(Down::Silent(DIAL));
            io.driver.close(link.handle, false);
        }
        // Slots may come home without having been sent: unused, or from another thread.
        let before = io.events.len();
        for (id, link) in self.links.iter().filter(|(_, link)| link.up) {
            if link.slots.has_room_again() {
                io.events.push(Event::Room { link: *id });
            }
        }
        io.events.len() > before
    }

    fn arm(&mut self, _: &mut Io<'_>) -> bool {
        // All that arrives comes by way of the driver.
        true
    }

    fn deadline(&self) -> Option<Time> {
        self.links.values().filter_map(|link| link.until).min()
    }

    fn close(&mut self, io: &mut Io<'_>, id: LinkId) {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.why.is_none()) else { return };
        link.why = Some(Down::Here);
        link.until = Some(io.now + LINGER);
        io.driver.close(link.handle, true);
    }
}

impl std::fmt::Debug for Tipc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tipc").field("links", &self.links.len()).finish_non_exhaustive()
    }
}

fn no_address() -> io::Error {
    let what = "TIPC has given this machine no address, so no other would find it; \
                `tipc bearer enable media eth device IFACE` brings it one within a second";
    io::Error::new(io::ErrorKind::AddrNotAvailable, what)
}

/// Whether a connection fails so when the peer closes it, or its process or machine ends.
fn is_the_peers(error: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    [ConnectionReset, ConnectionAborted, BrokenPipe].contains(&error)
}
