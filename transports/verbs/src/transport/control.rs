//! Control connections: listening, dialling, and what is said over them.
//!
//! # Not here
//! The messages of a greeting and their proofs: see `greeting`.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use epicserver_link::driver::{Handle, Receive, SocketAddress};
use epicserver_link::{Address, Down, Io, Parcel, Refused};
use epicserver_wire::LinkId;
use epicserver_wire::frame::FrameMut;
use rustix::rand::{GetRandomFlags, getrandom};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{Verbs, unexpected};
use crate::SCHEME;
use crate::engine::Engine;
use crate::greeting::{Card, Greeting, Refusal, Step, Wrong};
use crate::link::{Conduit, Link, Stage, refused, told};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;
/// How long a peer that was refused may take to hear it.
const LEAVING: Duration = Duration::from_secs(1);

impl Verbs {
    pub(super) fn listen_at(&mut self, io: &mut Io<'_>) -> Result<(), Refused> {
        for address in self.config.addresses.clone() {
            let failed = |call| {
                let address = Address::new(SCHEME, &address.to_string());
                move |source| Refused::Io { address, call, source }
            };
            let socket = listener(address).map_err(failed("listen"))?;
            let bound = socket.local_addr().map_err(failed("getsockname"))?;
            let handle = io.driver.listen(self.owner, socket.into()).map_err(failed("accept"))?;
            self.listening.insert(handle, bound.as_socket().unwrap_or(address));
        }
        Ok(())
    }

    /// Whether there is room for one more link.
    fn is_full(&self) -> bool {
        self.engine.as_ref().is_some_and(|engine| self.links.len() >= engine.links_max)
    }

    /// Begins a link to `to`.
    pub(super) fn begin(
        &mut self,
        io: &mut Io<'_>,
        link: LinkId,
        to: &Address,
    ) -> Result<(), Refused> {
        let malformed = |why| Refused::Address { address: to.clone(), transport: SCHEME, why };
        if to.scheme() != SCHEME {
            return Err(malformed("it begins with verbs://"));
        }
        let peer: SocketAddr =
            to.rest().parse().map_err(|_| malformed("it ends in an IP address and a port"))?;
        let failed = |call| {
            let address = to.clone();
            move |source| Refused::Io { address, call, source }
        };
        self.start(io).map_err(io::Error::other).map_err(failed("opening the device"))?;
        if self.is_full() {
            return Err(Refused::Links(self.links.len()));
        }
        let socket = Socket::new(Domain::for_address(peer), Type::STREAM, Some(Protocol::TCP));
        let socket = socket.map_err(failed("socket"))?;
        tune(&socket).map_err(failed("setsockopt"))?;
        let at = SocketAddress::Inet(peer);
        let handle = io.driver.connect(self.owner, socket.into(), &at, Receive::Stream);
        let handle = handle.map_err(failed("connect"))?;
        let stage = (false, Stage::Connecting);
        self.insert(Link::new((link, handle), to.clone(), stage, io.now));
        Ok(())
    }

    fn insert(&mut self, link: Link) {
        self.by_handle.insert(link.handle, link.id);
        self.links.insert(link.id, link);
    }

    pub(super) fn accept(&mut self, io: &mut Io<'_>, socket: OwnedFd) {
        let socket = Socket::from(socket);
        let peer = socket.peer_addr().ok().and_then(|peer| peer.as_socket());
        // One that is gone already needs no link.
        let (Some(peer), Ok(())) = (peer, tune(&socket)) else { return };
        let Ok(handle) = io.driver.adopt(self.owner, socket.into(), Receive::Stream) else {
            return;
        };
        // VT2: also for peers that dial.
        let refusal = match (self.start(io), self.is_full()) {
            (Err(why), _) => {
                tracing::warn!(why, "a peer was refused");
                Some(Refusal::Device)
            }
            (Ok(()), true) => Some(Refusal::Full),
            (Ok(()), false) => None,
        };
        if let Some(refusal) = refusal {
            return self.refuse(io, handle, refusal);
        }
        let Ok(challenge) = random() else { return io.driver.close(handle, false) };
        let (greeting, said) = Greeting::accept(self.config.key.clone(), challenge);
        let (id, peer) = (io.new_link(), Address::new(SCHEME, &peer.to_string()));
        let stage = (true, Stage::Greeting(greeting, None));
        self.insert(Link::new((id, handle), peer, stage, io.now));
        say(io, handle, &said);
    }

