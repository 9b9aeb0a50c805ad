//! Links over TCP, IPv4 and IPv6, in the clear or with TLS.
//!
//! # Invariants
//! - **C1** A link is up once its connection is, and its TLS if it has one; and gone when the driver has
//!   closed its socket.
//!
//! # Not here
//! Who the peer is. How the kernel is asked: that is the driver's.

mod secure;
#[cfg(test)]
mod tests;
mod tls;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use epicserver_link::driver::{Completion, Done, Handle, Owner, Receive, SocketAddress};
use epicserver_link::framing::Framing;
use epicserver_link::pool::{HeapPool, SLOT_BYTES};
use epicserver_link::{Address, Down, Event, Io, Parcel, Refused, Transport};
use epicserver_wire::frame::{Frame, Slots};
use epicserver_wire::{LinkId, Time};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

pub use epicserver_link::framing::Counters;
use secure::Refusals;
use tls::{Session, Work};
pub use tls::{Tls, TlsError};

/// The scheme of the addresses.
pub const SCHEME: &str = "tcp";
/// Links that one transport has at most.
pub const LINKS_MAX: usize = 8192;
/// Slots of one link.
const SLOTS_MAX: usize = 256;
/// How long a connection may take to be made, TLS included.
const DIAL: Duration = Duration::from_secs(5);
/// How long a link that is closed may take to send what was submitted.
const LINGER: Duration = Duration::from_millis(500);
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// How a transport is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen; port 0 is any free port.
    pub addresses: Vec<SocketAddr>,
    /// What TLS needs; without it, links are in the clear. All nodes of a fabric do the same.
    pub tls: Option<Tls>,
}

/// One link.
struct Link {
    handle: Handle,
    accepted: bool,
    up: bool,
    peer: SocketAddr,
    slots: Arc<HeapPool>,
    framing: Framing,
    tls: Option<Box<Session>>,
    /// When it is given up: a dial that takes too long, or a close.
    until: Option<Time>,
    why: Option<Down>,
    /// A parcel was refused since there was room last.
    refused: bool,
}

/// The transport over TCP.
pub struct Tcp {
    owner: Owner,
    listening: BTreeMap<Handle, SocketAddr>,
    links: BTreeMap<LinkId, Link>,
    by_handle: BTreeMap<Handle, LinkId>,
    gone: Counters,
    tls: Option<Tls>,
    work: Work,
    refusals: Refusals,
}

impl Tcp {
    /// Listens as `config` says; `owner` is this transport's place among those of its thread.
    ///
    /// # Errors
    /// [`Refused::Io`] names the address and the system call.
    pub fn listen(owner: Owner, config: Config, io: &mut Io<'_>) -> Result<Self, Refused> {
        let mut listening = BTreeMap::new();
        for address in &config.addresses {
            let refused = |call| {
                let address = address_of(*address);
                move |source| Refused::Io { address, call, source }
            };
            let socket = listener(*address).map_err(refused("listen"))?;
            let bound = socket.local_addr().map_err(refused("getsockname"))?;
            let handle = io.driver.listen(owner, socket.into()).map_err(refused("accept"))?;
            listening.insert(handle, bound.as_socket().unwrap_or(*address));
        }
        Ok(Self {
            owner,
            listening,
            links: BTreeMap::new(),
            by_handle: BTreeMap::new(),
            gone: Counters::default(),
            tls: config.tls,
            work: Work::default(),
            refusals: Refusals::default(),
        })
    }

