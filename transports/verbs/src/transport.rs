//! The transport: its table of links, their control connections, and the device that carries them.
//!
//! # Invariants
//! - **VT1** What comes for a queue pair is its link's, or is taken back for the device; nothing that the device says
//!   is left unanswered.
//! - **VT2** When the device fails, every link of it is down, and the next dial, from here or there, tries to open it again. Nothing is
//!   sent twice: what was under way is lost with its link.
//!
//! # Not here
//! What one link does; how the device is driven.

mod control;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use epicserver_link::driver::{Completion, Done, Handle, Owner};
use epicserver_link::{Address, Down, Event, Io, Parcel, Refused, Transport};
use epicserver_wire::header::Violation;
use epicserver_wire::{LinkId, Time};

use crate::choose::{self, Choice};
use crate::device::{Completed, Context, DeviceError};
use crate::engine::Engine;
use crate::ffi::library::Library;
use crate::link::{Link, Stage, told};
use crate::receiving::Around;
use crate::status::Scope;
use crate::{Config, SCHEME, SYS, VerbsError, memlock};

/// Batches of completions that are taken in one round.
const BATCHES_MAX: usize = 8;
/// How soon an end looks again at slots that its users hold, when peers may have to wait for them.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// The transport over verbs.
pub struct Verbs {
    owner: Owner,
    config: Config,
    library: Arc<Library>,
    choice: Choice,
    // Before the engine, whose queues its pairs use.
    links: BTreeMap<LinkId, Link>,
    engine: Option<Engine>,
    /// Where the device says that something was completed, and what else it has to say.
    watched: [Option<Handle>; 2],
    listening: BTreeMap<Handle, SocketAddr>,
    by_handle: BTreeMap<Handle, LinkId>,
    by_pair: BTreeMap<u32, LinkId>,
    /// Control connections of peers that were refused, until they have heard it.
    leaving: BTreeMap<Handle, Time>,
    /// What the device has done that nothing has followed from yet, in order.
    batch: Vec<Completed>,
    look_again: Option<Time>,
}

impl Verbs {
    /// Chooses a device as `config` says, and listens; `owner` is this transport's place among those of its thread.
    /// Raises the limit of memory that the process may pin, as far as it may.
    ///
    /// # Errors
    /// [`VerbsError::Unavailable`] says what this machine lacks; [`VerbsError::Refused`] names the address and the
    /// system call.
    pub fn listen(owner: Owner, config: Config, io: &mut Io<'_>) -> Result<Self, VerbsError> {
        let library = Library::load().map_err(|error| {
            let what = "libibverbs cannot be loaded: install libibverbs1 and ibverbs-providers";
            VerbsError::Unavailable(format!("{what} ({error})"))
        })?;
        Self::listen_by(&library, owner, config, io)
    }

    /// The same with this library.
    pub(crate) fn listen_by(
        library: &Arc<Library>,
        owner: Owner,
        config: Config,
        io: &mut Io<'_>,
    ) -> Result<Self, VerbsError> {
        assert!(
            (1..=crate::WINDOW_MAX).contains(&config.window),
            "N1: the window is out of bounds"
        );
        let slots = crate::SLOT_BYTES_MIN..=crate::SLOT_BYTES_MAX;
        let sound = slots.contains(&config.slot_bytes) && config.slot_bytes.is_multiple_of(1024);
        assert!(sound, "N1: the slots are out of bounds");
        let sys = Path::new(SYS);
        let candidates = choose::look(library, sys).map_err(|error| {
            let none = "the kernel knows no RDMA device; load the module of one, or rdma_rxe";
            VerbsError::Unavailable(format!("{none} ({})", told(&error)))
        })?;
        let mut choice = choose::choose(&candidates, &config).map_err(VerbsError::Unavailable)?;
        choice.numa = choose::numa_of(sys, &choice.device);
        log(&choice, memlock::raise());
        let mut verbs = Self {
            owner,
            config,
            library: Arc::clone(library),
            choice,
            links: BTreeMap::new(),
            engine: None,
            watched: [None; 2],
            listening: BTreeMap::new(),
            by_handle: BTreeMap::new(),
            by_pair: BTreeMap::new(),
            leaving: BTreeMap::new(),
            batch: Vec::new(),
            look_again: None,
        };
        verbs.start(io).map_err(VerbsError::Unavailable)?;
        verbs.listen_at(io)?;
        Ok(verbs)
    }

