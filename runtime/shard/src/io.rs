//! The I/O endpoint: the links of a node, driven by a thread of its own or by its first shard.
//!
//! It owns the driver, the transports, and the machine of each link. Shards give it frames that are
//! ready to leave and get frames that hold whole messages; it looks no further into them than to tell
//! which shard they are for.
//!
//! # Invariants
//! - **H9** No frame reaches a shard before its link is established, nor after the shard was told that
//!   the link is down.
//! - **H10** Of several links to one node one is kept: of two that were dialled from both ends at once the
//!   same one at both, and one that is established when another is dialled. Of two that one end dialled at
//!   once both may go, if they came up in another order at the other end; then the node is dialled again.
//! - **H11** The endpoint waits in the kernel only after it has looked, its sleeping flag up, at every
//!   ring and every transport once more.
//!
//! # Not here
//! What a message does; which node to dial.

mod port;
mod table;
#[cfg(test)]
mod tests;
mod thread;
mod wires;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use epicserver_link::driver::{Completion, Done, Driver, Form, Owner};
use epicserver_link::{Address, Down, Event, Io, Parcel, Transport};
use epicserver_node::LinkUp;
use epicserver_proto::link as machine;
use epicserver_wire::frame::Frame;
use epicserver_wire::header::{Glance, Kind, Violation};
use epicserver_wire::{LinkId, NodeId, Time};

pub(crate) use self::port::{Outlet, Port, ToIo, port};
use self::table::{Banned, Link, Links};
pub(crate) use self::thread::{IoSeat, IoThread, Opening, Wiring};
use self::wires::Reports;
pub use self::wires::{Order, Report, Wires};
use crate::park::Parker;

/// Entries taken from one shard's ring before the next one is looked at.
const PORT_BATCH: usize = 64;
/// Parcels that a link may not have taken before the control thread's messages for it get lost.
const UNSENT_MAX: usize = 256;
/// How long closing links may take.
const GOODBYE: Duration = Duration::from_millis(500);

/// Whether links are driven by a thread of their own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoMode {
    /// By a pinned thread of their own.
    Dedicated,
    /// By the thread of the first shard: the lowest latency.
    Fused,
}

