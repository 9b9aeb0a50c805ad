//! One link: how far it has come, and the two halves that messages pass.
//!
//! # Invariants
//! - **LK1** A link is told of at the end that dialled once the peer's pair is connected, and at the end that accepts
//!   once the peer says that it is ready, or its first message came.
//! - **LK2** What a peer had sent before it went is given before its link is down, as far as the device had it.
//!
//! # Not here
//! The table of links; the device.

use std::time::Duration;

use epicserver_link::driver::Handle;
use epicserver_link::{Address, Down, Event, Parcel};
use epicserver_wire::header::Violation;
use epicserver_wire::{LinkId, Time};

use crate::device::{Completed, DeviceError, Ended, Pair, SharedQueue};
use crate::engine::Engine;
use crate::greeting::{Card, Greeting, READY};
use crate::receiving::{Around, Receiving};
use crate::sending::Sending;
use crate::word::Word;

/// How long a greeting may take, connecting included.
pub(crate) const GREETING: Duration = Duration::from_secs(5);
/// How long a link that is closed may take to send what was submitted.
const LINGER: Duration = Duration::from_millis(500);
/// How long the control connection may take to say why the peer's device does not answer: a peer that is gone has
/// ended it too, and that is the better reason.
const HEARSAY: Duration = Duration::from_millis(100);

/// The two halves, and the pair that they share.
#[derive(Debug)]
pub(crate) struct Conduit {
    pub(crate) pair: Pair,
    pub(crate) sending: Sending,
    pub(crate) receiving: Receiving,
}

impl Conduit {
    /// Over `pair`, to the peer whose card is `theirs`; this end's is `ours`.
    pub(crate) fn new(
        engine: &mut Engine,
        mut pair: Pair,
        (ours, theirs): (&Card, &Card),
    ) -> Result<Self, DeviceError> {
        let slot_bytes = ours.slot_bytes.min(theirs.slot_bytes) as usize;
        let mut remote = theirs.remote();
        remote.reads = engine.reads_asked(theirs.reads);
        let sending = Sending::new(engine.domain(), slot_bytes, theirs.window);
        let connected = sending.and_then(|sending| {
            pair.connect(&engine.local, &remote, (ours.psn, ours.reads))?;
            Ok(sending)
        });
        match connected {
            Ok(sending) => {
                let receiving = Receiving::new(ours.window, remote.reads);
                Ok(Self { pair, sending, receiving })
            }
            Err(error) => {
                // No peer knows of it.
                engine.forget(pair);
                Err(error)
            }
        }
    }
}

/// How far a link has come.
#[derive(Debug)]
pub(crate) enum Stage {
    /// The control connection is being made.
    Connecting,
    /// The ends are coming to know each other. There is a pair once this end has a card.
    Greeting(Greeting, Option<(Pair, Card)>),
    /// Both pairs are connected, and the peer may not know it.
    Waiting(Conduit, Greeting),
    /// It is in use.
    Up(Conduit),
    /// The device has given up, and the control connection may say why.
    Failing(Conduit, Down),
    /// The control connection has ended: what the device still has is taken.
    Gone(Conduit, Down),
    /// This end has closed it, and sends what is left.
    Closing(Conduit),
}

/// One link.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) id: LinkId,
    pub(crate) handle: Handle,
    pub(crate) accepted: bool,
    pub(crate) peer: Address,
    pub(crate) stage: Stage,
    /// When it is given up.
    pub(crate) until: Option<Time>,
    /// A parcel was refused since there was room last.
    refused: bool,
    /// The peer's first message came before it had said that it is ready.
    ready_due: bool,
}

impl Link {
    pub(crate) fn new(
        (id, handle): (LinkId, Handle),
        peer: Address,
        (accepted, stage): (bool, Stage),
        now: Time,
    ) -> Self {
        let until = Some(now + GREETING);
        Self { id, handle, accepted, peer, stage, until, refused: false, ready_due: false }
    }

    /// Whether its user knows of it.
    pub(crate) fn is_known(&self) -> bool {
        match self.stage {
            Stage::Connecting | Stage::Greeting(..) | Stage::Waiting(..) => !self.accepted,
            Stage::Up(_) | Stage::Failing(..) | Stage::Gone(..) | Stage::Closing(_) => true,
        }
    }