    /// The numbers of all pairs, in the order of links.
    #[cfg(test)]
    pub(crate) fn pairs(&self) -> impl Iterator<Item = u32> {
        self.links.values().filter_map(Link::pair)
    }

    /// How many links the device carries.
    #[cfg(test)]
    pub(crate) fn links_max(&self) -> usize {
        self.engine.as_ref().map_or(0, |engine| engine.links_max)
    }

    /// Opens the device, unless it is open.
    fn start(&mut self, io: &mut Io<'_>) -> Result<(), String> {
        if self.engine.is_some() {
            return Ok(());
        }
        let context = Context::open(&self.library, &self.choice.device);
        let context = context.map_err(|error| told(&error))?;
        let shape = (self.config.slot_bytes, self.config.window);
        let engine = Engine::start(&context, &self.choice, shape).map_err(|error| told(&error))?;
        let failed = |error: std::io::Error| format!("watching the device failed: {error}");
        let completions = engine.watched().map_err(failed)?;
        let incidents = context.watched().map_err(failed)?;
        self.watched = [
            Some(io.driver.watch(self.owner, completions).map_err(failed)?),
            Some(io.driver.watch(self.owner, incidents).map_err(failed)?),
        ];
        tracing::debug!(
            device = self.choice.device,
            links = engine.links_max,
            "a device is in use"
        );
        self.engine = Some(engine);
        Ok(())
    }

    /// The device has failed (**VT2**).
    fn lose(&mut self, io: &mut Io<'_>, why: &str) {
        tracing::error!(device = self.choice.device, why, "an RDMA device has failed");
        for id in self.links.keys().copied().collect::<Vec<_>>() {
            let Some(link) = self.links.remove(&id) else { continue };
            self.by_handle.remove(&link.handle);
            io.driver.close(link.handle, false);
            if link.is_known() {
                io.events.push(Event::Down { link: id, why: Down::Failed(why.to_owned()) });
            }
        }
        self.by_pair.clear();
        self.batch.clear();
        for handle in self.watched.iter_mut().filter_map(Option::take) {
            io.driver.close(handle, false);
        }
        self.engine = None;
    }

    /// Ends a link.
    fn end(&mut self, io: &mut Io<'_>, id: LinkId, why: Down) {
        let Some(link) = self.links.get(&id) else { return };
        let (handle, known) = (link.handle, link.is_known());
        self.let_go(io, id);
        io.driver.close(handle, false);
        if known {
            io.events.push(Event::Down { link: id, why });
        }
    }

    /// Takes a link out of the tables, and lets its pair end. Its control connection is left as it is.
    fn let_go(&mut self, io: &Io<'_>, id: LinkId) {
        let Some(link) = self.links.remove(&id) else { return };
        self.by_handle.remove(&link.handle);
        if let Some(pair) = link.pair() {
            self.by_pair.remove(&pair);
        }
        let Some(engine) = &mut self.engine else { return };
        match link.stage {
            Stage::Connecting | Stage::Greeting(_, None) => {}
            Stage::Greeting(_, Some((pair, _))) => engine.forget(pair),
            Stage::Waiting(conduit, _)
            | Stage::Up(conduit)
            | Stage::Failing(conduit, _)
            | Stage::Gone(conduit, _)
            | Stage::Closing(conduit) => engine.bury(conduit, io.now),
        }
    }

