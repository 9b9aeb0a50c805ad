//! `Pipe`: the simplest transport that there can be, between ends of one process and one thread.
//!
//! It proves the suite: it passes, and each [`Flaw`] that it can be given fails. A link is two queues of
//! frames that both ends look into; a dial is an entry in a list.
//!
//! # Invariants
//! - **Y3** A queue holds at most 32 frames, and a link lends at most 48 slots.
//!
//! # Not here
//! The kernel: what a driver does for sockets is refused here.

mod bell;
mod flaw;
mod subject;
mod transport;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use epicserver_wire::frame::{Frame, FrameMut, Slots};
use epicserver_wire::header::{Glance, Violation};
use epicserver_wire::{LinkId, Time};

pub use self::flaw::Flaw;
pub use self::subject::Pipes;
use crate::driver::Wake;
use crate::pool::HeapPool;
use crate::{Address, Down, Event, Io};

const SCHEME: &str = "pipe";
/// Frames that wait in one direction of a link (**Y3**).
const FRAMES_MAX: usize = 32;
/// Slots of one link (**Y3**), and their bytes.
const SLOTS_MAX: usize = 48;
const SLOT_BYTES: usize = 8 << 10;
/// Dials that may wait to be accepted.
const WAITING_MAX: usize = 128;
/// Frames that one link hands up in one round.
const FRAMES_A_ROUND: usize = 8;
/// How long a dial may take.
const DIAL: Duration = Duration::from_secs(5);
/// How long a close may take.
const LINGER: Duration = Duration::from_millis(500);

/// One direction of a link.
#[derive(Default)]
struct Half {
    frames: VecDeque<Frame>,
    /// Frames that were ever put in: for flaws alone.
    sent: usize,
    /// Its sender sends no more.
    closed: bool,
    /// Its sender knows of the link.
    begun: bool,
}

/// A link: the direction of the end that dialled it, and the other.
struct Wire {
    halves: [Half; 2],
    bells: [Arc<dyn Wake>; 2],
}

/// An end that can be dialled: who dials it, and its bell.
struct Door {
    waiting: Vec<(u32, Rc<RefCell<Wire>>)>,
    bell: Arc<dyn Wake>,
}

/// What the ends of one process know of each other.
#[derive(Default)]
struct Hub {
    doors: BTreeMap<u32, Door>,
    next: u32,
}

impl Hub {
    fn add(&mut self, bell: Arc<dyn Wake>) -> u32 {
        self.next += 1;
        self.doors.insert(self.next, Door { waiting: Vec::new(), bell });
        self.next
    }

    /// A new wire to the end numbered `to`, from `from`; `None` if it is not, or too many wait for it.
    fn connect(
        &mut self,
        (from, to): (u32, u32),
        bell: Arc<dyn Wake>,
    ) -> Option<Rc<RefCell<Wire>>> {
        let door = self.doors.get_mut(&to).filter(|door| door.waiting.len() < WAITING_MAX)?;
        let bells = [bell, Arc::clone(&door.bell)];
        let wire = Rc::new(RefCell::new(Wire { halves: Default::default(), bells }));
        door.waiting.push((from, Rc::clone(&wire)));
        Some(wire)
    }
}

struct Link {
    wire: Rc<RefCell<Wire>>,
    /// Which direction is its own.
    side: usize,
    peer: Address,
    up: bool,
    pool: Arc<HeapPool>,
    refused: bool,
    until: Option<Time>,
    /// It was closed here.
    closing: bool,
}

impl Link {
    fn new((wire, side): (Rc<RefCell<Wire>>, usize), peer: u32, until: Option<Time>) -> Self {
        let peer = Address::new(SCHEME, &peer.to_string());
        let pool = HeapPool::new(SLOTS_MAX, SLOT_BYTES);
        Self { wire, side, peer, up: false, pool, refused: false, until, closing: false }
    }

    /// Whether the peer has room, and this end may be told.
    fn has_room_again(&mut self) -> bool {
        let room = self.wire.borrow().halves[self.side].frames.len() < FRAMES_MAX;
        let slot = self.pool.has_room_again();
        slot | (room && std::mem::take(&mut self.refused))
    }

    /// This end hears no more, and what it has said is all.
    fn leave(&self) {
        let mut wire = self.wire.borrow_mut();
        wire.halves[self.side].closed = true;
        wire.halves[1 - self.side].frames.clear();
    }

    /// Why it is over, if it is.
    fn is_over(&self, now: Time) -> Option<Down> {
        let wire = self.wire.borrow();
        let (out, back) = (&wire.halves[self.side], &wire.halves[1 - self.side]);
        let late = self.until.is_some_and(|until| until <= now);
        if self.closing {
            (late || back.closed || out.frames.is_empty()).then_some(Down::Here)
        } else if back.closed && back.frames.is_empty() {
            Some(Down::There)
        } else {
            (late && !self.up).then_some(Down::Silent(DIAL))
        }
    }
}

/// One end.
pub struct Pipe {
    hub: Rc<RefCell<Hub>>,
    number: u32,
    bell: Arc<dyn Wake>,
    links: BTreeMap<LinkId, Link>,
    flaw: Option<Flaw>,
    /// Frames handed up, and the numbers of links that are gone: for flaws alone.
    frames: usize,
    gone: Vec<LinkId>,
    leaked: Vec<FrameMut>,
}