    /// The pair's number, once there is one.
    pub(crate) fn pair(&self) -> Option<u32> {
        match &self.stage {
            Stage::Connecting | Stage::Greeting(_, None) => None,
            Stage::Greeting(_, Some((pair, _))) => Some(pair.number()),
            Stage::Waiting(conduit, _)
            | Stage::Up(conduit)
            | Stage::Failing(conduit, _)
            | Stage::Gone(conduit, _)
            | Stage::Closing(conduit) => Some(conduit.pair.number()),
        }
    }

    pub(crate) fn conduit(&mut self) -> Option<&mut Conduit> {
        match &mut self.stage {
            Stage::Connecting | Stage::Greeting(..) => None,
            Stage::Waiting(conduit, _)
            | Stage::Up(conduit)
            | Stage::Failing(conduit, _)
            | Stage::Gone(conduit, _)
            | Stage::Closing(conduit) => Some(conduit),
        }
    }

    /// Changes its stage by way of its conduit.
    fn turn(&mut self, to: impl FnOnce(Conduit) -> Stage) {
        self.stage = match std::mem::replace(&mut self.stage, Stage::Connecting) {
            stage @ (Stage::Connecting | Stage::Greeting(..)) => stage,
            Stage::Waiting(conduit, _)
            | Stage::Up(conduit)
            | Stage::Failing(conduit, _)
            | Stage::Gone(conduit, _)
            | Stage::Closing(conduit) => to(conduit),
        };
    }

    /// The peer is ready, too (**LK1**).
    pub(crate) fn up(&mut self, events: &mut Vec<Event>) {
        self.until = None;
        self.turn(Stage::Up);
        let (link, accepted, peer) = (self.id, self.accepted, self.peer.clone());
        if let Some(conduit) = self.conduit() {
            let slots = conduit.sending.slots();
            events.push(Event::Up { link, accepted, peer, slots });
        }
    }

    /// Whether `bytes` say that the peer is ready, which it was taken for already.
    pub(crate) fn take_late_ready(&mut self, bytes: &[u8]) -> bool {
        matches!(self.stage, Stage::Up(_)) && std::mem::take(&mut self.ready_due) && bytes == READY
    }

    pub(crate) fn submit(&mut self, parcel: Parcel) -> Result<(), Parcel> {
        match &mut self.stage {
            Stage::Up(conduit) => conduit.sending.push(parcel).inspect_err(|_| self.refused = true),
            Stage::Connecting
            | Stage::Greeting(..)
            | Stage::Waiting(..)
            | Stage::Failing(..)
            | Stage::Gone(..)
            | Stage::Closing(_) => Err(parcel),
        }
    }

    /// What was submitted leaves, as far as the peer takes it. Says why the link is down, if it is at once.
    pub(crate) fn close(&mut self, now: Time) -> Option<Down> {
        match &mut self.stage {
            Stage::Closing(_) => None,
            Stage::Up(conduit) => {
                conduit.receiving.deafen();
                self.until = Some(now + LINGER);
                self.turn(Stage::Closing);
                None
            }
            Stage::Connecting
            | Stage::Greeting(..)
            | Stage::Waiting(..)
            | Stage::Failing(..)
            | Stage::Gone(..) => Some(Down::Here),
        }
    }

    /// The control connection has ended. Says why the link is down, if it is at once.
    pub(crate) fn gone(&mut self, why: Down) -> Option<Down> {
        match &self.stage {
            Stage::Connecting | Stage::Greeting(..) | Stage::Waiting(..) => Some(why),
            Stage::Closing(_) => Some(Down::Here),
            Stage::Gone(..) => None,
            Stage::Up(_) | Stage::Failing(..) => {
                self.turn(|conduit| Stage::Gone(conduit, why));
                None
            }
        }
    }

    /// The device has given up on the pair.
    pub(crate) fn failed(&mut self, why: String, now: Time) {
        match &self.stage {
            Stage::Up(_) => {
                self.until = Some(now + HEARSAY);
                self.turn(|conduit| Stage::Failing(conduit, Down::Failed(why)));
            }
            // Nothing more can leave.
            Stage::Waiting(..) | Stage::Closing(_) => self.until = Some(now),
            Stage::Connecting | Stage::Greeting(..) | Stage::Failing(..) | Stage::Gone(..) => {}
        }
    }