    /// Tells a peer that it is not wanted, and lets it go.
    fn refuse(&mut self, io: &mut Io<'_>, handle: Handle, why: Refusal) {
        say(io, handle, &why.message());
        io.driver.close(handle, true);
        self.leaving.insert(handle, io.now + LEAVING);
    }

    /// Gives up on peers that were refused and do not go.
    pub(super) fn leave(&mut self, io: &mut Io<'_>) {
        let now = io.now;
        for (handle, _) in self.leaving.extract_if(.., |_, until| *until <= now) {
            io.driver.close(handle, false);
        }
    }

    /// The connection of a dial is made.
    pub(super) fn connected(&mut self, io: &mut Io<'_>, handle: Handle) {
        let Some(id) = self.by_handle.get(&handle).copied() else { return };
        let Some(engine) = &mut self.engine else { return };
        let made = engine.pair().map_err(refused);
        let made = made.and_then(|pair| match card(engine, pair.number(), &self.config) {
            Ok(card) => Ok((pair, card)),
            Err(error) => {
                engine.forget(pair);
                Err(Down::Failed(format!("there is no randomness: {error}")))
            }
        });
        match made {
            Ok((pair, card)) => {
                let (greeting, said) = Greeting::dial(self.config.key.clone(), card);
                self.by_pair.insert(pair.number(), id);
                if let Some(link) = self.links.get_mut(&id) {
                    link.stage = Stage::Greeting(greeting, Some((pair, card)));
                }
                say(io, handle, &said);
            }
            Err(why) => self.end(io, id, why),
        }
    }

    /// Bytes came over a control connection.
    pub(super) fn heard(&mut self, io: &mut Io<'_>, handle: Handle, bytes: &[u8]) {
        let Some(id) = self.by_handle.get(&handle).copied() else { return };
        let Some(link) = self.links.get_mut(&id) else { return };
        // It may have been taken for ready before it said so.
        if link.take_late_ready(bytes) {
            return;
        }
        let steps = match &mut link.stage {
            Stage::Greeting(greeting, _) | Stage::Waiting(_, greeting) => greeting.take(bytes),
            Stage::Closing(_) | Stage::Failing(..) | Stage::Gone(..) => return,
            Stage::Connecting | Stage::Up(_) => {
                return self.end(io, id, unexpected("bytes over a control connection"));
            }
        };
        let steps = match steps {
            Ok(steps) => steps,
            Err(wrong) => return self.went_wrong(io, id, wrong),
        };
        for step in steps {
            let done = match step {
                Step::Send(bytes) => {
                    say(io, handle, &bytes);
                    Ok(())
                }
                Step::Make(theirs) => self.make(io, id, theirs),
                Step::Connect(theirs, said) => self.connect(io, id, (theirs, said)),
                Step::Ready => {
                    if let Some(link) = self.links.get_mut(&id) {
                        link.up(io.events);
                    }
                    Ok(())
                }
            };
            if let Err(wrong) = done {
                return self.went_wrong(io, id, wrong);
            }
        }
    }

    /// Makes a pair for a peer that dialled and has proved itself.
    fn make(&mut self, io: &mut Io<'_>, id: LinkId, theirs: Card) -> Result<(), Wrong> {
        let Some(engine) = &mut self.engine else { return Err(Wrong::Refused(Refusal::Device)) };
        if theirs.ethernet != engine.local.ethernet {
            return Err(Wrong::Refused(Refusal::Fabric));
        }
        let refuse = |why: String| {
            tracing::warn!(why, "a peer was refused");
            Wrong::Refused(Refusal::Device)
        };
        let pair = engine.pair().map_err(|error| refuse(told(&error)))?;
        let ours = match card(engine, pair.number(), &self.config) {
            Ok(ours) => ours,
            Err(error) => {
                engine.forget(pair);
                return Err(refuse(error.to_string()));
            }
        };
        let conduit = Conduit::new(engine, pair, (&ours, &theirs));
        let conduit = conduit.map_err(|error| refuse(told(&error)))?;
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        let Stage::Greeting(mut greeting, _) =
            std::mem::replace(&mut link.stage, Stage::Connecting)
        else {
            unreachable!("GR1: a pair is made once")
        };
        say(io, link.handle, &greeting.welcome(&ours));
        self.by_pair.insert(conduit.pair.number(), id);
        link.stage = Stage::Waiting(conduit, greeting);
        Ok(())
    }

