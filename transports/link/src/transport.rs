//! The trait that a transport is.
//!
//! # Invariants
//! - **T1** Parcels of one link arrive whole, in the order in which they were submitted, each byte
//!   once, until the link is down.
//! - **T2** An incoming frame holds whole messages and nothing else, and is aligned.
//! - **T3** A link that was dialled or accepted ends in exactly one [`Event::Down`], after its last
//!   frame; nothing is said of it afterwards.
//! - **T4** Slots and buffers are bounded; when they are lent, [`Transport::submit`] and
//!   [`Slots::reserve`] refuse, and nothing is dropped.
//!
//! # Not here
//! Who the peer is: the handshake, which runs over the link, finds out.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use epicserver_wire::LinkId;
use epicserver_wire::Time;
use epicserver_wire::frame::{Frame, FrameMut, Slots};

use crate::driver::{Completion, Driver};

/// Where a node can be reached by one transport: `scheme://rest`, as discovery passes it around.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(String);

impl Address {
    /// The address `rest` of the transport called `scheme`.
    #[must_use]
    pub fn new(scheme: &str, rest: &str) -> Self {
        Self(format!("{scheme}://{rest}"))
    }

    /// The address written as `text`; `None` if it has no scheme.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        (!scheme.is_empty() && !rest.is_empty()).then(|| Self(text.to_owned()))
    }

    /// The transport's name.
    #[must_use]
    pub fn scheme(&self) -> &str {
        self.0.split_once("://").map_or("", |(scheme, _)| scheme)
    }

    /// What only the transport understands.
    #[must_use]
    pub fn rest(&self) -> &str {
        self.0.split_once("://").map_or("", |(_, rest)| rest)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is handed to a link in one piece: whole messages, or the head of one whose last bytes lie
/// elsewhere already.
#[derive(Debug)]
pub struct Parcel {
    /// Messages. With a body, the last of them lacks so many bytes as the body has, with its padding.
    pub head: FrameMut,
    /// The rest of the last message, read where it lies. Its length is a multiple of 16.
    pub body: Option<Frame>,
}

impl Parcel {
    /// Messages that lie in one frame.
    #[must_use]
    pub fn of(head: FrameMut) -> Self {
        Self { head, body: None }
    }

    /// How many bytes go over the wire.
    #[must_use]
    pub fn len(&self) -> usize {
        self.head.len() + self.body.as_ref().map_or(0, Frame::len)
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Why an address was not dialled, or could not be listened at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// It is none of this transport's, or malformed.
    #[error("`{address}` is no address of {transport}: {why}")]
    Address {
        /// What was given.
        address: Address,
        /// The transport's name.
        transport: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The kernel refused.
    #[error("{call} for `{address}` failed")]
    Io {
        /// What was to be reached.
        address: Address,
        /// The system call.
        call: &'static str,
        /// Its error.
        source: std::io::Error,
    },
    /// As many links as there may be.
    #[error("all {0} links are in use")]
    Links(usize),
}

/// Why a link is down.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Down {
    /// This end closed it.
    #[error("closed by this end")]
    Here,
    /// The peer closed it, or its process ended.
    #[error("closed by the peer")]
    There,
    /// The peer never answered, or stopped to.
    #[error("the peer did not answer within {0:?}")]
    Silent(Duration),
    /// Bytes came that no sound peer sends.
    #[error("the peer broke the protocol: {0}")]
    Violation(#[from] epicserver_wire::header::Violation),
    /// The kernel or the device gave up.
    #[error("{0}")]
    Failed(String),
}

/// What a transport has to say.
#[derive(Debug)]
pub enum Event {
    /// A link can be used, one that was dialled or one that was accepted.
    Up {
        /// Which.
        link: LinkId,
        /// Whether the peer dialled it.
        accepted: bool,
        /// Where the peer is, to be shown.
        peer: Address,
        /// Where the slots for it come from; for any thread.
        slots: Arc<dyn Slots>,
    },
    /// Messages came (**T2**).
    Frame {
        /// Over which link.
        link: LinkId,
        /// The messages.
        frame: Frame,
    },
    /// After a [`Transport::submit`] or [`Slots::reserve`] that was refused: there is room again.
    Room {
        /// For which link.
        link: LinkId,
    },
    /// A link is gone (**T3**). What was submitted and has not arrived is lost.
    Down {
        /// Which.
        link: LinkId,
        /// Why.
        why: Down,
    },
}

/// A way for frames from node to node, owned and polled by one thread.
///
/// No method blocks. Links are numbered by `next_link`, which all transports of a thread share.
pub trait Transport {
    /// Its name, which is also the scheme of its addresses.
    fn name(&self) -> &'static str;

    /// Where peers can reach this end.
    fn addresses(&self) -> Vec<Address>;

    /// Begins a link to the node at `to`. It is up, or down, by a later event.
    ///
    /// # Errors
    /// [`Refused`], and then no event follows.
    fn dial(&mut self, io: &mut Io<'_>, link: LinkId, to: &Address) -> Result<(), Refused>;

    /// Sends `parcel` over `link`, after all that were submitted before; at the latest when
    /// [`flush`](Self::flush) is called.
    ///
    /// # Errors
    /// Gives it back if the link has no room, and says [`Event::Room`] when it has; or if there is
    /// no such link, of which [`Event::Down`] tells.
    fn submit(&mut self, io: &mut Io<'_>, link: LinkId, parcel: Parcel) -> Result<(), Parcel>;

    /// What was submitted goes to the kernel or the device, all of it in as few calls as there can be.
    fn flush(&mut self, io: &mut Io<'_>);

    /// Something that the driver did for this transport is done.
    fn complete(&mut self, io: &mut Io<'_>, completion: Completion);

    /// Whether [`poll`](Self::poll) may find anything that came. Takes far less than that; in doubt it says yes,
    /// and what it misses is found by the next poll, which comes after a few microseconds all the same. It may
    /// take something and keep it for that poll, but tells nobody of it.
    fn stirs(&mut self) -> bool {
        true
    }

    /// Looks at what needs no kernel: rings in shared memory, a device's completion queue; and at
    /// timers of its own. Called in each round of the loop. Says whether there was anything.
    fn poll(&mut self, io: &mut Io<'_>) -> bool;

    /// The thread is about to wait in the kernel. From now on until the next [`poll`](Self::poll),
    /// whatever arrives must end that wait. Says `false` if something has arrived already.
    fn arm(&mut self, io: &mut Io<'_>) -> bool;

    /// When it has to be polled although nothing happens.
    fn deadline(&self) -> Option<Time>;

    /// Ends `link`: what was submitted is sent, as far as the peer takes it within a short time.
    fn close(&mut self, io: &mut Io<'_>, link: LinkId);
}

/// What a transport may use while it is called.
pub struct Io<'a> {
    /// The time of this round.
    pub now: Time,
    /// The way to the kernel.
    pub driver: &'a mut dyn Driver,
    /// What the transport has to say.
    pub events: &'a mut Vec<Event>,
    /// The number of the next link that is accepted.
    pub next_link: &'a mut u32,
}

impl Io<'_> {
    /// A number for a link that was accepted.
    pub fn new_link(&mut self) -> LinkId {
        let link = LinkId::new(*self.next_link);
        *self.next_link += 1;
        link
    }
}

impl fmt::Debug for Io<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Io").field("now", &self.now).finish_non_exhaustive()
    }
}