    /// What was received, and how much of it had to be copied, over all links.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.links.values().fold(self.gone, |sum, link| sum + link.framing.counters())
    }

    /// Slots that are lent now, over all links.
    #[must_use]
    pub fn lent(&self) -> usize {
        let sealed = |link: &Link| link.tls.as_ref().map_or(0, |session| session.lent());
        self.links.values().map(|link| link.slots.lent() + sealed(link)).sum()
    }

    /// Links that were ended for the sake of TLS: a peer without a certificate of the authority, only one
    /// of the two ends with TLS at all, or bytes that were tampered with.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refusals.count()
    }

    fn insert(
        &mut self,
        id: LinkId,
        handle: Handle,
        (peer, accepted): (SocketAddr, bool),
        now: Time,
    ) {
        let link = Link {
            handle,
            accepted,
            up: false,
            peer,
            slots: HeapPool::new(SLOTS_MAX, SLOT_BYTES),
            framing: Framing::default(),
            tls: None,
            until: Some(now + DIAL),
            why: None,
            refused: false,
        };
        self.links.insert(id, link);
        self.by_handle.insert(handle, id);
    }

    fn accept(&mut self, io: &mut Io<'_>, socket: std::os::fd::OwnedFd) {
        if self.links.len() >= LINKS_MAX {
            // Dropping the socket tells the peer.
            return;
        }
        let socket = Socket::from(socket);
        let peer = socket.peer_addr().ok().and_then(|peer| peer.as_socket());
        // One that is gone already needs no link.
        let (Some(peer), Ok(())) = (peer, tune(&socket)) else { return };
        let Ok(handle) = io.driver.adopt(self.owner, socket.into(), Receive::Stream) else {
            return;
        };
        let link = io.new_link();
        self.insert(link, handle, (peer, true), io.now);
        self.connected(io, link);
    }

    fn connected(&mut self, io: &mut Io<'_>, id: LinkId) {
        match self.tls.clone() {
            Some(tls) => self.begin_tls(io, id, &tls),
            None => self.up(io, id),
        }
    }

    fn up(&mut self, io: &mut Io<'_>, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.why.is_some() {
            // It was given up while it was made: its end is all that is left to be told.
            return;
        }
        link.up = true;
        link.until = None;
        let slots = Arc::clone(&link.slots) as Arc<dyn Slots>;
        let (accepted, peer) = (link.accepted, address_of(link.peer));
        io.events.push(Event::Up { link: id, accepted, peer, slots });
    }

    fn received(&mut self, io: &mut Io<'_>, id: LinkId, piece: &Frame) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.why.is_some() {
            return;
        }
        if link.tls.is_some() {
            return self.hear(io, id, piece.bytes());
        }
        if link.framing.is_new() && secure::speaks_tls(piece.bytes()) {
            self.refusals.note(io.now, link.peer, secure::PEER_SPEAKS_TLS);
            link.why = Some(Down::Failed(secure::PEER_SPEAKS_TLS.to_owned()));
            return io.driver.close(link.handle, false);
        }
        self.framed(io, id, piece);
    }

    fn framed(&mut self, io: &mut Io<'_>, id: LinkId, piece: &Frame) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let events = &mut *io.events;
        let framed =
            link.framing.piece(piece, |frame| events.push(Event::Frame { link: id, frame }));
        if let Err(violation) = framed {
            link.why = Some(Down::from(violation));
            io.driver.close(link.handle, false);
        }
    }

    fn closed(&mut self, io: &mut Io<'_>, id: LinkId, error: Option<io::Error>) {
        let Some(link) = self.links.remove(&id) else { return };
        self.by_handle.remove(&link.handle);
        let Counters { frames, bytes, copied, copied_bytes, .. } = link.framing.counters();
        tracing::debug!(%link.peer, frames, bytes, copied, copied_bytes, "a link over TCP has ended");
        self.gone = self.gone + link.framing.counters();
        let (peer, in_handshake) = (link.peer, link.tls.is_some() && !link.up);
        let why = link.why.unwrap_or_else(|| match error {
            Some(error) if !is_the_peers(error.kind()) => Down::Failed(error.to_string()),
            None | Some(_) if in_handshake => {
                self.refusals.note(io.now, peer, secure::CUT);
                Down::Failed(secure::CUT.to_owned())
            }
            None | Some(_) => Down::There,
        });
        // A link that was accepted is nobody's before it is up.
        if link.up || !link.accepted {
            io.events.push(Event::Down { link: id, why });
        }
    }

    /// Slots may come home without having been sent: unused, or from another thread.
    fn say_room(&mut self, io: &mut Io<'_>) -> bool {
        let before = io.events.len();
        for (id, link) in self.links.iter_mut().filter(|(_, link)| link.up) {
            if link.slots.has_room_again() {
                io.events.push(Event::Room { link: *id });
            }
        }
        io.events.len() > before
    }

    fn has_room(&mut self, io: &mut Io<'_>, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let takes = link.tls.as_ref().is_none_or(|session| session.takes());
        if link.slots.has_room_again() | (takes && std::mem::take(&mut link.refused)) {
            io.events.push(Event::Room { link: id });
        }
    }
}

