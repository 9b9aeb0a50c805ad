//! The loop of one shard's thread.
//!
//! Drain the rings, empty the inlet, take what the store has answered, run what is ready, send what came of it, and when none of it
//! was anything, be idle in the way that the policy says.
//!
//! # Invariants
//! - **H3** The thread sleeps only after it has looked at every ring and the inlet once more with
//!   its sleeping flag up.
//! - **H4** Messages to one shard leave in the order of the effects, over a full ring too.
//! - **H5** A batch of messages wakes its receiver at most once.
//!
//! # Not here
//! What a message means.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use epicserver_entity::Answer;
use epicserver_node::{Effect, Event, Message, Notice, Shard};
use epicserver_proto::SlotId;
use epicserver_wire::{ClassId, ShardId, Time};
use rustix::time::{ClockId, clock_gettime};

use crate::depot::Depot;
use crate::idle::{Crowd, Policy, Step};
use crate::inlet::{Control, Door, Probe};
use crate::io::{Endpoint, Outlet, ToIo};
use crate::park::Parker;
use crate::ring::{Consumer, Full, Producer};
use crate::telling::{Lease, Telling, Told};

/// Messages taken from one ring before the next one is looked at.
const RING_BATCH: usize = 32;
/// Tasks run before the rings are looked at again.
const RUN_BATCH: u32 = 64;
/// How long a thread that ends waits for the store.
const SAVE_MAX: Duration = Duration::from_secs(10);
/// Busy rounds of the loop between two looks at the clock: a round takes well under a microsecond
/// when it is short, and a long one ends the wait for the next look.
const BUSY_ROUNDS: u32 = 4;
/// Messages that have left before the shard is told so; it may hold far more unsent.
const SENT_BATCH: u32 = 256;
/// Looks of an idle loop at what may have come, between two looks at the clock.
pub(crate) const IDLE_LOOKS: u32 = 32;
/// Looks at the clock of an idle loop that spins, between two whole rounds: some things only those find.
pub(crate) const IDLE_CLOCKS: u32 = 4;

/// The end of this shard towards another one.
pub(crate) struct Peer {
    pub(crate) shard: ShardId,
    pub(crate) incoming: Consumer<Message>,
    pub(crate) outgoing: Producer<Message>,
    pub(crate) door: Arc<Door>,
    pub(crate) unsent: VecDeque<Message>,
    /// Messages that have left and of which the shard does not know yet.
    pub(crate) left: u32,
}

/// Everything that one shard's thread owns.
pub(crate) struct Worker {
    pub(crate) shard_id: ShardId,
    pub(crate) shard: Shard,
    pub(crate) door: Arc<Door>,
    pub(crate) parker: Parker,
    pub(crate) peers: Vec<Peer>,
    /// The way to other nodes, if there are any to reach.
    pub(crate) outlet: Option<Outlet>,
    /// The links themselves, if this thread drives them.
    pub(crate) endpoint: Option<Endpoint>,
    pub(crate) policy: Policy,
    pub(crate) crowd: Option<Crowd>,
    pub(crate) crowded: bool,
    pub(crate) effects: Vec<Effect>,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// All is being collected, and the thread ends then, or at this time.
    pub(crate) closing: Option<Time>,
    /// Until when it may act, if that ends.
    pub(crate) lease: Option<Lease>,
    /// What the control thread has no room for yet, in order (H14).
    pub(crate) untold: VecDeque<Told>,
    pub(crate) telling: Arc<Telling>,
    /// The way to the store, if there is one.
    pub(crate) depot: Option<Depot>,
}