    /// Fetches what the device has done, unless something was fetched before. Says whether there is anything.
    fn look(&mut self) -> Result<bool, DeviceError> {
        if self.batch.is_empty()
            && let Some(engine) = &mut self.engine
        {
            self.batch.extend(engine.completions.take()?);
        }
        Ok(!self.batch.is_empty())
    }

    /// Takes what the device has done. Says whether there was anything, and whether there may be more.
    fn take(&mut self, io: &mut Io<'_>) -> (bool, bool) {
        for round in 0..BATCHES_MAX {
            match self.look() {
                Ok(true) => {}
                Ok(false) => return (round > 0, false),
                Err(error) => {
                    self.lose(io, &told(&error));
                    return (true, false);
                }
            }
            let mut batch = std::mem::take(&mut self.batch);
            for completed in batch.drain(..) {
                self.completed(io, completed);
            }
            self.batch = batch;
        }
        (true, true)
    }

    /// A request has ended (**VT1**).
    fn completed(&mut self, io: &mut Io<'_>, completed: Completed) {
        let Some(engine) = &mut self.engine else { return };
        let id = self.by_pair.get(&completed.pair).copied();
        let Some((id, link)) = id.and_then(|id| Some((id, self.links.get_mut(&id)?))) else {
            return engine.late(completed);
        };
        let queue = Rc::clone(&engine.queue);
        let mut around = around(engine, id, io.events);
        if let Err(violation) = link.completed(&mut around, &queue, (completed, io.now)) {
            self.end(io, id, Down::from(violation));
        }
    }

    /// Lets each link do what it can. Says whether that was anything.
    fn poll_links(&mut self, io: &mut Io<'_>) -> bool {
        let (mut busy, mut ended) = (false, Vec::new());
        for (id, link) in &mut self.links {
            let Some(engine) = &mut self.engine else { break };
            match link.poll(&mut around(engine, *id, io.events), io.now) {
                Ok(something) => busy |= something,
                Err(why) => ended.push((*id, why)),
            }
        }
        for (id, why) in ended {
            busy = true;
            self.end(io, id, why);
        }
        busy
    }

    /// Slots that are free again go back into the queue.
    fn reclaim(&mut self, io: &mut Io<'_>) {
        let Some(engine) = &mut self.engine else { return };
        engine.reclaim();
        let mut narrow = engine.is_narrow();
        for conduit in self.links.values_mut().filter_map(Link::conduit) {
            conduit.receiving.reclaim(&mut engine.free);
            narrow |= conduit.receiving.is_narrow();
        }
        let posted = engine.post();
        self.look_again = narrow.then(|| io.now + LOOK_AGAIN);
        if let Err(error) = posted {
            self.lose(io, &told(&error));
        }
    }

    /// The device has something to say of its own accord.
    fn incidents(&mut self, io: &mut Io<'_>) {
        while let Some(engine) = &self.engine
            && let Some((incident, pair)) = engine.context.incident()
        {
            let device = &self.choice.device;
            match incident.scope() {
                Scope::Device => self.lose(io, &incident.to_string()),
                Scope::Pair => {
                    tracing::warn!(device, ?pair, %incident, "of a queue pair");
                    let id = pair.and_then(|pair| self.by_pair.get(&pair));
                    if let Some(link) = id.and_then(|id| self.links.get_mut(id)) {
                        link.failed(incident.to_string(), io.now);
                    }
                }
                Scope::Nothing => tracing::info!(device, %incident, "of a port or queue"),
            }
        }
    }
}

/// What a link needs of the device while it is told something.
fn around<'a>(engine: &'a mut Engine, link: LinkId, events: &'a mut Vec<Event>) -> Around<'a> {
    let Engine { bulk, copies, free, .. } = engine;
    Around { link, bulk, copies, events, free }
}

