//! One link: its memory, its socket, and how far it has come.
//!
//! The socket outlives the greeting: a byte in it is a ring of the bell, and its end is the end of
//! the link. An eventfd could ring, too, but its peer decides whether a write to it blocks; a socket
//! is told with each byte that it may not.
//!
//! # Invariants
//! - **L1** What a peer had sent before it went is given before its link is down, and no more than
//!   there was room for.
//! - **L2** Dropping a link shuts its socket down, whoever else has a share of it.
//!
//! # Not here
//! The table of links; the driver.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use epicserver_link::buffers::Buffers;
use epicserver_link::driver::Handle;
use epicserver_link::pool::{HeapPool, SLOT_BYTES};
use epicserver_link::{Address, Down, Event, Parcel};
use epicserver_wire::frame::Slots;
use epicserver_wire::header::Violation;
use epicserver_wire::{LinkId, Time};
use rustix::io::Errno;
use rustix::net::{RecvFlags, Shutdown, recv, shutdown};

use crate::doze;
use crate::greeting::{Answer, send_byte};
use crate::layout::{CELLS, End};
use crate::map::Map;
use crate::ring::{Incoming, Outgoing};

/// How long a greeting may take to be answered.
pub(crate) const GREETING: Duration = Duration::from_secs(5);
/// How long a link that is closed may take to send what was submitted.
const LINGER: Duration = Duration::from_millis(500);
/// Slots of one link.
const SLOTS_MAX: usize = 256;
/// The byte that rings the bell.
const BELL: u8 = 0;
/// Times that a socket is read in one go. A peer rings once for each time that this end slept, so one
/// read finds all of it.
const READS_MAX: usize = 16;

/// How far a link has come.
#[derive(Debug)]
enum Stage {
    /// It was dialled, and the peer has not answered.
    Asking,
    /// It is in use.
    Up,
    /// This end has closed it, and sends what is left.
    Closing,
    /// The peer has closed it; so many cells may still be taken.
    Gone(usize, Down),
}

/// One link.
#[derive(Debug)]
pub(crate) struct Link {
    id: LinkId,
    pub(crate) handle: Handle,
    socket: OwnedFd,
    peer: Address,
    end: End,
    map: Rc<Map>,
    outgoing: Outgoing,
    incoming: Incoming,
    pub(crate) slots: Arc<HeapPool>,
    stage: Stage,
    /// When it is given up: one that is not answered, or a close.
    pub(crate) until: Option<Time>,
    /// A parcel was refused since there was room last.
    refused: bool,
}

impl Link {
    /// A link over `socket` and `map`, of which this is the end `end`; one that was dialled waits for
    /// an answer from `now` on.
    pub(crate) fn new(
        (id, handle): (LinkId, Handle),
        (socket, map): (OwnedFd, Map),
        peer: Address,
        (end, now): (End, Time),
    ) -> Self {
        let map = Rc::new(map);
        let (stage, until) = match end {
            End::Dialler => (Stage::Asking, Some(now + GREETING)),
            End::Acceptor => (Stage::Up, None),
        };
        Self {
            id,
            handle,
            socket,
            peer,
            end,
            outgoing: Outgoing::new(Rc::clone(&map), end),
            incoming: Incoming::new(Rc::clone(&map), end.other()),
            map,
            slots: HeapPool::new(SLOTS_MAX, SLOT_BYTES),
            stage,
            until,
            refused: false,
        }
    }

    /// That the link can be used.
    pub(crate) fn up(&self) -> Event {
        Event::Up {
            link: self.id,
            accepted: self.end == End::Acceptor,
            peer: self.peer.clone(),
            slots: Arc::clone(&self.slots) as Arc<dyn Slots>,
        }
    }

    pub(crate) fn submit(&mut self, parcel: Parcel) -> Result<(), Parcel> {
        match self.stage {
            Stage::Up => self.outgoing.push(parcel).inspect_err(|_| self.refused = true),
            Stage::Asking | Stage::Closing | Stage::Gone(..) => Err(parcel),
        }
    }

    /// What was submitted leaves, as far as there is room; then the socket is closed.
    pub(crate) fn close(&mut self, now: Time) {
        let linger = match self.stage {
            Stage::Up => LINGER,
            Stage::Asking | Stage::Gone(..) => Duration::ZERO,
            Stage::Closing => return,
        };
        (self.stage, self.until) = (Stage::Closing, Some(now + linger));
    }

    /// Something came over the socket.
    ///
    /// # Errors
    /// Why the link is down.
    pub(crate) fn heard(&mut self, events: &mut Vec<Event>) -> Result<(), Down> {
        let mut bytes = [0; 256];
        for _ in 0..READS_MAX {
            match recv(&self.socket, &mut bytes, RecvFlags::DONTWAIT) {
                Ok((0, _)) | Err(Errno::CONNRESET) => return self.gone(Down::There),
                Ok(_) => self.answered(bytes[0], events)?,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => {
                    return self.gone(Down::Failed(io::Error::from(error).to_string()));
                }
            }
        }
        Err(Violation::Unexpected("a bell that does not stop").into())
    }