/// Nanoseconds since the machine's boot, suspends included.
#[must_use]
pub fn now() -> Time {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    Time::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

impl Worker {
    /// Runs until the shard was closed.
    pub(crate) fn run(mut self) {
        let mut time = now();
        let mut idle_since = time;
        let mut busy_rounds = 0_u32;
        while !self.is_over() {
            let (busy, ran) = self.round(time);
            if busy {
                busy_rounds += 1;
                if ran || busy_rounds.is_multiple_of(BUSY_ROUNDS) {
                    time = now();
                }
                idle_since = time;
            } else {
                time = self.be_idle(idle_since);
            }
        }
        let time = now();
        self.send(time);
        if let Some(endpoint) = &mut self.endpoint {
            endpoint.shut_down(time);
        }
        self.door.close();
    }

    /// Whether all is collected, and saved as far as that is waited for.
    fn is_over(&self) -> bool {
        self.closing.is_some_and(|until| {
            let saved = self.shard.is_closed();
            if !saved && until <= now() {
                let (left, _) = self.shard.activations();
                tracing::error!(left, "the store did not take these states before the node ended");
            }
            saved || until <= now()
        })
    }

    /// Does all that there is to do, but no more than a bounded part of it. Says whether that was anything, and
    /// whether tasks ran.
    fn round(&mut self, time: Time) -> (bool, bool) {
        self.look_at_lease();
        // What comes over a link is handled, and answered, in one round.
        let mut busy = self.endpoint.as_mut().is_some_and(|endpoint| endpoint.listen(time));
        busy |= self.receive(time);
        let due = self.shard.deadline().is_some_and(|deadline| deadline <= time);
        let lapsed = self.lease.is_some_and(|lease| lease.until <= time);
        let ran = (due || self.shard.is_ready()) && !lapsed;
        if ran {
            self.shard.run(time, RUN_BATCH, &mut self.effects);
        }
        self.send(time);
        busy |= self.endpoint.as_mut().is_some_and(|endpoint| endpoint.speak(time));
        (busy | ran, ran)
    }

    fn look_at_lease(&mut self) {
        let Some(before) = self.lease else { return };
        let lease = self.telling.lease();
        if lease != before {
            self.lease = Some(lease);
            self.shard.lease(lease.evictions, lease.until);
        }
    }

    /// Whether a round may find anything; one look of an idle loop.
    fn stirs(&mut self) -> bool {
        std::hint::spin_loop();
        self.has_come() || self.endpoint.as_mut().is_some_and(Endpoint::stirs)
    }

    /// Whether another thread has sent something.
    fn has_come(&self) -> bool {
        self.door.is_full()
            || self.depot.as_ref().is_some_and(Depot::has_come)
            || self.peers.iter().any(|peer| !peer.incoming.is_empty())
            || self.outlet.as_ref().is_some_and(|outlet| !outlet.from.is_empty())
    }

    /// Whether something could not be sent to another thread.
    fn has_unsent(&self) -> bool {
        self.peers.iter().any(|peer| !peer.unsent.is_empty())
            || self.outlet.as_ref().is_some_and(|outlet| !outlet.unsent.is_empty())
    }

    /// Takes what other threads have sent. Says whether there was anything.
    fn receive(&mut self, time: Time) -> bool {
        let mut busy = false;
        for index in 0..self.peers.len() {
            for _ in 0..RING_BATCH {
                let Some(message) = self.peers[index].incoming.pop() else { break };
                self.received += 1;
                self.shard.handle(time, Event::Message(message), &mut self.effects);
                busy = true;
            }
        }
        for _ in 0..RING_BATCH {
            let event = self.outlet.as_mut().and_then(|outlet| outlet.from.pop());
            let Some(event) = event else { break };
            self.shard.handle(time, event, &mut self.effects);
            busy = true;
        }
        let mut stored = Vec::new();
        if let Some(depot) = &mut self.depot {
            depot.poll(&mut stored);
        }
        for done in stored {
            self.shard.handle(time, Event::Stored(done), &mut self.effects);
            busy = true;
        }
        if self.door.is_full() {
            self.empty_door();
            busy = true;
        }
        busy
    }

    fn empty_door(&mut self) {
        let time = now();
        let (mut controls, mut turns) = (Vec::new(), Vec::new());
        self.door.empty(|control| controls.push(control), |turn| turns.push(turn));
        for turn in turns {
            self.shard.handle(time, Event::Woken(turn), &mut self.effects);
        }
        for control in controls {
            self.control(time, control);
        }
    }

    fn control(&mut self, time: Time, control: Control) {
        let event = match control {
            Control::Outside(inlet) => Event::Outside(inlet),
            Control::Root(task) => Event::Root(task),
            Control::View(ownership) => Event::View(ownership),
            Control::Evicted => {
                // There may be a lease again, which did not count so far.
                self.lease = self.lease.map(|_| Lease::NONE);
                Event::Evicted
            }
            Control::Stop => Event::Stop,
            Control::Close => {
                self.closing = Some(time + SAVE_MAX);
                Event::Close
            }
            Control::Probe(answer) => {
                let unsent = self.peers.iter().any(|peer| !peer.unsent.is_empty());
                let quiet = self.shard.is_quiet() && !unsent && self.effects.is_empty();
                let probe = Probe { quiet, sent: self.sent, received: self.received };
                // Whoever asked may have given up; then nobody needs to know.
                let _gone = answer.try_send(probe);
                return;
            }
        };
        self.shard.handle(time, event, &mut self.effects);
    }

    /// Carries out the effects, and moves messages into the rings as far as they have room.
    fn send(&mut self, time: Time) {
        if self.outlet.is_some() {
            self.shard.flush(time, &mut self.effects);
        }
        while !self.effects.is_empty() {
            let mut effects = std::mem::take(&mut self.effects);
            for effect in effects.drain(..) {
                self.carry_out(time, effect);
            }
            if self.effects.is_empty() {
                self.effects = effects;
            }
        }
        for index in 0..self.peers.len() {
            self.send_to(time, index);
        }
        while let Some(told) = self.untold.pop_front() {
            if let Err(told) = self.telling.tell(told) {
                self.untold.push_front(told);
                break;
            }
        }
        if let Some(outlet) = &mut self.outlet {
            outlet.flush();
        }
    }

    fn send_to(&mut self, time: Time, index: usize) {
        let peer = &mut self.peers[index];
        let mut count = 0;
        while let Some(message) = peer.unsent.pop_front() {
            if let Err(Full(message)) = peer.outgoing.push(message) {
                peer.unsent.push_front(message);
                break;
            }
            count += 1;
        }
        if count > 0 {
            peer.door.unpark();
            self.sent += u64::from(count);
            peer.left += count;
        }
        if peer.left >= SENT_BATCH {
            let sent = Event::Sent { to: peer.shard, count: std::mem::take(&mut peer.left) };
            self.shard.handle(time, sent, &mut self.effects);
        }
    }

    fn carry_out(&mut self, time: Time, effect: Effect) {
        match effect {
            Effect::Send { to, message } => {
                match self.peers.iter_mut().find(|peer| peer.shard == to) {
                    Some(peer) => peer.unsent.push_back(message),
                    None => self.shard.handle(time, Event::Message(message), &mut self.effects),
                }
            }
            Effect::Transmit { link, head, body } => {
                if let Some(outlet) = &mut self.outlet {
                    outlet.put(ToIo::Transmit { link, head, body });
                }
            }
            Effect::Close { link, why } => {
                if let Some(outlet) = &mut self.outlet {
                    outlet.put(ToIo::Close { link, why });
                }
            }
            Effect::Wall { token } => {
                let wall = clock_gettime(ClockId::Realtime);
                let nanos = wall.tv_sec.saturating_mul(1_000_000_000).saturating_add(wall.tv_nsec);
                let answer = Answer::Wall(u64::try_from(nanos).unwrap_or(0));
                self.shard.handle(time, Event::Completed { token, answer }, &mut self.effects);
            }
            Effect::Random { token, len } => {
                let answer = Answer::Bytes(random_bytes(len));
                self.shard.handle(time, Event::Completed { token, answer }, &mut self.effects);
            }
            Effect::Store { id, op } => {
                if let Some(depot) = &mut self.depot {
                    depot.submit(id, op);
                }
            }
            Effect::Drained { view, slots, .. } => {
                let (shard, slots) = (self.shard_id, by_class(&slots));
                self.untold.push_back(Told::Drained { shard, view, slots });
            }
            Effect::Behind { view } => self.untold.push_back(Told::Behind { view }),
            Effect::Notice(notice) => report(&notice),
        }
    }

    /// Waits a little, or a lot, for something to do. Says what time it is afterwards.
    fn be_idle(&mut self, since: Time) -> Time {
        for _ in 0..IDLE_CLOCKS {
            let time = now();
            let nanos = time.as_nanos().saturating_sub(since.as_nanos());
            let crowd = self.crowd.as_mut().is_some_and(|crowd| crowd.is_crowded(time.as_nanos()));
            match self.policy.step(nanos, self.crowded || crowd) {
                Step::Spin => {}
                Step::Yield => std::thread::yield_now(),
                Step::Park => {
                    self.park(time);
                    break;
                }
            }
            if (0..IDLE_LOOKS).any(|_| self.stirs()) {
                break;
            }
        }
        now()
    }

    fn park(&mut self, time: Time) {
        let timeout = self.shard.deadline().map(|deadline| deadline.since(time));
        let timeout = self.closing.map(|until| until.since(time)).into_iter().chain(timeout).min();
        let timeout = if self.has_unsent() { Some(Duration::from_micros(50)) } else { timeout };
        let (peers, door, outlet) = (&self.peers, &self.door, &self.outlet);
        // H3: this runs with the flag up. A lease that was renewed is looked at in the next round.
        let (telling, lease, depot) = (&self.telling, self.lease, &self.depot);
        let work = || {
            depot.as_ref().is_some_and(Depot::has_come)
                || lease.is_some_and(|before| telling.lease() != before)
                || door.is_full()
                || peers.iter().any(|peer| !peer.incoming.is_empty())
                || outlet.as_ref().is_some_and(|outlet| !outlet.from.is_empty())
        };
        if let Some(endpoint) = &mut self.endpoint {
            return endpoint.wait(&mut self.parker, (time, timeout), work);
        }
        if let Err(error) = self.parker.park(timeout, work) {
            tracing::error!(%error, "the kernel would not let a shard wait; it yields instead");
            std::thread::yield_now();
        }
    }
}

/// Slots as the control thread has them.
fn by_class(slots: &[SlotId]) -> Vec<(ClassId, Vec<u16>)> {
    let mut classes: BTreeMap<ClassId, Vec<u16>> = BTreeMap::new();
    for slot in slots {
        classes.entry(slot.class).or_default().push(slot.index);
    }
    classes.into_iter().collect()
}

fn report(notice: &Notice) {
    match notice {
        Notice::Panicked { entity, method } => {
            tracing::error!(?entity, ?method, "user code panicked");
        }
        Notice::TellRefused(error) => tracing::warn!(%error, "a tell was refused"),
        Notice::SpawnRefused => {
            tracing::warn!("a task was not spawned: the table of turns is full")
        }
        Notice::NotLoaded { entity, why } => {
            tracing::error!(?entity, why, "what is stored of an entity is not served");
        }
        Notice::NotSaved { entity, why } => {
            tracing::error!(?entity, why, "an entity is not saved");
        }
        Notice::StoreTrouble(why) => tracing::error!(why, "the store does not do what it is asked"),
        Notice::StoreBack => tracing::info!("the store does what it is asked again"),
    }
}

/// Random bytes of the kernel.
pub(crate) fn random_bytes(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            // A kernel without getrandom cannot be run on: user code asked for secrets.
            Err(error) => panic!("H6: getrandom failed: {error}"),
        }
    }
    bytes
}
