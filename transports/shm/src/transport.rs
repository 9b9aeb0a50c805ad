//! The transport: its table of links, and the greetings that may become some.
//!
//! # Not here
//! What one link does.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use epicserver_link::buffers::Buffers;
use epicserver_link::driver::{Completion, Done, Handle, Owner};
use epicserver_link::{Address, Down, Event, Io, Parcel, Refused, Transport};
use epicserver_wire::{LinkId, Time};

use crate::doze;
use crate::greeting::{self, Answer, SocketFile};
use crate::layout::{End, PIECE_MAX};
use crate::link::{GREETING, Link};
use crate::map::Map;

/// The scheme of the addresses.
pub const SCHEME: &str = "shm";
/// Links that one transport has at most. Each has 2.5 MiB of memory.
pub const LINKS_MAX: usize = 256;
/// Buffers of one transport that are filled from shared memory, each for at least one piece.
pub(crate) const BUFFERS_MAX: usize = 256;

/// A connection that was accepted and over which no greeting has come.
#[derive(Debug)]
struct Greeting {
    socket: OwnedFd,
    pid: i32,
    until: Time,
}

/// The transport over shared memory.
#[derive(Debug)]
pub struct Shm {
    owner: Owner,
    host: String,
    dir: PathBuf,
    file: SocketFile,
    greetings: BTreeMap<Handle, Greeting>,
    links: BTreeMap<LinkId, Link>,
    by_handle: BTreeMap<Handle, LinkId>,
    buffers: Buffers,
    /// Peers have been told that this end sleeps.
    dozes: bool,
}

impl Shm {
    /// Listens at a socket of its own in `dir`, which must exist and is the same for all nodes of the
    /// host; `owner` is this transport's place among those of its thread. Removes the sockets that
    /// nodes which were killed have left there. Does not block.
    ///
    /// # Errors
    /// [`Refused::Io`] names the directory and the system call.
    pub fn listen(owner: Owner, dir: &Path, io: &mut Io<'_>) -> Result<Self, Refused> {
        let refused = |call| {
            let address = Address::new(SCHEME, &dir.display().to_string());
            move |source| Refused::Io { address, call, source }
        };
        let host = greeting::boot_id().map_err(refused("reading the host's boot id"))?;
        let (socket, file) = greeting::listen_in(dir).map_err(refused("listen"))?;
        io.driver.listen(owner, socket).map_err(refused("accept"))?;
        Ok(Self {
            owner,
            host,
            dir: dir.to_owned(),
            file,
            greetings: BTreeMap::new(),
            links: BTreeMap::new(),
            by_handle: BTreeMap::new(),
            buffers: Buffers::new(BUFFERS_MAX, PIECE_MAX),
            dozes: false,
        })
    }

    /// Slots that are lent now, over all links.
    #[must_use]
    pub fn lent(&self) -> usize {
        self.links.values().map(|link| link.slots.lent()).sum()
    }

    fn is_full(&self) -> bool {
        self.links.len() + self.greetings.len() >= LINKS_MAX
    }

    fn accept(&mut self, io: &mut Io<'_>, socket: OwnedFd) {
        let Ok(pid) = greeting::trusted(&socket) else {
            return greeting::send_byte(&socket, Answer::User as u8);
        };
        if self.is_full() {
            return greeting::send_byte(&socket, Answer::Full as u8);
        }
        // Where the driver has no room, dropping the socket tells the peer.
        let Ok(handle) = watch(io, self.owner, &socket) else { return };
        let until = io.now + GREETING;
        self.greetings.insert(handle, Greeting { socket, pid, until });
    }

    /// Something came over a connection that was accepted.
    fn greeted(&mut self, io: &mut Io<'_>, handle: Handle) {
        let Some(greeting) = self.greetings.get(&handle) else { return };
        let mapped = match greeting::greeted(&greeting.socket) {
            Ok(None) => return,
            Ok(Some(memory)) => Map::of(&memory).map_err(|_| Answer::Memory),
            Err(answer) => Err(answer),
        };
        let Some(Greeting { socket, pid, .. }) = self.greetings.remove(&handle) else { return };
        let map = match mapped {
            Ok(map) => map,
            Err(answer) => {
                greeting::send_byte(&socket, answer as u8);
                return io.driver.close(handle, false);
            }
        };
        greeting::send_byte(&socket, Answer::Welcome as u8);
        let id = io.new_link();
        let peer = Address::new(SCHEME, &format!("{}/pid-{pid}", self.host));
        let link = Link::new((id, handle), (socket, map), peer, (End::Acceptor, io.now));
        // S1.
        io.events.push(link.up());
        self.insert(id, link);
        self.heard(io, id);
    }

    fn insert(&mut self, id: LinkId, link: Link) {
        self.by_handle.insert(link.handle, id);
        self.links.insert(id, link);
    }