    /// The first byte of a peer that was dialled is its answer; all others ring.
    fn answered(&mut self, byte: u8, events: &mut Vec<Event>) -> Result<(), Down> {
        match self.stage {
            Stage::Asking => {}
            Stage::Up | Stage::Closing | Stage::Gone(..) => return Ok(()),
        }
        match Answer::of(byte) {
            Some(Answer::Welcome) => {
                (self.stage, self.until) = (Stage::Up, None);
                events.push(self.up());
                Ok(())
            }
            Some(refusal) => Err(Down::Failed(refusal.as_str().to_owned())),
            None => Err(Violation::Unexpected("an answer that there is not").into()),
        }
    }

    fn gone(&mut self, why: Down) -> Result<(), Down> {
        match self.stage {
            Stage::Asking => Err(why),
            Stage::Closing => Err(Down::Here),
            Stage::Gone(..) => Ok(()),
            Stage::Up => {
                self.stage = Stage::Gone(CELLS, why);
                Ok(())
            }
        }
    }

    /// Whether [`poll`](Self::poll) may find anything.
    pub(crate) fn stirs(&self) -> bool {
        match self.stage {
            Stage::Up => !self.incoming.is_empty(),
            Stage::Asking | Stage::Closing => false,
            Stage::Gone(..) => true,
        }
    }

    /// Takes what has come and fills in what waits. Says whether there was anything.
    ///
    /// # Errors
    /// Why the link is down.
    pub(crate) fn poll(
        &mut self,
        now: Time,
        buffers: &mut Buffers,
        events: &mut Vec<Event>,
    ) -> Result<bool, Down> {
        let late = self.until.is_some_and(|until| until <= now);
        match &mut self.stage {
            Stage::Asking if late => Err(Down::Silent(GREETING)),
            Stage::Asking => Ok(false),
            Stage::Up => {
                let took = self.take(CELLS, buffers, events)? > 0;
                Ok(self.send(events)? | took)
            }
            Stage::Closing => {
                let sent = self.outgoing.pump();
                if late || !self.outgoing.is_waiting() { Err(Down::Here) } else { Ok(sent) }
            }
            Stage::Gone(most, why) => {
                let (most, why) = (*most, why.clone());
                let count = self.take(most, buffers, events)?;
                // L1.
                self.stage = Stage::Gone(most - count, why.clone());
                if self.incoming.is_empty() || most == count { Err(why) } else { Ok(count > 0) }
            }
        }
    }

    fn take(
        &mut self,
        most: usize,
        buffers: &mut Buffers,
        events: &mut Vec<Event>,
    ) -> Result<usize, Violation> {
        let link = self.id;
        self.incoming.take(buffers, most, |frame| events.push(Event::Frame { link, frame }))
    }

    fn send(&mut self, events: &mut Vec<Event>) -> Result<bool, Violation> {
        let sent = self.outgoing.is_waiting() && self.outgoing.pump();
        if let Some(violation) = self.outgoing.broken {
            return Err(violation);
        }
        let room = self.refused && self.outgoing.has_room_again();
        if self.slots.has_room_again() | room {
            self.refused &= !room;
            events.push(Event::Room { link: self.id });
        }
        Ok(sent)
    }

    /// Rings the peer if it sleeps and wants to know what has happened since this was called last.
    pub(crate) fn ring(&mut self) {
        let mail = if self.outgoing.take_fresh() { doze::MAIL } else { 0 };
        let room = if self.incoming.take_fresh() { doze::ROOM } else { 0 };
        if mail | room == 0 {
            return;
        }
        doze::barrier();
        if doze::must_ring(self.map.u32_at(self.end.other().doze()), mail | room) {
            send_byte(&self.socket, BELL);
        }
    }

    /// This end is about to sleep.
    pub(crate) fn doze(&self) {
        let room = if self.outgoing.is_waiting() { doze::ROOM } else { 0 };
        doze::announce(self.map.u32_at(self.end.doze()), doze::MAIL | room);
    }

    /// Whether it may sleep, after [`doze`](Self::doze) and a barrier.
    pub(crate) fn is_quiet(&mut self) -> bool {
        match self.stage {
            Stage::Asking => true,
            Stage::Up => self.incoming.is_empty() && !self.outgoing.may_pump(),
            Stage::Closing => self.outgoing.is_waiting() && !self.outgoing.may_pump(),
            Stage::Gone(..) => false,
        }
    }

    pub(crate) fn wake(&self) {
        doze::awake(self.map.u32_at(self.end.doze()));
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // L2. One that is shut down already is no trouble.
        let _down = shutdown(&self.socket, Shutdown::Both);
    }
}