impl Transport for Tcp {
    fn name(&self) -> &'static str {
        SCHEME
    }

    fn addresses(&self) -> Vec<Address> {
        self.listening.values().map(|address| address_of(*address)).collect()
    }

    fn dial(&mut self, io: &mut Io<'_>, link: LinkId, to: &Address) -> Result<(), Refused> {
        let malformed = |why| Refused::Address { address: to.clone(), transport: SCHEME, why };
        if to.scheme() != SCHEME {
            return Err(malformed("it begins with tcp://"));
        }
        let peer: SocketAddr =
            to.rest().parse().map_err(|_| malformed("it ends in an IP address and a port"))?;
        if self.links.len() >= LINKS_MAX {
            return Err(Refused::Links(LINKS_MAX));
        }
        let failed = |call| {
            let address = to.clone();
            move |source| Refused::Io { address, call, source }
        };
        let socket = Socket::new(Domain::for_address(peer), Type::STREAM, Some(Protocol::TCP));
        let socket = socket.map_err(failed("socket"))?;
        tune(&socket).map_err(failed("setsockopt"))?;
        let to = SocketAddress::Inet(peer);
        let handle = io.driver.connect(self.owner, socket.into(), &to, Receive::Stream);
        let handle = handle.map_err(failed("connect"))?;
        self.insert(link, handle, (peer, false), io.now);
        Ok(())
    }

    fn submit(&mut self, io: &mut Io<'_>, id: LinkId, parcel: Parcel) -> Result<(), Parcel> {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.up) else {
            return Err(parcel);
        };
        match &mut link.tls {
            None => io.driver.send(link.handle, parcel).inspect_err(|_| link.refused = true),
            Some(session) => {
                session.give(parcel).inspect_err(|_| link.refused = true)?;
                self.send_sealed(io, id);
                // The slots of what is sealed are free.
                self.has_room(io, id);
                Ok(())
            }
        }
    }

    fn flush(&mut self, _: &mut Io<'_>) {
        // The driver sends all that it was given when it is polled, in one call for each socket.
    }

    fn complete(&mut self, io: &mut Io<'_>, completion: Completion) {
        let Completion { handle, done, .. } = completion;
        if let Done::Accepted(socket) = done {
            return self.accept(io, socket);
        }
        let Some(id) = self.by_handle.get(&handle).copied() else { return };
        match done {
            Done::Connected => self.connected(io, id),
            Done::Received(piece) => self.received(io, id, &piece),
            Done::Sent(_) => {
                self.send_sealed(io, id);
                self.has_room(io, id);
            }
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
        self.say_room(io)
    }

    fn arm(&mut self, _: &mut Io<'_>) -> bool {
        // All that arrives comes by way of the driver.
        true
    }

    fn deadline(&self) -> Option<Time> {
        self.links.values().filter_map(|link| link.until).min()
    }

    fn close(&mut self, io: &mut Io<'_>, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.why.is_none() {
            link.why = Some(Down::Here);
            link.until = Some(io.now + LINGER);
            match &link.tls {
                None => io.driver.close(link.handle, true),
                Some(_) => self.send_sealed(io, id),
            }
        }
    }
}

impl std::fmt::Debug for Tcp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tcp").field("links", &self.links.len()).finish_non_exhaustive()
    }
}

fn address_of(address: SocketAddr) -> Address {
    Address::new(SCHEME, &address.to_string())
}

/// Whether a connection fails so when the peer closes it, or its process ends.
fn is_the_peers(error: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    [ConnectionReset, ConnectionAborted, BrokenPipe].contains(&error)
}

fn listener(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// What every connection is told. Messages are batched already, so none waits for another in the kernel.
fn tune(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)
}