/// Makes the transports, on the thread that will poll them.
pub type MakeTransports = Box<
    dyn FnOnce(&mut Io<'_>) -> Result<Vec<Box<dyn Transport>>, epicserver_link::Refused> + Send,
>;

/// How a node reaches others.
pub struct IoOptions {
    /// Who drives the links.
    pub mode: IoMode,
    /// The form of the driver; the best that the kernel has where none is named.
    pub driver: Option<Form>,
    /// Who this node is, for the handshake.
    pub identity: machine::Config,
    /// Messages above so many bytes leave in chunks, beside which others pass.
    pub bulk_bytes: usize,
    /// Makes the transports.
    pub transports: MakeTransports,
}

impl fmt::Debug for IoOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoOptions").field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// The I/O endpoint.
pub(crate) struct Endpoint {
    driver: Box<dyn Driver>,
    transports: Vec<Box<dyn Transport>>,
    links: Links,
    banned: Banned,
    ports: Vec<Port>,
    wires: Arc<Wires>,
    reports: Reports,
    identity: machine::Config,
    bulk_bytes: usize,
    events: Vec<Event>,
    done: Vec<Completion>,
    effects: Vec<machine::Effect>,
    next_link: u32,
}

/// The owner of the bell that ends the endpoint's sleep; no transport has this number.
const BELL: Owner = Owner(u8::MAX);

impl Endpoint {
    /// Sets up the driver and the transports.
    pub(crate) fn open(
        options: IoOptions,
        ports: Vec<Port>,
        wires: Arc<Wires>,
        (parker, now): (&Parker, Time),
    ) -> Result<Self, IoError> {
        use std::os::fd::AsFd;
        let mut driver = crate::driver::open(options.driver)?;
        let bell = parker.as_fd().try_clone_to_owned().map_err(IoError::Bell)?;
        driver.watch(BELL, bell).map_err(IoError::Bell)?;
        let mut events = Vec::new();
        let mut next_link = 0;
        let mut io =
            Io { now, driver: &mut *driver, events: &mut events, next_link: &mut next_link };
        let transports = (options.transports)(&mut io)?;
        let addresses = transports.iter().flat_map(|transport| transport.addresses()).collect();
        let mut reports = Reports::new(Arc::clone(&wires));
        reports.tell(Report::Listening(addresses));
        Ok(Self {
            driver,
            transports,
            links: Links::default(),
            banned: Banned::default(),
            ports,
            wires,
            reports,
            identity: options.identity,
            bulk_bytes: options.bulk_bytes,
            events,
            done: Vec::new(),
            effects: Vec::new(),
            next_link,
        })
    }

    /// One round: both halves of it. Says whether there was anything.
    pub(crate) fn round(&mut self, now: Time) -> bool {
        self.listen(now) | self.speak(now)
    }

    /// Takes what the kernel, the devices and the peers have, and gives the shards what came for them. Says
    /// whether there was anything.
    pub(crate) fn listen(&mut self, now: Time) -> bool {
        if let Err(error) = self.driver.poll(&mut self.done) {
            // Without its rings the node can neither hear nor speak.
            panic!("H6: the I/O driver failed: {error}");
        }
        let mut busy = self.complete(now);
        for index in 0..self.transports.len() {
            busy |= self.with(now, index, |transport, io| transport.poll(io));
        }
        busy |= self.digest(now);
        self.keep_time(now);
        self.ports.iter_mut().for_each(Port::flush);
        busy
    }

    /// Takes what the control thread and the shards want to say, and gives it to the transports. Says whether
    /// there was anything.
    pub(crate) fn speak(&mut self, now: Time) -> bool {
        let mut busy = self.obey(now);
        busy |= self.take_parcels(now);
        for index in 0..self.transports.len() {
            self.with(now, index, |transport, io| transport.flush(io));
        }
        busy |= self.digest(now);
        self.ports.iter_mut().for_each(Port::flush);
        self.reports.catch_up();
        busy
    }

    fn with<R>(
        &mut self,
        now: Time,
        index: usize,
        call: impl FnOnce(&mut dyn Transport, &mut Io<'_>) -> R,
    ) -> R {
        let mut io = Io {
            now,
            driver: &mut *self.driver,
            events: &mut self.events,
            next_link: &mut self.next_link,
        };
        call(&mut *self.transports[index], &mut io)
    }

    fn complete(&mut self, now: Time) -> bool {
        let mut done = std::mem::take(&mut self.done);
        let mut busy = false;
        for completion in done.drain(..) {
            let owner = usize::from(completion.owner.0);
            if completion.owner == BELL {
                debug_assert!(matches!(completion.done, Done::Readable), "H11: the bell closed");
            } else if owner < self.transports.len() {
                busy = true;
                self.with(now, owner, |transport, io| transport.complete(io, completion));
            }
        }
        self.done = done;
        busy
    }

    /// What the transports had to say.
    fn digest(&mut self, now: Time) -> bool {
        let mut busy = false;
        while !self.events.is_empty() {
            busy = true;
            let mut events = std::mem::take(&mut self.events);
            for event in events.drain(..) {
                self.event(now, event);
            }
            if self.events.is_empty() {
                self.events = events;
            }
        }
        busy
    }

    fn event(&mut self, now: Time, event: Event) {
        match event {
            Event::Up { link, accepted, peer, slots } => {
                let index = self.transports.iter().position(|t| t.name() == peer.scheme());
                let transport = index.unwrap_or(0);
                let nonce = crate::worker::random_bytes(32);
                let nonce = nonce.try_into().unwrap_or([0; 32]);
                let mut machine = machine::Link::new(self.identity.clone(), accepted, nonce, now);
                if !accepted {
                    machine.refuse_linked(self.links.nodes());
                }
                self.links.insert(link, Link::new(transport, machine, slots));
                self.advance(now, link, machine::Event::Up);
            }
            Event::Frame { link, frame } => self.frame(now, link, &frame),
            Event::Room { link } => self.room(now, link),
            Event::Down { link, why } => self.down(link, why),
        }
    }

    fn advance(&mut self, now: Time, link: LinkId, event: machine::Event<'_>) {
        let Some(entry) = self.links.get_mut(link) else { return };
        let mut effects = std::mem::take(&mut self.effects);
        entry.machine.handle(now, event, &mut effects);
        for effect in effects.drain(..) {
            self.carry_out(now, link, effect);
        }
        self.effects = effects;
    }

    fn carry_out(&mut self, now: Time, link: LinkId, effect: machine::Effect) {
        match effect {
            machine::Effect::Send { kind, payload } => {
                let Some(entry) = self.links.get_mut(link) else { return };
                if let Some(parcel) = entry.message(kind, &payload) {
                    self.submit(now, link, parcel);
                }
            }
            machine::Effect::Established(peer) => self.established(now, link, &peer),
            machine::Effect::Control(bytes) => {
                let node = self.links.get_mut(link).and_then(|entry| entry.node);
                if let Some(node) = node {
                    self.reports.tell(Report::Control { node, bytes });
                }
            }
            machine::Effect::Close(why) => {
                if let Some(entry) = self.links.get_mut(link) {
                    entry.why = Some(why);
                    let transport = entry.transport;
                    self.with(now, transport, |transport, io| transport.close(io, link));
                }
            }
        }
    }

    fn established(&mut self, now: Time, link: LinkId, peer: &machine::Peer) {
        if self.banned.has(peer.node) {
            return self.advance(now, link, machine::Event::Refuse(machine::Refusal::Ended));
        }
        if let Some(other) = self.links.of_node(peer.node)
            && !self.replaces(now, (link, other), peer.node)
        {
            return;
        }
        let Some(entry) = self.links.get_mut(link) else { return };
        entry.node = Some(peer.node);
        let differing = self.identity.offer.schemas.differing(&peer.offer.schemas);
        if !differing.is_empty() {
            let (node, count) = (peer.node, differing.len());
            tracing::warn!(%node, count, "a node has methods in another form; calls by them are refused");
        }
        let up = LinkUp {
            link,
            node: peer.node,
            shards: peer.shards,
            theirs: peer.window,
            ours: self.identity.window,
            slots: Arc::clone(&entry.slots),
            differing: differing.into(),
            bulk_bytes: self.bulk_bytes,
        };
        for port in &mut self.ports {
            port.put(epicserver_node::Event::LinkUp(up.clone()));
        }
        let dialled = self.links.dialled(link);
        let here = self.identity.offer.shares_host(&peer.offer);
        self.reports.tell(Report::Up { node: peer.node, shards: peer.shards, here, dialled });
    }

    /// Lets one of two links to `peer` go (**H10**), and says whether that is the older one. The peer is
    /// told why, so that neither end takes it for the other's leaving.
    fn replaces(&mut self, now: Time, (newer, older): (LinkId, LinkId), peer: NodeId) -> bool {
        let Some(entry) = self.links.get_mut(newer) else { return false };
        let keeps = machine::keeps(self.identity.node, peer, entry.machine.accepted());
        let (loser, why) = (if keeps { older } else { newer }, machine::Refusal::Duplicate);
        if keeps {
            self.tell_down(older, Down::Failed(why.to_string()));
        }
        self.advance(now, loser, machine::Event::Refuse(why));
        keeps
    }

    fn close(&mut self, now: Time, link: LinkId) {
        let Some(entry) = self.links.get_mut(link) else { return };
        let transport = entry.transport;
        self.with(now, transport, |transport, io| transport.close(io, link));
    }

    /// Tells the shards that a link is gone, once (**H9**).
    fn tell_down(&mut self, link: LinkId, why: Down) {
        let Some(node) = self.links.get_mut(link).and_then(|entry| entry.node.take()) else {
            return;
        };
        for port in &mut self.ports {
            port.put(epicserver_node::Event::LinkDown(link));
        }
        self.reports.tell(Report::Down { node, why });
    }

    fn down(&mut self, link: LinkId, why: Down) {
        let said = self.links.get_mut(link).and_then(|entry| entry.why.take());
        let established = self.links.get_mut(link).is_some_and(|entry| entry.node.is_some());
        let refused = self.reports.refused(said.as_ref());
        let why = match (&why, &said) {
            (Down::Here, Some(machine::Closed::Silent(after))) => Down::Silent(*after),
            (Down::Here, Some(machine::Closed::Violation(violation))) => Down::from(*violation),
            (_, Some(machine::Closed::There)) => Down::There,
            (_, Some(machine::Closed::Here)) => Down::Here,
            (_, Some(closed)) => Down::Failed(closed.to_string()),
            (_, None) => why,
        };
        tracing::debug!(?link, %why, "a link is down");
        self.tell_down(link, why.clone());
        if let Some(address) = self.links.remove(link).filter(|_| !established) {
            let why = why.to_string();
            self.reports.tell(Report::Unreachable { address, why, refused });
        }
    }

    fn submit(&mut self, now: Time, link: LinkId, parcel: Parcel) {
        let Some(entry) = self.links.get_mut(link) else { return };
        if !entry.unsent.is_empty() {
            return entry.unsent.push_back(parcel);
        }
        let transport = entry.transport;
        let refused = self.with(now, transport, |transport, io| transport.submit(io, link, parcel));
        if let (Err(parcel), Some(entry)) = (refused, self.links.get_mut(link)) {
            entry.unsent.push_back(parcel);
        }
    }

    fn room(&mut self, now: Time, link: LinkId) {
        while let Some(entry) = self.links.get_mut(link) {
            let Some(parcel) = entry.unsent.pop_front() else { break };
            let transport = entry.transport;
            let refused =
                self.with(now, transport, |transport, io| transport.submit(io, link, parcel));
            if let Err(parcel) = refused {
                if let Some(entry) = self.links.get_mut(link) {
                    entry.unsent.push_front(parcel);
                }
                return;
            }
        }
        for port in &mut self.ports {
            port.put(epicserver_node::Event::LinkRoom(link));
        }
    }

    /// Gives each shard its messages, runs of them together; those of the link stay here.
    fn frame(&mut self, now: Time, link: LinkId, frame: &Frame) {
        let mut at = 0;
        let mut run: Option<(usize, usize)> = None;
        while at < frame.len() {
            let bytes = frame.bytes();
            let glance = Glance::at(bytes, at);
            let Ok(glance) = glance else {
                return self.violated(now, link, glance.err());
            };
            let end = glance.end;
            let for_shard = (!glance.kind.is_of_the_link()).then(|| glance.to.index());
            if run.is_some_and(|(shard, _)| for_shard != Some(shard)) {
                self.give(now, link, frame, (run.take(), at));
            }
            match for_shard {
                Some(shard) => run = Some(run.unwrap_or((shard, at))),
                None => {
                    let message = machine::Event::Message {
                        kind: glance.kind,
                        payload: glance.payload_of(bytes),
                    };
                    self.advance(now, link, message);
                }
            }
            at = end;
        }
        self.give(now, link, frame, (run, at));
    }

    fn give(
        &mut self,
        now: Time,
        link: LinkId,
        frame: &Frame,
        run: (Option<(usize, usize)>, usize),
    ) {
        let (Some((shard, start)), end) = run else { return };
        let Some(entry) = self.links.get_mut(link) else { return };
        if entry.machine.is_closed() {
            // It was under way when this end let go of the link.
            return;
        }
        entry.machine.heard(now);
        if entry.node.is_none() {
            // H9.
            let early = Violation::Unexpected("a message before the handshake");
            return self.violated(now, link, Some(early));
        }
        let Some(port) = self.ports.get_mut(shard) else {
            let none = Violation::Unexpected("a message for a shard that is not");
            return self.violated(now, link, Some(none));
        };
        if let Some(frame) = frame.slice(start, end) {
            port.put(epicserver_node::Event::Packet { link, frame });
        }
    }

    fn violated(&mut self, now: Time, link: LinkId, why: Option<Violation>) {
        let Some(why) = why else { return };
        tracing::warn!(?link, %why, "a peer broke the protocol");
        if let Some(entry) = self.links.get_mut(link) {
            entry.why = Some(machine::Closed::Violation(why));
        }
        self.tell_down(link, Down::from(why));
        self.close(now, link);
    }

    fn obey(&mut self, now: Time) -> bool {
        let mut busy = false;
        while let Some(order) = self.wires.orders.pop() {
            busy = true;
            match order {
                Order::Dial(address) => self.dial(now, address),
                Order::Say { node, bytes } => self.say(now, node, &bytes),
                Order::Close => self.close_all(now),
                Order::Ban(node) => self.ban(now, node),
                Order::Become(node) => {
                    self.close_all(now);
                    self.identity.node = node;
                }
            }
        }
        busy
    }

    /// Passes on what the control thread says. A link that is not emptied takes no more of it.
    fn say(&mut self, now: Time, node: NodeId, bytes: &[u8]) {
        let Some(link) = self.links.of_node(node) else { return };
        let Some(entry) = self.links.get_mut(link) else { return };
        if entry.unsent.len() < UNSENT_MAX
            && let Some(parcel) = entry.message(Kind::Control, bytes)
        {
            self.submit(now, link, parcel);
        }
    }

    fn close_all(&mut self, now: Time) {
        for link in self.links.ids() {
            self.advance(now, link, machine::Event::Close);
        }
    }

    fn ban(&mut self, now: Time, node: NodeId) {
        self.banned.add(node);
        if let Some(link) = self.links.of_node(node) {
            self.tell_down(link, Down::Failed(machine::Refusal::Ended.to_string()));
            self.advance(now, link, machine::Event::Refuse(machine::Refusal::Ended));
        }
    }

    fn dial(&mut self, now: Time, address: Address) {
        let index = self.transports.iter().position(|t| t.name() == address.scheme());
        let Some(index) = index else {
            let why = format!("no transport here speaks `{}`", address.scheme());
            return self.reports.tell(Report::Unreachable { address, why, refused: None });
        };
        let link = LinkId::new(self.next_link);
        self.next_link += 1;
        match self.with(now, index, |transport, io| transport.dial(io, link, &address)) {
            Ok(()) => self.links.dialling(link, address),
            Err(error) => {
                let why = error.to_string();
                self.reports.tell(Report::Unreachable { address, why, refused: None });
            }
        }
    }

    fn take_parcels(&mut self, now: Time) -> bool {
        let mut busy = false;
        for index in 0..self.ports.len() {
            for _ in 0..PORT_BATCH {
                let Some(order) = self.ports[index].from.pop() else { break };
                busy = true;
                match order {
                    ToIo::Transmit { link, head, body } => {
                        self.submit(now, link, Parcel { head, body });
                    }
                    ToIo::Close { link, why } => self.violated(now, link, Some(why)),
                }
            }
        }
        busy
    }

    fn keep_time(&mut self, now: Time) {
        while let Some(link) = self.links.due(now) {
            self.advance(now, link, machine::Event::Time);
        }
    }

    /// Says goodbye to every peer, and lets what was submitted leave.
    pub(crate) fn shut_down(&mut self, now: Time) {
        self.close_all(now);
        let mut time = now;
        let until = now + GOODBYE;
        while !self.links.is_empty() && time < until {
            self.round(time);
            if let Err(error) = self.driver.wait(Some(Duration::from_millis(1)), &mut self.done) {
                tracing::warn!(%error, "links were not closed in order");
                return;
            }
            time = crate::worker::now();
        }
    }

    /// When it has to go round although nothing happens.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let transports = self.transports.iter().filter_map(|transport| transport.deadline());
        transports.chain(self.links.deadline()).min()
    }

    /// Whether a round may find anything: what an idle loop asks between two rounds.
    pub(crate) fn stirs(&mut self) -> bool {
        self.driver.stirs()
            || self.transports.iter_mut().any(|transport| transport.stirs())
            || self.ports.iter().any(|port| !port.from.is_empty())
            || !self.wires.orders.is_empty()
    }

    /// Whether somebody has given it something, or did not take what it had.
    pub(crate) fn has_work(&self) -> bool {
        !self.wires.orders.is_empty()
            || self.reports.is_late()
            || self.ports.iter().any(|port| !port.from.is_empty() || port.has_unsent())
    }

    /// Waits in the kernel for at most `timeout`, if there is still nothing to do, on behalf of the thread
    /// whose parker this is (**H11**).
    pub(crate) fn wait(
        &mut self,
        parker: &mut Parker,
        (now, timeout): (Time, Option<Duration>),
        has_work: impl FnOnce() -> bool,
    ) {
        let announced = parker.announce();
        let mut quiet = !has_work() && !self.has_work();
        for index in 0..self.transports.len() {
            quiet &= self.with(now, index, |transport, io| transport.arm(io));
        }
        quiet &= self.events.is_empty();
        if quiet {
            let own = self.deadline().map(|deadline| deadline.since(now));
            let timeout = timeout.into_iter().chain(own).min();
            if let Err(error) = self.driver.wait(timeout, &mut self.done) {
                panic!("H6: the I/O driver failed: {error}");
            }
        }
        drop(announced);
    }
}

/// Why a node cannot reach others.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IoError {
    /// There is no driver.
    #[error(transparent)]
    Driver(#[from] crate::driver::DriverError),
    /// A transport cannot be set up.
    #[error(transparent)]
    Transport(#[from] epicserver_link::Refused),
    /// The bell cannot be watched.
    #[error("the driver cannot wait for the thread's own bell")]
    Bell(#[source] std::io::Error),
}
