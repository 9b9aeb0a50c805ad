//! Links with TLS: between the sessions, which only know bytes, and the driver.
//!
//! # Invariants
//! - **C2** Records of a link are given to the driver in order, and those that it refuses are kept. They
//!   are bounded by the slots of the session.
//! - **C3** A link that is refused is counted and logged at the end that refuses it, and one that says why
//!   again and again does not fill the log.
//!
//! # Not here
//! Records and certificates: they are the session's.

use std::net::SocketAddr;
use std::time::Duration;

use epicserver_link::driver::{Driver, Handle};
use epicserver_link::{Down, Io, Parcel};
use epicserver_wire::{LinkId, Time};

use crate::tls::{Heard, Session, Tls, Trouble};
use crate::{LINGER, Tcp};

/// Why a link in the clear is down whose peer began with a record of TLS.
pub(crate) const PEER_SPEAKS_TLS: &str =
    "the peer speaks TLS, and this end does not; [network.tls] is for all nodes of a fabric";

/// Whether `bytes`, with which a stream begins, are a record of TLS: a message of its handshake, or an
/// alert. The first byte of a message of ours is another.
pub(crate) fn speaks_tls(bytes: &[u8]) -> bool {
    matches!(bytes, [0x15 | 0x16, 0x03, 0x00..=0x04, ..])
}

/// Why a link is down whose peer has closed it before it was up.
pub(crate) const CUT: &str = "TLS: the peer ended the connection in the handshake; does it speak TLS, and know our authority?";
/// After how long the log is told the same once more.
const AGAIN: Duration = Duration::from_secs(10);

/// The links that were refused (**C3**).
#[derive(Default)]
pub(crate) struct Refusals {
    count: u64,
    /// What was logged last, and when it may be logged again.
    last: String,
    again: Time,
}

impl Refusals {
    /// How many there were.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The link to `peer` is refused.
    pub(crate) fn note(&mut self, now: Time, peer: SocketAddr, why: &str) {
        self.count += 1;
        if self.last != why || now >= self.again {
            tracing::warn!(%peer, %why, refused = self.count, "a link was refused");
            why.clone_into(&mut self.last);
            self.again = now + AGAIN;
        }
    }

    /// What was logged last.
    #[cfg(test)]
    pub(crate) fn last(&self) -> &str {
        &self.last
    }
}

/// Gives the driver what is sealed, and says whether it took all.
fn give_sealed(session: &mut Session, driver: &mut dyn Driver, to: Handle) -> bool {
    while let Some(sealed) = session.next_sealed() {
        if let Err(parcel) = driver.send(to, Parcel::of(sealed)) {
            // C2.
            session.put_back(parcel.head);
            return false;
        }
    }
    true
}

impl Tcp {
    /// The connection of a link is there: its session begins.
    pub(crate) fn begin_tls(&mut self, io: &mut Io<'_>, id: LinkId, tls: &Tls) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let session = match link.accepted {
            true => tls.accept(),
            false => tls.connect(link.peer.ip()),
        };
        match session {
            Ok(session) => {
                link.tls = Some(Box::new(session));
                self.hear(io, id, &[]);
            }
            Err(trouble) => self.give_up(io, id, &trouble),
        }
    }

    /// Bytes of the peer have come, or a session begins.
    pub(crate) fn hear(&mut self, io: &mut Io<'_>, id: LinkId, bytes: &[u8]) {
        let Some(session) = self.links.get_mut(&id).and_then(|link| link.tls.as_mut()) else {
            return;
        };
        let outcome = session.hear(bytes, &mut self.work);
        self.tell(io, id);
        match outcome {
            Ok(()) => self.send_sealed(io, id),
            Err(trouble) => self.give_up(io, id, &trouble),
        }
    }

    /// Passes on what a session has heard.
    fn tell(&mut self, io: &mut Io<'_>, id: LinkId) {
        let mut heard = std::mem::take(&mut self.work.heard);
        for heard in heard.drain(..) {
            let Some(link) = self.links.get_mut(&id).filter(|link| link.why.is_none()) else {
                continue;
            };
            match heard {
                Heard::Up => self.up(io, id),
                Heard::Plain(piece) => self.framed(io, id, &piece),
                Heard::Goodbye => {
                    link.why = Some(Down::There);
                    io.driver.close(link.handle, false);
                }
            }
        }
        self.work.heard = heard;
    }

    /// Seals what a link was given and gives it to the driver. A link that is being closed says goodbye
    /// after that.
    pub(crate) fn send_sealed(&mut self, io: &mut Io<'_>, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let Some(session) = &mut link.tls else { return };
        let outcome = session.seal(&mut self.work);
        let ends = link.why.is_some() && session.close(&mut self.work);
        if give_sealed(session, io.driver, link.handle) && ends {
            io.driver.close(link.handle, true);
        }
        self.tell(io, id);
        if let Err(trouble) = outcome {
            self.give_up(io, id, &trouble);
        }
    }

    /// A link cannot go on: the peer gets what is sealed, such as an alert, as far as it takes it soon.
    fn give_up(&mut self, io: &mut Io<'_>, id: LinkId, trouble: &Trouble) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.why.is_none() {
            let why = trouble.to_string();
            self.refusals.note(io.now, link.peer, &why);
            link.why = Some(Down::Failed(why));
        }
        link.until = Some(io.now + LINGER);
        match link.tls {
            Some(_) => self.send_sealed(io, id),
            None => io.driver.close(link.handle, false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c3_every_refusal_is_counted_and_the_same_one_is_logged_once_in_a_while() {
        let (mut refusals, now) = (Refusals::default(), Time::ZERO + Duration::from_secs(1));
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        refusals.note(now, peer, "one");
        let again = refusals.again;
        refusals.note(now + Duration::from_secs(1), peer, "one");
        assert_eq!(refusals.again, again, "it is not said again yet");
        refusals.note(again, peer, "one");
        assert_eq!(refusals.again, again + AGAIN);
        refusals.note(again, peer, "another");
        assert_eq!((refusals.count(), refusals.last()), (4, "another"));
    }
}