    /// A request of its pair has ended.
    pub(crate) fn completed(
        &mut self,
        around: &mut Around<'_>,
        queue: &SharedQueue,
        (completed, now): (Completed, Time),
    ) -> Result<(), Violation> {
        match completed.ended {
            Ended::Received { bytes, word } => {
                let Some(landing) = queue.landed(completed.request) else { return Ok(()) };
                if matches!(self.stage, Stage::Waiting(..)) {
                    // LK1.
                    self.ready_due = true;
                    self.up(around.events);
                }
                let Some(conduit) = self.conduit() else {
                    around.free.push(landing);
                    return Ok(());
                };
                let word = word.ok_or(Violation::Unexpected("a message without a word"));
                let word = match word.and_then(Word::parse) {
                    Ok(word) => word,
                    Err(violation) => {
                        around.free.push(landing);
                        return Err(violation);
                    }
                };
                conduit.sending.credit().returned(&word)?;
                conduit.sending.were_read(word.pieces);
                let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                conduit.receiving.came(around, landing, (bytes, word))
            }
            Ended::Done => {
                let Some(conduit) = self.conduit() else { return Ok(()) };
                if let Some(landing) = conduit.pair.completed(completed.request) {
                    conduit.receiving.was_read(around, completed.request, landing);
                }
                Ok(())
            }
            Ended::Failed(status) => {
                if let Some(landing) = queue.landed(completed.request) {
                    around.free.push(landing);
                } else if let Some(conduit) = self.conduit() {
                    let read = conduit.pair.completed(completed.request);
                    read.into_iter().for_each(|landing| around.bulk.give(landing));
                }
                // A pair that failed over what its peer asked for may say so by nothing but this.
                self.failed(status.to_string(), now);
                Ok(())
            }
        }
    }

    /// Does what can be done now. Says whether that was anything, or why the link is down.
    pub(crate) fn poll(&mut self, around: &mut Around<'_>, now: Time) -> Result<bool, Down> {
        let late = self.until.is_some_and(|until| until <= now);
        match &mut self.stage {
            Stage::Connecting | Stage::Greeting(..) | Stage::Waiting(..) if late => {
                Err(Down::Silent(GREETING))
            }
            Stage::Connecting | Stage::Greeting(..) | Stage::Waiting(..) => Ok(false),
            Stage::Failing(_, why) if late => Err(why.clone()),
            Stage::Failing(..) => Ok(false),
            // LK2: everything that the device had was taken before this.
            Stage::Gone(_, why) => Err(why.clone()),
            Stage::Closing(conduit) => {
                let ended = conduit.sending.is_finished() && conduit.receiving.has_ended();
                if late || ended { Err(Down::Here) } else { self.pump(around) }
            }
            Stage::Up(conduit) if conduit.receiving.has_ended() => Err(Down::There),
            Stage::Up(_) => self.pump(around),
        }
    }

    /// Stages and rings what may leave. Says whether that was anything.
    pub(crate) fn pump(&mut self, around: &mut Around<'_>) -> Result<bool, Down> {
        let (link, closing) = (self.id, matches!(self.stage, Stage::Closing(_)));
        let (Stage::Up(conduit) | Stage::Closing(conduit)) = &mut self.stage else {
            return Ok(false);
        };
        let Conduit { pair, sending, receiving } = conduit;
        let read = receiving.read(pair, around.bulk).map_err(refused)?;
        let sent = sending.pump(pair, &mut receiving.allowed, closing).map_err(refused)?;
        let room = self.refused && sending.has_room_again();
        if !closing && (sending.has_slots_again() | room) {
            self.refused &= !room;
            around.events.push(Event::Room { link });
        }
        Ok(read | sent)
    }
}

/// What a link is down for when its device refuses a call.
pub(crate) fn refused(error: DeviceError) -> Down {
    Down::Failed(told(&error))
}

/// What is said of a call that a device refuses, with what mends it where that is known.
pub(crate) fn told(error: &DeviceError) -> String {
    let why = format!("{error}: {}", error.source);
    let hint = match (error.call, error.source.kind()) {
        ("ibv_reg_mr", std::io::ErrorKind::OutOfMemory | std::io::ErrorKind::WouldBlock) => {
            crate::memlock::hint()
        }
        _ => String::new(),
    };
    why + &hint
}