    /// Connects the pair of a dial to the peer, which has proved itself, and tells it that this end is ready.
    fn connect(
        &mut self,
        io: &mut Io<'_>,
        id: LinkId,
        (theirs, said): (Card, Vec<u8>),
    ) -> Result<(), Wrong> {
        let (Some(engine), Some(link)) = (&mut self.engine, self.links.get_mut(&id)) else {
            return Ok(());
        };
        if theirs.ethernet != engine.local.ethernet {
            return Err(Wrong::Refused(Refusal::Fabric));
        }
        let Stage::Greeting(greeting, Some((pair, ours))) =
            std::mem::replace(&mut link.stage, Stage::Connecting)
        else {
            unreachable!("GR1: a dial has a pair")
        };
        let number = pair.number();
        match Conduit::new(engine, pair, (&ours, &theirs)) {
            Ok(conduit) => {
                link.stage = Stage::Waiting(conduit, greeting);
                say(io, link.handle, &said);
                link.up(io.events);
            }
            Err(error) => {
                self.by_pair.remove(&number);
                self.end(io, id, refused(error));
            }
        }
        Ok(())
    }

    /// A greeting failed.
    fn went_wrong(&mut self, io: &mut Io<'_>, id: LinkId, wrong: Wrong) {
        let Some(link) = self.links.get(&id) else { return };
        let (handle, accepted) = (link.handle, link.accepted);
        if accepted {
            tracing::debug!(peer = %link.peer, %wrong, "a peer was not let in");
        }
        match wrong {
            Wrong::Refused(refusal) if accepted => {
                self.let_go(io, id);
                self.refuse(io, handle, refusal);
            }
            Wrong::Malformed(what) => self.end(io, id, unexpected(what)),
            Wrong::Refused(_) | Wrong::RefusedThere(_) => {
                self.end(io, id, Down::Failed(wrong.to_string()));
            }
        }
    }

    /// A control connection has ended.
    pub(super) fn hung_up(&mut self, io: &mut Io<'_>, handle: Handle, error: Option<io::Error>) {
        let _until = self.leaving.remove(&handle);
        let Some(id) = self.by_handle.get(&handle).copied() else { return };
        let why = match error {
            Some(error) if !is_the_peers(error.kind()) => Down::Failed(error.to_string()),
            None | Some(_) => Down::There,
        };
        if let Some(why) = self.links.get_mut(&id).and_then(|link| link.gone(why)) {
            self.end(io, id, why);
        }
    }
}

/// This end's card for a pair.
fn card(engine: &Engine, pair: u32, config: &crate::Config) -> io::Result<Card> {
    let [first, second, third] = random::<3>()?;
    let psn = u32::from_le_bytes([first, second, third, 0]);
    let mut card = Card::of(&engine.local, (pair, psn), random()?);
    card.slot_bytes = u32::try_from(config.slot_bytes).unwrap_or(0);
    card.window = config.window;
    card.reads = engine.reads_answered();
    Ok(card)
}

/// Bytes that nobody can guess.
fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    // So few come all at once.
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(bytes)
}

/// Says something over a control connection. If it cannot be said, the connection is ending, which is heard.
fn say(io: &mut Io<'_>, handle: Handle, bytes: &[u8]) {
    let mut frame = FrameMut::detached(bytes.len());
    let fits = frame.extend(bytes);
    debug_assert!(fits, "W9: the frame was made for these bytes");
    drop(io.driver.send(handle, Parcel::of(frame)));
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

fn tune(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)
}