    fn heard(&mut self, io: &mut Io<'_>, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if let Err(why) = link.heard(io.events) {
            self.end(io, id, why);
        }
    }

    /// The driver has given up a socket. It does so only if it was asked to, or can do no other.
    fn unwatched(&mut self, io: &mut Io<'_>, handle: Handle, error: Option<io::Error>) {
        drop(self.greetings.remove(&handle));
        if let Some(id) = self.by_handle.get(&handle).copied() {
            let why = error.map_or(Down::There, |error| Down::Failed(error.to_string()));
            self.end(io, id, why);
        }
    }

    fn end(&mut self, io: &mut Io<'_>, id: LinkId, why: Down) {
        let Some(link) = self.links.remove(&id) else { return };
        self.by_handle.remove(&link.handle);
        io.driver.close(link.handle, false);
        io.events.push(Event::Down { link: id, why });
    }

    /// Gives up connections over which no greeting has come in time.
    fn give_up(&mut self, io: &mut Io<'_>) {
        let now = io.now;
        for (handle, _) in self.greetings.extract_if(.., |_, greeting| greeting.until <= now) {
            io.driver.close(handle, false);
        }
    }

    /// Connects, and sends the greeting with memory for the link.
    fn ask(&self, path: &Path) -> Result<(OwnedFd, Map), (&'static str, io::Error)> {
        let socket = greeting::connect_to(path).map_err(|error| ("connect", error))?;
        greeting::trusted(&socket).map_err(|error| ("looking who listens", error))?;
        let memory = greeting::memory().map_err(|error| ("memfd_create", error))?;
        let map = Map::of(&memory).map_err(|error| ("mmap", error))?;
        greeting::greet(&socket, &memory).map_err(|error| ("sendmsg", error))?;
        Ok((socket, map))
    }

    /// The name of the socket that `address` is of.
    fn name_in<'a>(&self, address: &'a Address) -> Result<&'a str, &'static str> {
        if address.scheme() != SCHEME {
            return Err("it begins with shm://");
        }
        let (host, name) = address.rest().split_once('/').ok_or("it is shm://HOST/NAME")?;
        if host != self.host {
            return Err("it is of another host, or from before this one was started");
        }
        if greeting::is_name(name) { Ok(name) } else { Err("its name is none of a socket of ours") }
    }
}

/// Lets the driver tell when `socket` can be read. It gets a share of its own.
fn watch(io: &mut Io<'_>, owner: Owner, socket: &OwnedFd) -> io::Result<Handle> {
    io.driver.watch(owner, socket.try_clone()?)
}

impl Transport for Shm {
    fn name(&self) -> &'static str {
        SCHEME
    }

    fn addresses(&self) -> Vec<Address> {
        vec![Address::new(SCHEME, &format!("{}/{}", self.host, self.file.name))]
    }

    fn dial(&mut self, io: &mut Io<'_>, link: LinkId, to: &Address) -> Result<(), Refused> {
        let malformed = |why| Refused::Address { address: to.clone(), transport: SCHEME, why };
        let name = self.name_in(to).map_err(malformed)?;
        if self.is_full() {
            return Err(Refused::Links(LINKS_MAX));
        }
        let failed = |(call, source)| Refused::Io { address: to.clone(), call, source };
        let (socket, map) = self.ask(&self.dir.join(name)).map_err(failed)?;
        let handle = watch(io, self.owner, &socket).map_err(|error| failed(("watch", error)))?;
        let end = (End::Dialler, io.now);
        self.insert(link, Link::new((link, handle), (socket, map), to.clone(), end));
        Ok(())
    }

    fn submit(&mut self, _: &mut Io<'_>, link: LinkId, parcel: Parcel) -> Result<(), Parcel> {
        match self.links.get_mut(&link) {
            Some(link) => link.submit(parcel),
            None => Err(parcel),
        }
    }

    fn flush(&mut self, _: &mut Io<'_>) {
        self.links.values_mut().for_each(Link::ring);
    }

    fn complete(&mut self, io: &mut Io<'_>, completion: Completion) {
        let Completion { handle, done, .. } = completion;
        match done {
            Done::Accepted(socket) => self.accept(io, socket),
            Done::Readable => match self.by_handle.get(&handle) {
                Some(id) => self.heard(io, *id),
                None => self.greeted(io, handle),
            },
            Done::Closed(error) => self.unwatched(io, handle, error),
            Done::Connected | Done::Received(_) | Done::Sent(_) => {}
        }
    }

    fn stirs(&mut self) -> bool {
        self.links.values().any(Link::stirs)
    }

    fn poll(&mut self, io: &mut Io<'_>) -> bool {
        let woke = std::mem::take(&mut self.dozes);
        let (mut busy, mut ended) = (false, Vec::new());
        for (id, link) in &mut self.links {
            if woke {
                link.wake();
            }
            match link.poll(io.now, &mut self.buffers, io.events) {
                Ok(something) => busy |= something,
                Err(why) => ended.push((*id, why)),
            }
            link.ring();
        }
        for (id, why) in ended {
            busy = true;
            self.end(io, id, why);
        }
        if !self.greetings.is_empty() {
            self.give_up(io);
        }
        busy
    }

    fn arm(&mut self, _: &mut Io<'_>) -> bool {
        self.dozes = true;
        for link in self.links.values_mut() {
            link.ring();
            link.doze();
        }
        doze::barrier();
        self.links.values_mut().all(Link::is_quiet)
    }

    fn deadline(&self) -> Option<Time> {
        let links = self.links.values().filter_map(|link| link.until);
        links.chain(self.greetings.values().map(|greeting| greeting.until)).min()
    }

    fn close(&mut self, io: &mut Io<'_>, link: LinkId) {
        if let Some(link) = self.links.get_mut(&link) {
            link.close(io.now);
        }
    }
}