fn log(choice: &Choice, memlock: Option<u64>) {
    let Choice { device, local, numa } = choice;
    let gid = std::net::Ipv6Addr::from(local.gid).to_canonical();
    let mtu = 128_u32 << local.mtu;
    let kind = if local.ethernet { "RoCE" } else { "InfiniBand" };
    tracing::info!(
        device,
        port = local.port,
        gid_index = local.gid_index,
        %gid,
        mtu,
        kind,
        ?numa,
        memlock_bytes = ?memlock,
        "verbs"
    );
}

impl Transport for Verbs {
    fn name(&self) -> &'static str {
        SCHEME
    }

    fn addresses(&self) -> Vec<Address> {
        self.listening.values().map(|at| Address::new(SCHEME, &at.to_string())).collect()
    }

    fn dial(&mut self, io: &mut Io<'_>, link: LinkId, to: &Address) -> Result<(), Refused> {
        self.begin(io, link, to)
    }

    fn submit(&mut self, _: &mut Io<'_>, link: LinkId, parcel: Parcel) -> Result<(), Parcel> {
        match self.links.get_mut(&link) {
            Some(link) => link.submit(parcel),
            None => Err(parcel),
        }
    }

    fn flush(&mut self, io: &mut Io<'_>) {
        let mut ended = Vec::new();
        for (id, link) in &mut self.links {
            let Some(engine) = &mut self.engine else { return };
            if let Err(why) = link.pump(&mut around(engine, *id, io.events)) {
                ended.push((*id, why));
            }
        }
        for (id, why) in ended {
            self.end(io, id, why);
        }
    }

    fn complete(&mut self, io: &mut Io<'_>, completion: Completion) {
        let Completion { handle, done, .. } = completion;
        match done {
            Done::Accepted(socket) => self.accept(io, socket),
            Done::Readable if self.watched[0] == Some(handle) => {
                if let Some(engine) = &mut self.engine
                    && engine.completions.hear()
                {
                    engine.armed = false;
                }
            }
            Done::Readable => self.incidents(io),
            Done::Closed(error) => self.hung_up(io, handle, error),
            Done::Connected => self.connected(io, handle),
            Done::Received(bytes) => self.heard(io, handle, bytes.bytes()),
            Done::Sent(_) => {}
        }
    }

    fn stirs(&mut self) -> bool {
        // The next poll sees the error, too.
        self.look().unwrap_or(true)
    }

    fn poll(&mut self, io: &mut Io<'_>) -> bool {
        let (mut busy, more) = self.take(io);
        if !more && let Some(engine) = &mut self.engine {
            busy |= engine.end_pairs(io.now);
        }
        self.reclaim(io);
        if !more {
            busy |= self.poll_links(io);
        } else {
            self.flush(io);
        }
        self.leave(io);
        busy
    }

    fn arm(&mut self, io: &mut Io<'_>) -> bool {
        let Some(engine) = &mut self.engine else { return true };
        if !std::mem::replace(&mut engine.armed, true)
            && let Err(error) = engine.completions.arm()
        {
            self.lose(io, &told(&error));
            return false;
        }
        // What came before it was armed wakes nobody.
        !self.take(io).0
    }

    fn deadline(&self) -> Option<Time> {
        let links = self.links.values().filter_map(|link| link.until);
        let dying = self.engine.as_ref().and_then(Engine::deadline);
        links.chain(dying).chain(self.look_again).chain(self.leaving.values().copied()).min()
    }

    fn close(&mut self, io: &mut Io<'_>, link: LinkId) {
        if let Some(why) = self.links.get_mut(&link).and_then(|link| link.close(io.now)) {
            self.end(io, link, why);
        }
    }
}

impl fmt::Debug for Verbs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verbs").field("links", &self.links.len()).finish_non_exhaustive()
    }
}

/// What is said of bytes that come where none should.
fn unexpected(what: &'static str) -> Down {
    Down::from(Violation::Unexpected(what))
}