impl Pipe {
    fn open(hub: &Rc<RefCell<Hub>>, bell: Arc<dyn Wake>, flaw: Option<Flaw>) -> Self {
        let number = hub.borrow_mut().add(Arc::clone(&bell));
        let (hub, links) = (Rc::clone(hub), BTreeMap::new());
        let (gone, leaked) = (Vec::new(), Vec::new());
        Self { hub, number, bell, links, flaw, frames: 0, gone, leaked }
    }

    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    fn until(&self, now: Time, wait: Duration) -> Option<Time> {
        (!self.has(Flaw::WaitsForEver)).then_some(now + wait)
    }

    /// The other end of `link` has something to look at.
    fn ring(&self, link: &Link) {
        if !self.has(Flaw::WakesNobody) {
            link.wire.borrow().bells[1 - link.side].wake();
        }
    }

    fn accept(&mut self, io: &mut Io<'_>) -> bool {
        let mut hub = self.hub.borrow_mut();
        let waiting = hub.doors.get_mut(&self.number).map(|door| std::mem::take(&mut door.waiting));
        drop(hub);
        let waiting = waiting.unwrap_or_default();
        let busy = !waiting.is_empty();
        for (peer, wire) in waiting {
            wire.borrow_mut().halves[1].begun = true;
            let old = self.gone.pop().filter(|_| self.has(Flaw::ReusesNumbers));
            let id = old.unwrap_or_else(|| io.new_link());
            let mut link = Link::new((wire, 1), peer, None);
            self.ring(&link);
            self.say_up(io, id, &mut link);
            self.links.insert(id, link);
        }
        busy
    }

    fn say_up(&self, io: &mut Io<'_>, id: LinkId, link: &mut Link) {
        link.up = true;
        link.until = None;
        let accepted = link.side == 1 && !self.has(Flaw::SaysDialled);
        let (peer, slots) = (link.peer.clone(), Arc::clone(&link.pool) as Arc<dyn Slots>);
        io.events.push(Event::Up { link: id, accepted, peer, slots });
    }

    /// Looks at one link. Says whether there was anything.
    fn serve(&mut self, io: &mut Io<'_>, id: LinkId) -> bool {
        let Some(mut link) = self.links.remove(&id) else { return false };
        let mut busy = false;
        if !link.up && !link.closing && link.wire.borrow().halves[1 - link.side].begun {
            self.say_up(io, id, &mut link);
            busy = true;
        }
        let took = self.take(io, id, &link);
        let over =
            took.as_ref().err().cloned().map(Down::from).or_else(|| self.over(&link, io.now));
        if let Some(why) = over {
            self.say_down(io, id, &link, why);
            return true;
        }
        if link.up && !link.closing && link.has_room_again() && !self.has(Flaw::ForgetsRoom) {
            io.events.push(Event::Room { link: id });
            busy = true;
        }
        self.links.insert(id, link);
        busy | took.unwrap_or(false)
    }

    /// Hands up what has come. Says whether anything had.
    fn take(&mut self, io: &mut Io<'_>, id: LinkId, link: &Link) -> Result<bool, Violation> {
        let mut taken = 0;
        while taken < FRAMES_A_ROUND && link.up {
            let Some(frame) = self.next(link) else { break };
            taken += 1;
            if link.closing {
                continue;
            }
            if !self.has(Flaw::BelievesAll) {
                holds_messages(&frame)?;
            }
            self.frames += 1;
            for frame in self.bend(frame) {
                io.events.push(Event::Frame { link: id, frame });
            }
        }
        if taken > 0 {
            self.ring(link);
        }
        Ok(taken > 0)
    }

    fn next(&self, link: &Link) -> Option<Frame> {
        let mut wire = link.wire.borrow_mut();
        let frames = &mut wire.halves[1 - link.side].frames;
        if self.has(Flaw::Swaps) && frames.len() > 1 {
            frames.swap(0, 1);
        }
        frames.pop_front()
    }

    fn over(&self, link: &Link, now: Time) -> Option<Down> {
        let early =
            self.has(Flaw::SaysDownEarly) && link.wire.borrow().halves[1 - link.side].closed;
        link.is_over(now).or_else(|| early.then_some(Down::There))
    }

    fn say_down(&mut self, io: &mut Io<'_>, id: LinkId, link: &Link, why: Down) {
        link.leave();
        // Nobody takes what is left.
        link.wire.borrow_mut().halves[link.side].frames.clear();
        self.ring(link);
        self.gone.push(id);
        let times = match self.flaw {
            Some(Flaw::ForgetsDown) => 0,
            Some(Flaw::SaysDownTwice) => 2,
            Some(_) | None => 1,
        };
        io.events.extend((0..times).map(|_| Event::Down { link: id, why: why.clone() }));
    }
}

impl fmt::Debug for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipe").field("links", &self.links.len()).finish_non_exhaustive()
    }
}

/// Refuses what is not whole messages.
fn holds_messages(frame: &Frame) -> Result<(), Violation> {
    let mut at = 0;
    while at < frame.len() {
        at = Glance::at(frame.bytes(), at)?.end;
    }
    Ok(())
}
